"""The one write path: looked up, opened, sent, settled, answered; each way it can go wrong."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any

import pytest

from loyalty_gateway.booking.calls import AccountKey, BookingKey, Decision
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.booking import Answer, Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import (
    InDoubtPolicy,
    Operation,
    Sale,
)
from loyalty_gateway.journal.writer import unavailable
from loyalty_gateway.providers.port import Executed, Offer, ProviderError, Send, StatusRow
from tests.booking.house import (
    CARD,
    KEYRING,
    QUICK,
    TENANT,
    House,
    a_call,
    failure,
    in_s,
    open_house,
    until,
)
from tests.booking.vendor import (
    Act,
    FakeVendor,
    Gate,
    books,
    breaks,
    cancels_itself,
    contradicts,
    is_not_reached,
    limits_the_rate,
    loses_the_answer,
    loses_the_request,
    refuses,
)
from tests.postgres import Place


@pytest.fixture
async def house(place: Place) -> AsyncIterator[House]:
    async with open_house(place) as house:
        yield house


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


async def after(delay_s: float, call: Awaitable[object]) -> object:
    """The call, begun a little later: it moves the point where two calls meet."""
    await asyncio.sleep(delay_s)
    return await call


async def unreadable() -> None:
    """A hook: the journal cannot be read at the moment."""
    raise unavailable(OSError("the disk does not answer"))


# --- the plain way ----------------------------------------------------------------------------


async def test_a_booking_happens_once_and_is_answered_from_the_journal(house: House) -> None:
    answer = await house.book()

    booking = await house.get()
    assert booking.state is State.SUCCEEDED
    assert answer.body == booking.answer_bytes
    assert answer.booking_name == booking.name
    assert not answer.is_replayed
    assert [effect.asked for effect in house.vendor.effects] == [Money("CHF", 1000)]
    assert [effect.account_id for effect in house.vendor.effects] == [CARD]
    assert await house.moves() == [State.SENDING, State.SUCCEEDED]
    assert (booking.attempt_count, booking.doubtful_attempts) == (1, 1)


async def test_the_vendor_is_asked_only_after_the_intent_is_on_disk(place: Place) -> None:
    gate = Gate()
    async with open_house(place, FakeVendor(gate)) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        booking = await house.get()
        gate.go.set()
        await caller

    assert booking.state is State.SENDING
    assert booking.owner == "boot-1"
    assert booking.doubtful_attempts == 1
    assert booking.lease_until == booking.next_attempt_time


async def test_the_vendor_never_sees_the_callers_request_id(house: House) -> None:
    await house.book("a-request-id-that-names-somebody")

    (send,) = house.vendor.sends
    assert send.outbound_id == KEYRING.outbound_id(TENANT, "a-request-id-that-names-somebody")


async def test_a_repeat_is_answered_with_the_very_same_bytes(house: House) -> None:
    first = await house.book()
    second = await house.book()

    assert second.body == first.body
    assert second.is_replayed
    assert second.booking_name == first.booking_name
    assert len(house.vendor.effects) == 1


async def test_a_refusal_is_final_and_repeated_with_the_very_same_bytes(place: Place) -> None:
    async with open_house(place, FakeVendor(refuses())) as house:
        first = await house.fails()
        second = await house.fails()

    assert first.reason is Reason.INSUFFICIENT_BALANCE
    assert (first.fate, first.is_final) == (Fate.NOT_EXECUTED, True)
    assert first.status_bytes is not None
    assert second.status_bytes == first.status_bytes
    assert (first.is_replayed, second.is_replayed) == (False, True)
    assert len(house.vendor.sends) == 1


async def test_one_request_id_means_one_request(house: House) -> None:
    first = await house.book()
    error = await house.fails(asked=Money("CHF", 1001))

    assert error.reason is Reason.REQUEST_ID_REUSED
    assert error.fate is None
    assert error.booking == first.booking_name
    assert len(house.vendor.sends) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"asked": Money("CHF", 999)},
        {"operation": Operation.TOP_UP_BALANCE},
        {"account": AccountKey("main", plain_id="6299123412341235")},
        {"account": AccountKey("second", plain_id=CARD)},
        {"allow_partial": True},
        {"money_value": Money("CHF", 1000)},
        {"redemption_kind": "voucher"},
        {"sale": Sale(order_id="O-1")},
        {"sale": Sale(ticket_number="T-1")},
    ],
)
async def test_every_business_field_belongs_to_the_request(
    place: Place, changes: dict[str, Any]
) -> None:
    vendor = FakeVendor()
    async with open_house(place, connections={"main": vendor, "second": vendor}) as house:
        await house.book()
        error = await house.fails(**changes)

    assert error.reason is Reason.REQUEST_ID_REUSED
    assert len(vendor.sends) == 1


@pytest.mark.parametrize("sale", [Sale(cashier_id="C-7"), Sale(device_id="D-7", store_id="S-7")])
async def test_what_is_no_business_field_may_differ_on_a_repeat(house: House, sale: Sale) -> None:
    first = await house.book()
    second = await house.book(sale=sale)

    assert second.body == first.body


async def test_a_plain_account_id_and_its_token_are_the_same_account(house: House) -> None:
    token = KEYRING.token(TENANT, "main", CARD)
    first = await house.book(account=AccountKey("main", plain_id=CARD))
    second = await house.book(account=AccountKey("main", token=token))

    assert second.body == first.body
    assert second.is_replayed


async def test_a_token_alone_books_on_the_account_behind_it(house: House) -> None:
    await house.book(account=AccountKey("main", token=KEYRING.token(TENANT, "main", CARD)))

    assert [effect.account_id for effect in house.vendor.effects] == [CARD]


async def test_tenants_do_not_meet_each_others_request_ids(house: House) -> None:
    first = await house.book()
    second = await house.book(tenant="another", asked=Money("CHF", 5))

    assert second.booking_name != first.booking_name
    assert len({effect.outbound_id for effect in house.vendor.effects}) == 2


# --- refused before anything is durable -------------------------------------------------------


async def test_another_currency_is_refused_before_anything_is_written(house: House) -> None:
    error = await house.fails(asked=Money("EUR", 1000))

    assert (error.reason, error.field) == (Reason.CURRENCY_NOT_ACCEPTED, "amount")
    assert error.fate is None
    assert await house.find() is None


async def test_the_money_value_must_be_in_the_connections_currency_too(house: House) -> None:
    error = await house.fails(money_value=Money("EUR", 1000))

    assert (error.reason, error.field) == (Reason.CURRENCY_NOT_ACCEPTED, "money_value")


async def test_what_a_vendor_cannot_do_is_refused_without_asking_it(house: House) -> None:
    error = await house.fails(operation=Operation.REDEEM_POINTS, asked=Points(10))

    assert error.reason is Reason.CAPABILITY_NOT_SUPPORTED
    assert house.vendor.sends == []
    assert await house.find() is None


async def test_an_undo_that_cannot_be_kept_is_not_promised(house: House) -> None:
    error = await house.fails(in_doubt_policy=InDoubtPolicy.AUTO_REVERSE)

    assert error.reason is Reason.CAPABILITY_NOT_SUPPORTED
    assert error.field == "options.in_doubt_policy"
    assert await house.find() is None


async def test_fields_that_the_vendor_needs_are_named_all_at_once(place: Place) -> None:
    offer = Offer(
        FakeVendor()._read,
        needed_fields=("sale.order_id", "sale.store_id", "money_value"),
    )
    vendor = FakeVendor(offers={Operation.DEBIT_BALANCE: offer})
    async with open_house(place, vendor) as house:
        error = await house.fails(filled_fields=frozenset({"money_value"}))
        filled = frozenset({"sale.order_id", "sale.store_id", "money_value"})
        await house.book(filled_fields=filled)

    assert error.reason is Reason.FIELD_REQUIRED_BY_PROVIDER
    assert [it.field for it in error.violations] == ["sale.order_id", "sale.store_id"]


async def test_an_unknown_connection_says_nothing_of_a_booking(house: House) -> None:
    error = await house.fails(account=AccountKey("nowhere", plain_id=CARD))

    assert (error.reason, error.fate) == (Reason.CONNECTION_NOT_FOUND, None)


async def test_a_token_of_another_connection_or_tenant_is_no_token(house: House) -> None:
    for token in (
        KEYRING.token(TENANT, "second", CARD),
        KEYRING.token("another", "main", CARD),
        "k1.AAAA",
        "",
    ):
        error = await house.fails(account=AccountKey("main", token=token))
        assert error.reason is Reason.REQUEST_INVALID
        assert [it.field for it in error.violations] == ["account.token"]
        assert CARD not in error.message


# --- validate_only ----------------------------------------------------------------------------


async def test_a_validation_writes_nothing_and_leaves_the_request_id_unused(house: House) -> None:
    answer = await house.book(validate_only=True)

    assert (answer.booking_name, answer.is_replayed) == ("", False)
    assert await house.find() is None
    assert house.vendor.sends == []
    assert not (await house.book()).is_replayed


async def test_a_validation_meets_the_booking_that_has_its_request_id(house: House) -> None:
    await house.book()

    error = await house.fails(validate_only=True, asked=Money("CHF", 1))
    assert error.reason is Reason.REQUEST_ID_REUSED
    assert (await house.book(validate_only=True)).booking_name == ""


async def test_a_refused_validation_says_nothing_wrong_of_a_booking_that_exists(
    house: House,
) -> None:
    """The refusal is about starting a new booking; the known one was executed all the same."""
    await house.book()
    house.engine.drain()
    error = await house.fails(validate_only=True)

    assert error.reason is Reason.DRAINING
    assert (error.fate, error.is_final) == (Fate.EXECUTED, True)


# --- many callers of one request_id -----------------------------------------------------------


async def test_a_hundred_calls_with_one_request_id_have_one_effect_and_equal_answers(
    house: House,
) -> None:
    answers = await asyncio.gather(*(house.book() for _ in range(100)))

    assert len(house.vendor.sends) == 1
    assert len(house.vendor.effects) == 1
    assert len({answer.body for answer in answers}) == 1
    assert sum(not answer.is_replayed for answer in answers) == 1


async def test_a_hundred_refused_calls_with_one_request_id_hear_the_same_bytes(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(refuses())) as house:
        errors = await asyncio.gather(*(house.fails() for _ in range(100)))

    assert len(house.vendor.sends) == 1
    assert len({error.status_bytes for error in errors}) == 1


async def test_of_different_requests_with_one_request_id_exactly_one_wins(house: House) -> None:
    calls = [house.book(asked=Money("CHF", 100 + number)) for number in range(50)]
    ended = await asyncio.gather(*calls, return_exceptions=True)

    errors = [it for it in ended if isinstance(it, LoyaltyError)]
    assert len(errors) == 49
    assert {error.reason for error in errors} == {Reason.REQUEST_ID_REUSED}
    assert len(house.vendor.effects) == 1
    assert house.vendor.effects[0].asked == (await house.get()).asked


async def test_the_loser_of_a_request_id_hears_of_it_at_once_even_while_the_winner_is_in_doubt(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(otherwise=loses_the_answer)) as house:
        await house.fails(within_s=0.5)
        async with asyncio.timeout(5):
            error = await house.fails(asked=Money("CHF", 1), within_s=30)

    assert error.reason is Reason.REQUEST_ID_REUSED


async def test_a_duplicate_joins_the_booking_that_is_under_way(place: Place) -> None:
    gate = Gate()
    async with open_house(place, FakeVendor(gate)) as house:
        first = house.booking_task()
        await gate.arrived.wait()
        second = house.booking_task()
        third = house.booking_task(asked=Money("CHF", 1))
        with pytest.raises(LoyaltyError) as conflict:
            await third
        gate.go.set()
        answers = await asyncio.gather(first, second)

    assert conflict.value.reason is Reason.REQUEST_ID_REUSED
    assert answers[0].body == answers[1].body
    assert [answer.is_replayed for answer in answers] == [False, True]
    assert len(house.vendor.sends) == 1


# --- the caller leaves ------------------------------------------------------------------------


async def test_a_caller_who_leaves_before_the_intent_is_on_disk_sends_nothing(
    house: House,
) -> None:
    """The row lands all the same, as a request_id that may be repeated."""
    async with house.journal.writer_held():
        caller = house.booking_task()
        await until(lambda: house.journal.writes_waiting == 1)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    booking = await house.becomes(State.RESERVED)
    await until(lambda: house.link.in_flight == 0)

    assert house.vendor.sends == []
    assert booking.reason is Reason.DEADLINE_TOO_SHORT
    assert not (await house.book()).is_replayed
    assert len(house.vendor.effects) == 1


async def test_a_caller_who_leaves_between_the_intent_and_the_send_sends_nothing(
    house: House,
) -> None:
    is_open, may_go = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        is_open.set()
        await may_go.wait()

    house.journal.after_open = hold
    caller = house.booking_task()
    await is_open.wait()
    assert (await house.get()).state is State.SENDING
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    may_go.set()
    await house.becomes(State.RESERVED)

    assert house.vendor.sends == []


async def test_a_caller_who_leaves_after_the_send_cancels_nothing(place: Place) -> None:
    gate = Gate()
    async with open_house(place, FakeVendor(gate)) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        gate.go.set()
        await house.becomes(State.SUCCEEDED)
        answer = await house.book()

    assert answer.is_replayed
    assert len(house.vendor.effects) == 1


async def test_one_caller_of_two_who_leaves_does_not_take_the_other_along(
    place: Place,
) -> None:
    gate = Gate()
    async with open_house(place, FakeVendor(gate)) as house:
        first = house.booking_task()
        await gate.arrived.wait()
        second = house.booking_task()
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        gate.go.set()
        answer = await second

        assert answer.body == (await house.get()).answer_bytes
    assert len(house.vendor.effects) == 1


async def test_a_deadline_that_passes_during_the_send_is_told_as_unknown_and_then_the_truth(
    place: Place,
) -> None:
    gate = Gate()
    async with open_house(place, FakeVendor(gate)) as house:
        error = await house.fails(within_s=0.4)
        gate.go.set()
        answer = await house.book()

    assert error.reason is Reason.BOOKING_IN_PROGRESS
    assert (error.fate, error.is_final) == (Fate.UNKNOWN, False)
    assert error.retry_after_s is not None
    assert answer.is_replayed
    assert len(house.vendor.effects) == 1


async def test_a_deadline_that_passes_before_the_intent_is_on_disk_carries_no_outcome(
    house: House,
) -> None:
    async with house.journal.writer_held():
        error = await house.fails(within_s=0.4)
    await house.becomes(State.RESERVED)

    assert (error.reason, error.fate) == (Reason.BOOKING_IN_PROGRESS, None)
    assert house.vendor.sends == []


async def test_an_intent_that_came_too_late_to_disk_is_not_sent(place: Place) -> None:
    """Two seconds after it was asked for the world may have moved on."""
    limits = Limits(send_by_s=0.05)
    async with open_house(place, limits=limits) as house:
        async with house.journal.writer_held():
            caller = asyncio.create_task(house.fails())
            late = in_s(0.06)
            await until(lambda: in_s(0) > late)
        error = await caller

        assert error.reason is Reason.JOURNAL_UNAVAILABLE
        assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, False)
        assert house.vendor.sends == []
        assert (await house.get()).state is State.RESERVED


async def test_one_total_time_limit_ends_an_attempt_in_doubt(place: Place) -> None:
    limits = Limits(attempt_total_s=0.05)
    async with open_house(place, FakeVendor(Gate()), limits=limits) as house:
        error = await house.fails(within_s=0.6)

        assert error.reason is Reason.BOOKING_IN_DOUBT
        (attempt,) = (await house.story())[1]
        assert attempt.rule == "attempt total time limit"
        assert attempt.fate is Fate.UNKNOWN


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
        error = await house.fails(within_s=0.4)
        booking = await house.get()

    assert error.reason is Reason.BOOKING_IN_DOUBT
    assert (error.fate, error.is_final) == (Fate.UNKNOWN, False)
    assert error.booking == booking.name
    assert error.retry_after_s is not None


async def test_a_repeat_in_doubt_has_the_next_step_taken_now(place: Place) -> None:
    """The schedule would wait for an hour."""
    vendor = FakeVendor(loses_the_answer)
    async with open_house(place, vendor) as house:
        await house.fails(within_s=0.4)
        answer = await house.book()

    assert answer.is_replayed
    assert len(vendor.effects) == 1
    assert [send.attempt_number for send in vendor.sends] == [1, 2]


async def test_repeats_kick_a_booking_at_most_once_a_second(place: Place) -> None:
    vendor = FakeVendor(otherwise=loses_the_answer)
    async with open_house(place, vendor) as house:
        await house.fails(within_s=0.4)
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
        await house.fails(within_s=0.4)
        booking = await house.get()
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
        caller = asyncio.create_task(house.fails(within_s=1))
        await house.becomes(State.IN_DOUBT)
        repeat = asyncio.create_task(house.fails(within_s=5))
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
        error = await house.fails(within_s=0.6)
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
        error = await house.fails(within_s=0.6)
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
        error = await house.fails(within_s=0.6)

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
    limits = Limits(settle_retry_s=0.3, lease_s=3.0)
    async with open_house(place, FakeVendor(gate), policy=QUICK, limits=limits) as house:
        caller = asyncio.create_task(house.fails(within_s=1))
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
        error = await house.fails(within_s=1)
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


# --- nothing was booked: the same request_id may be repeated ----------------------------------


async def test_an_unreachable_vendor_leaves_the_request_id_to_be_repeated(place: Place) -> None:
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        error = await house.fails()
        answer = await house.book()

        assert error.reason is Reason.PROVIDER_UNREACHABLE
        assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, False)
        assert error.retry_after_s is not None
        assert not answer.is_replayed
        assert len(house.vendor.effects) == 1
        assert len({send.outbound_id for send in house.vendor.sends}) == 1
        assert [send.attempt_number for send in house.vendor.sends] == [1, 2]
        assert await house.moves() == [
            State.SENDING,
            State.RESERVED,
            State.SENDING,
            State.SUCCEEDED,
        ]


async def test_a_refusal_after_nothing_was_booked_is_as_final_as_on_the_first_attempt(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(is_not_reached, refuses())) as house:
        await house.fails()
        error = await house.fails()

        assert error.reason is Reason.INSUFFICIENT_BALANCE
        assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, True)
        assert (await house.get()).state is State.DECLINED


async def test_a_fault_that_was_wished_for_goes_with_the_first_attempt_only(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        await house.fails(fault="slow")
        await house.book(fault="slow")

    assert [send.fault for send in house.vendor.sends] == ["slow", ""]


async def test_the_vendors_wish_for_patience_reaches_the_caller(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(17))) as house:
        error = await house.fails()

    assert error.reason is Reason.PROVIDER_RATE_LIMITED
    assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, False)
    assert error.retry_after_s in (16, 17)


async def test_a_hundred_repeats_of_a_reserved_request_id_send_it_once(place: Place) -> None:
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        await house.fails()
        answers = await asyncio.gather(*(house.book() for _ in range(100)))

    assert len({answer.body for answer in answers}) == 1
    assert len(house.vendor.sends) == 2


async def test_a_repeat_of_a_reserved_request_id_must_be_the_same_request(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        await house.fails()
        error = await house.fails(asked=Money("CHF", 1))

    assert error.reason is Reason.REQUEST_ID_REUSED
    assert len(house.vendor.sends) == 1


async def test_a_reserved_booking_that_nobody_repeats_is_closed(place: Place) -> None:
    policy = replace(QUICK, abandon_reserved_s=0.05)
    async with open_house(place, FakeVendor(is_not_reached), policy=policy) as house:
        await house.fails()
        booking = await house.becomes(State.NOT_EXECUTED)
        error = await house.fails()

    assert booking.settle_time is not None
    assert error.reason is Reason.BOOKING_NOT_EXECUTED
    assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, True)
    assert len(house.vendor.sends) == 1


# --- cancel -----------------------------------------------------------------------------------


async def test_a_cancel_before_the_original_closes_its_request_id(house: House) -> None:
    tombstone = await house.cancel()
    error = await house.fails()

    assert tombstone.is_tombstone
    assert (tombstone.state, tombstone.outcome) == (State.NOT_EXECUTED, Fate.NOT_EXECUTED)
    assert error.reason is Reason.CANCELLED_BEFORE_ARRIVAL
    assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, True)
    assert error.booking == tombstone.name
    assert house.vendor.sends == []


async def test_cancelling_twice_is_cancelling_once(house: House) -> None:
    assert (await house.cancel()).booking_id == (await house.cancel()).booking_id


async def test_an_unknown_booking_name_leaves_no_tombstone(house: House) -> None:
    key = BookingKey(booking_id="00000000-0000-7000-8000-000000000000")
    error = await failure(house.engine.cancel(TENANT, key, in_s(10)))

    assert (error.reason, error.fate) == (Reason.NOT_FOUND, None)


async def test_a_tombstone_is_the_tenants_own(house: House) -> None:
    await house.cancel()

    assert (await house.book(tenant="another")).body


async def test_tombstones_are_limited_per_tenant_and_hour(place: Place) -> None:
    limits = Limits(tombstones_per_hour_max=3)
    async with open_house(place, limits=limits) as house:
        for number in range(3):
            await house.cancel(f"never-sent-{number}")
        error = await failure(house.cancel("never-sent-3"))
        await house.engine.cancel("another", BookingKey(request_id="never-sent-3"), in_s(10))

    assert error.reason is Reason.TENANT_LIMITED
    assert error.fate is None


@pytest.mark.parametrize(
    ("act", "state"),
    [
        (books, State.SUCCEEDED),
        (loses_the_answer, State.IN_DOUBT),
        (contradicts, State.NEEDS_REVIEW),
    ],
)
async def test_what_was_or_may_have_been_booked_cannot_be_cancelled_and_the_truth_is_told(
    place: Place, act: Act, state: State
) -> None:
    async with open_house(place, FakeVendor(act)) as house:
        await asyncio.gather(house.book(within_s=0.4), return_exceptions=True)
        before = await house.get()
        error = await failure(house.cancel())

        assert before.state is state
        assert error.reason is Reason.CANCEL_NOT_POSSIBLE
        assert (error.fate, error.is_final) == (before.outcome, before.is_final)
        assert await house.get() == before


async def test_a_booking_under_way_cannot_be_cancelled(place: Place) -> None:
    gate = Gate()
    async with open_house(place, FakeVendor(gate)) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        error = await failure(house.cancel())
        gate.go.set()
        await caller

    assert error.reason is Reason.CANCEL_NOT_POSSIBLE
    assert (error.fate, error.is_final) == (Fate.UNKNOWN, False)


async def test_a_reserved_booking_is_closed_by_a_cancel(place: Place) -> None:
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        await house.fails()
        closed = await house.cancel()
        error = await house.fails()

        assert closed.state is State.NOT_EXECUTED
        assert await house.get() == closed
        assert error.reason is Reason.BOOKING_NOT_EXECUTED
        assert error.is_final
        assert len(house.vendor.sends) == 1


async def test_cancelling_what_did_not_happen_is_all_right(place: Place) -> None:
    async with open_house(place, FakeVendor(refuses())) as house:
        await house.fails()
        booking = await house.cancel()

    assert booking.state is State.DECLINED


async def test_a_cancel_and_its_original_meet_in_any_order_and_agree(place: Place) -> None:
    """Two hundred races: either the tombstone won and nothing was sent, or the booking did."""
    dice = random.Random(4)
    wins = {"cancel": 0, "booking": 0}

    async with open_house(place) as house:
        for number in range(200):
            request_id = f"race-{number:04}"
            booked, cancelled = await asyncio.gather(
                after(dice.random() * 0.006, house.book(request_id)),
                after(dice.random() * 0.003, house.cancel(request_id)),
                return_exceptions=True,
            )
            outbound_id = KEYRING.outbound_id(TENANT, request_id)
            effects = [it for it in house.vendor.effects if it.outbound_id == outbound_id]
            if isinstance(cancelled, Booking):
                wins["cancel"] += 1
                assert isinstance(booked, LoyaltyError)
                assert booked.reason is Reason.CANCELLED_BEFORE_ARRIVAL
                assert cancelled.is_tombstone and not effects
            else:
                wins["booking"] += 1
                assert isinstance(cancelled, LoyaltyError)
                assert cancelled.reason is Reason.CANCEL_NOT_POSSIBLE
                assert isinstance(booked, Answer) and len(effects) == 1

    assert min(wins.values()) >= 10, f"one side always won: {wins}"


async def test_a_cancel_and_a_repeat_of_a_reserved_booking_agree(place: Place) -> None:
    dice = random.Random(5)
    wins = {"cancel": 0, "booking": 0}

    async with open_house(place) as house:
        for number in range(100):
            request_id = f"race-{number:04}"
            house.vendor.script.append(is_not_reached)
            await house.fails(request_id)
            booked, cancelled = await asyncio.gather(
                after(dice.random() * 0.003, house.book(request_id)),
                after(dice.random() * 0.003, house.cancel(request_id)),
                return_exceptions=True,
            )
            outbound_id = KEYRING.outbound_id(TENANT, request_id)
            effects = [it for it in house.vendor.effects if it.outbound_id == outbound_id]
            is_cancelled = isinstance(cancelled, Booking)
            wins["cancel" if is_cancelled else "booking"] += 1
            if is_cancelled:
                assert isinstance(booked, LoyaltyError)
                assert booked.reason is Reason.BOOKING_NOT_EXECUTED
                assert not effects
            else:
                assert isinstance(cancelled, LoyaltyError)
                assert cancelled.reason is Reason.CANCEL_NOT_POSSIBLE
                assert isinstance(booked, Answer) and len(effects) == 1

    assert min(wins.values()) >= 1, f"one side always won: {wins}"


# --- admission, pause and drain ---------------------------------------------------------------


async def test_admission_counts_bookings_in_flight_not_callers(place: Place) -> None:
    """Callers who leave at once do not make room: what they sent still runs."""
    gate = Gate()
    limits = Limits(in_flight_max=3)
    async with open_house(place, FakeVendor(otherwise=gate), limits=limits) as house:
        callers = [house.booking_task(f"sale-{number:04}") for number in range(3)]
        await until(lambda: house.vendor.running == 3)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        refused = [await house.fails(f"late-{number:04}") for number in range(20)]
        joined = house.booking_task("sale-0000")
        gate.go.set()
        answer = await joined
        await until(lambda: house.vendor.running == 0)
        await house.book("late-0000")

    assert {error.reason for error in refused} == {Reason.OVERLOADED}
    assert {error.fate for error in refused} == {Fate.NOT_EXECUTED}
    assert all(error.retry_after_s for error in refused)
    assert house.vendor.running_max == 3
    assert answer.is_replayed


async def test_one_slow_connection_does_not_take_the_room_of_another(place: Place) -> None:
    gate = Gate()
    slow, quick = FakeVendor(otherwise=gate), FakeVendor()
    limits = Limits(in_flight_per_connection_max=2)
    async with open_house(
        place, limits=limits, connections={"main": slow, "quick": quick}
    ) as house:
        callers = [house.booking_task(f"sale-{number:04}") for number in range(2)]
        await until(lambda: slow.running == 2)
        refused = await house.fails("sale-0002")
        await house.book("sale-0003", account=AccountKey("quick", plain_id=CARD))
        gate.go.set()
        await asyncio.gather(*callers)

    assert refused.reason is Reason.OVERLOADED
    assert len(quick.effects) == 1


async def test_a_full_house_still_answers_what_it_knows(place: Place) -> None:
    gate = Gate()
    limits = Limits(in_flight_max=1)
    async with open_house(place, FakeVendor(books, gate), limits=limits) as house:
        known = await house.book()
        caller = house.booking_task("sale-0002")
        await gate.arrived.wait()
        repeat = await house.book()
        conflict = await house.fails(asked=Money("CHF", 1))
        gate.go.set()
        await caller

    assert repeat.body == known.body
    assert repeat.is_replayed
    assert conflict.reason is Reason.REQUEST_ID_REUSED


async def test_a_refused_booking_leaves_no_row(place: Place) -> None:
    async with open_house(place, limits=Limits(in_flight_max=0)) as house:
        await house.fails()

        assert await house.find() is None


async def test_too_little_time_is_told_before_anything_is_written(house: House) -> None:
    error = await house.fails(within_s=0.2)

    assert error.reason is Reason.DEADLINE_TOO_SHORT
    assert error.fate is Fate.NOT_EXECUTED
    assert await house.find() is None


async def test_too_little_time_is_enough_for_a_known_booking(house: House) -> None:
    known = await house.book()

    assert (await house.book(within_s=0.1)).body == known.body


async def test_a_paused_connection_takes_no_new_booking(place: Place) -> None:
    async with open_house(place, is_paused=True) as house:
        error = await house.fails()

        assert (error.reason, error.fate) == (Reason.CONNECTION_PAUSED, Fate.NOT_EXECUTED)
        assert await house.find() is None


async def test_a_draining_server_answers_what_it_knows_and_starts_nothing(
    place: Place,
) -> None:
    gate = Gate()
    vendor = FakeVendor(books, refuses(), loses_the_answer, is_not_reached, gate)
    async with open_house(place, vendor) as house:
        known = await house.book("sale-0001")
        declined = await house.fails("sale-0002")
        await house.fails("sale-0003", within_s=0.4)
        await house.fails("sale-0004")
        await house.cancel("sale-0005")
        running = house.booking_task("sale-0006")
        await gate.arrived.wait()
        house.engine.drain()

        new = await house.fails("sale-0007")
        joined = house.booking_task("sale-0006")
        assert (await house.book("sale-0001")).body == known.body
        assert (await house.fails("sale-0002")).status_bytes == declined.status_bytes
        assert (await house.fails("sale-0004")).fate is Fate.NOT_EXECUTED
        tombstone = await house.fails("sale-0005")
        gate.go.set()
        assert (await joined).body == (await running).body
        # A doubt is still found out while the server drains.
        assert (await house.book("sale-0003")).is_replayed
        assert (await house.get("sale-0004")).state is State.RESERVED

    assert new.reason is Reason.DRAINING
    assert (new.fate, new.is_final) == (Fate.NOT_EXECUTED, False)
    assert tombstone.reason is Reason.CANCELLED_BEFORE_ARRIVAL


async def test_stopping_waits_for_what_was_sent(place: Place) -> None:
    gate = Gate()
    async with open_house(place, FakeVendor(gate)) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        stopping = asyncio.create_task(house.engine.stop(20))
        await asyncio.sleep(0)
        gate.go.set()
        left = await stopping
        answer = await caller

        assert left == 0
        assert answer.body == (await house.get()).answer_bytes


async def test_stopping_counts_what_it_could_not_wait_for_and_its_callers_hear_in_progress(
    place: Place,
) -> None:
    """A stray cancellation would leave a caller without any answer."""
    async with open_house(place, FakeVendor(Gate())) as house:
        caller = asyncio.create_task(house.fails())
        await until(lambda: house.vendor.running == 1)
        left = await house.engine.stop(0.05)
        error = await caller

        assert left == 1
        assert error.reason is Reason.BOOKING_IN_PROGRESS
        assert (error.fate, error.is_final) == (Fate.UNKNOWN, False)
        # Nothing is said of it in the journal: the next process finds it in SENDING.
        assert (await house.get()).state is State.SENDING


# --- operators' words -------------------------------------------------------------------------


async def test_an_unknown_request_id_proves_nothing(house: House) -> None:
    error = await failure(house.engine.get(TENANT, BookingKey(request_id="sale-0001")))

    assert (error.reason, error.fate, error.is_final) == (Reason.NOT_FOUND, None, False)


async def test_another_tenants_booking_is_not_found(house: House) -> None:
    await house.book()
    booking_id = (await house.get()).booking_id
    error = await failure(house.engine.get("another", BookingKey(booking_id=booking_id)))

    assert error.reason is Reason.NOT_FOUND


async def test_nothing_of_an_account_is_shown_but_its_mask(house: House) -> None:
    await house.book()
    booking = await house.get()

    assert booking.masked_id == "••••••••••••1234"
    assert booking.order is not None and booking.order.account_id == ""
    assert CARD not in repr(booking) and CARD not in repr(a_call())
