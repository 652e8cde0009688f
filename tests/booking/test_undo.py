"""Undo is whole and once: explicit, by CancelBooking, and by AUTO_REVERSE."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import pytest

from loyalty_gateway.booking.calls import AccountKey, BookingKey, OriginalKey
from loyalty_gateway.booking.connections import NO_OTHER_CHANNEL_BOOKS
from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import OWN_UNDO, Booking, State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    AMOUNT_ECHO_UNIT,
    InDoubtPolicy,
    Operation,
    Receipt,
    RecoveryMode,
    Reference,
)
from loyalty_gateway.providers.port import Executed, Offer, Send
from tests.booking.house import (
    CARD,
    PATIENT,
    QUICK,
    TENANT,
    House,
    a_call,
    an_undo,
    failure,
    in_s,
    open_house,
    until,
)
from tests.booking.test_recovery import BOOKED, BRIEF_LEASE, NOT_BOOKED, resolve
from tests.booking.vendor import (
    MATCH,
    MATCHED,
    RESEND_IS_SAFE,
    RESENT,
    REVERSE,
    TAG_IS_SHOWN,
    UNDO_TAKES_OUR_NUMBER,
    Act,
    FakeVendor,
    Gate,
    books,
    is_not_reached,
    limits_the_rate,
    loses_the_answer,
    loses_the_request,
    refuses,
    shows_a_statement,
)
from tests.postgres import Place

UNDONE = replace(RESENT, undo=Operation.REVERSE_POINTS)
BY_OUR_NUMBER = replace(UNDONE, ways=(REVERSE,))
PROMISES = {RESEND_IS_SAFE: True, UNDO_TAKES_OUR_NUMBER: True}
SETTLED = replace(QUICK, settle_s=0.05)
"""Recovery that trusts "not found" after a moment."""
AUTO = {"in_doubt_policy": InDoubtPolicy.AUTO_REVERSE}


def a_vendor(*acts: Act, sale: Offer = UNDONE, **changes: Any) -> FakeVendor:
    """One whose debits can be undone."""
    offers: Mapping[Operation, Offer] = {
        Operation.DEBIT_BALANCE: sale,
        Operation.REVERSE_POINTS: RESENT,
        Operation.ADD_GIFT_TIP: RESENT,
    }
    return FakeVendor(*acts, offers=offers, **changes)


def a_house(
    place: Place, vendor: FakeVendor, policy: Policy = PATIENT, **changes: Any
) -> AbstractAsyncContextManager[House]:
    changes.setdefault("promises", PROMISES)
    return open_house(place, vendor, policy=policy, **changes)


async def own_undo(house: House) -> Booking | None:
    original = await house.get()
    return await house.find(f"{OWN_UNDO}{original.booking_id}")


# --- explicit ---------------------------------------------------------------------------------


async def test_an_undo_undoes_its_original_whole_and_is_linked_to_it(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        first = await house.book()
        await house.undo()
        original, undo = await house.get(), await house.get("undo-0001")
        again = await house.book()
        shown = await house.engine.get(TENANT, BookingKey(request_id="sale-0001"))
        moves = await house.moves()

        assert house.vendor.standing == []
        sent = house.vendor.sends[-1].order

    assert (original.state, undo.state) == (State.REVERSED, State.SUCCEEDED)
    assert moves == [State.SENDING, State.SUCCEEDED, State.REVERSING, State.REVERSED]
    assert undo.original_booking == original.name
    assert (undo.connection, undo.masked_id, undo.asked) == (
        original.connection,
        original.masked_id,
        original.asked,
    )
    assert shown.undo_bookings == (undo.name,)
    assert not shown.is_reversible
    assert original.outcome is Fate.NOT_EXECUTED
    assert again.body == first.body, "what was told once is told for ever"
    assert sent.original is not None
    assert sent.original.references == original.references
    assert (sent.account_id, sent.original.order.account_id) == (CARD, CARD)


@pytest.mark.parametrize("how", ["booking", "request_id", "reference"])
async def test_the_original_may_be_named_in_three_ways(place: Place, how: str) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        original = await house.get()
        reference = original.references[0]
        key = {
            "booking": OriginalKey(booking_id=original.booking_id),
            "request_id": OriginalKey(request_id="sale-0001"),
            "reference": OriginalKey(
                reference_connection="main",
                reference_kind=reference.kind,
                reference_value=reference.value,
            ),
        }[how]
        await house.engine.book(an_undo(original=key))

        assert (await house.get()).state is State.REVERSED


async def test_a_booking_that_can_be_undone_says_so_and_one_that_cannot_does_not(
    place: Place,
) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        await house.book("top-up-01", operation=Operation.TOP_UP_BALANCE)
        page, _ = await house.engine.list(TENANT, _all())

    assert {it.request_id: it.is_reversible for it in page} == {
        "sale-0001": True,
        "top-up-01": False,
    }


def _all() -> Any:
    from loyalty_gateway.booking.calls import BookingFilter

    return BookingFilter()


async def test_repeating_an_undo_answers_what_it_answered(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        first, again = await house.undo(), await house.undo()

        assert (again.body, again.is_replayed) == (first.body, True)
        assert len(house.vendor.sends) == 2


async def test_undoing_what_was_undone_is_refused_without_a_request(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        await house.undo()
        error = await failure(house.undo("undo-0002"))

        assert error.reason is Reason.ALREADY_REVERSED
        assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, False)
        assert await house.find("undo-0002") is None
        assert len(house.vendor.sends) == 2


async def test_an_original_that_nobody_knows_is_not_found(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        error = await failure(house.undo(of="never-seen"))
        await house.cancel("never-seen")
        entombed = await failure(house.undo(of="never-seen"))
        await house.book()
        reused = await failure(house.undo("sale-0001", of="never-seen"))
        await house.cancel("undo-0009")
        cancelled = await failure(house.undo("undo-0009", of="never-sxxx"))

        assert house.vendor.undone == {}
    assert (error.reason, error.fate) == (Reason.ORIGINAL_NOT_FOUND, Fate.NOT_EXECUTED)
    assert entombed.reason is Reason.ORIGINAL_NOT_FOUND
    assert reused.reason is Reason.REQUEST_ID_REUSED
    assert cancelled.reason is Reason.CANCELLED_BEFORE_ARRIVAL


async def test_what_was_not_executed_or_has_no_undo_is_not_reversible(place: Place) -> None:
    async with a_house(place, a_vendor(refuses(), books, loses_the_answer)) as house:
        await house.fails("refused-1")
        await house.book("top-up-01", operation=Operation.TOP_UP_BALANCE)
        await house.fails("in-doubt-1", within_s=0.5)
        errors = [
            await failure(house.undo(f"undo-{of}", of=of))
            for of in ("refused-1", "top-up-01", "in-doubt-1")
        ]

        assert len(house.vendor.sends) == 3
    assert [it.reason for it in errors] == [Reason.ORIGINAL_NOT_REVERSIBLE] * 3
    assert {it.fate for it in errors} == {Fate.NOT_EXECUTED}


async def test_of_many_undos_at_one_moment_one_undoes(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        ends = await asyncio.gather(
            *(house.undo(f"undo-{number:04}") for number in range(6)), return_exceptions=True
        )

        assert len(house.vendor.undone) == 1
        assert len(house.vendor.sends) == 2
        assert sum(not isinstance(end, BaseException) for end in ends) == 1
        assert (await house.get()).state is State.REVERSED


async def test_an_undo_that_did_not_leave_gives_its_original_back_and_may_be_repeated(
    place: Place,
) -> None:
    """T18, and the repeat marks the original again before it sends."""
    async with a_house(place, a_vendor(books, is_not_reached)) as house:
        await house.book()
        error = await failure(house.undo())
        between = await house.get()
        await house.undo()

        assert error.reason is Reason.PROVIDER_UNREACHABLE
        assert between.state is State.SUCCEEDED
        assert between.is_answered
        assert (await house.get()).state is State.REVERSED
        assert len(house.vendor.undone) == 1


async def test_an_undo_that_the_vendor_declines_leaves_its_original_standing(
    place: Place,
) -> None:
    async with a_house(place, a_vendor(books, refuses(Reason.ORIGINAL_NOT_REVERSIBLE))) as house:
        first = await house.book()
        error = await failure(house.undo())
        original = await house.get()
        again = await house.book()

        assert error.reason is Reason.ORIGINAL_NOT_REVERSIBLE
        assert error.is_final
        assert original.state is State.SUCCEEDED
        assert again.body == first.body


async def test_an_original_waits_for_an_undo_in_doubt_and_follows_it(place: Place) -> None:
    async with a_house(place, a_vendor(books, loses_the_answer)) as house:
        first = await house.book()
        error = await failure(house.undo(of="sale-0001"))
        waiting = await house.get()
        told = await house.book()
        assert waiting.state is State.REVERSING
        assert error.reason is Reason.BOOKING_IN_DOUBT
        assert told.body == first.body, "an OK stays an OK while it is being undone"
    async with a_house(place, house.vendor, QUICK, boot_id="boot-2") as house:
        await house.journal.change(await _due(house, "undo-0001"))
        await house.becomes(State.REVERSED)

        assert (await house.get("undo-0001")).state is State.SUCCEEDED
        assert len(house.vendor.undone) == 1


async def _due(house: House, request_id: str) -> Any:
    from loyalty_gateway.journal.writer import Change

    known = await house.get(request_id)
    now = replace(known, epoch=known.epoch + 1, next_attempt_time=house.journal.now())
    return Change(known, now, "test")


async def test_a_resent_undo_that_is_a_duplicate_did_it_before(place: Place) -> None:
    """The vendor says "already reversed", and it was us."""
    vendor = a_vendor(books, loses_the_answer, is_idempotent=False)
    async with a_house(place, vendor, QUICK) as house:
        await house.book()
        await house.undo()
        await house.becomes(State.REVERSED)

        assert len(vendor.sends) == 3


async def test_what_somebody_else_reversed_is_a_refusal_and_reversed_all_the_same(
    place: Place,
) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        original = await house.get()
        house.vendor.undone[original.outbound_id] = "somebody else"
        error = await failure(house.undo())

        assert error.reason is Reason.ALREADY_REVERSED
        assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, True)
        assert (await house.get()).state is State.REVERSED


@pytest.mark.parametrize(
    ("decision", "state"), [(BOOKED, State.REVERSED), (NOT_BOOKED, State.SUCCEEDED)]
)
async def test_a_persons_word_about_an_undo_is_about_its_original_too(
    place: Place, decision: Any, state: State
) -> None:
    async with a_house(place, a_vendor(books, loses_the_answer), promises={}) as house:
        await house.book()
        error = await failure(house.undo())
        assert error.reason is Reason.BOOKING_NEEDS_REVIEW
        assert (await house.get()).state is State.REVERSING
        await resolve(house, decision, request_id="undo-0001")

        assert (await house.get()).state is state


async def test_an_undo_passes_a_hold_on_its_account(place: Place) -> None:
    async with a_house(place, a_vendor(books, loses_the_answer), promises={}) as house:
        await house.book()
        await house.fails("sale-0002")
        held = await house.fails("sale-0003", within_s=0.5)
        await house.undo()

        assert held.reason is Reason.ACCOUNT_ON_HOLD
        assert (await house.get()).state is State.REVERSED


async def test_a_cancelled_undo_leaves_its_original_alone(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        await house.cancel("undo-0001")
        error = await failure(house.undo())

        assert error.reason is Reason.CANCELLED_BEFORE_ARRIVAL
        assert (await house.get()).state is State.SUCCEEDED
        assert house.vendor.undone == {}


async def test_a_validated_undo_changes_nothing(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        await house.engine.book(an_undo(validate_only=True))
        error = await failure(
            house.engine.book(an_undo(validate_only=True, original=OriginalKey("x")))
        )

        assert (await house.get()).state is State.SUCCEEDED
        assert await house.find("undo-0001") is None
    assert error.reason is Reason.ORIGINAL_NOT_FOUND


# --- tips -------------------------------------------------------------------------------------


async def test_a_tip_is_added_to_an_executed_booking_which_stays_as_it_is(place: Place) -> None:
    tip = {"operation": Operation.ADD_GIFT_TIP, "asked": Money("CHF", 200)}
    async with a_house(place, a_vendor()) as house:
        await house.book()
        before = await house.get()
        await house.book("tip-00001", original=OriginalKey(request_id="sale-0001"), **tip)
        added = await house.get("tip-00001")
        shown = await house.engine.get(TENANT, BookingKey(request_id="sale-0001"))
        other = await house.fails(
            "tip-00002",
            original=OriginalKey(request_id="sale-0001"),
            account=AccountKey("main", plain_id="6299000011112222"),
            **tip,
        )
        await house.undo()
        late = await house.fails("tip-00003", original=OriginalKey(request_id="sale-0001"), **tip)

    assert (added.state, added.original_booking) == (State.SUCCEEDED, before.name)
    assert added.asked == Money("CHF", 200)
    assert (shown.undo_bookings, shown.is_reversible) == ((), True), "a tip is no undo"
    assert other.reason is Reason.REQUEST_INVALID
    assert late.reason is Reason.ALREADY_REVERSED


# --- CancelBooking ----------------------------------------------------------------------------


async def test_cancelling_a_success_undoes_it(place: Place) -> None:
    """T13."""
    async with a_house(place, a_vendor(), QUICK) as house:
        first = await house.book()
        cancelled = await house.cancel()
        await house.becomes(State.REVERSED)
        undo = await own_undo(house)
        again = await house.book()
        twice = await house.cancel()

        assert cancelled.cancel_requested
        assert undo is not None and undo.state is State.SUCCEEDED
        assert house.vendor.standing == []
    assert again.body == first.body
    assert twice.state is State.REVERSED


async def test_cancelling_while_the_vendor_books_undoes_it_and_never_answers_ok(
    place: Place,
) -> None:
    """The settle finds CANCEL: it goes to REVERSING, never SUCCEEDED."""
    gate = Gate()
    async with a_house(place, a_vendor(gate), QUICK) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        cancelled = await house.cancel()
        gate.go.set()
        error = await failure(caller)
        await house.becomes(State.REVERSED)
        late = await house.fails()
        moves = await house.moves()

        assert house.vendor.standing == []
    assert (cancelled.state, cancelled.cancel_requested) == (State.SENDING, True)
    assert error.reason in (Reason.BOOKING_IN_PROGRESS, Reason.BOOKING_REVERSED)
    assert late.reason is Reason.BOOKING_REVERSED
    assert State.SUCCEEDED not in moves
    assert (late.fate, late.is_final) == (Fate.NOT_EXECUTED, True)


async def test_cancelling_what_then_does_not_leave_closes_it(place: Place) -> None:
    gate = Gate(is_not_reached)
    async with a_house(place, a_vendor(gate)) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        await house.cancel()
        gate.go.set()
        error = await failure(caller)

    assert error.reason is Reason.BOOKING_NOT_EXECUTED


@pytest.mark.parametrize("act", [loses_the_answer, loses_the_request])
@pytest.mark.parametrize("sale", [UNDONE, BY_OUR_NUMBER], ids=["resend", "reverse"])
async def test_cancelling_a_doubt_ends_it_without_an_effect(
    place: Place, act: Act, sale: Offer
) -> None:
    unhurried = replace(SETTLED, schedule_s=(1.0,), then_every_s=0.1)
    async with a_house(place, a_vendor(act, sale=sale), unhurried) as house:
        await house.fails(within_s=0.4)
        cancelled = await house.cancel()
        assert cancelled.cancel_requested
        ended = await house.becomes(State.REVERSED, State.NOT_EXECUTED)
        error = await house.fails()

        assert house.vendor.standing == []
        assert ended.outcome is Fate.NOT_EXECUTED
        assert error.reason in (Reason.BOOKING_REVERSED, Reason.BOOKING_NOT_EXECUTED)


async def test_a_success_whose_undo_is_declined_stands_with_the_answer_that_was_kept(
    place: Place,
) -> None:
    """T18: given up while it was sent, so its OK was kept and told to nobody."""
    gate = Gate()
    vendor = a_vendor(gate, refuses(Reason.ORIGINAL_NOT_REVERSIBLE))
    async with a_house(place, vendor, QUICK) as house:
        caller = house.booking_task(within_s=0.5)
        await gate.arrived.wait()
        await house.cancel()
        gate.go.set()
        await asyncio.gather(caller, return_exceptions=True)
        stands = await house.becomes(State.SUCCEEDED)
        answer = await house.book()
        error = await failure(house.cancel())

        assert stands.is_answered
        assert stands.cancel_requested
        assert answer.is_replayed
        assert len(vendor.sends) == 2
    assert error.reason is Reason.CANCEL_NOT_POSSIBLE
    assert error.fate is Fate.EXECUTED


async def test_a_vendor_without_an_undo_is_not_cancelled_and_the_truth_is_told(
    place: Place,
) -> None:
    async with a_house(place, FakeVendor(loses_the_answer)) as house:
        await house.fails(within_s=0.5)
        error = await failure(house.cancel())
        still = await house.get()

    assert (error.reason, error.fate) == (Reason.CANCEL_NOT_POSSIBLE, Fate.UNKNOWN)
    assert not still.cancel_requested


async def test_cancelling_while_an_undo_is_under_way_keeps_the_wish(place: Place) -> None:
    """The explicit undo does not leave; the gateway then undoes it by itself."""
    gate = Gate(is_not_reached)
    async with a_house(place, a_vendor(books, gate), QUICK) as house:
        await house.book()
        undoing = asyncio.create_task(house.undo())
        await gate.arrived.wait()
        cancelled = await house.cancel()
        gate.go.set()
        await failure(undoing)
        await house.becomes(State.REVERSED)

        assert (cancelled.state, cancelled.cancel_requested) == (State.REVERSING, True)
        undo = await own_undo(house)
        assert undo is not None and undo.state is State.SUCCEEDED


async def test_an_own_undo_that_does_not_leave_is_sent_again_by_recovery(place: Place) -> None:
    async with a_house(
        place, a_vendor(books, is_not_reached, limits_the_rate(0.01), is_not_reached), QUICK
    ) as house:
        await house.book()
        await house.cancel()
        await house.becomes(State.REVERSED)
        undo = await own_undo(house)
        ids = {it.outbound_id for it in house.vendor.sends[1:]}

    assert undo is not None and undo.attempt_count == 4
    assert len(ids) == 1, "every attempt of an undo has one number"


async def test_no_caller_can_cancel_or_repeat_an_own_undo(place: Place) -> None:
    async with a_house(place, a_vendor(books, is_not_reached, is_not_reached), QUICK) as house:
        await house.book()
        await house.cancel()
        await until(lambda: len(house.vendor.sends) >= 2)
        undo = await own_undo(house)
        assert undo is not None
        key = BookingKey(booking_id=undo.booking_id)
        with_name = await asyncio.gather(
            house.engine.cancel(TENANT, key, in_s(5)), return_exceptions=True
        )
        await house.becomes(State.REVERSED)

    (end,) = with_name
    assert not isinstance(end, Booking) or end.state is not State.NOT_EXECUTED


# --- REVERSE and AUTO_REVERSE -----------------------------------------------------------------


@pytest.mark.parametrize(("act", "undone"), [(loses_the_answer, 1), (loses_the_request, 0)])
async def test_a_doubt_that_can_only_be_undone_is_undone_after_its_settle_time(
    place: Place, act: Act, undone: int
) -> None:
    """T12, T14: acknowledged, or "not found" three times with their waits between."""
    vendor = a_vendor(act, sale=BY_OUR_NUMBER)
    async with a_house(place, vendor, SETTLED) as house:
        error = await house.fails(within_s=0.4)
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
        await house.becomes(State.IN_DOUBT)
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
        await house.fails(within_s=0.4)
        before = await house.get()
        for _ in range(2):
            await house.fails(within_s=0.4)

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
        error = await house.fails(within_s=0.4, **AUTO)
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
        error = await house.fails(within_s=0.5, **AUTO)
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
        first = house.booking_task(within_s=0.5)
        await gate.arrived.wait()
        await failure(first)
        async with house.journal.writer_held():
            another = house.booking_task(asked=Money("CHF", 990), within_s=0.5, **AUTO)
            await until(lambda: house.journal.writes_waiting > 0)
            if leaves:
                another.cancel()
            await asyncio.sleep(0.6)
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
        await house.fails(within_s=0.4, **AUTO)
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
        await house.fails(within_s=0.4)
        await house.becomes(State.REVERSED)
        undo = await own_undo(house)

        assert undo is not None
        assert (undo.state, len(undo.not_found_times)) == (State.DECLINED, 3)
