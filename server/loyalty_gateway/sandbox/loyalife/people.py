"""Who a member of Loyalife is: profiles, links, passwords and codes; no point moves here.

Each verb reads a body that fits the document and says what it does to the books, as a work for
the ledger.
"""

from typing import Any

from loyalty_gateway.sandbox.book import Book, Card, Pages
from loyalty_gateway.sandbox.bookings import CarryOut, Entry
from loyalty_gateway.sandbox.faults import Answer
from loyalty_gateway.sandbox.loyalife import wire
from loyalty_gateway.sandbox.loyalife.cards import ACTIVE, FIRST_MEMBER_NUMBER, MEMBERS
from loyalty_gateway.sandbox.loyalife.points import member
from loyalty_gateway.sandbox.loyalife.wire import Speech

Body = dict[str, Any]

# Nothing leaves the sandbox; this code is the right one, always.
SANDBOX_CODE = 0
CODE_LIFETIME_S = 300
FIRST_NEW_NUMBER = FIRST_MEMBER_NUMBER + len(MEMBERS)
UNIQUE_ATTRIBUTES = ("email_id", "mobile_number")
# Kinds of things in the books.
CODE, COUNTER, FAILED_LOGINS, LAST_LOGIN = "code", "counter", "failed-logins", "last-login"

_OWN_FIELDS = ("relation_reference", "full_name", "status")


def create(body: Body, speech: Speech) -> CarryOut:
    """Enrol a member under the caller's number; one that exists is refused, never overwritten."""

    def work(book: Book, entry: Entry) -> Answer:
        if book.find_card(body["relation_reference"]) is not None:
            raise speech.refusal("E201")
        number = book.find_thing(COUNTER, "member") or FIRST_NEW_NUMBER
        book.put_thing(COUNTER, "member", number + 1)
        detail = {name: value for name, value in body.items() if name not in _OWN_FIELDS}
        detail |= {"number": number, "status": int(body["status"]), "tier": "Silver"}
        detail["enrolled"] = speech.time(entry.now_ms)
        book.create_card(body["relation_reference"], body["full_name"], detail=detail)
        return speech.success(True)

    return work


def update(body: Body, speech: Speech) -> CarryOut:
    """Set the fields that are given on the member of that internal number."""

    def work(book: Book, entry: Entry) -> Answer:
        found = book.cards(detail={"number": body["id"]})
        if not found:
            raise speech.refusal("103")
        changes = dict(body["data"])
        name = changes.pop("full_name", None)
        if "status" in changes:
            changes["status"] = int(changes["status"])
        book.update_card(found[0].card_id, holder=name, detail=changes)
        return speech.success(True)

    return work


def profile(book: Pages, query: Body, speech: Speech) -> Answer:
    """The whole profile of a member."""
    return speech.success(wire.encode_profile(member(book, query["pstrRelationReference"], speech)))


def find(book: Pages, query: Body, speech: Speech) -> Answer:
    """The member that an attribute names, if the programme marks it as unique."""
    if query["attributeName"] not in UNIQUE_ATTRIBUTES:
        raise speech.refusal("998", "The attribute is not unique")
    found = book.cards(detail={query["attributeName"]: query["attributeValue"]})
    if not found:
        raise speech.refusal("E001")
    return speech.success(wire.encode_profile(found[0]))


def add_link(body: Body, speech: Speech) -> CarryOut:
    """Link something to a member; it is linked once."""

    def work(book: Book, entry: Entry) -> Answer:
        card = member(book, body["RelationReference"], speech)
        link = {name: body[name] for name in ("SubRelationReference", "SubRelationType")}
        linked = card.detail.get("links", [])
        if link in linked:
            raise speech.refusal("E201")
        book.update_card(card.card_id, detail={"links": [*linked, link]})
        return speech.success(True)

    return work


def links(book: Pages, body: Body, speech: Speech) -> Answer:
    """What is linked to a member."""
    card = member(book, body["RelationReference"], speech)
    found = [{**link, "IsActive": True} for link in card.detail.get("links", [])]
    return speech.success(found, count=len(found))


def check_password(body: Body, speech: Speech) -> CarryOut:
    """What a login shows when the password is right; a wrong one is counted, and is HTTP 401."""

    def work(book: Book, entry: Entry) -> Answer:
        card = member(book, body["UniquerefID"], speech)
        failed = book.find_thing(FAILED_LOGINS, card.card_id) or 0
        is_right = card.detail.get("password_hash") == body["Password"]
        book.put_thing(FAILED_LOGINS, card.card_id, 0 if is_right else failed + 1)
        if not is_right:
            # The count has to stay, so this is an answer and not a refusal that undoes it.
            return speech.refusal("401").answer
        last = book.find_thing(LAST_LOGIN, card.card_id)
        book.put_thing(LAST_LOGIN, card.card_id, speech.time(entry.now_ms))
        shown = {
            "Id": card.detail["number"],
            "FullName": card.holder,
            "Email": card.detail.get("email_id"),
            "Status": card.detail["status"],
            "IsAccountActivated": card.detail["status"] == ACTIVE,
            "LastLoggedIn": last,
            "LoginAttempt": failed,
            "ForceChangePassword": False,
        }
        return speech.success({name: value for name, value in shown.items() if value is not None})

    return work


def send_code(body: Body, speech: Speech, *, is_by_email: bool) -> CarryOut:
    """Send a code for one purpose; a newer one takes the place of an older."""

    def work(book: Book, entry: Entry) -> Answer:
        card = _receiver(book, body, speech, is_by_email)
        ends_at_s = entry.now_s + CODE_LIFETIME_S
        book.put_thing(CODE, f"{card.card_id}\n{body['OtpType']}", {"ends_at_s": ends_at_s})
        return speech.success(True, count=0)

    return work


def verify_code(body: Body, speech: Speech, *, is_by_email: bool) -> CarryOut:
    """Whether a code is right: once, in time, and for the purpose that it was sent for."""

    def work(book: Book, entry: Entry) -> Answer:
        card = _receiver(book, body, speech, is_by_email)
        key = f"{card.card_id}\n{body['OtpType']}"
        sent = book.find_thing(CODE, key)
        is_alive = sent is not None and sent["ends_at_s"] > entry.now_s
        if not is_alive or body["OTP"] != SANDBOX_CODE:
            raise speech.refusal("998", "The code is wrong or expired")
        book.drop_thing(CODE, key)
        return speech.success(True, count=0)

    return work


def _receiver(book: Pages, body: Body, speech: Speech, is_by_email: bool) -> Card:
    if not is_by_email:
        return member(book, body["UniquerefID"], speech)
    found = book.cards(detail={"email_id": body["UniquerefID"]})
    if not found:
        raise speech.refusal("103")
    return found[0]
