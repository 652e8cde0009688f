"""REVERSE and AUTO_REVERSE: a doubt that nobody waits for is undone, and does not stand."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from loyalty_gateway.booking.connections import NO_OTHER_CHANNEL_BOOKS
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import OWN_UNDO, Booking, State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    AMOUNT_ECHO_UNIT,
    Operation,
    Receipt,
    RecoveryMode,
    Reference,
)
from loyalty_gateway.providers.port import Executed, Offer, Send
from tests.booking.house import (
    BRIEF_S,
    LEAVES_S,
    QUICK,
    TENANT,
    House,
    a_call,
    failure,
    until,
)
from tests.booking.stages import BOOKED, BRIEF_LEASE, resolve
from tests.booking.undoing import (
    AUTO,
    BY_OUR_NUMBER,
    PROMISES,
    SETTLED,
    UNDONE,
    a_house,
    a_vendor,
    own_undo,
)
from tests.booking.vendor import (
    MATCH,
    MATCHED,
    RESENT,
    TAG_IS_SHOWN,
    Act,
    FakeVendor,
    Gate,
    books,
    loses_the_answer,
    loses_the_request,
    shows_a_statement,
)
from tests.postgres import Place

# --- REVERSE and AUTO_REVERSE -----------------------------------------------------------------


@pytest.mark.parametrize(("act", "undone"), [(loses_the_answer, 1), (loses_the_request, 0)])
async def test_a_doubt_that_can_only_be_undone_is_undone_after_its_settle_time(
    place: Place, act: Act, undone: int
) -> None:
    """T12, T14: acknowledged, or "not found" three times with their waits between."""
    vendor = a_vendor(act, sale=BY_OUR_NUMBER)
    async with a_house(place, vendor, SETTLED) as house:
        error = await house.fails()
        ended = await house.becomes(State.REVERSED)
        undo = await own_undo(house)

        assert error.fate is not Fate.EXECUTED
        assert len(vendor.undone) == undone
        assert vendor.standing == []
        assert undo is not None
        assert undo.attempt_count == (1 if undone else 3)
        assert ended.answer_bytes is None
        sent = vendor.sends[-1].order
        assert sent.original is not None and sent.original.references == ()
        assert sent.original.outbound_id == ended.outbound_id
    assert len({it.outbound_id for it in vendor.sends[1:]}) == 1


@pytest.mark.parametrize("executes", [True, False])
async def test_what_a_dead_process_was_sending_waits_for_the_settle_time_too(
    place: Place, executes: bool
) -> None:
    vendor = a_vendor(Gate(), sale=BY_OUR_NUMBER)
    async with a_house(place, vendor, boot_id="boot-0", limits=BRIEF_LEASE) as house:
        caller = house.booking_task()
        await until(lambda: vendor.running == 1)
        if executes:
            vendor.execute(vendor.sends[0])
        await house.stop(0)
        await asyncio.gather(caller, return_exceptions=True)
    policy = replace(QUICK, settle_s=0.6)
    async with a_house(place, vendor, policy, boot_id="boot-1") as house:
        await house.becomes(State.IN_DOUBT, State.REVERSING, State.REVERSED)
        doubt = (await house.get()).doubt_time
        await house.becomes(State.REVERSED)
        history, _ = await house.story()

        begun = next(it.time for it in history if it.to_state is State.REVERSING)
        assert doubt is not None
        assert (begun - doubt).total_seconds() >= 0.6
        assert len(vendor.undone) == int(executes)
        assert vendor.standing == []


async def test_who_repeats_does_not_hurry_an_undo(place: Place) -> None:
    """The repeat finds that it has to wait, and writes nothing about it."""
    vendor = a_vendor(loses_the_answer, sale=BY_OUR_NUMBER)
    async with a_house(place, vendor, replace(SETTLED, settle_s=600.0)) as house:
        await house.fails(within_s=BRIEF_S)
        before = await house.get()
        for _ in range(2):
            await house.fails(within_s=BRIEF_S)

        assert (await house.get()) == before
        assert len(vendor.sends) == 1


async def test_nothing_is_undone_before_the_settle_time(place: Place) -> None:
    vendor = a_vendor(loses_the_answer, sale=BY_OUR_NUMBER)
    policy = replace(SETTLED, settle_s=600.0)
    async with a_house(place, vendor, policy) as house:
        error = await house.fails(within_s=1.0)
        booking = await house.get()

        assert error.reason is Reason.BOOKING_IN_DOUBT
        assert booking.recovery_mode is RecoveryMode.REVERSE
        assert booking.doubt_time is not None and booking.next_attempt_time is not None
        wait_s = (booking.next_attempt_time - booking.doubt_time).total_seconds()
        assert abs(wait_s - 600) < 1
        assert len(vendor.sends) == 1


@pytest.mark.parametrize("sale", [UNDONE, BY_OUR_NUMBER], ids=["resend", "reverse"])
@pytest.mark.parametrize("act", [loses_the_answer, loses_the_request])
async def test_a_doubt_under_auto_reverse_ends_without_an_effect(
    place: Place, sale: Offer, act: Act
) -> None:
    vendor = a_vendor(act, sale=sale)
    async with a_house(place, vendor, SETTLED) as house:
        error = await house.fails(**AUTO)
        given_up = await house.get()
        await house.is_quiet()
        ended = await house.get()

        assert error.fate is not Fate.EXECUTED
        assert given_up.cancel_requested or given_up.is_final
        assert ended.outcome is Fate.NOT_EXECUTED
        assert vendor.standing == []


async def test_auto_reverse_answers_ok_where_nothing_was_in_doubt(place: Place) -> None:
    async with a_house(place, a_vendor(), QUICK) as house:
        answer = await house.book(**AUTO)

        assert not answer.is_replayed
        assert (await house.get()).state is State.SUCCEEDED


async def test_a_caller_whose_time_ends_while_the_vendor_books_relies_on_the_undo(
    place: Place,
) -> None:
    gate = Gate()
    async with a_house(place, a_vendor(gate), QUICK) as house:
        error = await house.fails(within_s=LEAVES_S, **AUTO)
        given_up = await house.get()
        gate.go.set()
        await house.becomes(State.REVERSED)

        assert error.fate is Fate.UNKNOWN
        assert given_up.cancel_requested, "on disk before the caller heard"
        assert house.vendor.standing == []


async def test_a_caller_who_leaves_under_auto_reverse_is_undone(place: Place) -> None:
    gate = Gate()
    async with a_house(place, a_vendor(gate), QUICK) as house:
        caller = house.booking_task(**AUTO)
        await gate.arrived.wait()
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)

        async def is_given_up() -> bool:
            return (await house.get()).cancel_requested

        await until(is_given_up)
        gate.go.set()
        await house.becomes(State.REVERSED)

        assert house.vendor.standing == []


async def test_one_of_two_callers_who_leaves_takes_nothing_from_the_other(place: Place) -> None:
    gate = Gate()
    async with a_house(place, a_vendor(gate), QUICK) as house:
        leaves, stays = house.booking_task(**AUTO), house.booking_task(**AUTO)
        await gate.arrived.wait()
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
        gate.go.set()
        await stays

        assert (await house.get()).state is State.SUCCEEDED


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "out of time"])
async def test_who_asks_for_something_else_under_the_same_id_gives_nothing_up(
    place: Place, leaves: bool
) -> None:
    """A request_id that is used twice costs its second caller, never the first one's booking."""
    gate = Gate()
    async with a_house(place, a_vendor(gate), QUICK) as house:
        first = house.booking_task(within_s=BRIEF_S)
        await gate.arrived.wait()
        await failure(first)
        async with house.journal.writer_held():
            another = house.booking_task(asked=Money("CHF", 990), within_s=BRIEF_S, **AUTO)
            await until(lambda: house.journal.writes_waiting > 0)
            if leaves:
                another.cancel()
            await asyncio.sleep(BRIEF_S + 0.1)
        await asyncio.gather(another, return_exceptions=True)
        untouched = await house.get()
        gate.go.set()
        await house.becomes(State.SUCCEEDED)

        assert not untouched.cancel_requested
        assert (await failure(house.book(asked=Money("CHF", 990), **AUTO))).fate is None
        assert len(house.vendor.standing) == 1


@pytest.mark.parametrize(
    ("sale", "promises"),
    [
        (RESENT, PROMISES),
        (UNDONE, {}),
        (replace(UNDONE, ways=(MATCH,), ask=MATCHED.ask), {NO_OTHER_CHANNEL_BOOKS: True}),
    ],
    ids=["no undo", "no way", "untagged match"],
)
async def test_auto_reverse_is_refused_where_no_machine_can_keep_it(
    place: Place, sale: Offer, promises: Mapping[str, bool]
) -> None:
    async with a_house(place, a_vendor(sale=sale), promises=promises) as house:
        error = await house.fails(**AUTO)

        assert error.reason is Reason.CAPABILITY_NOT_SUPPORTED
        assert error.field == "options.in_doubt_policy"
        assert house.vendor.sends == []


async def test_an_untagged_match_is_never_reversed_by_a_machine(place: Place) -> None:
    sale = replace(MATCHED, undo=Operation.REVERSE_POINTS)
    vendor = a_vendor(loses_the_answer, sale=sale, answers=[shows_a_statement])
    promises = {**PROMISES, NO_OTHER_CHANNEL_BOOKS: True}
    async with a_house(place, vendor, QUICK, promises=promises) as house:
        await house.book()
        booking = await house.get()
        error = await failure(house.cancel())

        assert booking.is_matched
        assert error.reason is Reason.CANCEL_NOT_POSSIBLE


async def test_a_tagged_match_is(place: Place) -> None:
    sale = replace(MATCHED, undo=Operation.REVERSE_POINTS)
    vendor = a_vendor(loses_the_answer, sale=sale)
    async with a_house(place, vendor, QUICK, promises={**PROMISES, TAG_IS_SHOWN: True}) as house:
        await house.fails(**AUTO)
        await house.becomes(State.REVERSED)

        assert vendor.standing == []


async def test_an_operator_who_finds_booked_what_was_given_up_has_it_undone(place: Place) -> None:
    sale = replace(UNDONE, ways=())
    async with a_house(place, a_vendor(loses_the_answer, sale=sale)) as house:
        gate = Gate(loses_the_answer)
        house.vendor.script.appendleft(gate)
        caller = house.booking_task()
        await gate.arrived.wait()
        await house.cancel()
        gate.go.set()
        error = await failure(caller)
        assert error.reason is Reason.BOOKING_NEEDS_REVIEW
        house.vendor.script.clear()
        await resolve(house, BOOKED)
        await house.becomes(State.REVERSED)

        assert house.vendor.standing == []


async def test_who_gives_up_while_the_journal_is_slow_hears_of_a_success_that_came_meanwhile(
    place: Place,
) -> None:
    """It must not be told of a doubt and left with a booking that stands."""
    gate = Gate(books)
    async with a_house(place, a_vendor(gate), QUICK) as house:

        async def is_slow() -> None:
            gate.go.set()
            await asyncio.sleep(LEAVES_S)

        house.journal.before_find = is_slow
        answer = await house.book(within_s=LEAVES_S, **AUTO)
        house.journal.before_find = None
        booking = await house.get()

    assert booking.state is State.SUCCEEDED
    assert answer.body == booking.answer_bytes


# --- crashes ----------------------------------------------------------------------------------


async def test_an_undo_that_was_begun_and_never_opened_is_taken_back(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        original = await house.get()

        async def crash() -> None:
            raise RuntimeError("the process is gone")

        house.journal.after_change = crash
        await asyncio.gather(house.undo(), return_exceptions=True)
        house.journal.after_change = None
        assert (await house.get()).state is State.REVERSING
    async with a_house(place, house.vendor, QUICK, boot_id="boot-2") as house:
        await _lease_over(house, original)
        await house.becomes(State.SUCCEEDED)
        await house.undo()

        assert (await house.get()).state is State.REVERSED
        assert len(house.vendor.sends) == 2


async def test_an_undo_that_ended_before_its_original_followed_is_followed_later(
    place: Place,
) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        original = await house.get()
        changes = 0

        async def crash_after_the_undos_settle() -> None:
            nonlocal changes
            changes += 1
            if changes >= 3:
                raise RuntimeError("the process is gone")

        house.journal.before_change = crash_after_the_undos_settle
        await asyncio.gather(house.undo(), return_exceptions=True)
        house.journal.before_change = None
        assert (await house.get()).state is State.REVERSING
        assert (await house.get("undo-0001")).state is State.SUCCEEDED
    async with a_house(place, house.vendor, QUICK, boot_id="boot-2") as house:
        await _lease_over(house, original)
        await house.becomes(State.REVERSED)

        assert len(house.vendor.undone) == 1


async def _lease_over(house: House, booking: Booking) -> None:
    """As if the lease of whoever is gone had run out."""
    from loyalty_gateway.journal.writer import Change

    known = await house.get(booking.request_id)
    if known.state is not State.REVERSING:
        return
    now = house.journal.now()
    freed = replace(known, epoch=known.epoch + 1, owner="", lease_until=None, next_attempt_time=now)
    await house.journal.change(Change(known, freed, "test"))


async def test_a_settled_reference_is_claimed_and_an_undos_too(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        await house.undo()
        original, undo = await house.get(), await house.get("undo-0001")
        for booking in (original, undo):
            reference: Reference = booking.references[0]
            found = await house.journal.find_by_reference(
                TENANT, "main", reference.kind, reference.value
            )
            assert found is not None and found.booking_id == booking.booking_id


def test_no_caller_can_name_the_request_id_of_an_own_undo() -> None:
    import re

    assert not re.fullmatch(r"[A-Za-z0-9._:-]{8,64}", f"{OWN_UNDO}x")
    assert a_call is not None


async def test_what_is_undone_is_named_by_what_was_believed_alone(place: Place) -> None:
    """The vendor answers with another amount: its number may be somebody else's booking."""

    async def tells_of_another(vendor: FakeVendor, send: Send) -> Executed:
        vendor.execute(send)
        told = Receipt((Reference("receipt", "R-another"),), echoed=Money("CHF", 999))
        return Executed(told, 200, "200", "", "")

    vendor = a_vendor(tells_of_another, sale=BY_OUR_NUMBER)
    promises = {**PROMISES, AMOUNT_ECHO_UNIT: True}
    async with a_house(place, vendor, SETTLED, promises=promises) as house:
        await house.fails(within_s=3, **AUTO)
        await house.becomes(State.REVERSED)
        undo = vendor.sends[-1].order

        assert undo.original is not None
        assert (undo.original.references, undo.original.applied) == ((), None)
        assert vendor.standing == []


async def test_an_own_undo_whose_answer_is_lost_too_finds_that_there_is_nothing_to_undo(
    place: Place,
) -> None:
    vendor = a_vendor(loses_the_request, loses_the_request, sale=BY_OUR_NUMBER)
    async with a_house(place, vendor, SETTLED) as house:
        await house.fails()
        await house.becomes(State.REVERSED)
        undo = await own_undo(house)

        assert undo is not None
        assert (undo.state, len(undo.not_found_times)) == (State.DECLINED, 3)
