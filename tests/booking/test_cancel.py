"""CancelBooking before, during and after its booking: it is closed for good, or hears the truth."""

import asyncio
import random
from collections.abc import Awaitable

import pytest

from loyalty_gateway.booking.calls import BookingKey
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.booking import Answer, Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from tests.booking.house import (
    BRIEF_S,
    KEYRING,
    TENANT,
    House,
    failure,
    in_s,
    open_house,
)
from tests.booking.vendor import (
    Act,
    FakeVendor,
    Gate,
    books,
    contradicts,
    is_not_reached,
    loses_the_answer,
    refuses,
)
from tests.postgres import Place


async def after(delay_s: float, call: Awaitable[object]) -> object:
    """The call, begun a little later: it moves the point where two calls meet."""
    await asyncio.sleep(delay_s)
    return await call


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
        await asyncio.gather(house.book(within_s=BRIEF_S), return_exceptions=True)
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
            # However slow this machine is, some of these are as long as what the cancel reads.
            spread_s = 0.006 * (1 + number % 5)
            booked, cancelled = await asyncio.gather(
                after(dice.random() * spread_s, house.book(request_id)),
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
