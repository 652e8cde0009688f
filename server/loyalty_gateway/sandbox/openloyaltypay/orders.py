"""What openLoyaltyPay's orders do to its books, and what it keeps of each; it must never know HTTP.

An order is a record beside the effect in the ledger, because one that is open or has failed has
no effect and can be asked for all the same. Where the documents are silent these rules hold: a
payment, a top-up and points can be voided, a tip and a void cannot; a void gives back its
original and leaves a tip on it as it is; what cannot be done to an order that exists is answered
as a failure (result 1), and not by a code.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from loyalty_gateway.sandbox.book import Book, Card, Effect, Pages
from loyalty_gateway.sandbox.bookings import Entry
from loyalty_gateway.sandbox.exact import Minor
from loyalty_gateway.sandbox.faults import Answer
from loyalty_gateway.sandbox.openloyaltypay import wire
from loyalty_gateway.sandbox.openloyaltypay.settings import OpenLoyaltyPaySettings
from loyalty_gateway.sandbox.openloyaltypay.wire import Refusal

ORDER, NUMBER = "order", "number"
PAY, TOP_UP, TIP, VOID = "giftTransaction", "giftIssuance", "giftTip", "giftVoid"
ISSUE, REDEEM, ACTIVATE = "loyaltyIssuance", "loyaltyRedemption", "giftActivate"
VOIDABLE = frozenset({PAY, TOP_UP, ISSUE, REDEEM})


@dataclass(frozen=True, slots=True)
class Wish:
    """One order as it was asked for; amounts are what is to move, without a sign.

    `original` is what a void or a tip calls its original.
    """

    kind: str
    number: str
    card_id: str = ""
    amount_minor: int = 0
    points: int = 0
    takes_part: bool = False
    activates: bool = False
    original: str = ""
    customer: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Desk:
    """Carries one order out under the settings that held when it came in."""

    wish: Wish
    settings: OpenLoyaltyPaySettings

    # The three ends that the shared booking path knows.

    def carry_out(self, book: Book, entry: Entry) -> Answer:
        """Do it, or say no; an order that was left open is never simply forgotten by a no."""
        open_order = find_open(book, entry.key)
        if open_order is None:
            return self._execute(book, entry, _new_checkout_id(book, entry.key))
        checkout_id = str(open_order["checkout_id"])
        try:
            return book.attempt(lambda part: self._execute(part, entry, checkout_id))
        except Refusal:
            return self._fail(book, entry, checkout_id)

    def carry_pending(self, book: Book, entry: Entry) -> Answer:
        order = self._keep(book, entry, _new_checkout_id(book, entry.key), wire.PENDING)
        return self.answer(order, wire.OPEN, entry.now_s)

    def carry_failure(self, book: Book, entry: Entry) -> Answer:
        open_order = find_open(book, entry.key)
        assert open_order is not None, "only an open order can fail later"
        return self._fail(book, entry, str(open_order["checkout_id"]))

    def answer(self, order: dict[str, Any], result: int, now_s: float) -> Answer:
        """The envelope of a booking; a void has no amount and names its original instead."""
        data = {
            "mid": wire.MID,
            "paywizardId": wire.PAYWIZARD_ID,
            "checkoutId": order["checkout_id"],
            "transIndexCode": order["index_code"],
            "amount": echo_of(order, self.settings),
            "result": result,
            "oriCheckoutId": order.get("original"),
            "oriTransIndexCode": order.get("original_index_code"),
        }
        shown = {name: value for name, value in data.items() if value is not None}
        return wire.encode_success(shown, now_s)

    # What each kind of order does.

    def _execute(self, book: Book, entry: Entry, checkout_id: str) -> Answer:
        if self.wish.kind == VOID:
            return self._void(book, entry, checkout_id)
        card = self._card(book, entry)
        if self.wish.kind == TIP:
            self._check_tipped(book, entry)
        if card.detail.get("declines"):
            return self._fail(book, entry, checkout_id)
        amount_minor, points = self._movement(card, entry)
        effect = book.post(
            card,
            self.wish.kind,
            amount_minor=amount_minor,
            points=points,
            booked_at_ms=entry.now_ms,
            idempotency_key=entry.key,
            detail={"checkout_id": checkout_id},
        )
        order = self._keep(book, entry, checkout_id, wire.COMPLETED, effect)
        return self.answer(order, wire.DONE, entry.now_s)

    def _card(self, book: Book, entry: Entry) -> Card:
        card = book.find_card(self.wish.card_id)
        if card is None:
            raise self._no(wire.CARD_UNKNOWN, entry)
        is_active = card.detail.get("is_active", True) or self.wish.activates
        if card.is_blocked or not is_active:
            raise self._no(wire.CARD_INACTIVE, entry)
        if self.wish.activates:
            return activate(book, card, self.wish.customer)
        return card

    def _movement(self, card: Card, entry: Entry) -> tuple[int, int]:
        """Money in minor units and points, as the card sees them."""
        wish = self.wish
        if wish.kind == TOP_UP:
            return wish.amount_minor, 0
        if wish.kind == ISSUE:
            return 0, wish.points
        if wish.kind == REDEEM:
            if card.points < wish.points:
                raise self._no(wire.INSUFFICIENT, entry)
            return 0, -wish.points
        taken_minor = wish.amount_minor
        if wish.takes_part:
            taken_minor = min(taken_minor, card.balance_minor)
        if not taken_minor or card.balance_minor < taken_minor:
            raise self._no(wire.INSUFFICIENT, entry)
        return -taken_minor, 0

    def _check_tipped(self, book: Book, entry: Entry) -> None:
        original = book.find_thing(ORDER, self.wish.original)
        if (
            original is None
            or (original["kind"], original["card_id"]) != (PAY, self.wish.card_id)
            or original["state"] not in (wire.COMPLETED, wire.REVOKED)
        ):
            raise self._no(wire.ORIGINAL_UNKNOWN, entry)
        if original["state"] == wire.REVOKED:
            raise self._no(wire.ALREADY_VOIDED, entry)

    def _void(self, book: Book, entry: Entry, checkout_id: str) -> Answer:
        original = find_original(book, self.wish.original, self.settings)
        if original is None or original["state"] == wire.CLOSED:
            raise self._no(wire.ORIGINAL_UNKNOWN, entry)
        if original["state"] == wire.REVOKED:
            raise self._no(wire.ALREADY_VOIDED, entry)
        undone = book.find_effect(original["effect"]) if original["effect"] else None
        if undone is None or original["kind"] not in VOIDABLE or self._is_settled(undone, entry):
            return self._fail(book, entry, checkout_id, original)
        card = book.find_card(undone.card_id)
        assert card is not None, undone
        is_spent = (
            card.balance_minor < undone.amount_minor  # A top-up of which a part is gone.
            or card.points < undone.points
        )
        if is_spent:
            return self._fail(book, entry, checkout_id, original)
        effect = book.post(
            card,
            VOID,
            amount_minor=-undone.amount_minor,
            points=-undone.points,
            booked_at_ms=entry.now_ms,
            idempotency_key=entry.key,
            detail={"checkout_id": checkout_id},
            reverses=undone.number,
        )
        book.put_thing(ORDER, original["checkout_id"], {**original, "state": wire.REVOKED})
        order = self._keep(book, entry, checkout_id, wire.COMPLETED, effect, original)
        return self.answer(order, wire.DONE, entry.now_s)

    def _is_settled(self, effect: Effect, entry: Entry) -> bool:
        settles_after_s = self.settings.settles_after_s
        age_ms = entry.now_ms - effect.booked_at_ms
        return settles_after_s is not None and age_ms >= settles_after_s * 1000

    # Records of orders.

    def _fail(
        self,
        book: Book,
        entry: Entry,
        checkout_id: str,
        original: dict[str, Any] | None = None,
    ) -> Answer:
        order = self._keep(book, entry, checkout_id, wire.CLOSED, None, original)
        return self.answer(order, wire.FAILED, entry.now_s)

    def _keep(
        self,
        book: Book,
        entry: Entry,
        checkout_id: str,
        state: int,
        effect: Effect | None = None,
        original: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        moved = (effect.amount_minor, effect.points) if effect is not None else None
        order = {
            "checkout_id": checkout_id,
            "index_code": _index_code(checkout_id),
            "number": entry.key,
            "kind": self.wish.kind,
            "card_id": self.wish.card_id,
            "amount_minor": abs(moved[0]) if moved else self.wish.amount_minor,
            "points": abs(moved[1]) if moved else self.wish.points,
            "state": state,
            "effect": effect.number if effect is not None else None,
            "at_s": entry.now_s,
        }
        if original is not None:
            order |= {
                "card_id": original["card_id"],
                "original": original["checkout_id"],
                "original_index_code": original["index_code"],
            }
        book.put_thing(ORDER, checkout_id, order)
        known = book.find_thing(NUMBER, entry.key) or []
        if checkout_id not in known:
            book.put_thing(NUMBER, entry.key, [*known, checkout_id])
        return order

    def _no(self, code: int, entry: Entry) -> Refusal:
        return Refusal(code, entry.now_s, as_status=self.settings.codes_are_statuses)


def activate(book: Book, card: Card, customer: tuple[tuple[str, str], ...]) -> Card:
    """The card made active, with its customer where one was named."""
    detail: dict[str, Any] = {"is_active": True}
    holder = card.holder
    if customer:
        detail["customer"] = told = dict(customer)
        holder = f"{told.get('firstName', '')} {told.get('lastName', '')}".strip()
    return book.update_card(card.card_id, holder=holder, detail=detail)


def find_order(pages: Pages, number: str) -> dict[str, Any] | None:
    """The newest order under the caller's number; a vendor that books again has several."""
    known = pages.find_thing(NUMBER, number)
    found: dict[str, Any] | None = pages.find_thing(ORDER, known[-1]) if known else None
    return found


def find_original(
    pages: Pages, name: str, settings: OpenLoyaltyPaySettings
) -> dict[str, Any] | None:
    """The order that a void calls so, by the vendor's number or, where that is played, by ours."""
    found: dict[str, Any] | None = pages.find_thing(ORDER, name)
    if found is None and settings.void_takes_order_number:
        found = find_order(pages, name)
        if found is not None and found["kind"] == settings.void_misses:
            return None
    return found


def find_open(pages: Pages, number: str) -> dict[str, Any] | None:
    """The order under the caller's number, if it is open."""
    order = find_order(pages, number)
    return order if order is not None and order["state"] == wire.PENDING else None


def encode_state(order: dict[str, Any], settings: OpenLoyaltyPaySettings) -> dict[str, Any]:
    """What the order query shows; here transIndexCode is the caller's own number."""
    data = {
        "mid": wire.MID,
        "paywizardId": wire.PAYWIZARD_ID,
        "checkoutId": order["checkout_id"],
        "transIndexCode": order["number"],
        "state": order["state"],
        "amount": echo_of(order, settings),
        "tranTime": wire.time_text(order["at_s"]),
    }
    return {name: value for name, value in data.items() if value is not None}


def echo_of(order: dict[str, Any], settings: OpenLoyaltyPaySettings) -> str | None:
    """The amount as the vendor repeats it; in the wrong unit it has lost its point."""
    if order["kind"] == VOID:
        return None
    if order["kind"] in (ISSUE, REDEEM):
        return str(order["points"])
    minor = order["amount_minor"]
    return str(minor) if settings.echo_amount == "wrong_unit" else str(Minor(minor))


def _new_checkout_id(book: Book, number: str) -> str:
    """Eighteen digits, another for each order, even for two under one number."""
    nth = len(book.find_thing(NUMBER, number) or [])
    digest = hashlib.sha256(f"{number}/{nth}".encode()).digest()
    return str(9 * 10**17 + int.from_bytes(digest[:8]) % 10**17)


def _index_code(checkout_id: str) -> str:
    digest = hashlib.sha256(f"index {checkout_id}".encode()).digest()
    return f"{wire.PAYWIZARD_ID}{int.from_bytes(digest[:8]) % 10**10:010d}"
