"""CancelBooking of what was booked: undone by the gateway itself, or refused with the truth."""

import asyncio
from dataclasses import replace

import pytest

from loyalty_gateway.booking.calls import BookingKey
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.providers.port import Offer
from tests.booking.house import (
    BRIEF_S,
    QUICK,
    TENANT,
    failure,
    in_s,
    until,
)
from tests.booking.stages import doubt
from tests.booking.undoing import BY_OUR_NUMBER, SETTLED, UNDONE, a_house, a_vendor, own_undo
from tests.booking.vendor import (
    Act,
    FakeVendor,
    Gate,
    books,
    is_not_reached,
    limits_the_rate,
    loses_the_answer,
    loses_the_request,
    refuses,
)
from tests.postgres import Place


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
    unhurried = replace(SETTLED, schedule_s=(10.0,), then_every_s=0.1)
    async with a_house(place, a_vendor(act, sale=sale), unhurried) as house:
        await house.fails(within_s=BRIEF_S)
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
        caller = house.booking_task()
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
        await doubt(house)
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
