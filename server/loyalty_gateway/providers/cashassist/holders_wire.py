"""CashAssist's spelling of what concerns the holders of cards: codes, receipts, master data.

Like wire.py it sends nothing and decides nothing; every name of the vendor's fields for these
calls stands here and nowhere else.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from loyalty_gateway.domain.operations import (
    AccountKind,
    ChallengePurpose,
    Confirmed,
    Issued,
    Order,
    Person,
    Receipt,
)
from loyalty_gateway.providers.answers import (
    Document,
    UnreadableAnswer,
    read_text,
    read_time,
)
from loyalty_gateway.providers.cashassist.wire import (
    CARDS,
    KEY_ECHO,
    decode_card,
    encode_amount,
    is_replay,
    read_card,
)
from loyalty_gateway.providers.port import ReceiptCheck

CREATE: Final = f"{CARDS}/create"
UPDATE: Final = f"{CARDS}/update"
VERIFY: Final = f"{CARDS}/verify"
SEND_CODE: Final = {
    ChallengePurpose.LINK_CARD: f"{CARDS}/request-code",
    ChallengePurpose.SIGN_UP: f"{CARDS}/signup",
}
CHECK_CODE: Final = {
    ChallengePurpose.LINK_CARD: f"{CARDS}/confirm-code",
    ChallengePurpose.SIGN_UP: f"{CARDS}/verify-signup",
}

CARD_ID_CHARACTERS_MAX: Final = 64
CARDS_MAX: Final = 100
TOKEN_CHARACTERS_MAX: Final = 512
LINK_CHARACTERS_MAX: Final = 2_000

_NAMES: Final = {"given_name": "firstName", "family_name": "lastName"}
_CHANGEABLE: Final = {**_NAMES, "email": "email", "phone": "phone", "birth_date": "birthday"}
_LINKS: Final = ("apple", "google")


def find_unchangeable(order: Order) -> tuple[str, ...]:
    """The fields of an update that the vendor has no place for, or cannot clear."""
    person = order.person or Person()
    return tuple(
        name for name in order.update_mask if name not in _CHANGEABLE or not getattr(person, name)
    )


def find_uncreatable(person: Person) -> tuple[str, ...]:
    """The fields that a new card cannot be given: all but the name are those of its sign-up."""
    names = ("phone", "email", "birth_date", "attributes")
    return tuple(name for name in names if getattr(person, name))


def encode_create(order: Order) -> bytes:
    """The body of a creation; the same order always gives the same bytes."""
    person = order.person or Person()
    full_name = " ".join(filter(None, (person.given_name, person.family_name)))
    return _encode({"signupToken": order.proof, "name": person.display_name or full_name})


def encode_update(order: Order) -> bytes:
    """The body of an update: only what the mask names, each with a value."""
    assert order.person is not None, "an update says what it sets"
    members = {"id": order.account_id}
    for name in order.update_mask:
        # A date is written as RFC 3339 has it; everything else is text already.
        members[_CHANGEABLE[name]] = str(getattr(order.person, name))
    return _encode(members)


def encode_receipt(check: ReceiptCheck) -> bytes:
    """The body of the question whether a receipt belongs to a card."""
    members = {
        "id": check.account_id,
        "receiptNumber": check.receipt_number,
        "receiptDate": check.receipt_date.isoformat() if check.receipt_date else "",
    }
    total = check.receipt_amount
    return _encode(members, f'"receiptTotal":{encode_amount(total)}' if total else "")


def encode_wish(phone: str, person: Person | None) -> bytes:
    """The body of a wish for a code; with a person it is a sign-up."""
    members = {"phone": phone}
    if person is not None:
        members |= {theirs: getattr(person, ours) for ours, theirs in _NAMES.items()}
        members["email"] = person.email
    return _encode(members)


def encode_code(handle: str, code: str) -> bytes:
    """The body of the question whether a code is right."""
    return _encode({"requestId": handle, "code": code})


def decode_created(document: Document, outbound_id: str, currency: str, now: datetime) -> Receipt:
    """The receipt of a creation: the new card with its links.

    Raises:
        UnreadableAnswer: there is no whole card in it, or it names another key than ours.
    """
    created = _whole(document, key=outbound_id)
    card = created.get("card")
    if not isinstance(card, dict):
        raise UnreadableAnswer("card is missing or no object")
    account_id = read_text(card, "id", characters_max=CARD_ID_CHARACTERS_MAX)
    links = created.get("walletLinks")
    if links is None:
        links = {}
    if not isinstance(links, dict):
        raise UnreadableAnswer("walletLinks is no object")
    facts = read_card(card, account_id, currency, now)
    return Receipt(
        card=replace(
            facts,
            wallet_links=tuple(
                (name, read_text(links, name, characters_max=LINK_CHARACTERS_MAX))
                for name in _LINKS
                if links.get(name) is not None
            ),
        ),
        is_replay=is_replay(document),
    )


def decode_updated(document: Document, account_id: str, currency: str, now: datetime) -> Receipt:
    """The receipt of an update: the card as it is now.

    Raises:
        UnreadableAnswer: it is about another card, or not whole.
    """
    _whole(document)
    return Receipt(card=decode_card(document, account_id, currency, now))


def decode_issued(document: Document) -> Issued:
    """The vendor's name for a code that it sent, and when it ends.

    Raises:
        UnreadableAnswer: a field is missing or is not what it should be.
    """
    fields = _whole(document)
    return Issued(
        read_text(fields, "requestId", characters_max=TOKEN_CHARACTERS_MAX),
        read_time(fields, "expiresAt"),
    )


def decode_linked(document: Document) -> Confirmed:
    """The cards of the number that a right code was sent to; there may be none.

    Raises:
        UnreadableAnswer: a card has no id.
    """
    cards = _whole(document).get("cards")
    if not isinstance(cards, list) or len(cards) > CARDS_MAX:
        raise UnreadableAnswer("cards is no list, or too long")
    return Confirmed(tuple(_id_of(card) for card in cards), AccountKind.CARD)


def decode_signed_up(document: Document) -> Confirmed:
    """The token that a card can be created with.

    Raises:
        UnreadableAnswer: there is none.
    """
    fields = _whole(document)
    return Confirmed(
        proof=read_text(fields, "signupToken", characters_max=TOKEN_CHARACTERS_MAX),
        expire_time=read_time(fields, "expiresAt") if "expiresAt" in fields else None,
    )


def decode_ownership(document: Document, account_id: str) -> Confirmed | None:
    """The card that a receipt belongs to, or None where the vendor says no.

    Raises:
        UnreadableAnswer: it says neither, or speaks of another card.
    """
    fields = _whole(document)
    is_verified = fields.get("verified")
    if not isinstance(is_verified, bool):
        raise UnreadableAnswer("verified is neither true nor false")
    if _id_of(fields.get("card")) != account_id:
        raise UnreadableAnswer("the answer is about another card")
    return Confirmed((account_id,), AccountKind.CARD) if is_verified else None


def _encode(members: Mapping[str, str], more: str = "") -> bytes:
    """A JSON object of the texts that are not empty."""
    parts = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members.items() if value]
    return f"{{{','.join([*parts, *([more] if more else [])])}}}".encode("ascii")


def _whole(document: Document, *, key: str = "") -> dict[str, Any]:
    fields = document.require()
    if "error" in fields:
        raise UnreadableAnswer("the answer says yes and no")
    # No answer of these has to name a key; one that names a key not sent belongs to another call.
    if fields.get(KEY_ECHO, key) != key:
        raise UnreadableAnswer("the answer is to another booking")
    return fields


def _id_of(card: object) -> str:
    if not isinstance(card, dict):
        raise UnreadableAnswer("a card is no object")
    return read_text(card, "id", characters_max=CARD_ID_CHARACTERS_MAX)
