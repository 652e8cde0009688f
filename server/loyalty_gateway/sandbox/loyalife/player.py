"""Plays Loyalife to the letter of its OpenAPI document; it must never be kinder than that.

The order of checks is: route, token, rate limit, shape of the request, member, points.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal
from zoneinfo import ZoneInfo

from loyalty_gateway.sandbox import bookings
from loyalty_gateway.sandbox.book import CardSeed, Pages
from loyalty_gateway.sandbox.bookings import Booking, CarryOut, Declined, fingerprint_of
from loyalty_gateway.sandbox.faults import Answer, describe_unknown
from loyalty_gateway.sandbox.loyalife import cards, people, points, wire
from loyalty_gateway.sandbox.loyalife.wire import Speech
from loyalty_gateway.sandbox.openapi import Document, Operation
from loyalty_gateway.sandbox.player import Call, Player
from loyalty_gateway.sandbox.settings import Repeat, Settings, between, check

CLIENTS = {"demo_client": "demo_secret"}
"""The client credentials of the programme; regenerating them is not played."""

PROGRAM_ID = 19
REVERSAL_KEY = "reversal:"
# The path that the product page prints: three fields, a bare envelope and a numeric code.
DIRECT = "redeemPointsSeedPath"


@dataclass(frozen=True, slots=True)
class LoyalifeSettings(Settings):
    """What differs from one deployment or programme to another, or is told in two ways.

    `repeat` is about the key of a purchase: a programme may map it to a unique column, and then a
    repeat is refused as a duplicate record; `books_again` is a programme that does not. A
    redemption has no key at all. `reversal` is whether a second one is refused, as documented.
    `refuses_by` is whether a failure shows in the flag alone, inside HTTP 200, or in the HTTP
    status too. `accepts_merchant_tag` is whether a merchant's name is kept whole or cut. `lists`
    is the order of lines. `time_zone` is the deployment's own.
    """

    repeat: Repeat = "refuses"
    keeps_refused_keys: bool = False
    envelope: Literal["wrapped", "bare"] = "wrapped"
    error_codes: Literal["text", "number"] = "text"
    refuses_by: Literal["flag", "status"] = "flag"
    token_lifetime_s: int = field(default=1_800, metadata=between(1))
    accepts_merchant_tag: bool = True
    reversal: Literal["once", "again"] = "once"
    lists: Literal["oldest_first", "newest_first"] = "oldest_first"
    time_zone: str = "Asia/Kolkata"

    def __post_init__(self) -> None:
        check(self)
        try:
            ZoneInfo(self.time_zone)
        except (OSError, ValueError, LookupError) as error:
            raise ValueError("time_zone is an IANA time zone") from error


@dataclass(frozen=True, slots=True)
class Request:
    """A request that fits the document."""

    operation: Operation
    query: dict[str, Any]
    body: Any
    speech: Speech
    settings: LoyalifeSettings


@dataclass(frozen=True, slots=True)
class Verb:
    """What changes the books: whose they are, the caller's key where there is one, and how."""

    account: Callable[[dict[str, Any]], str]
    work: Callable[[Request], CarryOut]
    key: Callable[[dict[str, Any]], str | None] = lambda body: None
    problems: Callable[[dict[str, Any]], list[tuple[str, str]]] = lambda body: []


@cache
def document() -> Document:
    """The vendor's document, read once for all players of a process."""
    return Document(files(__package__).joinpath("openapi.yaml").read_text("utf-8"))


class LoyalifePlayer(Player):
    """Loyalife on loopback: members, points, statements and codes, behind one token."""

    name = "loyalife"
    base_path = ""
    currency = wire.CURRENCY
    settings_type = LoyalifeSettings

    async def start(self) -> None:
        # Reading the document takes a while; no first caller should wait for it.
        document()
        # Tokens live in memory: who starts the vendor anew has to log in anew.
        self._tokens: dict[str, float] = {}
        await super().start()

    def card_seeds(self) -> Sequence[CardSeed]:
        return cards.card_seeds(self.seed)

    def shown_cards(self) -> list[dict[str, Any]]:
        return cards.shown_cards()

    @property
    def settings(self) -> LoyalifeSettings:
        assert isinstance(self.stage.settings, LoyalifeSettings)
        return self.stage.settings

    @property
    def speech(self) -> Speech:
        settings = self.settings
        return Speech(
            settings.envelope,
            settings.error_codes,
            settings.refuses_by,
            ZoneInfo(settings.time_zone),
        )

    def internal_error(self) -> Answer:
        return self.speech.refusal("997").answer

    def rate_limited(self) -> Answer:
        return self.speech.refusal("429").answer

    def unauthorized(self) -> Answer:
        return self.speech.refusal("401").answer

    def unknown_fault(self, name: str) -> Answer:
        return self.speech.refusal("998", describe_unknown(name)).answer

    def refused_repeat(self, booking: Booking) -> Answer:
        if booking.key in self.stage.running:
            # Nobody can say yet that it ran, so a duplicate would be told too early.
            return self.internal_error()
        # Only of what was reversed may it say so: that is told of the redemption, not of a repeat.
        is_reversed = booking.operation == "reversalPoints" and points.is_reversed(
            self.ledger, (booking.key or "").removeprefix(REVERSAL_KEY)
        )
        return self.speech.refusal("302" if is_reversed else "E201").answer

    def contradictory(self, answer: Answer) -> Answer:
        return self.speech.both(answer)

    def declined_repeat(self, booking: Booking) -> Answer:
        return self.speech.refusal("998").answer

    async def answer(self, call: Call) -> Answer:
        try:
            operation = document().operations.get((call.method, call.path))
            if operation is None:
                raise self._no_route(call)
            if operation.security:
                self._authenticate(call)
            self._count(call)
            request = self._checked(call, operation)
            return await self._played(call, request)
        except Declined as declined:
            return declined.answer

    # What comes before the route is played, in the order of the checks.

    def _no_route(self, call: Call) -> Declined:
        is_known = call.path in document().paths
        place, problem = ("method" if is_known else "path"), "is not in the document"
        self.stage.report(call.exchange, [(place, problem)])
        return self.speech.refusal("999", "No such route")

    def _authenticate(self, call: Call) -> None:
        given = call.headers.getall("Authorization", [])
        if not given:
            self.stage.report(call.exchange, [("header.Authorization", "is required")])
        token = given[0].removeprefix("Bearer ") if len(given) == 1 else ""
        if self._tokens.get(token, 0.0) <= self.stage.now():
            raise self.speech.refusal("401")

    def _count(self, call: Call) -> None:
        limit = self.settings.rate_limit_per_minute
        if limit is None:
            return
        now_s = self.stage.now()
        # The limit is of the client, and there is one.
        is_allowed, _, ends_at_s = self.stage.rate_limit.count("client", now_s, limit)
        if not is_allowed:
            wait_s = max(ends_at_s - int(now_s), 1)
            raise Declined(self.rate_limited().with_headers(("Retry-After", str(wait_s))))

    def _checked(self, call: Call, operation: Operation) -> Request:
        if call.body is None:
            self.stage.report(call.exchange, [("body", "is too large")])
            raise self.speech.refusal("999", "The body is too large")
        query, problems = operation.check_query(call.query)
        body, body_problems = operation.check_body(call.headers.get("Content-Type", ""), call.body)
        found = [(p.where, p.message) for p in problems + body_problems]
        if not found:
            found += self._programme_problems(query, body)
        if not found and operation.name in VERBS:
            found += VERBS[operation.name].problems(body)
        if found:
            self.stage.report(call.exchange, found)
            text = "; ".join(f"{where} {problem}" for where, problem in found)
            raise self.speech.refusal("998", text)
        return Request(operation, query, body, self._speech_of(operation), self.settings)

    def _programme_problems(self, query: dict[str, Any], body: Any) -> list[tuple[str, str]]:
        named = {"query.pintProgramId": query.get("pintProgramId")}
        if isinstance(body, dict):
            named["body.ProgramId"] = body.get("ProgramId")
        return [
            (where, "is another programme's")
            for where, program_id in named.items()
            if program_id not in (None, PROGRAM_ID)
        ]

    def _speech_of(self, operation: Operation) -> Speech:
        if operation.name != DIRECT:
            return self.speech
        settings = self.settings
        return Speech("bare", "number", settings.refuses_by, ZoneInfo(settings.time_zone))

    async def _played(self, call: Call, request: Request) -> Answer:
        name = request.operation.name
        if name in TOKENS:
            return self._token(request.body)
        if name in READS:
            wanted = request.query if request.body is None else request.body
            account = wanted.get("RelationReference") or wanted.get("pstrRelationReference") or ""
            return await bookings.read(
                self, call, name, lambda: READS[name](self.ledger, wanted, request), account
            )
        if name in VERBS:
            verb = VERBS[name]
            booking = Booking(
                operation=name,
                account=verb.account(request.body),
                key=verb.key(request.body),
                fingerprint=fingerprint_of(name, sorted(request.body.items(), key=str)),
                carry_out=verb.work(request),
            )
            return await bookings.book(self, call, booking)
        raise self.speech.refusal("999", "This sandbox does not play the route yet")

    def _token(self, body: dict[str, Any]) -> Answer:
        if CLIENTS.get(body["client_id"]) != body["client_secret"]:
            raise self.speech.refusal("401")
        ends_at_s = int(self.stage.now()) + self.settings.token_lifetime_s
        token = f"eyJhbGciOiJIUzUxMiJ9.eyJwIjoxOX0.{secrets.token_urlsafe(24)}"
        self._tokens[token] = ends_at_s
        return wire.encode_token(token, ends_at_s)


def _redeem(request: Request) -> CarryOut:
    is_whole = request.settings.accepts_merchant_tag
    return points.redeem(request.body, request.speech, keeps_names_whole=is_whole)


def _reverse(request: Request) -> CarryOut:
    return points.reverse(
        request.body,
        request.speech,
        keeps_names_whole=request.settings.accepts_merchant_tag,
        reverses_again=request.settings.reversal == "again",
    )


def _lines(book: Pages, body: dict[str, Any], request: Request) -> Answer:
    is_oldest_first = request.settings.lists == "oldest_first"
    return points.lines(book, body, request.speech, is_oldest_first=is_oldest_first)


def _code_verb(make: Callable[..., CarryOut], *, is_by_email: bool) -> Verb:
    return Verb(
        lambda body: body["UniquerefID"],
        lambda request: make(request.body, request.speech, is_by_email=is_by_email),
    )


# operationId of the document -> what plays it; the others are answered as not played yet.
TOKENS = frozenset({"generateAuthToken", "generateAuthTokenSeedPath"})
READS: dict[str, Callable[[Pages, dict[str, Any], Request], Answer]] = {
    "getMemberProfile": lambda book, query, asked: people.profile(book, query, asked.speech),
    "getMemberByAttribute": lambda book, query, asked: people.find(book, query, asked.speech),
    "getSubRelations": lambda book, body, asked: people.links(book, body, asked.speech),
    "checkAvailability": lambda book, body, asked: points.available(book, body, asked.speech),
    "getMemberTransactionSummaryByDate": _lines,
    "getMemberStatementSummary": lambda book, body, asked: points.summary(book, body, asked.speech),
    "getMemberStatementByCategory": lambda book, body, asked: points.by_category(
        book, body, asked.speech
    ),
    "getExpirySchedule": lambda book, body, asked: points.expiry(book, body, asked.speech),
}
VERBS: dict[str, Verb] = {
    "createProfileWithAttributes": Verb(
        lambda body: body["relation_reference"],
        lambda request: people.create(request.body, request.speech),
    ),
    "updateProfileWithAttributes": Verb(
        lambda body: f"number {body['id']}",
        lambda request: people.update(request.body, request.speech),
    ),
    "addSubRelation": Verb(
        lambda body: body["RelationReference"],
        lambda request: people.add_link(request.body, request.speech),
    ),
    "checkMembershipCredentials": Verb(
        lambda body: body["UniquerefID"],
        lambda request: people.check_password(request.body, request.speech),
    ),
    "generateOTP": _code_verb(people.send_code, is_by_email=True),
    "generateOTPByRelationReference": _code_verb(people.send_code, is_by_email=False),
    "verifyOTP": _code_verb(people.verify_code, is_by_email=True),
    "verifyOTPByRelationReference": _code_verb(people.verify_code, is_by_email=False),
    "insertTransactionData": Verb(
        lambda body: body["member_relation_reference"],
        lambda request: points.insert(request.body, request.speech),
        key=lambda body: body.get("_xoxo_api_client_idempotency"),
        problems=points.problems_of_transaction,
    ),
    "redeemPoints": Verb(
        lambda body: body["RelationReference"],
        _redeem,
        problems=lambda body: points.problems_of_amount(body, "Amount"),
    ),
    DIRECT: Verb(
        lambda body: body["memberId"],
        lambda request: points.redeem_directly(request.body, request.speech),
        problems=lambda body: points.problems_of_amount(body, "amount"),
    ),
    "reversalPoints": Verb(
        lambda body: body["RelationReference"],
        _reverse,
        key=lambda body: REVERSAL_KEY + body["ExternalReference"].upper(),
    ),
}
