"""Plays openLoyaltyPay to the letter of its OpenAPI document; it must never be kinder than that.

The order of checks is assumed: route, token, signature, rate limit, shape of the request, order
number, card, balance.
"""

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from loyalty_gateway.sandbox import bookings, exact
from loyalty_gateway.sandbox.book import Book, CardSeed
from loyalty_gateway.sandbox.bookings import Booking, Declined, Entry, fingerprint_of
from loyalty_gateway.sandbox.faults import Answer, describe_unknown
from loyalty_gateway.sandbox.openapi import Document, Operation, Problem
from loyalty_gateway.sandbox.openloyaltypay import orders, wire
from loyalty_gateway.sandbox.openloyaltypay.cards import CARDS, card_seeds
from loyalty_gateway.sandbox.openloyaltypay.orders import Desk, Wish
from loyalty_gateway.sandbox.openloyaltypay.settings import OpenLoyaltyPaySettings
from loyalty_gateway.sandbox.openloyaltypay.wire import Refusal
from loyalty_gateway.sandbox.player import Call, Player

TOKEN_HEADER = "jwt-token"
SIGN_HEADER = "sign"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that fits the document."""

    call: Call
    body: dict[str, Any]


@cache
def document() -> Document:
    """The vendor's document, read once for all players of a process."""
    return Document(files(__package__).joinpath("openapi.yaml").read_text("utf-8"))


class OpenLoyaltyPayPlayer(Player):
    """openLoyaltyPay on loopback: gift cards, points, tips, voids and the order query."""

    name = "openloyaltypay"
    base_path = ""
    currency = wire.CURRENCY
    settings_type = OpenLoyaltyPaySettings
    leaves_open = True

    @property
    def settings(self) -> OpenLoyaltyPaySettings:
        """The settings of the moment."""
        settings = self.stage.settings
        assert isinstance(settings, OpenLoyaltyPaySettings)
        return settings

    async def start(self) -> None:
        # Reading the document takes a while; no first caller should wait for it.
        document()
        await super().start()

    def card_seeds(self) -> Sequence[CardSeed]:
        return card_seeds(self.seed)

    def shown_cards(self) -> list[dict[str, Any]]:
        return [
            {
                "card": card.card_id,
                "holder": card.holder,
                "balance_minor": card.balance_minor,
                "points": card.points,
                "fault": card.fault,
                "purpose": card.purpose,
            }
            for card in CARDS
            if not card.is_hidden
        ]

    # The vendor's words.

    def internal_error(self) -> Answer:
        return self._refusal(wire.SYSTEM)

    def rate_limited(self) -> Answer:
        return self._refusal(wire.BUSY)

    def unauthorized(self) -> Answer:
        return self._refusal(wire.BAD_TOKEN)

    def unknown_fault(self, name: str) -> Answer:
        return self._refusal(wire.BAD_REQUEST, describe_unknown(name))

    def refused_repeat(self, booking: Booking) -> Answer:
        return self._refusal(wire.DUPLICATE)

    def contradictory(self, answer: Answer) -> Answer:
        """The data of a success under the code of a refusal."""
        envelope: Any = exact.decode(answer.body)
        text = answer.body.replace(
            f'"code":{envelope["code"]}'.encode(), b'"code":%d' % wire.INSUFFICIENT, 1
        )
        return replace(answer, body=text)

    def declined_repeat(self, booking: Booking) -> Answer:
        return self._refusal(wire.INSUFFICIENT)

    async def answer(self, call: Call) -> Answer:
        try:
            operation = self._route(call)
            if operation.security:
                self._authenticate(call)
            self._count(call)
            request = self._checked(call, operation)
            if operation.name in READS:
                read = READS[operation.name]
                return await bookings.read(
                    self,
                    call,
                    operation.name,
                    lambda: wire.encode_success(read(self, request.body), self.stage.now()),
                    request.body.get("accountId", ""),
                )
            if operation.name == orders.ACTIVATE:
                return await bookings.book(self, call, self._activation(request))
            return await bookings.book(self, call, self._booking(request, operation.name))
        except Declined as declined:
            return declined.answer

    # What comes before the business, in the order of the checks.

    def _route(self, call: Call) -> Operation:
        operation = document().operations.get((call.method, call.path))
        if operation is None:
            is_known = call.path in document().paths
            self.stage.report(
                call.exchange, [("method" if is_known else "path", "is not in the document")]
            )
            # The document knows neither; whatever answers then is not the application.
            status = 405 if is_known else 404
            raise Declined(Answer(status, b"", content_type="text/plain"))
        return operation

    def _authenticate(self, call: Call) -> None:
        tokens = call.headers.getall(TOKEN_HEADER, [])
        signs = call.headers.getall(SIGN_HEADER, [])
        missing = [
            (f"header.{name}", "is required")
            for name, given in ((TOKEN_HEADER, tokens), (SIGN_HEADER, signs))
            if not given
        ]
        self.stage.report(call.exchange, missing)
        if tokens != [wire.JWT_TOKEN]:
            raise self._no(wire.BAD_TOKEN)
        if call.body is None:
            raise self._too_large(call)
        # The bytes as they came: a body that was written anew is another body.
        if len(signs) != 1 or not hmac.compare_digest(
            signs[0].encode(), wire.sign(call.body).encode()
        ):
            raise self._no(wire.BAD_SIGN)

    def _count(self, call: Call) -> None:
        limit = self.settings.rate_limit_per_minute
        if limit is None:
            return
        token = call.headers.get(TOKEN_HEADER, "")
        is_allowed, _, _ = self.stage.rate_limit.count(token, self.stage.now(), limit)
        if not is_allowed:
            raise self._no(wire.BUSY)

    def _checked(self, call: Call, operation: Operation) -> Request:
        if call.body is None:
            raise self._too_large(call)
        _, problems = operation.check_query(call.query)
        body, body_problems = operation.check_body(call.headers.get("Content-Type", ""), call.body)
        problems += body_problems
        if not body_problems:
            problems += _problems_of_amount(operation.name, body)
        if problems:
            self.stage.report(call.exchange, [(p.where, p.message) for p in problems])
            raise self._no(wire.BAD_REQUEST, "; ".join(map(str, problems)))
        call.exchange.card = body.get("accountId")
        call.exchange.idempotency_key = body.get("tranOrderNo")
        if body["clientId"] != wire.CLIENT_ID:
            raise self._no(wire.BAD_SIGN)
        if body.get("loyaltyChannel", wire.CHANNEL) != wire.CHANNEL:
            raise self._no(wire.BAD_REQUEST, "loyaltyChannel is not one of this merchant's")
        return Request(call, body)

    def _too_large(self, call: Call) -> Refusal:
        self.stage.report(call.exchange, [("body", "is too large")])
        return self._no(wire.BAD_REQUEST, "The body is too large")

    # Reads, and what is played as one.

    def read_card(self, body: dict[str, Any]) -> dict[str, Any]:
        card = self.ledger.find_card(body["accountId"])
        if card is None:
            raise self._no(wire.CARD_UNKNOWN)
        return wire.encode_card(card)

    def read_order(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """The state of an order; the vendor's own number of it wins over the caller's."""
        if not self.settings.query_answers:
            return None
        if "checkoutId" in body:
            order = self.ledger.find_thing(orders.ORDER, body["checkoutId"])
        else:
            order = orders.find_order(self.ledger, body["transIndexCode"])
        if order is None or order["kind"] == self.settings.query_misses:
            return None
        return orders.encode_state(order, self.settings)

    def read_tokens(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        is_ours = hmac.compare_digest(body["clientSecret"].encode(), wire.CLIENT_SECRET.encode())
        if not is_ours or body["merchantId"] != wire.MERCHANT_ID:
            raise self._no(wire.BAD_TOKEN, "Unknown client or merchant")
        return wire.encode_tokens()

    # Bookings.

    def _booking(self, request: Request, name: str) -> Booking:
        wish = WISHES[name](request.body)
        desk = Desk(wish, self.settings)
        return Booking(
            operation=wish.kind,
            account=wish.card_id or self._account_of(wish.original),
            key=wish.number,
            fingerprint=fingerprint_of(wish),
            key_dedupes=wish.kind != self.settings.repeat_misses,
            carry_out=desk.carry_out,
            carry_pending=desk.carry_pending,
            carry_failure=desk.carry_failure,
        )

    def _account_of(self, original: str) -> str:
        """The card of a void, which its request does not name."""
        order = orders.find_original(self.ledger, original, self.settings)
        return str(order["card_id"]) if order is not None else ""

    def _activation(self, request: Request) -> Booking:
        """A change of the card alone, without a number: every request is carried out."""
        body = request.body
        return Booking(
            operation=orders.ACTIVATE,
            account=body["accountId"],
            key=None,
            fingerprint=fingerprint_of(request.call.body),
            carry_out=lambda book, entry: self._carry_out_activation(book, entry, body),
            moves_value=False,
        )

    def _carry_out_activation(self, book: Book, entry: Entry, body: dict[str, Any]) -> Answer:
        card = book.find_card(body["accountId"])
        if card is None:
            raise self._no(wire.CARD_UNKNOWN)
        if card.is_blocked:
            raise self._no(wire.CARD_INACTIVE)
        if body["activating"] == "Y":
            card = orders.activate(book, card, tuple(body.get("customerInfo", {}).items()))
        return wire.encode_success(wire.encode_card(card), entry.now_s)

    def _refusal(self, code: int, message: str = "") -> Answer:
        return wire.encode_refusal(
            code, self.stage.now(), message, as_status=self.settings.codes_are_statuses
        )

    def _no(self, code: int, message: str = "") -> Refusal:
        is_status = self.settings.codes_are_statuses
        return Refusal(code, self.stage.now(), message, as_status=is_status)


def _payment(body: dict[str, Any]) -> Wish:
    return Wish(
        orders.PAY,
        body["tranOrderNo"],
        body["accountId"],
        amount_minor=wire.find_minor(body["amount"]) or 0,
        takes_part=body.get("nsfAllowed", False),
    )


def _top_up(body: dict[str, Any]) -> Wish:
    return Wish(
        orders.TOP_UP,
        body["tranOrderNo"],
        body["accountId"],
        amount_minor=wire.find_minor(body["amount"]) or 0,
        activates=body["activating"] == "Y",
        customer=tuple(body.get("customerInfo", {}).items()),
    )


def _void(body: dict[str, Any]) -> Wish:
    return Wish(orders.VOID, body["tranOrderNo"], original=body["oriOrderNo"])


def _tip(body: dict[str, Any]) -> Wish:
    return Wish(
        orders.TIP,
        body["tranOrderNo"],
        body["accountId"],
        amount_minor=wire.find_minor(body["amount"]) or 0,
        original=body["oriOrderNo"],
    )


def _points(kind: str) -> Callable[[dict[str, Any]], Wish]:
    def wish(body: dict[str, Any]) -> Wish:
        points = wire.find_points(body["amount"]) or 0
        return Wish(kind, body["tranOrderNo"], body["accountId"], points=points)

    return wish


# operationId of the document -> what plays it.
READS: dict[str, Callable[[OpenLoyaltyPayPlayer, dict[str, Any]], Any]] = {
    "giftInquiry": OpenLoyaltyPayPlayer.read_card,
    "queryOrder": OpenLoyaltyPayPlayer.read_order,
    "generateAccessToken": OpenLoyaltyPayPlayer.read_tokens,
}
WISHES: dict[str, Callable[[dict[str, Any]], Wish]] = {
    "giftTransaction": _payment,
    "giftIssuance": _top_up,
    "giftVoid": _void,
    "giftTip": _tip,
    "loyaltyIssuance": _points(orders.ISSUE),
    "loyaltyRedemption": _points(orders.REDEEM),
    "loyaltyRedemptionSeedPath": _points(orders.REDEEM),
}
_IN_POINTS = frozenset({"loyaltyIssuance", "loyaltyRedemption", "loyaltyRedemptionSeedPath"})
_IN_MONEY = frozenset({"giftTransaction", "giftIssuance", "giftTip"})


def _problems_of_amount(name: str, body: dict[str, Any]) -> list[Problem]:
    """What the document's patterns let through and the books cannot take."""
    if name in _IN_POINTS and wire.find_points(body["amount"]) is None:
        return [Problem("body.amount", "must be a whole number of points above 0")]
    if name not in _IN_MONEY:
        return []
    # The document leaves both optional for a top-up, where no source shows them at all.
    missing = [field for field in ("amount", "tranCurrency") if field not in body]
    if missing:
        return [Problem(f"body.{field}", "is required", "missing") for field in missing]
    if wire.find_minor(body["amount"]) is None:
        return [Problem("body.amount", "must be an amount above 0")]
    if body["tranCurrency"] != wire.CURRENCY:
        return [Problem("body.tranCurrency", f"must be {wire.CURRENCY}")]
    return []
