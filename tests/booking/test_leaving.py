"""A caller leaves before the intent, between it and the send, or after: nothing is lost by it."""

import asyncio

from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, Reason
from tests.booking.house import (
    BRIEF_S,
    House,
    in_s,
    open_house,
    until,
)
from tests.booking.vendor import (
    FakeVendor,
    Gate,
)
from tests.postgres import Place


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
        error = await house.fails(within_s=BRIEF_S)
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
        error = await house.fails(within_s=BRIEF_S)
    await house.becomes(State.RESERVED)

    assert (error.reason, error.fate) == (Reason.BOOKING_IN_PROGRESS, None)
    assert house.vendor.sends == []


async def test_an_intent_that_came_too_late_to_disk_is_not_sent(place: Place) -> None:
    """Two seconds after it was asked for the world may have moved on."""
    limits = Limits(send_by_s=0.05)
    async with open_house(place, limits=limits) as house:
        async with house.journal.writer_held():
            caller = asyncio.create_task(house.fails())
            await until(lambda: house.journal.writes_waiting == 1)
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
        error = await house.fails(within_s=BRIEF_S)

        assert error.reason is Reason.BOOKING_IN_DOUBT
        (attempt,) = (await house.story())[1]
        assert attempt.rule == "attempt total time limit"
        assert attempt.fate is Fate.UNKNOWN
