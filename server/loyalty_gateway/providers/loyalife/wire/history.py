"""Loyalife's books as it shows them: lines, sums, ends of points, and which line is a booking's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from loyalty_gateway.domain.operations import (
    ExpiringPeriod,
    ExpirySchedule,
    Reference,
    Transaction,
    TransactionKind,
)
from loyalty_gateway.providers.answers import UnreadableAnswer, read_text, read_whole_number
from loyalty_gateway.providers.loyalife.wire.bookings import (
    EXTERNAL_REFERENCE,
    Programme,
    encode,
    is_tagged_by_another,
    read_guid,
)
from loyalty_gateway.providers.loyalife.wire.envelope import (
    Envelope,
    find_text,
    find_whole_number,
    read_entries,
    read_object,
)
from loyalty_gateway.providers.loyalife.wire.times import DeploymentTime, decode_day

_TRANSACTIONS: Final = "/lbms-ingress/transaction-lm/API/Transaction"
SUMMARY_BY_DATE: Final = f"{_TRANSACTIONS}/GetMemberTransactionSummaryByDate"
STATEMENT_SUMMARY: Final = f"{_TRANSACTIONS}/GetMemberStatementSummary"
STATEMENT_BY_CATEGORY: Final = f"{_TRANSACTIONS}/GetMemberStatementByCategory"
EXPIRY_SCHEDULE: Final = f"{_TRANSACTIONS}/GetExpirySchedule"
"""By category is assumed: the seed counts four statements and the pages show three."""

PAGE_MAX: Final = 100
"""Assumed: no page names a limit of MaximumRange."""

CATEGORIES_MAX: Final = 200
PERIODS_MAX: Final = 400

# A line's LoyaltyTxnType by the pages: spend, and earn or bonus. A redemption shows its category.
_SPEND: Final = 1
_EARN: Final = 2
# A line's TransactionType in the page's sample: what came in, and what went out.
_CREDIT: Final = 1
_DEBIT: Final = 2

SUMS: Final[Mapping[str, str]] = {
    "spend": "earned",
    "bonus": "bonus",
    "redeem": "redeemed",
    "expiredpoints": "expired",
    "expired": "expired",
    "partner": "other",
    "purchased": "other",
    "otheraccrued": "other",
}
"""Which sum a category belongs to. `Spend` is what was earned by spending money."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the vendor's books; `points` has no sign, `is_credit` tells the direction."""

    number: int
    points: int
    time: datetime
    loyalty_type: int | None = None
    is_credit: bool | None = None
    external_reference: str = ""
    merchant: str = ""
    narration: str = ""

    @property
    def order(self) -> tuple[datetime, int]:
        """What puts lines into the order in which they were booked."""
        return self.time, self.number


@dataclass(frozen=True, slots=True)
class LinePage:
    """Some lines in the vendor's own order, and how many there are in all."""

    lines: tuple[Line, ...]
    count: int | None


def encode_lines(
    programme: Programme,
    account_id: str,
    period: tuple[str, str],
    first: int,
    number: int,
) -> bytes:
    """The body that asks for `number` lines of a period, beginning with the `first` from 0."""
    return encode(
        {
            "DateFrom": period[0],
            "DateTo": period[1],
            "MinimumRange": first,
            "MaximumRange": number,
            **programme.account(account_id),
        }
    )


def encode_by_category(programme: Programme, account_id: str, period: tuple[str, str]) -> bytes:
    """The body that asks for the sums of a period."""
    return encode({"DateFrom": period[0], "DateTo": period[1], **programme.account(account_id)})


def encode_expiry(programme: Programme, account_id: str, year: int) -> bytes:
    """The body that asks when the points of a year end."""
    return encode({**programme.account(account_id), "Year": year})


def decode_lines(envelope: Envelope, account_id: str, clock: DeploymentTime) -> LinePage:
    """A page of lines.

    Raises:
        UnreadableAnswer: a line is not what it should be, or belongs to another member.
    """
    if envelope.content is None:
        return LinePage((), envelope.count)
    entries = read_entries(envelope.content, "the history", PAGE_MAX)
    return LinePage(tuple(_line(entry, account_id, clock) for entry in entries), envelope.count)


def decode_balance(envelope: Envelope) -> int:
    """The points that the member has now, out of the summary of everything."""
    return read_whole_number(read_object(envelope.content, "the summary"), "PointBalance")


def decode_by_category(envelope: Envelope) -> tuple[tuple[str, int], ...]:
    """The sums of a period by category, without a sign, as the vendor calls them."""
    if envelope.content is None:
        return ()
    return tuple(
        (read_text(entry, "Category"), abs(read_whole_number(entry, "Points")))
        for entry in read_entries(envelope.content, "the categories", CATEGORIES_MAX)
    )


def decode_expiry(envelope: Envelope) -> ExpirySchedule:
    """When points end, earliest first."""
    if envelope.content is None:
        return ExpirySchedule(())
    schedule = read_object(envelope.content, "the schedule")
    periods = [
        ExpiringPeriod(
            _day(entry, "ScheduleDate"),
            accrued=find_whole_number(entry, "AccrualPoints"),
            redeemed=find_whole_number(entry, "RedeemPoints"),
            blocked=find_whole_number(entry, "BlockedPoints"),
            expired=find_whole_number(entry, "TotalExpiredPoints"),
            available=find_whole_number(entry, "TotalAvailablePoints"),
        )
        for entry in read_entries(schedule.get("ExpiryPeriod"), "the schedule", PERIODS_MAX)
    ]
    return ExpirySchedule(tuple(sorted(periods, key=lambda period: period.date)))


def sums_of(categories: tuple[tuple[str, int], ...]) -> dict[str, int]:
    """The statement's own sums, by name; a category that is not known is in none of them."""
    sums: dict[str, int] = {}
    for category, points in categories:
        name = SUMS.get("".join(category.split()).casefold())
        if name is not None:
            sums[name] = sums.get(name, 0) + points
    return sums


def transaction_of(line: Line) -> Transaction:
    """A line as the contract shows it; what goes out is negative."""
    is_incoming = line.is_credit if line.is_credit is not None else line.loyalty_type == _EARN
    if line.loyalty_type is None:
        kind = TransactionKind.OTHER
    elif line.loyalty_type == _EARN:
        kind = TransactionKind.EARN if is_incoming else TransactionKind.CORRECTION
    else:
        kind = TransactionKind.REVERSAL if is_incoming else TransactionKind.REDEEM
    number = line.external_reference
    # A reversal may repeat the number of what it gives back, so that alone is known by it.
    is_known = bool(number) and kind is TransactionKind.REDEEM
    return Transaction(
        reference=number or str(line.number),
        time=line.time,
        kind=kind,
        provider_kind="" if line.loyalty_type is None else str(line.loyalty_type),
        points=line.points if is_incoming else -line.points,
        narration=line.narration,
        merchant=line.merchant,
        booked_as=Reference(EXTERNAL_REFERENCE, number) if is_known else None,
    )


def may_be(line: Line, points: int, merchant: str, redemption_kind: int) -> bool:
    """Whether a line that does not show our tag may be a redemption of ours all the same.

    A line that leaves something out may still be it, and so may one under another name, unless
    that has somebody's tag: a name may be stored with other letters, or cut, and to overlook a
    redemption that happened is worse than to ask a person.
    """
    return (
        line.points == points
        and line.is_credit is not True
        and line.loyalty_type in (None, _SPEND, redemption_kind)
        and not is_tagged_by_another(line.merchant, merchant)
    )


def is_unlike(line: Line, merchant: str) -> bool:
    """Whether a line that may be a redemption of ours is under another name, or has no number."""
    shown = line.merchant.strip().casefold()
    return not line.external_reference or not merchant.casefold().startswith(shown)


def _line(entry: dict[str, Any], account_id: str, clock: DeploymentTime) -> Line:
    if find_text(entry, "RelationReference") not in ("", account_id):
        raise UnreadableAnswer("a line belongs to another member")
    direction = find_whole_number(entry, "TransactionType")
    reference = entry.get("ExternalReference")
    points = read_whole_number(entry, "Points")
    is_credit = {_CREDIT: True, _DEBIT: False}.get(direction) if direction is not None else None
    if points < 0:
        # Whatever the type says, points that are written negative have gone out.
        is_credit = False
    try:
        time = clock.decode(read_text(entry, "TransactionDate"))
    except ValueError as error:
        raise UnreadableAnswer("TransactionDate is no time") from error
    return Line(
        number=read_whole_number(entry, "Id"),
        points=abs(points),
        time=time,
        loyalty_type=find_whole_number(entry, "LoyaltyTxnType"),
        is_credit=is_credit,
        external_reference=read_guid(reference, "ExternalReference") if reference else "",
        merchant=find_text(entry, "MerchantName"),
        narration=find_text(entry, "Narration"),
    )


def _day(entry: dict[str, Any], name: str) -> date:
    try:
        return decode_day(read_text(entry, name))
    except ValueError as error:
        raise UnreadableAnswer(f"{name} is no day") from error
