"""Translates the messages that every service shares; what does not fit becomes a violation."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money as MoneyMessage

from loyalty.v1 import types_pb2
from loyalty_gateway.booking.calls import AccountKey, SeenAccount
from loyalty_gateway.domain import operations
from loyalty_gateway.domain.accounts import looks_like_card_number
from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS, MINOR_MAX, Amount, Money, Points
from loyalty_gateway.domain.errors import Violation
from loyalty_gateway.domain.operations import AccountKind, EntryMode

ENTRY_MODES: dict[types_pb2.EntryMode.ValueType, EntryMode] = {
    types_pb2.ENTRY_MODE_BARCODE: EntryMode.BARCODE,
    types_pb2.ENTRY_MODE_KEYED: EntryMode.KEYED,
    types_pb2.ENTRY_MODE_MAGNETIC: EntryMode.MAGNETIC,
    types_pb2.ENTRY_MODE_PROXIMITY: EntryMode.PROXIMITY,
    types_pb2.ENTRY_MODE_ONLINE: EntryMode.ONLINE,
}
ACCOUNT_KINDS: dict[AccountKind, types_pb2.AccountKind.ValueType] = {
    AccountKind.CARD: types_pb2.ACCOUNT_KIND_CARD,
    AccountKind.MEMBER: types_pb2.ACCOUNT_KIND_MEMBER,
    AccountKind.GIFT_CARD: types_pb2.ACCOUNT_KIND_GIFT_CARD,
}

# The domain carries the status as a word; one that the contract does not have is not told.
ACCOUNT_STATUSES: dict[str, types_pb2.AccountStatus.ValueType] = {
    "ACTIVE": types_pb2.ACCOUNT_STATUS_ACTIVE,
    "INACTIVE": types_pb2.ACCOUNT_STATUS_INACTIVE,
    "SUSPENDED": types_pb2.ACCOUNT_STATUS_SUSPENDED,
    "BLOCKED": types_pb2.ACCOUNT_STATUS_BLOCKED,
    "CLOSED": types_pb2.ACCOUNT_STATUS_CLOSED,
    "EXPIRED": types_pb2.ACCOUNT_STATUS_EXPIRED,
}

PAGE_SIZE_DEFAULT = 50

_NANO_DIGITS = 9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONNECTION_PREFIX = "connections/"
_BOOKING_PREFIX = "bookings/"
# What a card reader delivers instead of the number: sentinels, field separators.
_TRACK_DATA = re.compile(r"[%;?^]|\d{12,}=")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What comes with a message and is not in it.

    `actor` names the caller for the journal. `deadline` is event-loop time by which the answer
    must be given. `fault` is the sandbox's wish for a fault, empty everywhere else.
    """

    tenant: str
    actor: str
    deadline: float
    fault: str = ""


def connection_id(text: str) -> str:
    """The id in `connections/{id}` or `{id}`."""
    return text.removeprefix(_CONNECTION_PREFIX)


def booking_id(name: str) -> str:
    """The id in `bookings/{id}`."""
    return name.removeprefix(_BOOKING_PREFIX)


def decode_account(
    message: types_pb2.AccountRef, field: str, problems: list[Violation]
) -> AccountKey:
    """The account that the caller means."""
    return AccountKey(
        connection_id(message.connection),
        decode_number(message.id, f"{field}.id", problems),
        message.token,
        ENTRY_MODES.get(message.entry_mode) if message.entry_mode else None,
    )


def decode_number(text: str, field: str, problems: list[Violation]) -> str:
    """The number of an account; track data is refused, it is not a number."""
    if text and _TRACK_DATA.search(text):
        problems.append(Violation(field, "must be the id alone; track data must not be sent"))
    return text


def decode_request_id(text: str, problems: list[Violation]) -> str:
    """The request id; one that looks like a card number is refused, since it is kept in plain."""
    if looks_like_card_number(text):
        problems.append(Violation("request_id", "must not look like a card number; use a UUID"))
    return text


def decode_money(message: MoneyMessage, field: str, problems: list[Violation]) -> Money:
    """The exact amount. What the currency cannot express is a violation, never rounded."""
    currency = message.currency_code
    exponent = CURRENCY_EXPONENTS.get(currency)
    if exponent is None:
        problems.append(Violation(f"{field}.currency_code", "must be an ISO 4217 currency in use"))
        return Money("XXX", 0)
    fraction, rest = divmod(message.nanos, 10 ** (_NANO_DIGITS - exponent))
    minor = message.units * 10**exponent + fraction
    if rest:
        problems.append(
            Violation(field, f"must fit the currency: at most {exponent} digits after the point")
        )
    elif abs(minor) > MINOR_MAX:
        problems.append(Violation(field, "must not be so large an amount"))
    return Money(currency, minor)


def fill_money(message: MoneyMessage, money: Money) -> None:
    """Writes the amount as whole units and nanos of the same sign."""
    exponent = CURRENCY_EXPONENTS[money.currency]
    units, rest = divmod(abs(money.minor), 10**exponent)
    nanos = rest * 10 ** (_NANO_DIGITS - exponent)
    sign = -1 if money.minor < 0 else 1
    message.currency_code = money.currency
    message.units = sign * units
    message.nanos = sign * nanos


def decode_points(message: types_pb2.PointsAmount) -> Points:
    """The points, in the unit that the caller names."""
    return Points(message.value, message.unit)


def fill_amount(message: types_pb2.Amount | types_pb2.AccountBalance, amount: Amount) -> None:
    """Writes money or points, whichever it is."""
    if isinstance(amount, Money):
        fill_money(message.money, amount)
    else:
        message.points.value = amount.value
        message.points.unit = amount.unit


def fill_balance(message: types_pb2.AccountBalance, balance: operations.Balance) -> None:
    """Writes one balance with the moment at which it was true."""
    is_money = isinstance(balance.amount, Money)
    message.kind = (
        types_pb2.BALANCE_KIND_STORED_VALUE if is_money else types_pb2.BALANCE_KIND_POINTS
    )
    fill_amount(message, balance.amount)
    fill_time(message.as_of, balance.as_of)


def fill_time(message: Timestamp, time: datetime | None) -> None:
    """Writes a time; None leaves it absent."""
    if time is not None:
        # In whole numbers, and several times faster than the library's own conversion.
        since = time - _EPOCH
        message.seconds = since.days * 86_400 + since.seconds
        message.nanos = since.microseconds * 1000


def decode_time(message: Timestamp, field: str, problems: list[Violation]) -> datetime | None:
    """The time in UTC, or None and a violation where there is no such time."""
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError):
        problems.append(Violation(field, "must be a time in the years 1 to 9999"))
        return None


def decode_interval(
    message: types_pb2.Interval, field: str, problems: list[Violation]
) -> tuple[datetime | None, datetime | None]:
    """Both ends in UTC; an absent end is None."""

    def end(name: str, timestamp: Timestamp) -> datetime | None:
        if not message.HasField(name):  # type: ignore[arg-type]
            return None
        return decode_time(timestamp, f"{field}.{name}", problems)

    return end("start_time", message.start_time), end("end_time", message.end_time)


def decode_page_size(message: types_pb2.Page) -> int:
    """How many items to answer at most."""
    return message.page_size or PAGE_SIZE_DEFAULT


def decode_sale(message: types_pb2.Sale) -> operations.Sale:
    """The till's side of a booking."""
    return operations.Sale(
        order_id=message.order_id,
        ticket_number=message.ticket_number,
        store_id=message.store_id,
        point_of_sale_id=message.point_of_sale_id,
        device_id=message.device_id,
        merchant_name=message.merchant_name,
        cashier_id=message.cashier_id,
        caller_reference=message.caller_reference,
    )


def fill_account(
    message: types_pb2.Account,
    connection: str,
    token: str,
    masked_id: str,
    kind: AccountKind | None = None,
) -> None:
    """Writes an account without its plain id."""
    message.connection = connection
    message.token = token
    message.masked_id = masked_id
    if kind is not None:
        message.kind = ACCOUNT_KINDS[kind]


def fill_seen_account(message: types_pb2.Account, account: SeenAccount) -> None:
    """Writes an account as its caller may see it."""
    fill_account(message, account.connection, account.token, account.masked_id, account.kind)


def account_status(word: str) -> types_pb2.AccountStatus.ValueType:
    """The status in the contract's spelling; unspecified for a word that it does not have."""
    return ACCOUNT_STATUSES.get(word.upper(), types_pb2.ACCOUNT_STATUS_UNSPECIFIED)


def decode_date(message: Date, field: str, problems: list[Violation]) -> date | None:
    """The day, or None and a violation where the calendar does not have it."""
    try:
        return date(message.year, message.month, message.day)
    except (ValueError, OverflowError):
        problems.append(Violation(field, "must be a day that the calendar has"))
        return None


def fill_date(message: Date, day: date | None) -> None:
    """Writes a day; None leaves it absent."""
    if day is not None:
        message.year, message.month, message.day = day.year, day.month, day.day


def decode_profile(
    message: types_pb2.Profile, field: str, problems: list[Violation]
) -> operations.Person:
    """The person that a request speaks of."""
    birth_date = None
    if message.HasField("birth_date"):
        birth_date = decode_date(message.birth_date, f"{field}.birth_date", problems)
    return operations.Person(
        display_name=message.display_name,
        given_name=message.given_name,
        family_name=message.family_name,
        phone=message.phone,
        email=message.email,
        birth_date=birth_date,
        attributes=tuple(sorted(message.attributes.items())),
    )


def fill_profile(message: types_pb2.Profile, facts: operations.CardFacts) -> None:
    """Writes the person behind an account, with all further facts that the vendor tells."""
    holder = facts.holder
    message.display_name = holder.display_name
    message.given_name = holder.given_name
    message.family_name = holder.family_name
    message.phone = holder.phone
    message.email = holder.email
    fill_date(message.birth_date, holder.birth_date)
    message.attributes.update(facts.attributes)
    message.attributes.update(holder.attributes)
