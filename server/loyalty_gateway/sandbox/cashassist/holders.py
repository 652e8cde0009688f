"""Who holds a card: codes by SMS, receipts, sign-up, master data; no value moves in here.

Each function reads a body that fits the document and says what it does to the books, as a work
for the ledger.
"""

import secrets
from collections.abc import Callable
from typing import Any

from loyalty_gateway.sandbox import exact
from loyalty_gateway.sandbox.book import Book, Card
from loyalty_gateway.sandbox.bookings import CarryOut, Entry
from loyalty_gateway.sandbox.cashassist import wire
from loyalty_gateway.sandbox.cashassist.wire import Refusal
from loyalty_gateway.sandbox.faults import Answer

Body = dict[str, Any]

# No SMS leaves the sandbox; this code is the right one, always.
SANDBOX_CODE = "000000"
CODE_LIFETIME_S = 300
SIGNUP_TOKEN_LIFETIME_S = 900
FIRST_NEW_CARD = 30_001
# Kinds of things in the books.
LINKING, SIGNUP, SIGNUP_TOKEN = "linking", "signup", "signup-token"


def request_code(body: Body) -> CarryOut:
    """Send a code, also to a number without a card: the answer must not tell which it is."""

    def work(book: Book, entry: Entry) -> Answer:
        return _open(book, entry, LINKING, "vr", {"phone": body["phone"]})

    return work


def confirm_code(body: Body) -> CarryOut:
    """The cards of the number, once; a confirmed request is used up."""

    def work(book: Book, entry: Entry) -> Answer:
        linking = _confirmed(book, entry, LINKING, body)
        cards = book.cards(detail={"phone": linking["phone"]})
        return _answer({"cards": [wire.encode_card(card) for card in cards]})

    return work


def verify(body: Body) -> CarryOut:
    """Whether the receipt is one of the card's; total and date have to fit where they are given."""
    total = body.get("receiptTotal")
    total_minor = exact.minor_units(total) if total is not None else None

    def work(book: Book, entry: Entry) -> Answer:
        card = _card(book, body["id"])
        receipts = book.effects(card_id=card.card_id, detail={"receipt": body["receiptNumber"]})
        if not any(
            total_minor in (None, -receipt.amount_minor)
            and body.get("receiptDate") in (None, wire.day_text(receipt.booked_at_s))
            for receipt in receipts
        ):
            raise Refusal("receipt_mismatch", "The receipt does not belong to the card")
        return _answer({"verified": True, "card": wire.encode_card(card)})

    return work


def signup(body: Body) -> CarryOut:
    """Open a sign-up, unless the number has a card already."""

    def work(book: Book, entry: Entry) -> Answer:
        _require_no_card(book, body["phone"])
        return _open(book, entry, SIGNUP, "su", body)

    return work


def verify_signup(body: Body) -> CarryOut:
    """Hand out the token that creates the card; a confirmed sign-up is used up."""

    def work(book: Book, entry: Entry) -> Answer:
        holder = _confirmed(book, entry, SIGNUP, body)
        token, ends_at_s = _name("sut"), entry.now_s + SIGNUP_TOKEN_LIFETIME_S
        book.put_thing(SIGNUP_TOKEN, token, {**holder, "ends_at_s": ends_at_s})
        return _answer({"signupToken": token, "expiresAt": wire.time_text(ends_at_s)})

    return work


def create(body: Body) -> CarryOut:
    """Create the card that the token stands for, and use the token up.

    The document has no code for a token that is unknown, used or expired; it is refused as a
    wrong code is.
    """

    def work(book: Book, entry: Entry) -> Answer:
        token = body["signupToken"]
        signed_up = book.find_thing(SIGNUP_TOKEN, token)
        if signed_up is None or signed_up["ends_at_s"] <= entry.now_s:
            raise Refusal("code_invalid", "The sign-up token is unknown, used or expired")
        _require_no_card(book, signed_up["phone"])
        book.drop_thing(SIGNUP_TOKEN, token)
        detail = {name: value for name, value in signed_up.items() if name != "ends_at_s"}
        card_id = _next_card_id(book)
        card = book.create_card(card_id, body.get("name") or _full_name(detail), detail=detail)
        links = {
            name: f"https://wallet.example/{name[0]}/{card_id}" for name in ("apple", "google")
        }
        return _answer({"card": wire.encode_card(card), "walletLinks": links})

    return work


def update(body: Body) -> CarryOut:
    """Change what is given; the name on the card follows the names of its holder."""
    changes = {name: value for name, value in body.items() if name != "id"}

    def work(book: Book, entry: Entry) -> Answer:
        card = _card(book, body["id"])
        if card.is_blocked:
            raise Refusal("card_blocked", "The card is deactivated")
        renames = {"firstName", "lastName"} & set(changes)
        holder = _full_name({**card.detail, **changes}) if renames else None
        changed = book.update_card(card.card_id, holder=holder, detail=changes)
        return _answer(wire.encode_card(changed))

    return work


# operationId of the document -> what it does to the books; createCard is among the bookings,
# since it alone of these takes an idempotency key.
CHANGES: dict[str, Callable[[Body], CarryOut]] = {
    "requestCode": request_code,
    "confirmCode": confirm_code,
    "verifyByReceipt": verify,
    "signup": signup,
    "verifySignup": verify_signup,
    "updateCard": update,
}


def _open(book: Book, entry: Entry, kind: str, prefix: str, asked: Body) -> Answer:
    request_id, ends_at_s = _name(prefix), entry.now_s + CODE_LIFETIME_S
    book.put_thing(kind, request_id, {**asked, "ends_at_s": ends_at_s})
    return _answer({"requestId": request_id, "expiresAt": wire.time_text(ends_at_s)})


def _confirmed(book: Book, entry: Entry, kind: str, body: Body) -> Body:
    """What was asked for under the request, which is used up by the right code.

    Raises: Refusal when there is no such request any more, or the code is wrong.
    """
    asked: Body | None = book.find_thing(kind, body["requestId"])
    if asked is None or asked.pop("ends_at_s") <= entry.now_s:
        raise Refusal("verification_not_found", "No such request")
    if body["code"] != SANDBOX_CODE:
        raise Refusal("code_invalid", "Wrong or expired code")
    book.drop_thing(kind, body["requestId"])
    return asked


def _card(book: Book, card_id: str) -> Card:
    card = book.find_card(card_id)
    if card is None:
        raise wire.card_not_found(card_id)
    return card


def _require_no_card(book: Book, phone: str) -> None:
    if book.cards(detail={"phone": phone}):
        raise Refusal("card_exists", "The number already has a card")


def _next_card_id(book: Book) -> str:
    numbers = [int(card.card_id) for card in book.cards() if card.card_id.isdigit()]
    return str(max([FIRST_NEW_CARD - 1, *numbers]) + 1)


def _full_name(detail: Body) -> str:
    return " ".join(filter(None, (detail.get("firstName"), detail.get("lastName"))))


def _name(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(8)}"


def _answer(value: Body) -> Answer:
    return Answer(200, exact.encode(value))
