"""Who is let in: limits, a pause and a drain turn callers away before anything is written."""

import asyncio

from loyalty_gateway.booking.calls import AccountKey
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, Reason
from tests.booking.house import (
    CARD,
    open_house,
    until,
)
from tests.booking.stages import doubt
from tests.booking.vendor import (
    FakeVendor,
    Gate,
    books,
    is_not_reached,
    loses_the_answer,
    refuses,
)
from tests.postgres import Place

MUCH_TIME = Limits(deadline_min_s=5.0)
"""Less than this is too little to begin, and still enough to look something up."""


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


async def test_too_little_time_is_told_before_anything_is_written(place: Place) -> None:
    async with open_house(place, limits=MUCH_TIME) as house:
        error = await house.fails(within_s=4.0)
        known = await house.find()

    assert error.reason is Reason.DEADLINE_TOO_SHORT
    assert error.fate is Fate.NOT_EXECUTED
    assert known is None


async def test_too_little_time_is_enough_for_a_known_booking(place: Place) -> None:
    async with open_house(place, limits=MUCH_TIME) as house:
        known = await house.book()
        again = await house.book(within_s=4.0)

    assert again.body == known.body


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
        await doubt(house, "sale-0003")
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
