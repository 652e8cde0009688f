"""A vendor that asks for a pause is left in peace: a repeat is sent when it is over, not before."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from loyalty_gateway.booking.calls import BookingKey
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, Reason
from tests.booking.house import (
    BRIEF_S,
    CARD,
    PATIENT,
    QUICK,
    TENANT,
    House,
    failure,
    open_house,
    until,
)
from tests.booking.undoing import a_house, a_vendor
from tests.booking.vendor import (
    FakeVendor,
    books,
    is_not_reached,
    limits_the_rate,
    loses_the_answer,
    refuses,
)
from tests.postgres import Place

SLOW_S = 4.0
"""So slow may this machine be for a moment without a pause being over too soon for a test."""


def move_on(house: House, seconds: float) -> None:
    """So much time passes at once."""
    house.journal.ahead += timedelta(seconds=seconds)


async def test_a_hundred_repeats_into_a_pause_are_answered_and_not_sent(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(17))) as house:
        first = await house.fails()
        repeats = await asyncio.gather(*(house.fails() for _ in range(100)))
        booking = await house.get()

        assert len(house.vendor.sends) == 1
        for error in repeats:
            assert error.reason is Reason.PROVIDER_RATE_LIMITED
            assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, False)
            assert error.message == first.message
            assert error.provider_code == "rate_limited"
            assert error.booking == booking.name
        assert all(it.is_replayed for it in repeats) and not first.is_replayed
        assert (booking.state, booking.attempt_count) == (State.RESERVED, 1)


async def test_a_caller_is_told_the_rest_of_the_pause_in_whole_seconds(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(60))) as house:
        for rest_s, passing_s in ((60, 20), (40, 30), (10, 0)):
            told_s = (await house.fails()).retry_after_s
            assert told_s is not None and rest_s - SLOW_S < told_s <= rest_s
            assert told_s == round(told_s)
            move_on(house, passing_s)

        assert len(house.vendor.sends) == 1


async def test_whoever_repeats_after_the_time_that_was_told_is_sent(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(17))) as house:
        error = await house.fails()
        assert error.retry_after_s is not None
        move_on(house, error.retry_after_s)
        answer = await house.book()
        booking = await house.get()

        assert not answer.is_replayed
        assert [send.attempt_number for send in house.vendor.sends] == [1, 2]
        assert len({send.outbound_id for send in house.vendor.sends}) == 1
        assert len(house.vendor.effects) == 1
        assert booking.not_before is None
        assert await house.moves() == [
            State.SENDING,
            State.RESERVED,
            State.SENDING,
            State.SUCCEEDED,
        ]


async def test_a_refusal_after_a_pause_is_as_final_as_any(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(17), refuses())) as house:
        await house.fails()
        move_on(house, 17)
        error = await house.fails()

        assert (error.reason, error.is_final) == (Reason.INSUFFICIENT_BALANCE, True)
        assert error.retry_after_s is None
        assert (await house.get()).not_before is None


async def test_a_vendor_that_asks_again_gets_another_pause(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(5), limits_the_rate(60))) as house:
        await house.fails()
        move_on(house, 5)
        second = await house.fails()
        move_on(house, 5)
        third = await house.fails()

        assert len(house.vendor.sends) == 2
        assert not second.is_replayed and third.is_replayed
        assert second.retry_after_s is not None and third.retry_after_s is not None
        assert 60 - SLOW_S < second.retry_after_s <= 60
        assert 55 - SLOW_S < third.retry_after_s <= 55


async def test_a_pause_is_over_when_the_next_attempt_did_not_even_leave(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(5), is_not_reached)) as house:
        await house.fails()
        move_on(house, 5)
        error = await house.fails()
        answer = await house.book()

        assert error.reason is Reason.PROVIDER_UNREACHABLE
        assert not answer.is_replayed
        assert len(house.vendor.sends) == 3


@pytest.mark.parametrize("asked_s", [301, 86_400, 1_000_000_000])
async def test_no_vendor_makes_a_booking_wait_for_more_than_five_minutes(
    place: Place, asked_s: float
) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(asked_s))) as house:
        error = await house.fails()
        booking = await house.get()
        assert booking.next_attempt_time is not None
        rest = booking.next_attempt_time - house.journal.now()
        move_on(house, 300)
        await house.book()

    assert error.retry_after_s is not None
    assert 300 - SLOW_S < error.retry_after_s <= 300
    assert rest <= timedelta(seconds=300 + PATIENT.abandon_reserved_s)


async def test_a_pause_outlives_the_process_that_was_asked_for_it(place: Place) -> None:
    vendor = FakeVendor(limits_the_rate(60))
    async with open_house(place, vendor) as house:
        await house.fails()
    async with open_house(place, vendor, boot_id="boot-2") as house:
        error = await house.fails()
        sends = len(vendor.sends)
        move_on(house, 60)
        await house.book()

    assert error.reason is Reason.PROVIDER_RATE_LIMITED
    assert error.retry_after_s is not None and error.retry_after_s <= 60
    assert (sends, len(vendor.sends)) == (1, 2)


async def test_another_request_under_the_same_id_is_told_so_in_a_pause_too(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(60))) as house:
        await house.fails()
        error = await house.fails(asked=Money("CHF", 1))

        assert error.reason is Reason.REQUEST_ID_REUSED
        assert len(house.vendor.sends) == 1


async def test_a_pause_is_one_bookings_own(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(60))) as house:
        await house.fails()
        await house.book("sale-0002")

        assert len(house.vendor.effects) == 1


async def test_a_wait_of_our_own_is_no_pause_of_the_vendors(place: Place) -> None:
    async with open_house(place) as house:
        is_open, may_go = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            is_open.set()
            await may_go.wait()

        house.journal.after_open = hold
        caller = house.booking_task()
        await is_open.wait()
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        may_go.set()
        booking = await house.becomes(State.RESERVED)
        await until(lambda: house.link.in_flight == 0)
        await house.book()

        assert booking.reason is Reason.DEADLINE_TOO_SHORT
        assert booking.not_before is None
        assert len(house.vendor.sends) == 1


# --- what a pause does not stand in the way of ------------------------------------------------


async def test_a_booking_is_cancelled_in_its_pause(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(60))) as house:
        await house.fails()
        closed = await house.cancel()
        error = await house.fails()

        assert (closed.state, closed.outcome) == (State.NOT_EXECUTED, Fate.NOT_EXECUTED)
        assert (error.reason, error.is_final) == (Reason.BOOKING_NOT_EXECUTED, True)
        assert error.retry_after_s is None
        assert len(house.vendor.sends) == 1


async def test_nobody_who_keeps_the_pause_finds_the_booking_closed_for_it(place: Place) -> None:
    """Recovery closes what nobody repeats, counted from when a repeat would be sent."""
    policy = replace(QUICK, abandon_reserved_s=0.05)
    async with open_house(place, FakeVendor(limits_the_rate(0.2)), policy=policy) as house:
        await house.fails()
        waiting = await house.get()
        closed = await house.becomes(State.NOT_EXECUTED)

    assert waiting.not_before is not None and closed.settle_time is not None
    assert closed.settle_time >= waiting.not_before + timedelta(seconds=0.05)
    assert len(house.vendor.sends) == 1


async def test_a_pause_that_nobody_waits_for_does_not_keep_a_booking_open(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(1_000_000_000))) as house:
        await house.fails()
        booking = await house.get()

    assert booking.next_attempt_time is not None and booking.not_before is not None
    wait = timedelta(seconds=PATIENT.abandon_reserved_s)
    assert booking.next_attempt_time == booking.not_before + wait


async def test_an_undo_that_has_to_pause_leaves_its_original_alone(place: Place) -> None:
    vendor = a_vendor(books, limits_the_rate(60))
    async with a_house(place, vendor) as house:
        await house.book()
        await failure(house.undo())
        moves = await house.moves()
        error = await failure(house.undo())

        assert error.reason is Reason.PROVIDER_RATE_LIMITED
        assert len(vendor.sends) == 2
        assert (await house.get()).state is State.SUCCEEDED
        assert await house.moves() == moves
        move_on(house, 60)
        await house.undo()
        assert (await house.get()).state is State.REVERSED


async def test_validating_in_a_pause_sends_nothing_and_ends_no_pause(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(60))) as house:
        await house.fails()
        await house.book(validate_only=True)
        error = await house.fails()

        assert error.reason is Reason.PROVIDER_RATE_LIMITED
        assert len(house.vendor.sends) == 1


# --- how it is told ---------------------------------------------------------------------------


async def test_the_story_tells_until_when_the_vendor_asked_for_a_pause(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(60))) as house:
        await house.fails()
        booking = await house.get()
        story = await house.engine.explain(TENANT, BookingKey(request_id="sale-0001"))
        move_on(house, 60)
        await house.book()
        after = await house.engine.explain(TENANT, BookingKey(request_id="sale-0001"))

    assert booking.not_before is not None
    end = booking.not_before.replace(microsecond=0) + timedelta(seconds=1)
    words = f"the vendor asked for a pause until {end:%Y-%m-%d %H:%M:%S} UTC"
    assert story.steps[-1].text.startswith("RESERVED: ") and words in story.steps[-1].text
    assert words in story.next_step
    assert "repeat the same request_id" in story.next_step
    assert CARD not in str(story)
    assert any(words in step.text for step in after.steps), "the past is told as well"
    assert "pause" not in after.next_step


async def test_the_story_of_a_doubt_tells_of_its_pause(place: Place) -> None:
    vendor = FakeVendor(loses_the_answer, limits_the_rate(120))
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.fails(within_s=BRIEF_S)

        async def is_put_off() -> bool:
            return (await house.get()).not_before is not None

        await until(is_put_off)
        story = await house.engine.explain(TENANT, BookingKey(request_id="sale-0001"))

    assert story.booking.state is State.IN_DOUBT
    assert "the vendor asked for a pause until" in story.steps[-1].text
