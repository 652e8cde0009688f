"""CashAssist's spelling: bodies out, answers in, both exact; it sends nothing and decides nothing.

Every name of the vendor's fields stands in this file and nowhere else.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.operations import (
    AccountKind,
    Balance,
    CardFacts,
    Operation,
    Person,
    Receipt,
    Reference,
    Sale,
    Transaction,
    TransactionItem,
    TransactionKind,
    TransactionPage,
)
from loyalty_gateway.providers.answers import (
    TEXT_CHARACTERS_MAX,
    Document,
    UnreadableAnswer,
    read_money,
    read_text,
    read_time,
    read_whole_number,
)

CARDS: Final = "/cashassist/loyalty-cards"
INFO: Final = f"{CARDS}/info"
TRANSACTIONS: Final = f"{CARDS}/transactions"
ITEMS: Final = f"{CARDS}/transactions/items"
ROUTES: Final = {
    Operation.TOP_UP_BALANCE: f"{CARDS}/refill",
    Operation.DEBIT_BALANCE: f"{CARDS}/withdraw",
    Operation.REDEEM_POINTS: f"{CARDS}/withdraw",
}
API_KEY_HEADER: Final = "x-api-key"
KEY_HEADER: Final = "Idempotency-Key"
KEY_ECHO: Final = "idempotencyKey"
REPLAYED_HEADER: Final = "idempotent-replayed"

TRANSACTION_ID: Final = "transaction_id"
"""How the contract calls the vendor's number of a booking."""

TRANSACTION_ID_CHARACTERS_MAX: Final = 128
PAGE_MAX: Final = 100
REFERENCE_CHARACTERS_MAX: Final = 64
MINOR_DIGITS: Final = 2

_BOOKED_AS: Final = {
    Operation.TOP_UP_BALANCE: "refill",
    Operation.DEBIT_BALANCE: "withdraw",
    Operation.REDEEM_POINTS: "withdraw",
}
_CARD_STATUSES: Final = {"active": "ACTIVE", "blocked": "BLOCKED"}
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
# What a person may be shown of an answer. Names, card ids and the vendor's free text are not
# among them.
_SHOWN: Final = (
    "transactionId",
    "type",
    "amount",
    "points",
    "balanceAfter",
    "pointsAfter",
    "bookedAt",
    KEY_ECHO,
)


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of history with what the statement needs beside the lines themselves."""

    page: TransactionPage
    points_after: tuple[int, ...]

    def within(self, start: datetime | None, end: datetime | None) -> "HistoryPage":
        """Only the lines of [start, end): whether the vendor's `to` is inclusive is not known."""
        kept = [
            (line, points)
            for line, points in zip(self.page.transactions, self.points_after, strict=True)
            if (start is None or line.time >= start) and (end is None or line.time < end)
        ]
        return HistoryPage(
            TransactionPage(tuple(line for line, _ in kept), self.page.next_cursor),
            tuple(points for _, points in kept),
        )


def encode_booking(operation: Operation, account_id: str, asked: Amount, sale: Sale) -> bytes:
    """The body of a booking; the same order always gives the same bytes.

    The vendor answers a repeated key with other bytes by a conflict, so nothing that changes
    between two attempts may stand in here.
    """
    members = [f'"id":{json.dumps(account_id)}']
    if isinstance(asked, Points):
        assert operation is Operation.REDEEM_POINTS, "only a redemption is in points"
        members.append(f'"points":{asked.value:d}')
    else:
        assert operation is not Operation.REDEEM_POINTS, "a redemption is in points"
        members.append(f'"amount":{encode_amount(asked)}')
    if reference := find_reference(sale):
        members.append(f'"reference":{json.dumps(reference)}')
    return f"{{{','.join(members)}}}".encode("ascii")


def find_reference(sale: Sale) -> str:
    """What the vendor keeps beside the booking for the retailer, or nothing."""
    return (sale.ticket_number or sale.order_id)[:REFERENCE_CHARACTERS_MAX]


def encode_amount(amount: Money) -> str:
    """A JSON number with exactly two decimals, made of whole numbers only."""
    assert amount.minor > 0, "a booking's amount is positive"
    units, hundredths = divmod(amount.minor, 10**MINOR_DIGITS)
    return f"{units:d}.{hundredths:0{MINOR_DIGITS}d}"


def encode_time(moment: datetime) -> str:
    """RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def decode_booking(
    document: Document,
    operation: Operation,
    account_id: str,
    asked: Amount,
    outbound_id: str,
    currency: str,
) -> Receipt:
    """The receipt in a 200 that speaks of this very booking; its amount is evidence only.

    Raises:
        UnreadableAnswer: the booking is not proven.
    """
    booked = document.require()
    if "error" in booked:
        raise UnreadableAnswer("the answer says yes and no")
    _check_account(booked, account_id)
    if read_text(booked, "type") != _BOOKED_AS[operation]:
        raise UnreadableAnswer("the answer is to another kind of booking")
    if KEY_ECHO in booked and read_text(booked, KEY_ECHO) != outbound_id:
        raise UnreadableAnswer("the answer is to another booking")
    # Which sign a withdrawal has in the echo is not documented; only its size is kept.
    echoed: Amount | None = None
    if isinstance(asked, Points) and "points" in booked:
        echoed = Points(abs(read_whole_number(booked, "points")))
    elif not isinstance(asked, Points) and "amount" in booked:
        money = read_money(booked, "amount", currency)
        echoed = Money(money.currency, abs(money.minor))
    return Receipt(
        references=(Reference(TRANSACTION_ID, _transaction_id(booked)),),
        echoed=echoed,
        balances_after=_balances(
            booked, "balanceAfter", "pointsAfter", currency, read_time(booked, "bookedAt")
        ),
        is_replay=is_replay(document),
    )


def is_replay(document: Document) -> bool:
    """Whether the vendor marked the answer as that of an earlier request with the same key."""
    return document.answer.headers.get(REPLAYED_HEADER, "").lower() == "true"


def decode_card(document: Document, account_id: str, currency: str, now: datetime) -> CardFacts:
    """The card in the answer to info.

    Raises:
        UnreadableAnswer: a field is missing or is not what it should be.
    """
    return read_card(document.require(), account_id, currency, now)


def read_card(card: dict[str, Any], account_id: str, currency: str, now: datetime) -> CardFacts:
    """The card in an answer, which must be the one with this id.

    Raises:
        UnreadableAnswer: a field is missing or is not what it should be.
    """
    _check_account(card, account_id)
    if "currency" in card and read_text(card, "currency") != currency:
        raise UnreadableAnswer("the card is in another currency than the connection")
    return CardFacts(
        account_id=account_id,
        status=_CARD_STATUSES.get(read_text(card, "status"), "") if "status" in card else "",
        kind=AccountKind.CARD,
        holder=Person(display_name=read_text(card, "name", is_empty_allowed=True)),
        balances=_balances(card, "balance", "points", currency, now),
    )


def decode_transactions(document: Document, account_id: str, currency: str) -> HistoryPage:
    """One page of history, newest first.

    Raises:
        UnreadableAnswer: a line is not what it should be, or belongs to another card.
    """
    history = document.require()
    lines = history.get("transactions")
    if not isinstance(lines, list) or len(lines) > PAGE_MAX:
        raise UnreadableAnswer("the history is no list, or longer than a page")
    cursor = history.get("nextCursor")
    if cursor is not None and not isinstance(cursor, str):
        raise UnreadableAnswer("the cursor is not text")
    transactions: list[Transaction] = []
    points_after: list[int] = []
    for line in lines:
        if not isinstance(line, dict):
            raise UnreadableAnswer("a line of the history is no object")
        _check_account(line, account_id)
        transactions.append(_transaction(line, currency))
        points_after.append(read_whole_number(line, "pointsAfter"))
    return HistoryPage(TransactionPage(tuple(transactions), cursor or ""), tuple(points_after))


def decode_items(
    document: Document, transaction_id: str, currency: str
) -> tuple[TransactionItem, ...]:
    """The till lines behind one transaction; the vendor has no pages of them.

    Raises:
        UnreadableAnswer: a line is not what it should be, or of another transaction.
    """
    found = document.require()
    if found.get("transactionId") != transaction_id:
        raise UnreadableAnswer("the answer is about another transaction")
    lines = found.get("items")
    if not isinstance(lines, list):
        raise UnreadableAnswer("items is no list")
    return tuple(_item(line, currency) for line in lines)


def decode_error_code(document: Document) -> str:
    """The vendor's code in an error answer, or nothing where there is none to be believed."""
    error = (document.fields or {}).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def describe(document: Document) -> list[tuple[str, str]]:
    """What people may be shown of an answer: names, card ids and free text are not in it.

    The texts are the vendor's own all the same and have to be cleaned of what may hide there.
    """
    fields = document.fields or {}
    shown = [
        (name, str(value)[:TEXT_CHARACTERS_MAX])
        for name in _SHOWN
        if isinstance(value := fields.get(name), str | int | Decimal)
    ]
    if code := decode_error_code(document):
        shown.append(("error.code", code))
    return shown


def _item(line: object, currency: str) -> TransactionItem:
    if not isinstance(line, dict):
        raise UnreadableAnswer("an item is no object")
    quantity = line.get("quantity")
    if isinstance(quantity, bool) or not isinstance(quantity, int | Decimal):
        raise UnreadableAnswer("quantity is missing or no number")
    return TransactionItem(
        position=read_whole_number(line, "line"),
        description=read_text(line, "description", is_empty_allowed=True),
        quantity=Decimal(quantity),
        amount=read_money(line, "total", currency),
    )


def _transaction(line: dict[str, Any], currency: str) -> Transaction:
    kind = read_text(line, "type")
    time = read_time(line, "bookedAt")
    money = read_money(line, "amount", currency) if "amount" in line else None
    points = read_whole_number(line, "points") if "points" in line else None
    if kind == "refill":
        meaning = TransactionKind.TOP_UP
        money = _signed(money, 1)
    elif kind == "withdraw":
        meaning = TransactionKind.DEBIT if money and money.minor else TransactionKind.REDEEM
        money, points = _signed(money, -1), -abs(points) if points is not None else None
    elif kind == "purchase":
        meaning = TransactionKind.DEBIT if money and money.minor else TransactionKind.EARN
        money = _signed(money, -1)
    elif kind == "correction":
        meaning = TransactionKind.CORRECTION
    else:
        meaning = TransactionKind.OTHER
    return Transaction(
        reference=_transaction_id(line),
        time=time,
        kind=meaning,
        provider_kind=kind,
        money=money,
        points=points,
        balances_after=_balances(line, "balanceAfter", "pointsAfter", currency, time),
        outbound_id=read_text(line, KEY_ECHO) if KEY_ECHO in line else "",
    )


def _signed(money: Money | None, sign: int) -> Money | None:
    """A refill is shown as coming in and a withdrawal as going out, however it was written."""
    return Money(money.currency, sign * abs(money.minor)) if money is not None else None


def _check_account(document: dict[str, Any], account_id: str) -> None:
    if document.get("id") != account_id:
        raise UnreadableAnswer("the answer is about another card")


def _balances(
    document: dict[str, Any], money_name: str, points_name: str, currency: str, as_of: datetime
) -> tuple[Balance, ...]:
    return (
        Balance(read_money(document, money_name, currency), as_of),
        Balance(Points(read_whole_number(document, points_name)), as_of),
    )


def _transaction_id(document: dict[str, Any]) -> str:
    value = read_text(document, "transactionId")
    if len(value) > TRANSACTION_ID_CHARACTERS_MAX or not value.isprintable():
        raise UnreadableAnswer("transactionId is no number of a booking")
    return value
