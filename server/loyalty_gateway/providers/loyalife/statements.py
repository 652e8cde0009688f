"""What Loyalife shows of a member's points over time; the newest line always comes first."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.operations import ExpirySchedule, PointsStatement, TransactionPage
from loyalty_gateway.providers.loyalife import status
from loyalty_gateway.providers.loyalife.points import PointBookings
from loyalty_gateway.providers.loyalife.session import Asked, Session
from loyalty_gateway.providers.loyalife.settings import Settings
from loyalty_gateway.providers.loyalife.wire import bookings, history
from loyalty_gateway.providers.loyalife.wire.history import Line, LinePage
from loyalty_gateway.providers.port import Lookup

BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""The vendor wants two dates; nothing at it is older than this."""

SLACK: Final = timedelta(hours=2)
"""How much wider the vendor is asked than the caller asked: an hour of autumn happens twice, and
whether DateTo belongs to the period is not said. What is too much is left out afterwards."""

_OLDEST_FIRST: Final = "a"
_NEWEST_FIRST: Final = "d"
STATEMENT_END: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the vendor's list a page ends: its order is not documented, so it is found out.

    `index` counts from the vendor's first line: the next line to read where the newest comes
    first, else the number of lines that are older than what was read.
    """

    is_oldest_first: bool
    index: int

    def encode(self) -> str:
        return f"{_OLDEST_FIRST if self.is_oldest_first else _NEWEST_FIRST}{self.index}"

    @classmethod
    def decode(cls, cursor: str) -> "Place":
        """Raises ValueError for what was not made here."""
        order, number = cursor[:1], cursor[1:]
        if order not in (_OLDEST_FIRST, _NEWEST_FIRST) or not number.isdecimal():
            raise ValueError("no cursor of ours")
        return cls(order == _OLDEST_FIRST, int(number))


class Statements:
    """The reads that concern points over time."""

    def __init__(self, session: Session, settings: Settings, points: PointBookings) -> None:
        self._session = session
        self._points = points
        self._programme = settings.programme
        self._clock = settings.clock

    async def list_transactions(self, lookup: Lookup) -> TransactionPage:
        """One page of history, newest first in whichever order the vendor lists.

        A page may hold fewer lines than were asked for, and none, while more follow.

        Raises:
            ProviderError: by the tables.
        """
        size = min(lookup.page_size, history.PAGE_MAX)
        if lookup.cursor:
            return await self._page_at(lookup, Place.decode(lookup.cursor), size)
        # Two lines are needed to see the order, however short a page was asked for.
        probe = await self._read(lookup, 0, max(size, 2), lookup.fault)
        lines = probe.lines
        count = probe.count if probe.count is not None else len(lines)
        is_oldest_first = len(lines) > 1 and lines[0].order < lines[-1].order
        if is_oldest_first and count > len(lines):
            return await self._page_at(lookup, Place(is_oldest_first=True, index=count), size)
        newest = sorted(lines, key=lambda line: line.order, reverse=True)[:size]
        if is_oldest_first:
            left = Place(is_oldest_first=True, index=len(lines) - len(newest))
            return self._page(lookup, newest, left if left.index else None)
        after = Place(is_oldest_first=False, index=len(newest))
        return self._page(lookup, newest, after if after.index < count else None)

    async def get_statement(self, lookup: Lookup) -> PointsStatement:
        """Sums over [start, end) by the vendor's categories.

        The vendor cuts its categories by time and its summary not: the balance that the summary
        shows is today's, so it is the closing one only where the interval reaches to now. What
        the account held at the start is not told.

        Raises:
            ProviderError: by the tables.
        """
        assert lookup.start is not None and lookup.end is not None, "a statement has an interval"
        now = datetime.now(UTC)
        start = self._clock.encode(lookup.start)
        period = (start, self._clock.encode(lookup.end - STATEMENT_END))
        route = history.STATEMENT_BY_CATEGORY
        asked = Asked(
            lookup.operation,
            route,
            shown=f"POST {route}: {period[0]} to {period[1]} of "
            f"{mask_account_id(lookup.account_id)}",
            account_id=lookup.account_id,
            body=history.encode_by_category(self._programme, lookup.account_id, period),
            fault=lookup.fault,
        )
        categories = (await self._session.exchange(asked, history.decode_by_category)).value
        closing = await self._balance(lookup) if lookup.end >= now else None
        return PointsStatement(
            **history.sums_of(categories), closing=closing, by_category=categories
        )

    async def list_expiring(self, lookup: Lookup) -> ExpirySchedule:
        """When the points of a year end.

        Raises:
            ProviderError: by the tables.
        """
        asked = Asked(
            lookup.operation,
            history.EXPIRY_SCHEDULE,
            shown=f"POST {history.EXPIRY_SCHEDULE} of {lookup.year}",
            account_id=lookup.account_id,
            body=history.encode_expiry(
                self._programme, lookup.account_id, lookup.year or datetime.now(UTC).year
            ),
            fault=lookup.fault,
        )
        return (await self._session.exchange(asked, history.decode_expiry)).value

    async def _balance(self, lookup: Lookup) -> int:
        asked = Asked(
            lookup.operation,
            history.STATEMENT_SUMMARY,
            shown=f"POST {history.STATEMENT_SUMMARY}",
            account_id=lookup.account_id,
            body=bookings.encode(self._programme.account(lookup.account_id)),
        )
        return (await self._session.exchange(asked, history.decode_balance)).value

    async def _page_at(self, lookup: Lookup, place: Place, size: int) -> TransactionPage:
        if place.is_oldest_first:
            first = max(place.index - size, 0)
            lines = await self._read_all(lookup, first, place.index)
            left = Place(is_oldest_first=True, index=first) if first else None
        else:
            page = await self._read(lookup, place.index, size, lookup.fault)
            lines, end = list(page.lines), place.index + len(page.lines)
            is_more = page.count is not None and end < page.count and page.lines
            left = Place(is_oldest_first=False, index=end) if is_more else None
        return self._page(lookup, sorted(lines, key=lambda line: line.order, reverse=True), left)

    async def _read_all(self, lookup: Lookup, first: int, end: int) -> list[Line]:
        """The lines from `first` up to `end`: the vendor may give fewer at once than it is asked
        for, and what it left out would be the newest of them."""
        lines: list[Line] = []
        fault = lookup.fault
        while first < end:
            page = await self._read(lookup, first, end - first, fault)
            if not page.lines:
                raise self._session.refuse(
                    status.UNREADABLE,
                    f"POST {history.SUMMARY_BY_DATE}",
                    "the provider's history shows fewer lines than it counts",
                    "a history with lines missing",
                )
            lines += page.lines
            first += len(page.lines)
            fault = ""
        return lines

    def _page(
        self, lookup: Lookup, newest_first: list[Line], left: Place | None
    ) -> TransactionPage:
        kept = [
            history.transaction_of(line)
            for line in newest_first
            if (lookup.start is None or line.time >= lookup.start)
            and (lookup.end is None or line.time < lookup.end)
        ]
        return TransactionPage(tuple(kept), left.encode() if left is not None else "")

    async def _read(self, lookup: Lookup, first: int, number: int, fault: str) -> LinePage:
        start = lookup.start - SLACK if lookup.start is not None else BEGINNING
        end = lookup.end if lookup.end is not None else datetime.now(UTC)
        period = (self._clock.encode(start), self._clock.encode(end + SLACK))
        asked = Asked(
            lookup.operation,
            history.SUMMARY_BY_DATE,
            shown=f"POST {history.SUMMARY_BY_DATE}: {number} from {first} of "
            f"{mask_account_id(lookup.account_id)}",
            account_id=lookup.account_id,
            body=history.encode_lines(self._programme, lookup.account_id, period, first, number),
            fault=fault,
        )
        page = (await self._points.find_page(asked)).value
        if len(page.lines) > number:
            raise self._session.refuse(
                status.UNREADABLE,
                asked.shown,
                "the provider's history shows more lines than were asked for",
                "a history with lines too many",
            )
        return page
