"""Translates the messages that every service shares; what does not fit becomes a violation."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money as MoneyMessage

from loyalty.v1 import types_pb2
from loyalty_gateway.booking.calls import AccountKey
from loyalty_gateway.domain import operations
from loyalty_gateway.domain.accounts import looks_like_card_number
from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS, MINOR_MAX, Amount, Money, Points
from loyalty_gateway.domain.errors import Violation

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
    """The account that the caller means; track data is refused, it is not an id."""
    if message.id and _TRACK_DATA.search(message.id):
        problems.append(
            Violation(f"{field}.id", "must be the id alone; track data must not be sent")
        )
    return AccountKey(connection_id(message.connection), message.id, message.token)


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


def decode_interval(
    message: types_pb2.Interval, field: str, problems: list[Violation]
) -> tuple[datetime | None, datetime | None]:
    """Both ends in UTC; an absent end is None."""

    def end(name: str, timestamp: Timestamp) -> datetime | None:
        if not message.HasField(name):  # type: ignore[arg-type]
            return None
        try:
            return timestamp.ToDatetime(UTC)
        except (ValueError, OverflowError):
            problems.append(Violation(f"{field}.{name}", "must be a time in the years 1 to 9999"))
            return None

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


def fill_account(message: types_pb2.Account, connection: str, token: str, masked_id: str) -> None:
    """Writes an account without its plain id."""
    message.connection = connection
    message.token = token
    message.masked_id = masked_id
