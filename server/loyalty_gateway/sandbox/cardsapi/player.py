"""Plays CardAPI and its AuthAPI to the letter of their document; it must never be kinder than that.

The order of checks is assumed where the vendor does not tell it: token, route, shape of the
request, ticket, pass, balance. What a repeated ticket does is not documented, so by default the
worst is played: it is booked again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from loyalty_gateway.sandbox import bookings, exact
from loyalty_gateway.sandbox.book import Book, Card, CardSeed
from loyalty_gateway.sandbox.bookings import Booking, Declined, Entry, fingerprint_of
from loyalty_gateway.sandbox.cardsapi import tokens, wire
from loyalty_gateway.sandbox.cardsapi.cards import (
    CASHBACK,
    PASSES,
    PAYMENT_METHOD_ID,
    SERVICE_ID,
    STORES,
    card_seeds,
)
from loyalty_gateway.sandbox.cardsapi.wire import Refusal
from loyalty_gateway.sandbox.exact import Minor
from loyalty_gateway.sandbox.faults import Answer, describe_unknown
from loyalty_gateway.sandbox.openapi import Document, Operation, Problem
from loyalty_gateway.sandbox.player import Call, Player
from loyalty_gateway.sandbox.settings import Repeat, Settings, between

_TOKEN_ROUTE = "/token"
# How a pass is found: a value of search_mode -> the member of its detail, "" for the card's id.
_SEARCHES = {"NFC": "nfc_number", "BARCODE": "number", "MANUAL": ""}

TokenRefusal = Literal["none", "CARD-5", "CARD-6", "CARD-7", "CARD-8", "CARD-9"]


@dataclass(frozen=True, slots=True)
class CardsapiSettings(Settings):
    """`token_lifetime_s` is how long a new token opens the service; `token_refusal` plays a
    service that takes none, with that code."""

    repeat: Repeat = "books_again"
    keeps_refused_keys: bool = False
    token_lifetime_s: int = field(default=3600, metadata=between(1))
    token_refusal: TokenRefusal = "none"


@dataclass(frozen=True, slots=True)
class Debit:
    """What a debit asks for; everything that the body says."""

    ticket_id: str
    ticket_number: str | None
    point_of_sale_id: int
    device_id: str
    pass_id: str
    service_id: int
    payment_method_id: int
    amount_minor: int
    currency: str


@cache
def document() -> Document:
    """The vendor's document, read once for all players of a process."""
    return Document(files(__package__).joinpath("openapi.yaml").read_text("utf-8"))


class CardsapiPlayer(Player):
    """CardAPI on loopback: the search and the debit; AuthAPI's token on the same port."""

    name = "cardsapi"
    base_path = ""
    currency = wire.CURRENCY
    settings_type = CardsapiSettings

    async def start(self) -> None:
        # Reading the document takes a while; no first caller should wait for it.
        document()
        await super().start()

    def card_seeds(self) -> Sequence[CardSeed]:
        return card_seeds(self.seed)

    def shown_cards(self) -> list[dict[str, Any]]:
        return [
            {
                "card": it.card_id,
                "holder": f"{it.given_name} {it.family_name}",
                "balance_minor": it.balance_minor,
                "points": 0,
                "fault": it.fault,
                "purpose": it.purpose,
            }
            for it in PASSES
            if not it.is_hidden
        ]

    def internal_error(self) -> Answer:
        return wire.encode_error("CARD-1")

    def unauthorized(self) -> Answer:
        return wire.encode_error("CARD-7")

    def unknown_fault(self, name: str) -> Answer:
        return wire.encode_error("CARD-3", describe_unknown(name))

    def refused_repeat(self, booking: Booking) -> Answer:
        return wire.encode_error("CARD-3")

    def key_in_progress(self, booking: Booking) -> Answer:
        return wire.encode_error("CARD-10")

    def declined_repeat(self, booking: Booking) -> Answer:
        return wire.encode_error("CARD-3")

    def contradictory(self, answer: Answer) -> Answer:
        """A success with the code of an error beside it."""
        both = {"code": "CARD-1", **_members(answer)}
        return replace(answer, body=exact.encode(both))

    def wrong_echo(self, answer: Answer) -> Answer:
        other = {"ticket_id": "00000000-0000-4000-8000-000000000000"}
        return replace(answer, body=exact.encode({**_members(answer), **other}))

    async def answer(self, call: Call) -> Answer:
        try:
            if call.path == _TOKEN_ROUTE and call.method == "POST":
                return self._give_token(call)
            self._check_token(call)
            operation = document().operations.get((call.method, call.path))
            if operation is None:
                raise self._no_route(call)
            if call.method == "GET":
                return await self._search(call, operation)
            debit = self._read_debit(call, operation)
            return await bookings.book(self, call, self._booking(debit))
        except Declined as declined:
            return declined.answer

    # AuthAPI.

    def _give_token(self, call: Call) -> Answer:
        client_id = tokens.check_credentials(call.headers.get("Authorization"))
        operation = document().operations["POST", _TOKEN_ROUTE]
        body, problems = self._checked_body(call, operation)
        if problems:
            raise Refusal("AUTH-6", _described(problems))
        lifetime_ms = self._settings.token_lifetime_s * 1000
        ends_at_ms = int(self.stage.now() * 1000) + lifetime_ms
        return Answer(200, exact.encode(tokens.make_token(client_id, body["scopes"], ends_at_ms)))

    def _check_token(self, call: Call) -> None:
        given = call.headers.getall("Authorization", [])
        if len(given) > 1:
            self.stage.report(call.exchange, [("header.Authorization", "is given twice")])
            raise Refusal("CARD-8")
        if not given:
            self.stage.report(call.exchange, [("header.Authorization", "is required")])
        tokens.check_token(given[0] if given else None, int(self.stage.now() * 1000))
        if self._settings.token_refusal != "none":
            raise Refusal(self._settings.token_refusal)

    # CardAPI.

    async def _search(self, call: Call, operation: Operation) -> Answer:
        query, problems = operation.check_query(call.query)
        forms = operation.extensions["x-one-of"].values()
        if not problems and not any(set(query) == set(form) for form in forms):
            problems = [Problem("query.group_id", "or store_id with point_of_sale_id is required")]
        if problems:
            self._report(call, problems)
            raise Refusal("CARD-3", _described(problems))
        return await bookings.read(
            self, call, "searchCard", lambda: self._found(query), account=query["q"]
        )

    def _found(self, query: dict[str, Any]) -> Answer:
        group_id = query.get("group_id")
        if group_id is None:
            group_id = STORES.get((query["store_id"], query["point_of_sale_id"]))
        card = self._find_card(_SEARCHES[query["search_mode"]], query["q"])
        if card is None or card.detail["group_id"] != group_id:
            raise Refusal("CARD-14")
        return Answer(200, exact.encode(wire.encode_search(card)))

    def _find_card(self, member: str, value: str) -> Card | None:
        if not member:
            return self.ledger.find_card(value)
        return next(iter(self.ledger.cards(detail={member: value})), None)

    def _read_debit(self, call: Call, operation: Operation) -> Debit:
        body, problems = self._checked_body(call, operation)
        row = body["payment_row"] if not problems else {}
        amount_minor = 0
        if not problems:
            try:
                amount_minor = exact.minor_units(row["amount"])
            except ValueError:
                problems = [Problem("body.payment_row.amount", "must have at most two decimals")]
                self._report(call, problems)
        if problems:
            raise Refusal("CARD-3", _described(problems))
        return Debit(
            ticket_id=body["ticket_id"].lower(),
            ticket_number=body.get("ticket_number"),
            point_of_sale_id=body["point_of_sale_id"],
            device_id=body["device_id"],
            pass_id=row["pass_id"],
            service_id=row["service_id"],
            payment_method_id=row["payment_method_id"],
            amount_minor=amount_minor,
            currency=row.get("currency", wire.CURRENCY),
        )

    def _booking(self, debit: Debit) -> Booking:
        card = self._find_card("pass_id", debit.pass_id)
        return Booking(
            operation="debit",
            account=card.card_id if card is not None else "",
            key=debit.ticket_id,
            fingerprint=fingerprint_of(debit),
            carry_out=lambda book, entry: _carry_out(book, entry, debit),
        )

    # What is the same for both.

    @property
    def _settings(self) -> CardsapiSettings:
        settings = self.stage.settings
        assert isinstance(settings, CardsapiSettings)
        return settings

    def _checked_body(self, call: Call, operation: Operation) -> tuple[Any, list[Problem]]:
        if call.body is None:
            problems = [Problem("body", "is too large")]
            self._report(call, problems)
            return None, problems
        _, problems = operation.check_query(call.query)
        body, body_problems = operation.check_body(call.headers.get("Content-Type", ""), call.body)
        problems += body_problems
        self._report(call, problems)
        return body, problems

    def _report(self, call: Call, problems: list[Problem]) -> None:
        self.stage.report(call.exchange, [(p.where, p.message) for p in problems])

    def _no_route(self, call: Call) -> Refusal:
        where = "method" if call.path in document().paths else "path"
        self.stage.report(call.exchange, [(where, "is not in the document")])
        return Refusal("CARD-2")


def _carry_out(book: Book, entry: Entry, debit: Debit) -> Answer:
    card = next(iter(book.cards(detail={"pass_id": debit.pass_id})), None)
    if card is None:
        raise Refusal("CARD-14")
    is_right = (debit.service_id, debit.payment_method_id, debit.currency) == (
        SERVICE_ID,
        PAYMENT_METHOD_ID,
        wire.CURRENCY,
    )
    group_id = next((g for (_, p), g in STORES.items() if p == debit.point_of_sale_id), None)
    if not is_right or card.detail["type"] != CASHBACK or card.detail["group_id"] != group_id:
        raise Refusal("CARD-3")
    # No code is published for a balance that is too low; that it is this one is assumed.
    if card.balance_minor < debit.amount_minor:
        raise Refusal("CARD-3")
    effect = book.post(
        card,
        "debit",
        amount_minor=-debit.amount_minor,
        points=0,
        booked_at_ms=entry.now_ms,
        reference=debit.ticket_number,
        idempotency_key=entry.key,
        detail={"point_of_sale_id": debit.point_of_sale_id, "device_id": debit.device_id},
    )
    return Answer(200, exact.encode(wire.encode_debit(debit.ticket_id, debit.pass_id, effect)))


def _members(answer: Answer) -> Any:
    """The fields of an answer, its amounts as they are written."""

    def written(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: written(member) for name, member in value.items()}
        return Minor(exact.minor_units(value)) if isinstance(value, Decimal) else value

    return written(exact.decode(answer.body))


def _described(problems: list[Problem]) -> str:
    return "; ".join(map(str, problems))
