"""Bookings brought to where a test begins: in doubt, or left by a process that died."""

import asyncio
import itertools

from loyalty_gateway.booking.calls import Decision
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate
from tests.booking.house import (
    QUICK,
    TENANT,
    House,
    in_s,
    open_house,
    until,
)
from tests.booking.vendor import (
    Act,
    FakeVendor,
    Gate,
    loses_the_answer,
    loses_the_request,
)
from tests.postgres import Place

BRIEF_LEASE = Limits(lease_s=0.3)
"""A process that died is known to be dead by its lease alone where others may live on."""
BOOKED = Decision(Fate.EXECUTED, "statement line 7", "seen at the vendor")
NOT_BOOKED = Decision(Fate.NOT_EXECUTED, "statement of the day", "not seen at the vendor")


async def resolve(
    house: House, decision: Decision | None, within_s: float = 10.0, request_id: str = "sale-0001"
) -> Booking:
    booking = await house.get(request_id)
    return await house.engine.resolve(TENANT, booking.booking_id, decision, "anna", in_s(within_s))


async def doubt(house: House, request_id: str = "sale-0001") -> Booking:
    """A booking that its caller left in doubt."""
    caller = house.booking_task(request_id)

    async def was_sent() -> bool:
        booking = await house.find(request_id)
        return booking is not None and booking.state is not State.SENDING

    await until(was_sent)
    await until(lambda: house.link.in_flight == 0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    return await house.get(request_id)


async def left_in_doubt(place: Place, act: Act = loses_the_answer) -> None:
    """A journal that an earlier process left with one booking in doubt."""
    async with open_house(place, FakeVendor(act), boot_id="boot-0") as house:
        assert (await doubt(house)).state is State.IN_DOUBT


async def kicked_to(house: House, state: State) -> Booking:
    """Has the next step taken now, as an operator may, and waits for the state."""
    await asyncio.gather(resolve(house, None), return_exceptions=True)
    return await house.becomes(state)


async def crashed_while_sending(place: Place, then: Act) -> FakeVendor:
    """A journal whose process died while the vendor had the request; `then` is its effect."""
    vendor = FakeVendor(Gate())
    async with open_house(place, vendor, boot_id="boot-0", limits=BRIEF_LEASE) as house:
        caller = house.booking_task()
        await until(lambda: vendor.running == 1)
        if then is loses_the_answer:
            vendor.execute(vendor.sends[0])
        await house.stop(0)
        await asyncio.gather(caller, return_exceptions=True)
    return vendor


def without_repeats(states: list[State]) -> list[State]:
    """The moves, without the steps that stayed where they were."""
    return [state for state, _ in itertools.groupby(states)]


async def crashed_while_resending(place: Place) -> Booking:
    """A journal whose process died while recovery's resend was under way."""
    vendor = FakeVendor(loses_the_request, Gate())
    async with open_house(
        place, vendor, boot_id="boot-0", policy=QUICK, limits=BRIEF_LEASE
    ) as house:
        caller = house.booking_task()
        await until(lambda: len(vendor.sends) == 2)
        booking = await house.get()
        await house.stop(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    assert booking.owner == "boot-0"
    assert booking.doubtful_attempts == 2
    return booking


async def looked_at_after_its_lease(house: House) -> Booking:
    """The booking, once recovery has had a whole look for due ones after its lease."""
    booking = await house.get()
    assert booking.lease_until is not None
    lease_until = booking.lease_until
    await until(lambda: house.journal.now() > lease_until)
    looks = 0

    async def count() -> None:
        nonlocal looks
        looks += 1

    def has_looked() -> bool:
        house.engine._recovery.wake()
        return looks >= 2

    house.journal.before_due = count
    await until(has_looked)
    return await house.get()
