"""A vendor that does not exist, for what the played vendors share: keys, faults, open bookings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loyalty_gateway.sandbox import Settings, bookings, exact
from loyalty_gateway.sandbox.book import Book, CardSeed, PastEffect
from loyalty_gateway.sandbox.bookings import Booking, Declined, Entry, fingerprint_of
from loyalty_gateway.sandbox.exact import Minor
from loyalty_gateway.sandbox.faults import Answer
from loyalty_gateway.sandbox.player import Call, Player
from loyalty_gateway.sandbox.settings import Repeat, between

CARD, OPENED_WITH_MINOR = "7001", 100_000


@dataclass(frozen=True, slots=True)
class ToySettings(Settings):
    """Books a repeat again, unless it is told otherwise; tokens live a minute."""

    repeat: Repeat = "books_again"
    token_lifetime_s: int = field(default=60, metadata=between(1))


class ToyPlayer(Player):
    """One kind of booking, a debit, that can stay open; a ticket is its key, and optional."""

    name = "toy"
    base_path = ""
    currency = "EUR"
    settings_type = ToySettings
    leaves_open = True

    def card_seeds(self) -> Sequence[CardSeed]:
        past = PastEffect("refill", OPENED_WITH_MINOR, 0, 1_767_600_000, detail={"desk": 3})
        detail = {"status": "Active"}
        return [CardSeed(CARD, "Toy", OPENED_WITH_MINOR, 0, (past,), detail=detail)]

    def shown_cards(self) -> list[dict[str, Any]]:
        return []

    def internal_error(self) -> Answer:
        return _answer(500, code="TOY-1")

    def refused_repeat(self, booking: Booking) -> Answer:
        return _answer(409, code="TOY-9")

    async def answer(self, call: Call) -> Answer:
        try:
            if call.method == "GET":
                card_id = dict(call.query).get("card", CARD)
                return await bookings.read(self, call, "find", lambda: self._find(card_id), card_id)
            body: Any = exact.decode(call.body or b"")
            change = (body["card"], exact.minor_units(body["amount"]))
            booking = Booking(
                operation="debit",
                account=body["card"],
                key=body.get("ticket"),
                fingerprint=fingerprint_of(*change),
                carry_out=lambda book, entry: debit(book, entry, *change),
                carry_pending=lambda book, entry: settle(book, entry, "pending"),
                carry_failure=lambda book, entry: settle(book, entry, "failed"),
            )
            return await bookings.book(self, call, booking)
        except Declined as declined:
            return declined.answer

    def _find(self, card_id: str) -> Answer:
        card = self.ledger.find_card(card_id)
        if card is None:
            raise Declined(_answer(404, code="TOY-14"))
        return _answer(200, balance=Minor(card.balance_minor))


def debit(book: Book, entry: Entry, card_id: str, amount_minor: int) -> Answer:
    card = book.find_card(card_id)
    assert card is not None
    effect = book.post(
        card,
        "debit",
        amount_minor=-amount_minor,
        points=0,
        booked_at_ms=entry.now_ms,
        idempotency_key=entry.key,
    )
    if effect.balance_after_minor == 0:
        # Too late on purpose: what stands in the book by now must not stay in it.
        raise Declined(_answer(422, code="TOY-3"))
    return settle(book, entry, "done", balance=Minor(effect.balance_after_minor))


def settle(book: Book, entry: Entry, state: str, **more: Any) -> Answer:
    book.put_thing("order", entry.key, {"state": state})
    return _answer(200, state=state, **more)


def body(amount: str = "1.00", ticket: str | None = None, card: str = CARD) -> bytes:
    """A request to book; without a ticket every one of them books."""
    fields = {"card": card, "ticket": ticket} if ticket is not None else {"card": card}
    return json.dumps(fields).encode()[:-1] + f', "amount": {amount}}}'.encode()


def _answer(status: int, **members: Any) -> Answer:
    return Answer(status, exact.encode(members))
