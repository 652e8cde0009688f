"""CardAPI's spelling: requests out, answers in, both exact; it sends nothing and decides nothing.

Every name of the vendor's fields stands in this file and nowhere else. What its public pages do
not show is assumed, each in one place that says so.
"""

import base64
import json
import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS, Money
from loyalty_gateway.domain.operations import (
    AccountKind,
    Balance,
    CardFacts,
    EntryMode,
    Order,
    Person,
    Receipt,
    ReceiptLine,
    Reference,
)
from loyalty_gateway.providers.answers import (
    Document,
    UnreadableAnswer,
    read_money,
    read_text,
    read_time,
    read_whole_number,
)
from loyalty_gateway.providers.connection import clean

CARDS: Final = "/cards"

DEBIT: Final = "/cards/cashback/debit"
"""Assumed: the vendor's page shows the body of a debit and not its path."""

TOKEN: Final = "/token"
"""Assumed, like the body that goes there: AuthAPI's page shows the credentials and the codes."""

SEARCH_MODES: Final = {
    EntryMode.PROXIMITY: "NFC",
    EntryMode.BARCODE: "BARCODE",
    EntryMode.KEYED: "MANUAL",
    # A number that a person typed into a shop is typed all the same.
    EntryMode.ONLINE: "MANUAL",
}
"""How a number was read; the three kinds are the vendor's, their spelling is assumed. There is
none for a magnetic stripe, and the track data of one are not to be sent anywhere."""

DEFAULT_ENTRY_MODE: Final = EntryMode.KEYED

CASHBACK: Final = "CASHBACK"
"""The one type of pass that can be debited, and the only one that is published."""

TICKET_ID: Final = "ticket_id"
PAYMENT_ROW_ID: Final = "payment_row_id"
"""How the contract calls the vendor's numbers of a booking."""

PASS_ID: Final = "pass_id"
SERVICE_ID: Final = "service_id"
PAYMENT_METHOD_ID: Final = "payment_method_id"
BALANCE_MINOR: Final = "balance_minor"
"""What a debit needs of the pass, read before it is journalled and kept with it."""

TOKEN_LIFETIME_DEFAULT: Final = timedelta(minutes=5)
"""Assumed where the answer does not say when the token ends."""

MINOR_DIGITS: Final = 2
PASS_ID_CHARACTERS_MAX: Final = 128
LABEL_CHARACTERS_MAX: Final = 64
TOKEN_CHARACTERS_MAX: Final = 4_096

BALANCE_BEFORE: Final = "balance before"
BALANCE_AFTER: Final = "balance after"

_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_CODE: Final = re.compile(r"(CARD|AUTH)-[0-9]{1,4}", re.ASCII)
# What a person may be shown of an answer: no names, no numbers of a pass, no free text, no token.
_SHOWN: Final = {
    "": ("type", "ticket_id", "code"),
    "pass": ("type", "balance", "currency", "service_id", "payment_method_id"),
    "payment_row": ("id", "amount", "currency"),
    "receipt_row": ("balance_before", "amount", "balance_after", "currency"),
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a card is looked for: in a group, or among what a point of sale of a store takes."""

    group_id: int | None = None
    store_id: int | None = None
    point_of_sale_id: int | None = None

    def encode(self) -> tuple[tuple[str, str], ...]:
        """The query's members for one of the vendor's two forms of search."""
        if self.group_id is not None:
            return (("group_id", str(self.group_id)),)
        assert self.store_id is not None and self.point_of_sale_id is not None, "a whole scope"
        return (
            ("store_id", str(self.store_id)),
            ("point_of_sale_id", str(self.point_of_sale_id)),
        )


@dataclass(frozen=True, slots=True)
class Pass:
    """The pass that a search found. The vendor's page does not say which members are always
    there; a debit needs the two numbers of the service and the payment method."""

    type: str
    pass_id: str = field(repr=False)
    balance: Money
    service_id: int | None
    payment_method_id: int | None
    holder: Person = field(repr=False)
    expire_time: datetime | None


def read_integer(text: str) -> int | None:
    """A whole number that the vendor wants as one, or None where the text is none."""
    return int(text) if _INTEGER.fullmatch(text) else None


def encode_search(entry_mode: EntryMode, value: str, scope: Scope) -> tuple[tuple[str, str], ...]:
    """The query of a search; the entry mode is a key of SEARCH_MODES."""
    return (("search_mode", SEARCH_MODES[entry_mode]), ("q", value), *scope.encode())


def encode_debit(order: Order, outbound_id: str) -> bytes:
    """The body of a debit; the same order always gives the same bytes.

    The members of the payment row are assumed; the others are the vendor's.
    """
    asked = order.asked
    assert isinstance(asked, Money), "the vendor's passes hold money only"
    point_of_sale_id = read_integer(order.sale.point_of_sale_id)
    assert point_of_sale_id is not None, "checked before the booking was opened"
    payment_row = [
        f'"payment_method_id":{int(order.find_prepared(PAYMENT_METHOD_ID)):d}',
        f'"service_id":{int(order.find_prepared(SERVICE_ID)):d}',
        f'"pass_id":{json.dumps(order.find_prepared(PASS_ID))}',
        f'"amount":{encode_amount(asked)}',
        f'"currency":{json.dumps(asked.currency)}',
    ]
    members = [
        f'"ticket_id":{json.dumps(str(uuid.UUID(outbound_id)))}',
        *(
            [f'"ticket_number":{json.dumps(order.sale.ticket_number)}']
            if order.sale.ticket_number
            else []
        ),
        f'"point_of_sale_id":{point_of_sale_id:d}',
        f'"device_id":{json.dumps(order.sale.device_id)}',
        f'"payment_row":{{{",".join(payment_row)}}}',
    ]
    return f"{{{','.join(members)}}}".encode("ascii")


def encode_amount(amount: Money) -> str:
    """A JSON number with exactly two decimals, made of whole numbers only."""
    assert amount.minor > 0, "a booking's amount is positive"
    units, hundredths = divmod(amount.minor, 10**MINOR_DIGITS)
    return f"{units:d}.{hundredths:0{MINOR_DIGITS}d}"


def encode_credentials(client_id: str, access_token: str) -> str:
    """The Authorization header that AuthAPI takes."""
    return "Basic " + base64.b64encode(f"{client_id}:{access_token}".encode()).decode("ascii")


def encode_bearer(token: str) -> str:
    """The Authorization header that CardAPI takes; that it is a bearer's is assumed."""
    return f"Bearer {token}"


def encode_token_request(scopes: tuple[str, ...]) -> bytes:
    """The body of the request for a token; assumed, like its path."""
    return json.dumps({"scopes": list(scopes)}, separators=(",", ":")).encode("ascii")


def decode_token(document: Document, now: datetime) -> tuple[str, timedelta]:
    """The token, and how long it holds from `now` (the vendor's clock) on.

    Raises:
        UnreadableAnswer: there is no token, or none that could be sent.
    """
    fields = document.require()
    token = read_text(fields, "token", characters_max=TOKEN_CHARACTERS_MAX)
    if not all("!" <= letter <= "~" for letter in token):
        raise UnreadableAnswer("the token cannot be sent as a header")
    if "expires_at" not in fields:
        return token, TOKEN_LIFETIME_DEFAULT
    return token, max(read_time(fields, "expires_at") - now, timedelta())


def decode_pass(document: Document) -> Pass:
    """The pass in the answer to a search.

    Raises:
        UnreadableAnswer: a member is missing or is not what it should be.
    """
    found = document.require().get("pass")
    if not isinstance(found, dict):
        raise UnreadableAnswer("pass is missing or no object")
    currency = read_text(found, "currency")
    if currency not in CURRENCY_EXPONENTS:
        raise UnreadableAnswer("currency is no ISO 4217 code")
    consumer = found.get("consumer")
    if consumer is not None and not isinstance(consumer, dict):
        raise UnreadableAnswer("consumer is no object")
    return Pass(
        type=read_text(found, "type"),
        pass_id=read_text(found, "id", characters_max=PASS_ID_CHARACTERS_MAX),
        balance=read_money(found, "balance", currency),
        service_id=_find_number(found, "service_id"),
        payment_method_id=_find_number(found, "payment_method_id"),
        holder=Person(
            given_name=_find_name(consumer or {}, "given_name"),
            family_name=_find_name(consumer or {}, "family_name"),
        ),
        expire_time=(
            read_time(found, "expiration_date")
            if found.get("expiration_date") is not None
            else None
        ),
    )


def describe_card(found: Pass, account_id: str, now: datetime) -> CardFacts:
    """The pass as the contract has it; the vendor does not tell whether it is active."""
    return CardFacts(
        account_id=account_id,
        kind=AccountKind.CARD,
        type=found.type,
        holder=found.holder,
        balances=(Balance(found.balance, now),),
        expire_time=found.expire_time,
    )


def decode_debit(
    document: Document,
    outbound_id: str,
    account_id: str,
    pass_id: str,
    currency: str,
    now: datetime,
) -> Receipt:
    """The receipt in a 200 that carries our ticket back; its amounts are evidence only.

    The two rows have to be there, as the vendor's page has it. Their members are assumed: what
    is missing or odd in them is left out, and only another pass contradicts.

    Raises:
        UnreadableAnswer: the debit is not proven.
    """
    booked = document.require()
    if "code" in booked:
        raise UnreadableAnswer("the answer says yes and no")
    if not _is_ticket(booked.get("ticket_id"), outbound_id):
        raise UnreadableAnswer("the answer is to another ticket")
    payment_row, receipt_row = booked.get("payment_row"), booked.get("receipt_row")
    if not isinstance(payment_row, dict) or not isinstance(receipt_row, dict):
        raise UnreadableAnswer("the payment or the receipt is missing or no object")
    if payment_row.get("pass_id", pass_id) != pass_id:
        raise UnreadableAnswer("the answer is about another pass")
    references = [Reference(TICKET_ID, str(uuid.UUID(outbound_id)))]
    if row_id := _find_text(payment_row, "id", PASS_ID_CHARACTERS_MAX):
        references.append(Reference(PAYMENT_ROW_ID, row_id))
    after = _find_money(receipt_row, "balance_after", currency)
    return Receipt(
        references=tuple(references),
        echoed=_find_money(payment_row, "amount", currency),
        balances_after=(Balance(after, now),) if after is not None else (),
        receipt_lines=_receipt_lines(receipt_row, account_id, currency),
    )


def decode_error_code(document: Document) -> str:
    """The vendor's code in an error answer, or nothing where there is none to be believed.

    That it stands in a member called `code` is assumed.
    """
    code = (document.fields or {}).get("code")
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def describe(document: Document) -> list[tuple[str, str]]:
    """What people may be shown of an answer.

    The texts are the vendor's own all the same and have to be cleaned of what may hide there.
    """
    shown: list[tuple[str, str]] = []
    for part, names in _SHOWN.items():
        fields: Any = document.fields or {}
        if part:
            fields = fields.get(part)
        if not isinstance(fields, dict):
            continue
        for name in names:
            value = fields.get(name)
            if isinstance(value, str | int | Decimal):
                shown.append((f"{part}.{name}" if part else name, str(value)[:64]))
    return shown


def _receipt_lines(
    receipt_row: dict[str, Any], account_id: str, currency: str
) -> tuple[ReceiptLine, ...]:
    """The lines that the till prints: the vendor's label with the amount, and both balances."""
    before = _find_money(receipt_row, "balance_before", currency)
    amount = _find_money(receipt_row, "amount", currency)
    after = _find_money(receipt_row, "balance_after", currency)
    label = clean(_find_text(receipt_row, "label", LABEL_CHARACTERS_MAX), account_id)
    lines = []
    if before is not None:
        lines.append(ReceiptLine(BALANCE_BEFORE, amount=before))
    if label or amount is not None:
        lines.append(ReceiptLine(label, amount=amount))
    if after is not None:
        lines.append(ReceiptLine(BALANCE_AFTER, amount=after))
    return tuple(lines)


def _is_ticket(value: object, outbound_id: str) -> bool:
    """Whether an echo is our ticket, in whichever letters a uuid is written."""
    try:
        return isinstance(value, str) and uuid.UUID(value) == uuid.UUID(outbound_id)
    except ValueError:
        return False


def _find_number(fields: dict[str, Any], name: str) -> int | None:
    return read_whole_number(fields, name) if fields.get(name) is not None else None


def _find_name(fields: dict[str, Any], name: str) -> str:
    return read_text(fields, name, is_empty_allowed=True) if fields.get(name) is not None else ""


def _find_text(fields: dict[str, Any], name: str, characters_max: int) -> str:
    """A text of an assumed member, or nothing where it is no short line."""
    value = fields.get(name)
    is_line = isinstance(value, str) and len(value) <= characters_max and value.isprintable()
    return value if isinstance(value, str) and is_line else ""


def _find_money(fields: dict[str, Any], name: str, currency: str) -> Money | None:
    """An amount of an assumed member, or None where it is none of the connection's currency."""
    if fields.get("currency", currency) != currency:
        return None
    try:
        return read_money(fields, name, currency)
    except UnreadableAnswer:
        return None
