"""Where a cell plays, and how its callers book and are judged."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import Booking
from loyalty_gateway.domain.errors import LoyaltyError
from tests.booking.house import House
from tests.booking.vendor import FakeVendor
from tests.planted.checker import Callers, Kind, violations

REQUEST_ID = "sale-0001"
ASKED = Money("CHF", 1000)
OTHER = Money("CHF", 2000)


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a cell plays: a file of its own, and a PostgreSQL database where it needs one."""

    path: Path
    dsn: str


async def book(
    callers: Callers,
    house: House,
    asked: Money = ASKED,
    within_s: float = 20.0,
    *,
    request_id: str = REQUEST_ID,
    **changes: Any,
) -> LoyaltyError | None:
    """One call, remembered with what it ends with; gives the error, if it is one."""
    call = house.book(request_id, asked=asked, within_s=within_s, **changes)
    return await callers.hear(request_id, asked, call)


async def verdict(callers: Callers, vendor: FakeVendor, house: House) -> set[Kind]:
    """What the checker finds in the end, of everything that callers were told of."""
    assert vendor.sends and callers.told, "something was sent, and somebody heard of it"
    bookings: list[Booking] = []
    for request_id in dict.fromkeys(told.request_id for told in callers.told):
        booking = await house.find(request_id)
        if booking is not None:
            bookings.append(booking)
    return violations(callers, vendor.effects, bookings)
