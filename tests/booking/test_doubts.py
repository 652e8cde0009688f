"""An answer is lost, or we fail after the send: it is in doubt, and never called otherwise."""

import asyncio
from dataclasses import replace

import pytest

from loyalty_gateway.booking.calls import Decision
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    Sale,
)
from loyalty_gateway.journal.writer import unavailable
from loyalty_gateway.providers.port import Executed, ProviderError, Send, StatusRow
from tests.booking.house import (
    BRIEF_S,
    QUICK,
    TENANT,
    House,
    in_s,
    open_house,
    until,
)
from tests.booking.stages import doubt
from tests.booking.vendor import (
    Act,
    FakeVendor,
    Gate,
    books,
    breaks,
    cancels_itself,
    contradicts,
    loses_the_answer,
    loses_the_request,
    refuses,
)
from tests.postgres import Place

LONG = Sale(caller_reference="x" * 50_000)
"""Needs pages of its own, so that a full disk is noticed."""


async def books_with_a_long_text(vendor: FakeVendor, send: Send) -> Executed:
    """The effect, and an answer whose redacted text needs pages of its own."""
    return replace(await books(vendor, send), answer_text="x " * 50_000)


async def refuses_with_a_broken_text(vendor: FakeVendor, send: Send) -> Executed:
    """An adapter lets half a surrogate pair through."""
    raise ProviderError(
        StatusRow(Reason.PROVIDER_DECLINED, Fate.NOT_EXECUTED, is_refusal=True),
        "refused",
        rule="refusal",
        provider_code="\ud800",
    )


async def unreadable() -> None:
    """A hook: the journal cannot be read at the moment."""
    raise unavailable(OSError("the disk does not answer"))


# --- in doubt ---------------------------------------------------------------------------------


async def test_a_lost_answer_is_found_within_the_callers_deadline(place: Place) -> None:
    vendor = FakeVendor(loses_the_answer)
    async with open_house(place, vendor, policy=QUICK) as house:
        answer = await house.book()

        assert answer.body == (await house.get()).answer_bytes
        assert not answer.is_replayed
        assert len(vendor.effects) == 1
        assert len({send.outbound_id for send in vendor.sends}) == 1
        assert len(vendor.sends) == 2


async def test_a_lost_request_is_booked_by_recovery_within_the_callers_deadline(
    place: Place,
) -> None:
    vendor = FakeVendor(loses_the_request)
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.book()

    assert len(vendor.effects) == 1


async def test_a_doubt_that_outlives_the_deadline_is_told_as_unknown(place: Place) -> None:
    vendor = FakeVendor(otherwise=loses_the_answer)
    async with open_house(place, vendor) as house:
        error = await house.fails(within_s=BRIEF_S)
        booking = await house.get()

    assert error.reason is Reason.BOOKING_IN_DOUBT
    assert (error.fate, error.is_final) == (Fate.UNKNOWN, False)
    assert error.booking == booking.name
    assert error.retry_after_s is not None


async def test_a_repeat_in_doubt_has_the_next_step_taken_now(place: Place) -> None:
    """The schedule would wait for an hour."""
    vendor = FakeVendor(loses_the_answer)
    async with open_house(place, vendor) as house:
        await doubt(house)
        answer = await house.book()

    assert answer.is_replayed
    assert len(vendor.effects) == 1
    assert [send.attempt_number for send in vendor.sends] == [1, 2]


async def test_repeats_kick_a_booking_at_most_once_a_second(place: Place) -> None:
    vendor = FakeVendor(otherwise=loses_the_answer)
    async with open_house(place, vendor) as house:
        await doubt(house)
        started = in_s(0)
        for _ in range(20):
            await house.fails(within_s=0.3)
            if in_s(0) - started > 1.5:
                break
        lasted = in_s(0) - started

    assert len(vendor.sends) <= 2 + lasted


async def test_a_repeat_hears_at_once_of_a_doubt_that_ended_while_it_was_on_its_way(
    place: Place,
) -> None:
    """The repeat read the booking in doubt just before an operator decided it."""
    async with open_house(place, FakeVendor(loses_the_answer)) as house:
        booking = await doubt(house)
        has_read, may_go = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            has_read.set()
            await may_go.wait()

        house.journal.after_open = hold
        caller = house.booking_task(within_s=60)
        await has_read.wait()
        decision = Decision(Fate.EXECUTED, "statement line 7", "seen at the vendor")
        await house.engine.resolve(TENANT, booking.booking_id, decision, "anna", in_s(10))
        may_go.set()
        async with asyncio.timeout(10):
            answer = await caller

        assert answer.body == (await house.get()).answer_bytes
        assert len(house.vendor.sends) == 1


async def test_a_journal_that_cannot_be_read_is_no_reason_to_deny_what_was_sent(
    place: Place,
) -> None:
    """JOURNAL_UNAVAILABLE would say that this call sent nothing."""
    gate = Gate(loses_the_answer)
    vendor = FakeVendor(loses_the_answer, gate)
    async with open_house(place, vendor) as house:
        caller = asyncio.create_task(house.fails())
        await house.becomes(State.IN_DOUBT)
        repeat = asyncio.create_task(house.fails())
        await gate.arrived.wait()
        house.journal.before_find = unreadable
        gate.go.set()
        errors = await asyncio.gather(caller, repeat)

    assert {error.reason for error in errors} == {Reason.BOOKING_IN_DOUBT}
    assert {error.fate for error in errors} == {Fate.UNKNOWN}


async def test_a_doubt_that_no_machine_can_end_is_told_without_an_invitation_to_retry(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(loses_the_answer), promises={}) as house:
        error = await house.fails()
        repeat = await house.fails()

    for it in (error, repeat):
        assert it.reason is Reason.BOOKING_NEEDS_REVIEW
        assert (it.fate, it.is_final) == (Fate.UNKNOWN, False)
        assert it.is_retry_forbidden and it.retry_after_s is None
    assert len(house.vendor.sends) == 1


async def test_a_contradiction_is_told_as_a_persons(place: Place) -> None:
    async with open_house(place, FakeVendor(contradicts)) as house:
        error = await house.fails()

        assert error.reason is Reason.BOOKING_NEEDS_REVIEW
        assert (await house.get()).reason is Reason.PROVIDER_KEY_CONFLICT


# --- what went wrong with us, after the send --------------------------------------------------


@pytest.mark.parametrize("act", [breaks, cancels_itself])
async def test_a_bug_of_an_adapter_after_the_send_is_a_doubt_and_shows_nothing_of_itself(
    place: Place, act: Act
) -> None:
    async with open_house(place, FakeVendor(act)) as house:
        error = await house.fails(within_s=BRIEF_S)
        assert (await house.get()).state is State.IN_DOUBT
        answer = await house.book()

    assert error.reason is Reason.BOOKING_IN_DOUBT
    assert "secret" not in error.message
    assert answer.body
    assert len(house.vendor.effects) == 1


async def test_a_codec_that_fails_after_the_send_leaves_a_doubt_never_a_failure(
    place: Place,
) -> None:
    async with open_house(place) as house:
        house.codec.breaks = True
        error = await house.fails(within_s=BRIEF_S)
        state = (await house.get()).state
        house.codec.breaks = False
        answer = await house.book()

    assert (error.reason, error.fate) == (Reason.BOOKING_IN_DOUBT, Fate.UNKNOWN)
    assert state is State.IN_DOUBT
    assert answer.is_replayed
    assert len(house.vendor.effects) == 1


async def test_a_codec_that_fails_on_a_refusal_leaves_a_doubt(place: Place) -> None:
    async with open_house(place, FakeVendor(refuses())) as house:
        house.codec.breaks = True
        error = await house.fails(within_s=BRIEF_S)

    assert (error.reason, error.fate) == (Reason.BOOKING_IN_DOUBT, Fate.UNKNOWN)


async def test_a_journal_that_cannot_be_written_stops_the_booking_before_the_send(
    house: House,
) -> None:
    await house.journal.fill_the_disk()
    error = await house.fails(sale=LONG)
    await house.journal.clear_the_disk()

    assert error.reason is Reason.JOURNAL_UNAVAILABLE
    assert error.fate is None
    assert house.vendor.sends == []
    assert await house.find() is None
    assert not (await house.book()).is_replayed


async def test_a_settle_that_cannot_be_written_leaves_the_send_in_progress_never_failed(
    place: Place,
) -> None:
    gate = Gate(books_with_a_long_text)
    limits = Limits(settle_retry_s=0.3, lease_s=6.0)
    async with open_house(place, FakeVendor(gate), policy=QUICK, limits=limits) as house:
        caller = asyncio.create_task(house.fails(within_s=BRIEF_S))
        await gate.arrived.wait()
        await house.journal.fill_the_disk()
        gate.go.set()
        error = await caller
        await until(lambda: house.link.in_flight == 0)
        state = (await house.get()).state
        await house.journal.clear_the_disk()

        assert error.reason is Reason.BOOKING_IN_PROGRESS
        assert (error.fate, error.is_final) == (Fate.UNKNOWN, False)
        assert state is State.SENDING
        # The lease brings it back, as a doubt, and the doubt finds the effect.
        house.engine._recovery.wake()
        await house.becomes(State.SUCCEEDED)
        assert State.IN_DOUBT in await house.moves()
        assert len(house.vendor.effects) == 1


async def test_a_settle_is_written_again_until_the_disk_has_room(place: Place) -> None:
    gate = Gate(books_with_a_long_text)
    async with open_house(place, FakeVendor(gate)) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        await house.journal.fill_the_disk()
        gate.go.set()
        await until(lambda: not house.journal.is_healthy)
        assert not caller.done()
        await house.journal.clear_the_disk()
        answer = await caller

        assert answer.body == (await house.get()).answer_bytes
        assert await house.moves() == [State.SENDING, State.SUCCEEDED]


async def test_a_settle_that_landed_although_its_answer_was_lost_counts(
    place: Place,
) -> None:
    """The commit went through and the word of it did not: it is written again, and found."""
    async with open_house(place) as house:
        fails = [True]

        async def lose_the_word() -> None:
            if fails.pop() if fails else False:
                raise unavailable(OSError("lost"))

        house.journal.after_change = lose_the_word
        answer = await house.book()

        assert answer.body == (await house.get()).answer_bytes
        assert await house.moves() == [State.SENDING, State.SUCCEEDED]


async def test_a_text_that_the_database_refuses_does_not_keep_a_booking_from_settling(
    place: Place,
) -> None:
    """Half a surrogate pair in a vendor's code: no database takes it, and money was moved."""
    vendor = FakeVendor(refuses_with_a_broken_text)
    async with open_house(place, vendor) as house:
        error = await house.fails(within_s=BRIEF_S)
        booking = await house.get()

    assert error.reason is Reason.BOOKING_IN_DOUBT
    assert error.fate is Fate.UNKNOWN
    assert booking.state is State.IN_DOUBT


async def test_a_bug_of_ours_after_the_send_is_told_as_unknown(place: Place) -> None:
    """INTERNAL without an outcome would not tell the caller to repeat the same request_id."""

    async def break_down() -> None:
        raise RuntimeError("a bug behind the settle")

    async with open_house(place) as house:
        house.journal.before_change = break_down
        error = await house.fails()
        state = (await house.get()).state

    assert error.reason is Reason.BOOKING_IN_PROGRESS
    assert (error.fate, error.is_final) == (Fate.UNKNOWN, False)
    assert state is State.SENDING
