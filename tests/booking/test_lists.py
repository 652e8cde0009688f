"""Lists of our own bookings: every page once, and a token for the exact question alone."""

from dataclasses import replace
from typing import Any

import pytest

from loyalty_gateway.booking.calls import AccountKey, BookingFilter, SortOrder
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Reason
from tests.booking.house import CARD, KEYRING, TENANT, House, failure, open_house
from tests.booking.vendor import FakeVendor, is_not_reached, loses_the_answer
from tests.journal.rows import set_directly
from tests.postgres import Place

OTHER_CARD = "6299000011112222"


async def pages(house: House, wanted: BookingFilter) -> list[list[str]]:
    """The request_ids of every page, from the first to the one without a token."""
    found: list[list[str]] = []
    token = ""
    while True:
        page, token = await house.engine.list(TENANT, replace(wanted, page_token=token))
        found.append([it.request_id for it in page])
        if not token:
            return found


@pytest.mark.parametrize("order", SortOrder)
async def test_every_booking_is_on_one_page_and_the_last_page_has_no_token(
    place: Place, order: SortOrder
) -> None:
    async with open_house(place) as house:
        ids = [f"sale-000{number}" for number in range(5)]
        for request_id in ids:
            await house.book(request_id)
        found = await pages(house, BookingFilter(order=order, page_size=2))
        exact = await pages(house, BookingFilter(order=order, page_size=5))

    newest_first = ids if order is SortOrder.SETTLE_ASC else ids[::-1]
    assert found == [newest_first[:2], newest_first[2:4], newest_first[4:]]
    assert exact == [newest_first]


async def test_a_row_that_cannot_be_understood_is_left_out_and_hides_no_other(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(place) as house:
        for number in range(4):
            await house.book(f"sale-000{number}")
        damaged = [await house.get(f"sale-000{number}") for number in (0, 2)]
        for booking in damaged:
            await set_directly(house.journal, booking, "reason = 'OF_A_LATER_VERSION'")
        found = await pages(house, BookingFilter(page_size=1))
        whole = await pages(house, BookingFilter())

    assert found == [["sale-0003"], [], ["sale-0001"], []]
    assert whole == [["sale-0003", "sale-0001"]]
    assert all(booking.name in caplog.text for booking in damaged)


async def test_an_accounts_bookings_are_found_by_its_id_and_by_its_token(place: Place) -> None:
    async with open_house(place) as house:
        await house.book("sale-0001")
        await house.book("sale-0002", account=AccountKey("main", plain_id=OTHER_CARD))
        token = KEYRING.token(TENANT, "main", CARD)
        by_id = await pages(house, BookingFilter(account=AccountKey("main", plain_id=OTHER_CARD)))
        by_token = await pages(house, BookingFilter(account=AccountKey("main", token=token)))

    assert (by_id, by_token) == ([["sale-0002"]], [["sale-0001"]])


@pytest.mark.parametrize(
    "change",
    [
        {"states": (State.SUCCEEDED,)},
        {"connection": "main"},
        {"account": AccountKey("main", plain_id=CARD)},
        {"order": SortOrder.SETTLE_ASC},
    ],
    ids=["states", "connection", "account", "order"],
)
async def test_a_page_token_is_of_no_use_for_another_list(
    place: Place, change: dict[str, Any]
) -> None:
    async with open_house(place) as house:
        await house.book("sale-0001")
        await house.book("sale-0002")
        _, token = await house.engine.list(TENANT, BookingFilter(page_size=1))
        other = BookingFilter(page_size=1, page_token=token, **change)
        error = await failure(house.engine.list(TENANT, other))

    assert error.reason is Reason.REQUEST_INVALID
    assert [it.field for it in error.violations] == ["page.page_token"]


async def test_a_connection_tells_how_many_of_its_bookings_are_open(place: Place) -> None:
    vendor = FakeVendor(loses_the_answer, loses_the_answer, is_not_reached)
    async with open_house(
        place, promises={}, connections={"main": vendor, "other": FakeVendor()}
    ) as house:
        for number in range(4):
            account = AccountKey("main", plain_id=f"{CARD[:-1]}{number}")
            if number < 3:
                await house.fails(f"sale-000{number}", account=account)
            else:
                await house.book(f"sale-000{number}", account=account)
        facts = {it.connection: it for it in await house.engine.connections(TENANT)}

    assert facts["main"].unresolved_count == 2
    assert facts["other"].unresolved_count == 0
