"""Statements at Loyalife against the player: order, intervals, sums and ends of points."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from loyalty_gateway.domain.operations import Operation, Transaction, TransactionKind
from loyalty_gateway.providers.loyalife import LoyalifeAdapter
from loyalty_gateway.providers.port import Lookup, ProviderError
from loyalty_gateway.sandbox import LoyalifePlayer, LoyalifeSettings
from tests.providers.fault_server import Exchange, Script, running
from tests.providers.loyalife.conftest import Open
from tests.providers.loyalife.verbs import (
    KEY,
    MEMBER,
    UNDO_KEY,
    book,
    call,
    purchase,
    redemption,
    reversal,
)

ORDERS = [LoyalifeSettings(lists="oldest_first"), LoyalifeSettings(lists="newest_first")]


async def history(
    adapter: LoyalifeAdapter,
    size: int = 50,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[list[Transaction]]:
    """Every page of a member's history."""
    pages, cursor = [], ""
    while True:
        page = await call(
            adapter,
            Operation.LIST_TRANSACTIONS,
            Lookup(
                Operation.LIST_TRANSACTIONS,
                MEMBER,
                page_size=size,
                cursor=cursor,
                start=start,
                end=end,
            ),
        )
        pages.append(list(page.transactions))
        cursor = page.next_cursor
        if not cursor:
            return pages


class TestHistory:
    @pytest.mark.parametrize("settings", ORDERS, ids=lambda it: it.lists)
    @pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 50, 200])
    async def test_the_newest_comes_first_and_each_line_once(
        self,
        player: LoyalifePlayer,
        adapter: LoyalifeAdapter,
        settings: LoyalifeSettings,
        size: int,
    ) -> None:
        player.stage.settings = settings
        for number in range(5):
            await book(adapter, redemption(number + 1), f"{KEY}{number}")
        pages = await history(adapter, size)
        assert all(len(page) <= size for page in pages)
        lines = [line for page in pages for line in page]
        assert [line.points for line in lines[:5]] == [-5, -4, -3, -2, -1]
        assert len({line.reference for line in lines}) == len(lines) == 8
        times = [line.time for line in lines]
        assert times == sorted(times, reverse=True)
        assert list(player.stage.violations) == []

    @pytest.mark.parametrize("settings", ORDERS, ids=lambda it: it.lists)
    async def test_what_is_booked_between_two_pages_loses_no_line(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter, settings: LoyalifeSettings
    ) -> None:
        player.stage.settings = settings
        first = await call(
            adapter,
            Operation.LIST_TRANSACTIONS,
            Lookup(Operation.LIST_TRANSACTIONS, MEMBER, page_size=1),
        )
        await book(adapter, redemption(1))
        second = await call(
            adapter,
            Operation.LIST_TRANSACTIONS,
            Lookup(Operation.LIST_TRANSACTIONS, MEMBER, page_size=10, cursor=first.next_cursor),
        )
        seen = {line.points for line in (*first.transactions, *second.transactions)}
        assert seen >= {line.points for page in await history(adapter) for line in page} - {-1}

    async def test_every_kind_of_line_is_told(self, adapter: LoyalifeAdapter) -> None:
        order = redemption(100)
        done = await book(adapter, order)
        await book(adapter, reversal(order, done.receipt), UNDO_KEY)
        await book(adapter, purchase())
        ((*lines,),) = await history(adapter)
        assert [(line.kind, line.points) for line in lines[:3]] == [
            (TransactionKind.EARN, 12),
            (TransactionKind.REVERSAL, 100),
            (TransactionKind.REDEEM, -100),
        ]
        assert lines[2].reference == done.receipt.references[0].value
        assert lines[2].merchant == "Amazon"

    @pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/Los_Angeles", "UTC"])
    async def test_an_interval_is_cut_to_the_moment_in_the_deployments_zone(
        self, player: LoyalifePlayer, open_connection_to: Open, zone: str
    ) -> None:
        player.stage.settings = LoyalifeSettings(time_zone=zone)
        adapter = open_connection_to(player.base_url, time_zone=zone)
        ((*lines,),) = await history(adapter)
        newest, middle, oldest = (line.time for line in lines)
        pages = await history(adapter, start=oldest, end=newest)
        assert [line.time for page in pages for line in page] == [middle, oldest]
        pages = await history(adapter, start=oldest + timedelta(milliseconds=1), end=newest)
        assert [line.time for page in pages for line in page] == [middle]

    async def test_an_empty_interval_is_an_empty_page(self, adapter: LoyalifeAdapter) -> None:
        start = datetime(2020, 1, 1, tzinfo=UTC)
        assert await history(adapter, start=start, end=start + timedelta(days=1)) == [[]]

    async def test_nobodys_history_is_not_found(self, adapter: LoyalifeAdapter) -> None:
        with pytest.raises(ProviderError) as caught:
            await call(
                adapter,
                Operation.LIST_TRANSACTIONS,
                Lookup(Operation.LIST_TRANSACTIONS, "m_9999"),
            )
        assert caught.value.provider_code == "103"


class TestAVendorThatGivesLess:
    """A deployment with a smaller limit of its own, in both orders."""

    LIMIT = 2

    def script(self, numbers: list[int]) -> Script:
        async def script(exchange: Exchange) -> bool:
            if exchange.path.endswith("/Token"):
                body: dict[str, Any] = {"token": "t", "tokenExpiresOn": "2099-01-01T00:00:00Z"}
            else:
                asked = json.loads(exchange.body)
                number = min(asked["MaximumRange"], self.LIMIT)
                page = numbers[asked["MinimumRange"] :][:number]
                lines = [
                    {"Id": it, "Points": it, "TransactionDate": f"2026-01-{it:02d}T00:00:00"}
                    for it in page
                ]
                body = {"IsSucessful": True, "ErrorCode": "000", "ReturnObject": lines}
                body["Count"] = len(numbers)
            await exchange.answer(json.dumps({"results": body}).encode())
            return True

        return script

    @pytest.mark.parametrize("is_oldest_first", [True, False])
    @pytest.mark.parametrize("size", [1, 2, 3, 5, 50])
    async def test_no_line_is_left_out(
        self, open_connection_to: Open, is_oldest_first: bool, size: int
    ) -> None:
        numbers = list(range(1, 8))
        listed = numbers if is_oldest_first else numbers[::-1]
        async with running(self.script(listed)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            pages = await history(adapter, size)
        assert [line.reference for page in pages for line in page] == [
            str(number) for number in reversed(numbers)
        ]


class TestStatement:
    async def test_sums_are_of_the_interval_and_what_is_not_cut_by_it_is_not_told(
        self, adapter: LoyalifeAdapter
    ) -> None:
        await book(adapter, redemption(100))
        now = datetime.now(UTC)
        lookup = Lookup(
            Operation.GET_POINTS_STATEMENT,
            MEMBER,
            start=now - timedelta(hours=1),
            end=now + timedelta(hours=1),
        )
        found = await call(adapter, Operation.GET_POINTS_STATEMENT, lookup)
        assert (found.redeemed, found.earned, found.bonus, found.opening) == (100, None, None, None)
        assert found.closing == 4100
        assert found.by_category == (("Redeem", 100),)

    async def test_a_past_interval_has_no_closing_balance(self, adapter: LoyalifeAdapter) -> None:
        lookup = Lookup(
            Operation.GET_POINTS_STATEMENT,
            MEMBER,
            start=datetime(2026, 1, 1, tzinfo=UTC),
            end=datetime(2026, 2, 1, tzinfo=UTC),
        )
        found = await call(adapter, Operation.GET_POINTS_STATEMENT, lookup)
        assert found.closing is None
        assert found.bonus == 100
        assert found.earned is not None
        assert found.redeemed is not None
        assert found.earned + found.bonus - found.redeemed == 4200


class TestExpiry:
    async def test_points_end_when_the_schedule_says(self, adapter: LoyalifeAdapter) -> None:
        lookup = Lookup(Operation.LIST_EXPIRING_POINTS, MEMBER, year=2027)
        (period,) = (await call(adapter, Operation.LIST_EXPIRING_POINTS, lookup)).periods
        assert (period.date, period.available, period.blocked) == (date(2027, 3, 31), 4200, 0)
        assert period.accrued - period.redeemed == 4200
        assert period.expired is None

    async def test_a_year_without_ends_has_none(self, adapter: LoyalifeAdapter) -> None:
        lookup = Lookup(Operation.LIST_EXPIRING_POINTS, MEMBER, year=2040)
        assert (await call(adapter, Operation.LIST_EXPIRING_POINTS, lookup)).periods == ()
