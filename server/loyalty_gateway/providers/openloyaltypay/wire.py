"""openLoyaltyPay's spelling: bodies out, answers in, both exact; it sends and decides nothing.

Every name of the vendor's fields stands in this file, those of a customer in customers.py.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from loyalty_gateway.domain.amounts import (
    CURRENCY_EXPONENTS,
    MINOR_MAX,
    Amount,
    Money,
    Points,
)
from loyalty_gateway.domain.operations import (
    AccountKind,
    Balance,
    CardFacts,
    EntryMode,
    Operation,
    Order,
    Original,
    Receipt,
    Reference,
)
from loyalty_gateway.providers.answers import Document, UnreadableAnswer, read_text
from loyalty_gateway.providers.openloyaltypay import status
from loyalty_gateway.providers.openloyaltypay.customers import decode_customer, encode_customer

BASE: Final = "/ovstrade/openLoyaltyPay"
INQUIRY: Final = f"{BASE}/giftInquiry"
QUERY_ORDER: Final = "/ovstrade/openPay/queryOrder"
REDEMPTION: Final = f"{BASE}/loyaltyRedemption"
"""The path of the vendor's endpoint page. Another document of theirs leaves the prefix out; should
a host know only that, this constant is the one to change: /openLoyaltyPay/loyaltyRedemption."""
ROUTES: Final = {
    Operation.ACTIVATE_GIFT_CARD: f"{BASE}/giftActivate",
    Operation.TOP_UP_GIFT_CARD: f"{BASE}/giftIssuance",
    Operation.PAY_WITH_GIFT_CARD: f"{BASE}/giftTransaction",
    Operation.VOID_GIFT_TRANSACTION: f"{BASE}/giftVoid",
    Operation.ADD_GIFT_TIP: f"{BASE}/giftTip",
    Operation.EARN_POINTS: f"{BASE}/loyaltyIssuance",
    Operation.REDEEM_POINTS: REDEMPTION,
}
TOKEN_HEADER: Final = "jwt-token"
SIGN_HEADER: Final = "sign"

CHECKOUT_ID: Final = "checkout_id"
TRANS_INDEX_CODE: Final = "trans_index_code"
PAYWIZARD_ID: Final = "paywizard_id"
MID: Final = "mid"
"""How the contract calls the vendor's numbers of a booking; only the first is one booking's own."""

ORDER_NUMBER_CHARACTERS_MAX: Final = 60
REFERENCE_CHARACTERS_MAX: Final = 128
MINOR_DIGITS_MAX: Final = 2
POINTS_CODE: Final = "Points"

ENTRY_TYPES: Final[Mapping[EntryMode, str]] = {
    EntryMode.BARCODE: "B",
    EntryMode.KEYED: "K",
    EntryMode.MAGNETIC: "M",
    EntryMode.PROXIMITY: "P",
    # The vendor knows four ways in. A number that comes from a shop was typed once (assumed).
    EntryMode.ONLINE: "K",
}

_REFERENCES: Final = (
    (CHECKOUT_ID, "checkoutId"),
    (TRANS_INDEX_CODE, "transIndexCode"),
    (PAYWIZARD_ID, "paywizardId"),
    (MID, "mid"),
)
# What a person may be shown of an answer. Card ids, customers and the vendor's free text are not
# among them.
_SHOWN: Final = ("result", "state", *(name for _, name in _REFERENCES), "amount")
# What can be a number of a booking: no blanks, so that no sentence and no name passes for one.
_NUMBER: Final = re.compile(r"[A-Za-z0-9._:/-]{1,128}", re.ASCII)
_CODE: Final = re.compile(r"[0-9]{1,6}", re.ASCII)
_DECIMAL: Final = re.compile(r"-?[0-9]{1,24}(\.[0-9]{1,10})?", re.ASCII)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)

# 3 revoked, 4 refunded, 6 partly refunded, 7 and 8 a pre-authorisation, 9 partly revoked.
_STATES_UNDONE: Final = frozenset("346789")


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: the developer's id and the channel behind the platform."""

    client_id: str
    channel: str


@dataclass(frozen=True, slots=True)
class OrderState:
    """What the vendor knows of an order number today.

    `is_named` when the answer repeats the number that was asked for. `receipt` is set when the
    order was carried out and stands.
    """

    is_pending: bool = False
    is_closed: bool = False
    is_undone: bool = False
    is_named: bool = False
    receipt: Receipt | None = None
    time: datetime | None = None


# --- requests -----------------------------------------------------------------------------------


def encode_booking(order: Order, order_number: str, client: Client) -> bytes:
    """The body of a booking; the same order always gives the same bytes.

    What changes between two attempts has no place here: the signature is made of these bytes.
    """
    match order.operation:
        case Operation.ACTIVATE_GIFT_CARD:
            fields = _of_card(order, client) | {
                "activating": "N" if order.activate is False else "Y"
            }
            if order.person is not None:
                return _encode(fields | {"customerInfo": encode_customer(order.person)})
        case Operation.TOP_UP_GIFT_CARD:
            # Neither page nor document of the vendor gives this call an amount: assumed as in a
            # payment.
            fields = _of_order(order, order_number, client) | {
                "activating": "Y" if order.activate else "N",
                **_of_money(order),
            }
        case Operation.PAY_WITH_GIFT_CARD:
            fields = _of_order(order, order_number, client) | _of_money(order)
            if order.may_take_part:
                return _encode(fields | {"nsfAllowed": True})
        case Operation.VOID_GIFT_TRANSACTION:
            fields = {
                "clientId": client.client_id,
                "tranOrderNo": order_number,
                "oriOrderNo": encode_original(order.original),
            }
        case Operation.ADD_GIFT_TIP:
            # The one call about a card that has no channel, in every source.
            fields = {
                "clientId": client.client_id,
                "tranOrderNo": order_number,
                "oriOrderNo": encode_original(order.original),
                **_of_account(order.account_id, order.entry_mode),
                **_of_money(order),
            }
        case _:
            assert isinstance(order.asked, Points), "points are asked for by their number"
            assert order.asked.value > 0, "a booking's points are positive"
            fields = _of_order(order, order_number, client) | {"amount": f"{order.asked.value:d}"}
    return _encode(fields)


def encode_inquiry(account_id: str, entry_mode: EntryMode | None, client: Client) -> bytes:
    """The body of a question about a card."""
    return _encode(
        {
            "clientId": client.client_id,
            "loyaltyChannel": client.channel,
            **_of_account(account_id, entry_mode),
        }
    )


def encode_order_query(order_number: str, client: Client) -> bytes:
    """The body of a question about an order by our own number of it."""
    return _encode({"clientId": client.client_id, "transIndexCode": order_number})


def encode_amount(amount: Money) -> str:
    """Decimal text with exactly the currency's digits, made of whole numbers only."""
    assert amount.minor > 0, "a booking's amount is positive"
    digits = CURRENCY_EXPONENTS[amount.currency]
    units, rest = divmod(amount.minor, 10**digits)
    return f"{units:d}.{rest:0{digits}d}" if digits else f"{units:d}"


def encode_original(original: Original | None) -> str:
    """What names the original: the vendor's number of it, or ours where its answer was lost."""
    assert original is not None, "a void and a tip have an original"
    return original.find_reference(CHECKOUT_ID) or original.outbound_id


def _of_account(account_id: str, entry_mode: EntryMode | None) -> dict[str, Any]:
    return {
        "accountId": account_id,
        "entryType": ENTRY_TYPES[entry_mode or EntryMode.KEYED],
    }


def _of_card(order: Order, client: Client) -> dict[str, Any]:
    return {
        "clientId": client.client_id,
        "loyaltyChannel": client.channel,
        **_of_account(order.account_id, order.entry_mode),
    }


def _of_order(order: Order, order_number: str, client: Client) -> dict[str, Any]:
    assert 0 < len(order_number) <= ORDER_NUMBER_CHARACTERS_MAX, "the vendor's limit"
    return {
        "clientId": client.client_id,
        "tranOrderNo": order_number,
        "loyaltyChannel": client.channel,
        **_of_account(order.account_id, order.entry_mode),
    }


def _of_money(order: Order) -> dict[str, Any]:
    assert isinstance(order.asked, Money), "this booking is about money"
    return {"amount": encode_amount(order.asked), "tranCurrency": order.asked.currency}


def _encode(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


# --- answers ------------------------------------------------------------------------------------


def find_code(document: Document) -> str:
    """The code of the envelope, as number or as text, or nothing where there is none."""
    return _digits((document.fields or {}).get("code"))


def has_data(document: Document) -> bool:
    """Whether something stands in data; beside an error nothing does."""
    return (document.fields or {}).get("data") is not None


def read_data(document: Document) -> dict[str, Any]:
    """The data of a success.

    Raises:
        UnreadableAnswer: there is none, so that the success proves nothing.
    """
    data = document.require().get("data")
    if not isinstance(data, dict):
        raise UnreadableAnswer("data is missing or no object")
    return data


def read_result(document: Document) -> str:
    """0 done, 1 failed, 2 open; a number or a text, as the vendor likes.

    Raises:
        UnreadableAnswer: there is none, or another one.
    """
    result = _digits(read_data(document).get("result"))
    if result != "0" and result not in status.RESULTS:
        raise UnreadableAnswer("result is missing or unknown")
    return result


def decode_booking(document: Document, order: Order) -> Receipt:
    """The receipt in the data of a booking that is done.

    The amount is evidence and read as such: where it cannot be read there is none, except where
    the vendor was told that it may take a part. Then only the amount tells which.

    Raises:
        UnreadableAnswer: the booking is not proven.
    """
    data = read_data(document)
    _check_original(data, order)
    return _receipt(data, order)


def names_data(document: Document) -> bool:
    """Whether the answer has data at all, be it null, which stands beside an error.

    Raises:
        UnreadableAnswer: the answer is no JSON object.
    """
    return "data" in document.require()


def decode_card(document: Document, account_id: str) -> CardFacts:
    """The card in the data of an inquiry or an activation.

    Raises:
        UnreadableAnswer: a field is missing or is not what it should be.
    """
    data = read_data(document)
    if data.get("accountId") != account_id:
        raise UnreadableAnswer("the answer is about another card")
    lines = data.get("balances")
    if not isinstance(lines, list):
        raise UnreadableAnswer("balances is missing or no list")
    as_of = _find_time((document.fields or {}).get("timestamp"))
    amounts = [amount for line in lines if (amount := _read_balance(line)) is not None]
    if len({_unit_of(amount) for amount in amounts}) != len(amounts):
        raise UnreadableAnswer("a balance stands twice")
    return CardFacts(
        account_id=account_id,
        kind=AccountKind.GIFT_CARD,
        holder=decode_customer(data.get("customerInfo")),
        balances=tuple(Balance(amount, as_of) for amount in amounts),
    )


def decode_order_state(document: Document, order: Order, order_number: str) -> OrderState | None:
    """What the vendor knows of the order number, or None where it knows no such order.

    Raises:
        UnreadableAnswer: the answer is none to this question.
    """
    fields = document.require()
    if "data" in fields and fields["data"] is None:
        return None
    data = read_data(document)
    state = _digits(data.get("state"))
    is_named = data.get("transIndexCode") == order_number
    match state:
        case "1":
            return OrderState(is_pending=True, is_named=is_named)
        case "2":
            return OrderState(
                is_named=is_named,
                receipt=_receipt(data, order),
                time=_find_time(data.get("tranTime")),
            )
        case "5":
            return OrderState(is_closed=True, is_named=is_named)
        case _ if state in _STATES_UNDONE:
            return OrderState(is_undone=True, is_named=is_named)
    raise UnreadableAnswer("state is missing or unknown")


def describe(document: Document) -> list[tuple[str, str]]:
    """What people may be shown of an answer: customers, card ids and free text are not in it.

    The texts are the vendor's own all the same and have to be cleaned of what may hide there.
    """
    fields = document.fields or {}
    shown = [("code", find_code(document))] if find_code(document) else []
    data = fields.get("data")
    if isinstance(data, dict):
        shown += [
            (name, str(value))
            for name in _SHOWN
            if isinstance(value := data.get(name), str | int | Decimal) and _is_number(str(value))
        ]
    if _find_time(fields.get("timestamp")) is not None:
        shown.append(("timestamp", fields["timestamp"]))
    return shown


def _receipt(data: dict[str, Any], order: Order) -> Receipt:
    echoed = _find_echo(data.get("amount"), order)
    if order.may_take_part and echoed is None:
        raise UnreadableAnswer("amount does not tell which part was taken")
    return Receipt(references=_references(data), echoed=echoed)


def _references(data: dict[str, Any]) -> tuple[Reference, ...]:
    """The vendor's numbers; without the first of them there is no booking to speak of."""
    if not _is_number(read_text(data, "checkoutId", characters_max=REFERENCE_CHARACTERS_MAX)):
        raise UnreadableAnswer("checkoutId is no number of a booking")
    return tuple(
        Reference(kind, value)
        for kind, name in _REFERENCES
        if isinstance(value := data.get(name), str) and _is_number(value)
    )


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _check_original(data: dict[str, Any], order: Order) -> None:
    """The answer to a void names what it undid; where we named it too, it is the same."""
    if order.operation is not Operation.VOID_GIFT_TRANSACTION or order.original is None:
        return
    asked = order.original.find_reference(CHECKOUT_ID)
    if asked and data.get("oriCheckoutId", asked) != asked:
        raise UnreadableAnswer("the answer is about another original")


def _find_echo(value: Any, order: Order) -> Amount | None:
    number = _find_decimal(value)
    if number is None:
        return None
    if isinstance(order.asked, Money):
        try:
            return Money.from_decimal(order.asked.currency, number)
        except ValueError:
            return None
    if isinstance(order.asked, Points) and _is_whole(number):
        return Points(int(number), order.asked.unit)
    return None


def _read_balance(line: Any) -> Amount | None:
    """One line of a card's balances; None for a kind of value that is neither money nor points."""
    if not isinstance(line, dict):
        raise UnreadableAnswer("a balance is no object")
    code = read_text(line, "valueCode")
    number = _find_decimal(line.get("amount"))
    if number is None:
        raise UnreadableAnswer("the amount of a balance is missing or no number")
    if code == POINTS_CODE:
        if not _is_whole(number):
            raise UnreadableAnswer("the points are no whole number")
        return Points(int(number))
    if code not in CURRENCY_EXPONENTS:
        return None
    try:
        return Money.from_decimal(code, number)
    except ValueError as error:
        raise UnreadableAnswer("a balance is no amount of its currency") from error


def _unit_of(amount: Amount) -> str:
    return amount.currency if isinstance(amount, Money) else POINTS_CODE


def _digits(value: Any) -> str:
    """A small number that may come as number or as text; nothing for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    text = str(value)
    return text if _CODE.fullmatch(text) else ""


def _find_decimal(value: Any) -> Decimal | None:
    # bool is an int to Python, and no amount to anybody.
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Decimal):
        return Decimal(value)
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return Decimal(value)
    return None


def _is_whole(number: Decimal) -> bool:
    return abs(number) <= MINOR_MAX and number == int(number)


def _find_time(value: Any) -> datetime | None:
    """The vendor's time, which is UTC and does not say so."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return None
    try:
        return datetime.strptime(value, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
