"""Vendors that can undo, and houses in which it is done."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.domain.booking import OWN_UNDO, Booking
from loyalty_gateway.domain.operations import (
    InDoubtPolicy,
    Operation,
)
from loyalty_gateway.providers.port import Offer
from tests.booking.house import (
    PATIENT,
    QUICK,
    House,
    open_house,
)
from tests.booking.vendor import (
    RESEND_IS_SAFE,
    RESENT,
    REVERSE,
    UNDO_TAKES_OUR_NUMBER,
    Act,
    FakeVendor,
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
