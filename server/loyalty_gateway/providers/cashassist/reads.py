"""CashAssist's reads: the card, its history and the lines of a sale; none of them has an effect."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import (
    CardFacts,
    CardPage,
    ItemPage,
    PointsStatement,
    Transaction,
    TransactionKind,
    TransactionPage,
)
from loyalty_gateway.providers.answers import Document
from loyalty_gateway.providers.cashassist import status, wire
from loyalty_gateway.providers.cashassist.channel import Channel, refusal
from loyalty_gateway.providers.cashassist.wire import HistoryPage
from loyalty_gateway.providers.connection import VendorCall
from loyalty_gateway.providers.port import Lookup, ProviderError

Found = TypeVar("Found")

STATEMENT_PAGES_MAX: Final = 20


class Reads:
    """What can be asked about cards, over one channel."""

    def __init__(self, channel: Channel, currency: str) -> None:
        self._channel = channel
        self._currency = currency

    async def search_cards(self, lookup: Lookup) -> CardPage:
        """The card whose id is the number that was read, or an empty page.

        Raises:
            ProviderError: as for a card; REQUEST_INVALID for a search by anything else.
        """
        search = lookup.search
        assert search is not None, "a search says what it looks for"
        if not search.scan_value:
            raise refusal(
                status.INVALID,
                "this provider finds cards by their number only",
                "no search by anything but the number",
            )
        if search.group_id or search.store_id or search.point_of_sale_id:
            raise refusal(
                status.INVALID,
                "this provider keeps no groups of cards apart; search without group and store",
                "no search in a group or a store",
            )
        try:
            card = await self.get_card(
                Lookup(lookup.operation, search.scan_value, fault=lookup.fault)
            )
        except ProviderError as error:
            if error.status.reason is not Reason.ACCOUNT_NOT_FOUND:
                raise
            return CardPage(())
        return CardPage((card,))

    async def get_card(self, lookup: Lookup) -> CardFacts:
        """The card with both its balances.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for an unreadable answer.
        """
        return await self._get(
            lookup,
            wire.INFO,
            (("id", lookup.account_id),),
            lambda document: wire.decode_card(
                document, lookup.account_id, self._currency, datetime.now(UTC)
            ),
        )

    async def list_transactions(self, lookup: Lookup) -> TransactionPage:
        """One page of history; the cursor is the vendor's own.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for an unreadable answer.
        """
        return (await self.get_history(lookup)).page

    async def list_items(self, lookup: Lookup) -> ItemPage:
        """The till lines behind one transaction, whichever card it was booked on.

        The vendor answers all of them at once, so a page is cut from the whole.

        Raises:
            ProviderError: NOT_FOUND for a transaction that the vendor does not know; else by the
                TRANSPORT or STATUS table, or for an unreadable answer.
        """
        items = await self._get(
            lookup,
            wire.ITEMS,
            (("transactionId", lookup.transaction_reference),),
            lambda document: wire.decode_items(
                document, lookup.transaction_reference, self._currency
            ),
        )
        start = int(lookup.cursor or 0)
        end = start + lookup.page_size
        return ItemPage(items[start:end], str(end) if end < len(items) else "")

    async def get_points_statement(self, lookup: Lookup) -> PointsStatement:
        """Sums over [start, end), added up from at most 20 of the vendor's pages.

        Raises:
            ProviderError: as for a page of history; REQUEST_INVALID for a longer interval.
        """
        transactions: list[Transaction] = []
        points_after: list[int] = []
        cursor = ""
        for _ in range(STATEMENT_PAGES_MAX):
            history = await self.get_history(
                Lookup(
                    lookup.operation,
                    lookup.account_id,
                    start=lookup.start,
                    end=lookup.end,
                    page_size=wire.PAGE_MAX,
                    cursor=cursor,
                    fault=lookup.fault if not cursor else "",
                )
            )
            transactions.extend(history.page.transactions)
            points_after.extend(history.points_after)
            cursor = history.page.next_cursor
            if not cursor:
                return _statement(transactions, points_after)
        raise ProviderError(
            status.TOO_LONG,
            f"the interval spans more than {STATEMENT_PAGES_MAX} pages of the provider's history; "
            "ask for a shorter one",
            rule=f"a statement is made of at most {STATEMENT_PAGES_MAX} pages",
        )

    async def get_history(
        self, lookup: Lookup, more: tuple[tuple[str, str], ...] = ()
    ) -> HistoryPage:
        """A page of history with what a statement needs beside its lines.

        Raises:
            ProviderError: as for list_transactions.
        """
        query: list[tuple[str, str]] = [("limit", str(min(lookup.page_size, wire.PAGE_MAX)))]
        if lookup.start is not None:
            query.append(("from", wire.encode_time(lookup.start)))
        if lookup.end is not None:
            query.append(("to", wire.encode_time(lookup.end)))
        if lookup.cursor:
            query.append(("cursor", lookup.cursor))
        return await self._get(
            lookup,
            wire.TRANSACTIONS,
            (("id", lookup.account_id), *query, *more),
            lambda document: wire.decode_transactions(
                document, lookup.account_id, self._currency
            ).within(lookup.start, lookup.end),
        )

    async def _get(
        self,
        lookup: Lookup,
        route: str,
        query: tuple[tuple[str, str], ...],
        decode: Callable[[Document], Found],
    ) -> Found:
        call = VendorCall(
            operation=lookup.operation,
            method="GET",
            route=route,
            request_text=f"GET {route}",
            query=query,
            fault=lookup.fault,
        )
        return await self._channel.send(call, lookup.account_id, decode)


def _statement(transactions: list[Transaction], points_after: list[int]) -> PointsStatement:
    """The sums of a whole interval, newest line first.

    What the vendor leaves out stays unknown: where one line does not tell its points no sum is
    known, and the opening is told only where it explains the closing.
    """
    if not transactions:
        return PointsStatement(earned=0, redeemed=0, other=0)
    closing = _non_negative(points_after[0])
    earned = redeemed = other = 0
    moved = 0
    for line in transactions:
        if line.points is None:
            return PointsStatement(closing=closing)
        moved += line.points
        if line.kind is TransactionKind.CORRECTION or line.kind is TransactionKind.OTHER:
            other += abs(line.points)
        elif line.points >= 0:
            earned += line.points
        else:
            redeemed -= line.points
    oldest = transactions[-1].points
    assert oldest is not None, "every line told its points"
    opening = points_after[-1] - oldest
    return PointsStatement(
        opening=_non_negative(opening) if opening + moved == points_after[0] else None,
        earned=earned,
        redeemed=redeemed,
        other=other,
        closing=closing,
    )


def _non_negative(points: int) -> int | None:
    return points if points >= 0 else None
