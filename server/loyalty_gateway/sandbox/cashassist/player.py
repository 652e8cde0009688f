"""Plays CashAssist to the letter of its OpenAPI document; it must never be kinder than that.

The order of checks is the vendor's: key, scope, rate limit, route, shape of the request,
idempotency, card, balance.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from loyalty_gateway.sandbox import exact
from loyalty_gateway.sandbox.book import Book, CardSeed, Effect, Outcome
from loyalty_gateway.sandbox.cashassist import wire
from loyalty_gateway.sandbox.cashassist.cards import CARDS, card_seeds
from loyalty_gateway.sandbox.cashassist.wire import Refusal
from loyalty_gateway.sandbox.exact import Minor
from loyalty_gateway.sandbox.faults import (
    FAULT_BY_CARD,
    FAULT_BY_NAME,
    FAULT_HEADER,
    Answer,
    Fault,
    describe_unknown,
    spoil,
)
from loyalty_gateway.sandbox.openapi import Document, Operation, Problem
from loyalty_gateway.sandbox.player import Call, Player

KEY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"
PAGE_SIZE = 50
RATE_LIMIT_DOCUMENTED = 60

_READ = "loyalty-cards:read"
API_KEYS: dict[str, frozenset[str]] = {
    "sk_test_demo": frozenset(
        {_READ, "loyalty-cards:write", "loyalty-cards:link", "loyalty-cards:book"}
    ),
    "sk_test_read": frozenset({_READ}),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request that fits the document."""

    call: Call
    query: dict[str, Any]
    body: Any
    fault: Fault | None


@dataclass(frozen=True, slots=True)
class Booking:
    """What a refill or a withdrawal asks for; signed as the card sees it."""

    kind: str
    card_id: str
    amount_minor: int
    points: int
    reference: str | None
    idempotency_key: str
    body_hash: str

    @property
    def fingerprint(self) -> str:
        """What has to be equal in a repeat; how the body is spelled is not part of it."""
        asked = (self.kind, self.card_id, self.amount_minor, self.points, self.reference)
        return hashlib.sha256(repr(asked).encode()).hexdigest()


@cache
def document() -> Document:
    """The vendor's document, read once for all players of a process."""
    return Document(files(__package__).joinpath("openapi.yaml").read_text("utf-8"))


class CashassistPlayer(Player):
    """CashAssist on loopback: info, transactions with their items, refill, withdraw."""

    name = "cashassist"
    base_path = "/v1"

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

    def internal_error(self) -> Answer:
        return wire.encode_refusal(Refusal("internal_error", "Unexpected error"))

    async def answer(self, call: Call) -> Answer:
        call.exchange.idempotency_key = call.headers.get(KEY_HEADER)
        rate_headers: tuple[tuple[str, str], ...] = ()
        try:
            api_key = self._authenticate(call)
            operation = document().operations.get((call.method, self._route(call)))
            if operation is not None:
                _require_scopes(api_key, operation)
            rate_headers, spent = self._count(api_key)
            if spent is not None:
                raise spent
            if operation is None or operation.name not in READS | BOOKINGS:
                raise self._no_route(call)
            request = self._checked(call, operation)
            if operation.name in READS:
                answer = await self._read(request, READS[operation.name])
            else:
                answer = await self._book(request, BOOKINGS[operation.name](request))
        except Refusal as refusal:
            answer = wire.encode_refusal(refusal)
        return answer.with_headers(*rate_headers)

    # What comes before the route is played, in the order of the checks.

    def _authenticate(self, call: Call) -> str:
        given = call.headers.getall("x-api-key", [])
        if not given:
            self.stage.report(call.exchange, [("header.x-api-key", "is required")])
        if len(given) != 1 or given[0] not in API_KEYS:
            raise Refusal("invalid_api_key", "Unknown API key")
        return given[0]

    def _count(self, api_key: str) -> tuple[tuple[tuple[str, str], ...], Refusal | None]:
        """The rate limit's headers, and the refusal when it is spent; neither when it is off."""
        limit = self.stage.settings.rate_limit_per_minute
        if limit is None:
            return (), None
        now_s = self.stage.now()
        is_allowed, left, ends_at_s = self.stage.rate_limit.count(api_key, now_s, limit)
        headers = wire.rate_headers(limit, left, ends_at_s)
        if is_allowed:
            return headers, None
        wait_s = max(ends_at_s - int(now_s), 1)
        return (
            (*headers, ("Retry-After", str(wait_s))),
            Refusal("rate_limited", f"{limit} requests a minute"),
        )

    def _route(self, call: Call) -> str:
        is_below = call.path.startswith(f"{self.base_path}/")
        return call.path.removeprefix(self.base_path) if is_below else ""

    def _no_route(self, call: Call) -> Refusal:
        route = self._route(call)
        if route not in document().paths:
            self.stage.report(call.exchange, [("path", "is not in the document")])
            return Refusal("invalid_request", "No such route", 404)
        if (call.method, route) not in document().operations:
            self.stage.report(call.exchange, [("method", "is not in the document")])
            return Refusal("invalid_request", "Method not allowed", 405)
        return Refusal("invalid_request", "This sandbox does not play the route yet", 404)

    def _checked(self, call: Call, operation: Operation) -> Request:
        if call.body is None:
            self.stage.report(call.exchange, [("body", "is too large")])
            raise Refusal("invalid_request", "The body is too large", 413)
        query, problems = operation.check_query(call.query)
        given = {name: call.headers.getall(name, []) for name in operation.headers}
        problems += operation.check_headers(given)
        body, body_problems = operation.check_body(call.headers.get("Content-Type", ""), call.body)
        problems += body_problems
        if not body_problems and isinstance(body, dict) and "amount" in body:
            problems += _problems_of_amount(body["amount"])
        if problems:
            self.stage.report(call.exchange, [(p.where, p.message) for p in problems])
            raise _malformed(problems)
        call.exchange.card = query.get("id") or (body or {}).get("id")
        fault_name = call.headers.get(FAULT_HEADER)
        if fault_name is not None and fault_name not in FAULT_BY_NAME:
            raise Refusal("invalid_request", describe_unknown(fault_name))
        fault = FAULT_BY_NAME[fault_name] if fault_name is not None else None
        return Request(call, query, body, fault)

    # The reads: a fault fires each time the header names one.

    async def _read(
        self,
        request: Request,
        read: Callable[["CashassistPlayer", dict[str, Any]], dict[str, Any]],
    ) -> Answer:
        try:
            answer = Answer(200, exact.encode(read(self, request.query)))
        except Refusal as refusal:
            answer = wire.encode_refusal(refusal)
        if request.fault is None:
            return answer
        request.call.exchange.fault = request.fault.name
        if request.fault.kind == "slow":
            await self.stage.pause(self.stage.settings.slow_s)
        return self._spoiled(request.fault, answer)

    def read_info(self, query: dict[str, Any]) -> dict[str, Any]:
        card = self.ledger.find_card(query["id"])
        if card is None:
            raise wire.card_not_found(query["id"])
        return wire.encode_card(card)

    def read_transactions(self, query: dict[str, Any]) -> dict[str, Any]:
        if self.ledger.find_card(query["id"]) is None:
            raise wire.card_not_found(query["id"])
        limit = query.get("limit", PAGE_SIZE)
        effects = self.ledger.effects(
            card_id=query["id"],
            idempotency_key=query.get("idempotencyKey"),
            from_s=wire.seconds(query.get("from")),
            to_s=wire.seconds(query.get("to")),
            before_number=wire.decode_cursor(query.get("cursor")),
            limit=limit + 1,
        )
        page = effects[:limit]
        return {
            "transactions": [wire.encode_transaction(effect) for effect in page],
            "nextCursor": wire.encode_cursor(page[-1].number) if len(effects) > limit else None,
        }

    def read_items(self, query: dict[str, Any]) -> dict[str, Any]:
        number = wire.find_number(query["transactionId"])
        if number is None or self.ledger.find_effect(number) is None:
            raise Refusal("transaction_not_found", "No such transaction")
        items = wire.encode_items(self.ledger.items(number))
        return {"transactionId": query["transactionId"], "items": items}

    # The bookings: a fault fires on the first attempt of a key only.

    async def _book(self, request: Request, booking: Booking) -> Answer:
        key, stage = booking.idempotency_key, self.stage
        repeated = self._repeated(request, booking)
        if repeated is not None:
            return repeated
        stage.running[key] = booking.fingerprint
        try:
            fault = self._fault_of(request, booking)
            await stage.gate.come_to("before-effect", key)
            if fault is not None and fault.when == "before":
                name = fault.name
                await self.ledger.run(lambda book: book.note_fault(key, name))
                # A player that stops while it is being slow must not book in its last moment.
                if fault.kind != "slow" or not await stage.pause(stage.settings.slow_s):
                    return self._spoiled(fault, Answer(200, b"", delivery="none"))
            now_s = int(stage.now())
            answer = await self.ledger.run(lambda book: _carry_out(book, booking, fault, now_s))
        finally:
            del stage.running[key]
        # From here on the key is answered from the ledger, however late this answer leaves.
        await stage.gate.come_to("after-effect", key)
        answer = answer.with_headers((REPLAYED_HEADER, "false"))
        if fault is None or fault.when == "before":
            return answer
        if fault.kind == "slow":
            await stage.pause(stage.settings.slow_s)
        return self._spoiled(fault, answer)

    def _repeated(self, request: Request, booking: Booking) -> Answer | None:
        """The first answer under the key, or None when the key is new.

        Raises: Refusal when the key belongs to another booking, or its first is still running.
        """
        running = self.stage.running.get(booking.idempotency_key)
        oldest_s = self.stage.now() - self.stage.settings.key_lifetime_s
        outcome = self.ledger.find_outcome(booking.idempotency_key, stored_after_s=oldest_s)
        first = running or (outcome.fingerprint if outcome is not None else None)
        if first not in (None, booking.fingerprint):
            raise Refusal("idempotency_key_reused", "Key was used with another body")
        if running is not None:
            raise Refusal("request_in_progress", "The first request with this key is still running")
        if outcome is None:
            return None
        if outcome.body_hash != booking.body_hash:
            problem = "a repeat says the same as the first request in other bytes"
            self.stage.report(request.call.exchange, [("body", problem)])
        request.call.exchange.is_replay = True
        return Answer(outcome.status, outcome.body, ((REPLAYED_HEADER, "true"),))

    def _fault_of(self, request: Request, booking: Booking) -> Fault | None:
        """The fault of this booking, if this is the first attempt of its key."""
        fault = request.fault or FAULT_BY_CARD.get(booking.card_id)
        if fault is None or self.ledger.has_fired(booking.idempotency_key):
            return None
        request.call.exchange.fault = fault.name
        return fault

    def _spoiled(self, fault: Fault, answer: Answer) -> Answer:
        limit = self.stage.settings.rate_limit_per_minute or RATE_LIMIT_DOCUMENTED
        rate_limited = wire.encode_refusal(
            Refusal("rate_limited", f"{limit} requests a minute")
        ).with_headers(*wire.rate_headers(limit, 0, int(self.stage.now()) + 2))
        return spoil(fault, answer, internal_error=self.internal_error(), rate_limited=rate_limited)


def refill(request: Request) -> Booking:
    return _booking("refill", request, exact.minor_units(request.body["amount"]), 0)


def withdraw(request: Request) -> Booking:
    amount_minor = exact.minor_units(request.body.get("amount", 0))
    return _booking("withdraw", request, -amount_minor, -request.body.get("points", 0))


# operationId of the document -> what plays it; the others are answered as not played yet.
READS: dict[str, Callable[[CashassistPlayer, dict[str, Any]], dict[str, Any]]] = {
    "getCardInfo": CashassistPlayer.read_info,
    "listTransactions": CashassistPlayer.read_transactions,
    "listTransactionItems": CashassistPlayer.read_items,
}
BOOKINGS: dict[str, Callable[[Request], Booking]] = {"refill": refill, "withdraw": withdraw}


def _booking(kind: str, request: Request, amount_minor: int, points: int) -> Booking:
    return Booking(
        kind=kind,
        card_id=request.body["id"],
        amount_minor=amount_minor,
        points=points,
        reference=request.body.get("reference"),
        idempotency_key=request.call.headers[KEY_HEADER],
        body_hash=hashlib.sha256(request.call.body or b"").hexdigest(),
    )


def _carry_out(book: Book, booking: Booking, fault: Fault | None, now_s: int) -> Answer:
    """Effect, kept answer and fired fault in one transaction; runs in the ledger's thread."""
    try:
        effect = _post(book, booking, now_s)
        answer = Answer(200, exact.encode(wire.encode_transaction(effect)))
    except Refusal as refusal:
        answer = wire.encode_refusal(refusal)
    book.remember(
        Outcome(
            booking.idempotency_key,
            booking.fingerprint,
            booking.body_hash,
            answer.status,
            answer.body,
            now_s,
        )
    )
    if fault is not None:
        book.note_fault(booking.idempotency_key, fault.name)
    return answer


def _post(book: Book, booking: Booking, now_s: int) -> Effect:
    card = book.find_card(booking.card_id)
    if card is None:
        raise wire.card_not_found(booking.card_id)
    if card.is_blocked:
        raise Refusal("card_blocked", "The card is deactivated")
    if card.balance_minor + booking.amount_minor < 0:
        balance, asked = Minor(card.balance_minor), Minor(-booking.amount_minor)
        raise Refusal("insufficient_balance", f"Balance {balance} is below {asked}")
    if card.points + booking.points < 0:
        raise Refusal("insufficient_points", f"Points {card.points} are below {-booking.points}")
    return book.post(
        card,
        booking.kind,
        amount_minor=booking.amount_minor,
        points=booking.points,
        booked_at_s=now_s,
        reference=booking.reference,
        idempotency_key=booking.idempotency_key,
    )


def _require_scopes(api_key: str, operation: Operation) -> None:
    for scope in operation.scopes:
        if scope not in API_KEYS[api_key]:
            raise Refusal("insufficient_scope", f"Key lacks {scope}")


def _problems_of_amount(amount: Any) -> list[Problem]:
    try:
        exact.minor_units(amount)
    except ValueError:
        return [Problem("body.amount", "must have at most two decimals")]
    return []


def _malformed(problems: list[Problem]) -> Refusal:
    if any(p.where == f"header.{KEY_HEADER}" and p.kind == "missing" for p in problems):
        return Refusal("idempotency_key_missing", f"{KEY_HEADER} is required")
    return Refusal("invalid_request", "; ".join(map(str, problems)))
