"""What Loyalife books: redemptions, their reversal, and purchases that earn points by its rules."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.operations import Order, Purchase
from loyalty_gateway.providers.answers import UnreadableAnswer, read_whole_number
from loyalty_gateway.providers.loyalife.wire.envelope import GUID, Envelope

REDEEM: Final = "/lbms-ingress/pg-lm/API/PG/RedeemPoints"
REVERSE: Final = "/lbms-ingress/pg-lm/API/PG/ReversalPoints"
AVAILABILITY: Final = "/lbms-ingress/pg-lm/API/PG/CheckAvailability"
INSERT: Final = "/lbms-ingress/transaction-lm/API/Transaction/InsertTransactionData"

EXTERNAL_REFERENCE: Final = "external_reference"
MERCHANT_NAME: Final = "merchant_name"
TRANSACTION_ID: Final = "transaction_id"
REVERSAL_OF: Final = "reversal_of"
STATEMENT_LINE: Final = "statement_line"
"""How the contract calls the vendor's number of a redemption, the name that its reversal has to
repeat, our own number of a transaction, which is all that there is of one, what a reversal undid,
and the line that shows a redemption without its number."""

REDEMPTION_KINDS: Final[Mapping[str, int]] = {
    "transfer": 4,
    "hotel": 5,
    "air": 6,
    "charity": 19,
    "gift-card": 30,
}
"""The categories of the developer pages; programmes may have more (setting redemption_kinds)."""

EARNS: Final = "DR"
TAKES_BACK: Final = "CR"

MERCHANT_CHARACTERS_MAX: Final = 40
"""Assumed: no page says how long the name may be, so it is kept as short as a receipt's line."""

TAG_CHARACTERS: Final = 10
_TAG_MARK: Final = "#"
_WHOLE_TAG: Final = re.compile(rf"{_TAG_MARK}[A-Z2-7]{{{TAG_CHARACTERS}}}$")
_OWN_FIELDS: Final = frozenset(
    {
        "transaction_id",
        "amount",
        "transaction_date",
        "product_code",
        "sub_product_code",
        "member_relation_reference",
        "transaction_type",
        "_xoxo_api_client_idempotency",
    }
)


@dataclass(frozen=True, slots=True)
class Programme:
    """What names the programme in every request."""

    program_id: int
    relation_type: int
    transaction_currency: str

    @property
    def query(self) -> tuple[tuple[str, str], ...]:
        """The programme where it stands in the query."""
        return (("pintProgramId", str(self.program_id)),)

    def account(self, account_id: str) -> dict[str, Any]:
        """The four members that name a member's account."""
        return {
            "RelationReference": account_id,
            "TransactionCurrency": self.transaction_currency,
            "RelationType": self.relation_type,
            "ProgramId": self.program_id,
        }


@dataclass(frozen=True, slots=True)
class Number:
    """An amount as a JSON number, digit by digit: no binary fraction ever stands for it."""

    amount: Money

    def __str__(self) -> str:
        return str(self.amount.to_decimal())


def encode(body: Mapping[str, Any]) -> bytes:
    """A JSON object in ASCII; amounts are written exactly, and the same body is the same bytes."""
    written = (
        f"{json.dumps(name)}:{value if isinstance(value, Number) else json.dumps(value)}"
        for name, value in body.items()
    )
    return f"{{{','.join(written)}}}".encode("ascii")


def encode_redemption(
    programme: Programme, order: Order, merchant: str, redemption_kind: int
) -> bytes:
    """The body of a redemption; it has no key, so it must never be sent twice."""
    assert isinstance(order.asked, Points), "a redemption is in points"
    assert order.money_value is not None, "this vendor wants the money that the points stand for"
    return encode(
        {
            "RelationReference": order.account_id,
            "Amount": Number(order.money_value),
            "Points": order.asked.value,
            "MerchantName": merchant,
            "LoyaltyTxnType": redemption_kind,
            "TransactionCurrency": programme.transaction_currency,
            "RelationType": programme.relation_type,
            "ProgramId": programme.program_id,
        }
    )


def encode_reversal(
    programme: Programme, account_id: str, merchant: str, external_reference: str
) -> bytes:
    """The body of a reversal: it must repeat the member and the merchant of the redemption."""
    return encode(
        {
            "RelationReference": account_id,
            "MerchantName": merchant,
            "ExternalReference": external_reference,
            "ProgramId": programme.program_id,
        }
    )


def encode_transaction(
    account_id: str, purchase: Purchase, day: str, outbound_id: str, transaction_type: str
) -> bytes:
    """The body of a transaction that earns or takes back; the vendor's rules make the points.

    Raises:
        ValueError: an attribute has the name of one of the vendor's own fields.
    """
    body: dict[str, Any] = {
        "transaction_id": transaction_id(outbound_id),
        "amount": Number(purchase.amount),
        "transaction_date": day,
        "product_code": purchase.product_code,
    }
    if purchase.sub_product_code:
        body["sub_product_code"] = purchase.sub_product_code
    body |= {
        "member_relation_reference": account_id,
        "transaction_type": transaction_type,
        "_xoxo_api_client_idempotency": outbound_id,
    }
    for name, value in purchase.attributes:
        if name in _OWN_FIELDS:
            raise ValueError(f"the attribute {name[:40]} has a field of its own")
        body[name] = value
    return encode(body)


def transaction_id(outbound_id: str) -> str:
    """Our number of a transaction: the same for every attempt, and of no other booking."""
    return f"LG-{outbound_id}"


def merchant_name(name: str, outbound_id: str, *, carries_tag: bool) -> str:
    """The merchant as it is sent: one line, never longer than the limit, with a tag where asked.

    The tag is a short digest of the outbound id, so that the statement shows whose it is.
    """
    plain = " ".join(name.split())
    if not carries_tag:
        return plain[:MERCHANT_CHARACTERS_MAX].strip()
    ending = f" {_TAG_MARK}{_tag(outbound_id)}"
    return f"{plain[: MERCHANT_CHARACTERS_MAX - len(ending)].strip()}{ending}"


def shows_tag(shown: str, outbound_id: str) -> bool:
    """Whether a name in the books ends with a booking's tag, whatever became of the rest of it."""
    return shown.strip().casefold().endswith(f"{_TAG_MARK}{_tag(outbound_id)}".casefold())


def is_tagged_by_another(shown: str, sent: str) -> bool:
    """Whether a name in the books ends with a whole tag that is not in the name that was sent."""
    tag = _WHOLE_TAG.search(shown.strip())
    return tag is not None and tag.group() not in sent


def redemption_kind(name: str, kinds: Mapping[str, int]) -> int | None:
    """The vendor's number of a category by its name, or None; case and word breaks are alike."""
    wanted = _plain(name)
    return next((number for known, number in kinds.items() if _plain(known) == wanted), None)


def decode_external_reference(envelope: Envelope) -> str:
    """The GUID that a redemption is answered with.

    Raises:
        UnreadableAnswer: there is none, so nothing is proven.
    """
    return read_guid(envelope.content, "ReturnObject")


def read_guid(value: Any, what: str) -> str:
    """A GUID as the pages print it, in capitals: one redemption has one spelling with us."""
    if not isinstance(value, str) or not GUID.fullmatch(value):
        raise UnreadableAnswer(f"{what} is no GUID")
    return value.upper()


def decode_done(envelope: Envelope) -> None:
    """An answer that is `true` and nothing else.

    Raises:
        UnreadableAnswer: it is anything else.
    """
    if envelope.content is not True:
        raise UnreadableAnswer("ReturnObject is not true")


def decode_points(envelope: Envelope) -> int:
    """The points that can be redeemed now."""
    return read_whole_number({"ReturnObject": envelope.content}, "ReturnObject")


def _tag(outbound_id: str) -> str:
    digest = hashlib.sha256(b"loyalife redemption: " + outbound_id.encode()).digest()
    return base64.b32encode(digest).decode()[:TAG_CHARACTERS]


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).casefold()
