"""Plays CashAssist to the letter of its OpenAPI document; it must never be kinder than that.

The order of checks is the vendor's: key, scope, rate limit, route, shape of the request,
idempotency, card, balance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

from loyalty_gateway.sandbox import bookings, exact
from loyalty_gateway.sandbox.book import Book, CardSeed, Effect
from loyalty_gateway.sandbox.bookings import Booking, Declined, Entry, fingerprint_of
from loyalty_gateway.sandbox.cashassist import holders, wire
from loyalty_gateway.sandbox.cashassist.cards import CARDS, SandboxCard, card_seeds, past_of
from loyalty_gateway.sandbox.cashassist.holders import CHANGES
from loyalty_gateway.sandbox.cashassist.wire import Refusal
from loyalty_gateway.sandbox.exact import Minor
from loyalty_gateway.sandbox.faults import Answer, describe_unknown
from loyalty_gateway.sandbox.openapi import Document, Operation, Problem
from loyalty_gateway.sandbox.player import Call, Player

KEY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"
PAGE_SIZE = 50
RATE_LIMIT_DOCUMENTED = 60
# The fields of requests that are money, whose decimals a schema cannot count.
AMOUNTS = frozenset({"amount", "receiptTotal"})

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


@dataclass(frozen=True, slots=True)
class Change:
    """What a refill or a withdrawal does to a card; signed as the card sees it."""

    kind: str
    card_id: str
    amount_minor: int
    points: int
    reference: str | None


@cache
def document() -> Document:
    """The vendor's document, read once for all players of a process."""
    return Document(files(__package__).joinpath("openapi.yaml").read_text("utf-8"))


class CashassistPlayer(Player):
    """CashAssist on loopback, all twelve endpoints of its document."""

    name = "cashassist"
    base_path = "/v1"
    currency = wire.CURRENCY

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
                "phone": card.phone,
                "receipts": _receipts(card, self.seed),
            }
            for card in CARDS
            if not card.is_hidden
        ]

    def internal_error(self) -> Answer:
        return wire.encode_error("internal_error", "Unexpected error")

    def rate_limited(self) -> Answer:
        limit = self.stage.settings.rate_limit_per_minute or RATE_LIMIT_DOCUMENTED
        return wire.encode_error("rate_limited", f"{limit} requests a minute").with_headers(
            *wire.rate_headers(limit, 0, int(self.stage.now()) + 2)
        )

    def unauthorized(self) -> Answer:
        return wire.encode_error("invalid_api_key", "Unknown API key")

    def unknown_fault(self, name: str) -> Answer:
        return wire.encode_error("invalid_request", describe_unknown(name))

    def marked(self, answer: Answer, *, is_replay: bool) -> Answer:
        return answer.with_headers((REPLAYED_HEADER, "true" if is_replay else "false"))

    def refused_repeat(self, booking: Booking) -> Answer:
        return wire.encode_error("idempotency_key_reused", "Key was used before")

    def reused_key(self, booking: Booking) -> Answer:
        return wire.encode_error("idempotency_key_reused", "Key was used with another body")

    def key_in_progress(self, booking: Booking) -> Answer:
        message = "The first request with this key is still running"
        return wire.encode_error("request_in_progress", message)

    def contradictory(self, answer: Answer) -> Answer:
        """A success with the envelope of an error around it."""
        both = _members(self.internal_error()) | _members(answer)
        return replace(answer, body=exact.encode(both))

    def wrong_echo(self, answer: Answer) -> Answer:
        other = {"transactionId": "tx_1", "idempotencyKey": "another-booking"}
        return replace(answer, body=exact.encode({**_members(answer), **other}))

    def declined_repeat(self, booking: Booking) -> Answer:
        return wire.encode_error("insufficient_balance", "Balance is too low")

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
            if operation is None:
                raise self._no_route(call)
            request = self._checked(call, operation)
            if operation.name in READS:
                answer = await self._read(request, operation.name)
            elif operation.name in CHANGES:
                answer = await self._change(request, operation.name)
            else:
                answer = await bookings.book(self, call, BOOKINGS[operation.name](request))
        except Declined as declined:
            answer = declined.answer
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
        self.stage.report(call.exchange, [("method", "is not in the document")])
        return Refusal("invalid_request", "Method not allowed", 405)

    def _checked(self, call: Call, operation: Operation) -> Request:
        if call.body is None:
            self.stage.report(call.exchange, [("body", "is too large")])
            raise Refusal("invalid_request", "The body is too large", 413)
        query, problems = operation.check_query(call.query)
        given = {name: call.headers.getall(name, []) for name in operation.headers}
        problems += operation.check_headers(given)
        body, body_problems = operation.check_body(call.headers.get("Content-Type", ""), call.body)
        problems += body_problems
        if not body_problems and isinstance(body, dict):
            problems += [p for name in AMOUNTS & set(body) for p in _amount_problems(name, body)]
        if problems:
            self.stage.report(call.exchange, [(p.where, p.message) for p in problems])
            raise _malformed(problems)
        call.exchange.card = query.get("id") or (body or {}).get("id")
        return Request(call, query, body)

    async def _read(self, request: Request, name: str) -> Answer:
        read = READS[name]
        return await bookings.read(
            self, request.call, name, lambda: Answer(200, exact.encode(read(self, request.query)))
        )

    async def _change(self, request: Request, name: str) -> Answer:
        """A change of records, which has no key: a repeat is a change of its own."""
        request.call.exchange.idempotency_key = None
        change = Booking(
            operation=name,
            account=request.body.get("id", ""),
            key=None,
            fingerprint="",
            carry_out=CHANGES[name](request.body),
            moves_value=False,
        )
        return await bookings.book(self, request.call, change)

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


def refill(request: Request) -> Booking:
    return _booking("refill", request, exact.minor_units(request.body["amount"]), 0)


def withdraw(request: Request) -> Booking:
    amount_minor = exact.minor_units(request.body.get("amount", 0))
    return _booking("withdraw", request, -amount_minor, -request.body.get("points", 0))


def create(request: Request) -> Booking:
    body = request.body
    return Booking(
        operation="create",
        account="",
        key=request.call.headers[KEY_HEADER],
        fingerprint=fingerprint_of("create", body["signupToken"], body.get("name")),
        carry_out=holders.create(body),
    )


# operationId of the document -> what plays it, beside CHANGES.
READS: dict[str, Callable[[CashassistPlayer, dict[str, Any]], dict[str, Any]]] = {
    "getCardInfo": CashassistPlayer.read_info,
    "listTransactions": CashassistPlayer.read_transactions,
    "listTransactionItems": CashassistPlayer.read_items,
}
BOOKINGS: dict[str, Callable[[Request], Booking]] = {
    "refill": refill,
    "withdraw": withdraw,
    "createCard": create,
}


def _booking(kind: str, request: Request, amount_minor: int, points: int) -> Booking:
    body = request.body
    change = Change(kind, body["id"], amount_minor, points, body.get("reference"))
    return Booking(
        operation=kind,
        account=change.card_id,
        key=request.call.headers[KEY_HEADER],
        fingerprint=fingerprint_of(change),
        carry_out=lambda book, entry: _carry_out(book, entry, change),
    )


def _carry_out(book: Book, entry: Entry, change: Change) -> Answer:
    effect = _post(book, entry, change)
    return Answer(200, exact.encode(wire.encode_transaction(effect)))


def _post(book: Book, entry: Entry, change: Change) -> Effect:
    card = book.find_card(change.card_id)
    if card is None:
        raise wire.card_not_found(change.card_id)
    if card.is_blocked:
        raise Refusal("card_blocked", "The card is deactivated")
    if card.balance_minor + change.amount_minor < 0:
        balance, asked = Minor(card.balance_minor), Minor(-change.amount_minor)
        raise Refusal("insufficient_balance", f"Balance {balance} is below {asked}")
    if card.points + change.points < 0:
        raise Refusal("insufficient_points", f"Points {card.points} are below {-change.points}")
    return book.post(
        card,
        change.kind,
        amount_minor=change.amount_minor,
        points=change.points,
        # The document shows whole seconds, and `from` and `to` are compared with what it shows.
        booked_at_ms=entry.now_s * 1000,
        reference=change.reference,
        idempotency_key=entry.key,
    )


def _members(answer: Answer) -> dict[str, Any]:
    """The fields of an answer, its amounts as they are written."""

    def written(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: written(member) for name, member in value.items()}
        return Minor(exact.minor_units(value)) if isinstance(value, Decimal) else value

    members: dict[str, Any] = written(exact.decode(answer.body))
    return members


def _receipts(card: SandboxCard, seed: int) -> list[dict[str, Any]]:
    """What is printed on the receipts of the card's purchases."""
    return [
        {
            "number": past.detail["receipt"],
            "total_minor": -past.amount_minor,
            "date": wire.day_text(past.booked_at_s),
        }
        for past in past_of(card, seed)
        if past.kind == "purchase"
    ]


def _require_scopes(api_key: str, operation: Operation) -> None:
    for scope in operation.scopes:
        if scope not in API_KEYS[api_key]:
            raise Refusal("insufficient_scope", f"Key lacks {scope}")


def _amount_problems(name: str, body: dict[str, Any]) -> list[Problem]:
    try:
        exact.minor_units(body[name])
    except ValueError:
        return [Problem(f"body.{name}", "must have at most two decimals")]
    return []


def _malformed(problems: list[Problem]) -> Refusal:
    if any(p.where == f"header.{KEY_HEADER}" and p.kind == "missing" for p in problems):
        return Refusal("idempotency_key_missing", f"{KEY_HEADER} is required")
    return Refusal("invalid_request", "; ".join(map(str, problems)))
