"""The CardAPI player holds to its document: tokens, searches, debits, tickets and faults."""

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from loyalty_gateway.sandbox import exact
from loyalty_gateway.sandbox.cardsapi import wire
from loyalty_gateway.sandbox.cardsapi.cards import PASSES
from loyalty_gateway.sandbox.cardsapi.player import CardsapiPlayer, CardsapiSettings, document
from loyalty_gateway.sandbox.faults import FAULTS
from tests.sandbox.vendor_client import Clock

SAMPLE = "30001"
TICKET = "9ffa8d1d-0765-11f1-88b3-0cc47a065898"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came, and as exact JSON."""

    status: int
    raw: bytes

    @property
    def json(self) -> Any:
        return exact.decode(self.raw)

    @property
    def code(self) -> str:
        code: str = self.json["code"]
        return code


class Partner:
    """A partner of the vendor; each answer with a documented status has to fit the document."""

    def __init__(self, player: CardsapiPlayer, session: aiohttp.ClientSession) -> None:
        self.player = player
        self._session = session

    async def call(
        self,
        method: str,
        route: str,
        *,
        headers: dict[str, str] | None = None,
        query: Any = None,
        data: bytes | None = None,
        is_spoiled: bool = False,
    ) -> Reply:
        async with self._session.request(
            method, self.player.base_url + route, params=query, data=data, headers=headers
        ) as answer:
            reply = Reply(answer.status, await answer.read())
        operation = document().operations.get((method, route))
        if operation is not None and reply.status in operation.answers and not is_spoiled:
            assert operation.problems_of_answer(reply.status, reply.raw) == []
        return reply

    async def ask_token(
        self,
        credentials: str = "demo-partner:at_test_demo",
        body: bytes = b'{"scopes":["card"]}',
        authorization: str | None = None,
    ) -> Reply:
        if authorization is None:
            authorization = "Basic " + base64.b64encode(credentials.encode()).decode()
        return await self.call(
            "POST", "/token", headers={**JSON, "Authorization": authorization}, data=body
        )

    async def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {(await self.ask_token()).json['token']}"}

    async def search(self, mode: str, number: str, **scope: Any) -> Reply:
        query = {"search_mode": mode, "q": number, **(scope or {"group_id": 1})}
        return await self.call("GET", "/cards", headers=await self.bearer(), query=query)

    async def debit(
        self,
        ticket: str = TICKET,
        amount: str = "2.50",
        fault: str = "",
        is_spoiled: bool = False,
        **changes: Any,
    ) -> Reply:
        headers = {**JSON, **await self.bearer(), **({"X-Sandbox-Fault": fault} if fault else {})}
        return await self.call(
            "POST",
            "/cards/cashback/debit",
            headers=headers,
            data=body(ticket, amount, **changes),
            is_spoiled=is_spoiled,
        )

    def balance_minor(self, card_id: str = SAMPLE) -> int:
        card = self.player.ledger.find_card(card_id)
        assert card is not None
        return card.balance_minor


def body(ticket: str, amount: str = "2.50", row: Any = None, **changes: Any) -> bytes:
    """The body of a debit; a change to None leaves a member out."""
    asked = {
        "ticket_id": ticket,
        "ticket_number": "T-2026-000812",
        "point_of_sale_id": 65,
        "device_id": "till-4",
        "payment_row": {
            "payment_method_id": 2,
            "service_id": 3,
            "pass_id": "pass_8f1c",
            "amount": Amount(amount),
            "currency": "EUR",
            **(row or {}),
        },
        **changes,
    }
    return text_of({name: value for name, value in asked.items() if value is not None}).encode()


class Amount(str):
    """A number as it is to be written."""


def text_of(value: Any) -> str:
    if isinstance(value, Amount):
        return str(value)
    if isinstance(value, dict):
        members = (f'"{name}":{text_of(it)}' for name, it in value.items() if it is not None)
        return "{" + ",".join(members) + "}"
    return exact.encode(value).decode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def player(tmp_path: Path, clock: Clock) -> AsyncIterator[CardsapiPlayer]:
    player = CardsapiPlayer(tmp_path, settings=CardsapiSettings(slow_s=30), now=clock)
    await player.start()
    yield player
    assert player.ledger.audit() == []
    await player.stop()


@pytest.fixture
async def partner(player: CardsapiPlayer) -> AsyncIterator[Partner]:
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Partner(player, session)


class TestTokens:
    async def test_credentials_buy_a_token_with_an_end(
        self, partner: Partner, clock: Clock
    ) -> None:
        reply = await partner.ask_token()
        assert reply.status == 200
        assert reply.json["token"].count(".") == 2
        assert reply.json["expires_at"] == "2026-09-21T15:13:20.000Z"
        assert (await partner.ask_token()).json["token"] != reply.json["token"]

    @pytest.mark.parametrize(
        ("authorization", "status", "code"),
        [
            ("Bearer abc", 401, "AUTH-3"),
            ("Basic", 401, "AUTH-3"),
            ("Basic !!!", 401, "AUTH-3"),
            ("Basic " + base64.b64encode(b"demo-partner").decode(), 401, "AUTH-3"),
            ("Basic " + base64.b64encode(b"demo-partner:wrong").decode(), 401, "AUTH-1"),
            ("Basic " + base64.b64encode(b"nobody:").decode(), 401, "AUTH-1"),
            ("Basic " + base64.b64encode(b"demo-partner:a.b.c").decode(), 400, "AUTH-9"),
        ],
    )
    async def test_wrong_credentials_are_told_apart(
        self, partner: Partner, authorization: str, status: int, code: str
    ) -> None:
        reply = await partner.ask_token(authorization=authorization)
        assert (reply.status, reply.code) == (status, code)

    async def test_without_a_header_it_is_missing(self, partner: Partner) -> None:
        reply = await partner.call("POST", "/token", headers=JSON, data=b'{"scopes":["card"]}')
        assert (reply.status, reply.code) == (401, "AUTH-2")

    @pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"scopes":[]}', b'{"scopes":"card"}'])
    async def test_a_request_that_does_not_fit_the_document_is_refused(
        self, partner: Partner, body: bytes
    ) -> None:
        reply = await partner.ask_token(body=body)
        assert (reply.status, reply.code) == (422, "AUTH-6")

    async def test_a_scope_that_is_not_the_partners_is_refused(self, partner: Partner) -> None:
        reply = await partner.ask_token(body=b'{"scopes":["card","terminal"]}')
        assert (reply.status, reply.code) == (403, "AUTH-7")

    async def test_a_token_ends_by_the_vendors_clock(self, partner: Partner, clock: Clock) -> None:
        headers = await partner.bearer()
        query = {"search_mode": "MANUAL", "q": SAMPLE, "group_id": 1}
        clock.now_s += 3599
        assert (await partner.call("GET", "/cards", headers=headers, query=query)).status == 200
        clock.now_s += 1
        reply = await partner.call("GET", "/cards", headers=headers, query=query)
        assert (reply.status, reply.code) == (400, "CARD-7")

    async def test_every_way_for_a_token_to_be_wrong_has_its_code(self, partner: Partner) -> None:
        token = (await partner.ask_token()).json["token"]
        signed, _, signature = token.rpartition(".")
        terminal = await partner.ask_token(
            "demo-terminal:at_test_terminal", b'{"scopes":["terminal"]}'
        )
        for authorization, status, code in (
            (None, 401, "CARD-5"),
            (f"Bearer {signed}.{signature[:-2]}AA", 400, "CARD-6"),
            (f"Bearer {signed}.é", 400, "CARD-6"),
            ("Bearer abc", 400, "CARD-8"),
            ("Bearer a.b.c", 400, "CARD-8"),
            (f"Basic {token}", 400, "CARD-8"),
            (f"Bearer {terminal.json['token']}", 403, "CARD-9"),
        ):
            headers = {"Authorization": authorization} if authorization else {}
            for method, route in (("GET", "/cards"), ("POST", "/cards/cashback/debit")):
                reply = await partner.call(method, route, headers=headers)
                assert (reply.status, reply.code) == (status, code)

    @pytest.mark.parametrize("code", ["CARD-5", "CARD-6", "CARD-7", "CARD-8", "CARD-9"])
    async def test_every_token_can_be_refused(self, partner: Partner, code: Any) -> None:
        partner.player.stage.settings = CardsapiSettings(token_refusal=code)
        reply = await partner.debit()
        assert (reply.status, reply.code) == (wire.ERRORS[code][0], code)
        assert partner.balance_minor() == 654


class TestSearches:
    @pytest.mark.parametrize(
        ("mode", "number"),
        [("MANUAL", SAMPLE), ("BARCODE", "3760000000017"), ("NFC", "04A2245B6C1D80")],
    )
    @pytest.mark.parametrize("scope", [{"group_id": 1}, {"store_id": 12, "point_of_sale_id": 65}])
    async def test_a_pass_is_found_by_each_of_its_numbers_in_its_group(
        self, partner: Partner, mode: str, number: str, scope: dict[str, int]
    ) -> None:
        found = (await partner.search(mode, number, **scope)).json
        assert found["type"] == found["pass"]["type"] == "CASHBACK"
        assert found["pass"]["balance"] == Decimal("6.54")
        assert found["pass"]["id"] == "pass_8f1c"
        assert found["pass"]["consumer"]["given_name"] == "Camille"
        assert not partner.player.stage.violations

    @pytest.mark.parametrize(
        ("mode", "number", "scope"),
        [
            ("BARCODE", SAMPLE, {"group_id": 1}),
            ("MANUAL", "3760000000017", {"group_id": 1}),
            ("MANUAL", "99999", {"group_id": 1}),
            ("MANUAL", SAMPLE, {"group_id": 2}),
            ("MANUAL", SAMPLE, {"group_id": 99}),
            ("MANUAL", SAMPLE, {"store_id": 12, "point_of_sale_id": 70}),
        ],
    )
    async def test_another_number_and_another_group_find_nothing(
        self, partner: Partner, mode: str, number: str, scope: dict[str, int]
    ) -> None:
        reply = await partner.search(mode, number, **scope)
        assert (reply.status, reply.code) == (404, "CARD-14")

    @pytest.mark.parametrize(
        "query",
        [
            {},
            {"search_mode": "MANUAL", "q": SAMPLE},
            {"search_mode": "MANUAL", "group_id": "1"},
            {"search_mode": "MANUAL", "q": "", "group_id": "1"},
            {"search_mode": "manual", "q": SAMPLE, "group_id": "1"},
            {"search_mode": "MANUAL", "q": SAMPLE, "group_id": "one"},
            {"search_mode": "MANUAL", "q": SAMPLE, "store_id": "12"},
            {"search_mode": "MANUAL", "q": SAMPLE, "group_id": "1", "point_of_sale_id": "65"},
            {"search_mode": "MANUAL", "q": SAMPLE, "group_id": "1", "page": "2"},
        ],
    )
    async def test_a_search_of_neither_form_is_refused_and_reported(
        self, partner: Partner, query: dict[str, str]
    ) -> None:
        reply = await partner.call("GET", "/cards", headers=await partner.bearer(), query=query)
        assert (reply.status, reply.code) == (422, "CARD-3")
        assert partner.player.stage.violations

    @pytest.mark.parametrize(
        ("method", "route"),
        [("GET", "/card"), ("POST", "/cards"), ("GET", "/cards/cashback/debit"), ("GET", "/")],
    )
    async def test_an_unknown_path_is_invalid(
        self, partner: Partner, method: str, route: str
    ) -> None:
        reply = await partner.call(method, route, headers=await partner.bearer())
        assert (reply.status, reply.code) == (404, "CARD-2")
        assert partner.player.stage.violations


class TestDebits:
    async def test_a_debit_is_booked_and_answered_with_its_rows(self, partner: Partner) -> None:
        reply = await partner.debit()
        assert reply.status == 200
        assert reply.json["ticket_id"] == TICKET
        assert reply.json["payment_row"]["amount"] == Decimal("2.50")
        assert reply.json["receipt_row"]["balance_before"] == Decimal("6.54")
        assert reply.json["receipt_row"]["balance_after"] == Decimal("4.04")
        (effect,) = partner.player.ledger.effects(idempotency_key=TICKET)
        assert (effect.card_id, effect.amount_minor) == (SAMPLE, -250)
        assert reply.json["payment_row"]["id"] == f"pr_{effect.number}"
        assert effect.reference == "T-2026-000812"
        assert effect.detail == {"point_of_sale_id": 65, "device_id": "till-4"}
        assert not partner.player.stage.violations

    @pytest.mark.parametrize(
        "changes",
        [
            {"ticket_id": None},
            {"ticket_id": "T-1"},
            {"point_of_sale_id": "65"},
            {"point_of_sale_id": None},
            {"device_id": None},
            {"device_id": 4},
            {"ticket_number": 812},
            {"payment_row": None},
            {"payment_row": {}},
            {"colour": "red"},
            {"row": {"amount": 0}},
            {"row": {"amount": "2.50"}},
            {"row": {"amount": Amount("2.505")}},
            {"row": {"amount": Amount("-1.00")}},
            {"row": {"pass_id": 5}},
            {"row": {"service_id": "3"}},
        ],
    )
    async def test_a_body_that_does_not_fit_the_document_is_refused_and_reported(
        self, partner: Partner, changes: dict[str, Any]
    ) -> None:
        ticket = changes.pop("ticket_id", TICKET)
        reply = await partner.debit(ticket, **changes)
        assert (reply.status, reply.code) == (422, "CARD-3")
        assert partner.player.stage.violations
        assert partner.balance_minor() == 654

    @pytest.mark.parametrize(
        ("amount", "changes", "code"),
        [
            ("6.55", {}, "CARD-3"),
            ("2.50", {"row": {"pass_id": "pass_nobody"}}, "CARD-14"),
            ("2.50", {"row": {"pass_id": "pass_7535"}}, "CARD-3"),
            ("2.50", {"row": {"service_id": 4}}, "CARD-3"),
            ("2.50", {"row": {"payment_method_id": 1}}, "CARD-3"),
            ("2.50", {"row": {"currency": "CHF"}}, "CARD-3"),
            ("2.50", {"point_of_sale_id": 66}, "CARD-3"),
            ("2.50", {"point_of_sale_id": 70}, "CARD-3"),
        ],
    )
    async def test_what_the_vendor_cannot_debit_it_refuses(
        self, partner: Partner, amount: str, changes: dict[str, Any], code: str
    ) -> None:
        reply = await partner.debit(amount=amount, **changes)
        assert (reply.status, reply.code) == (wire.ERRORS[code][0], code)
        assert partner.player.ledger.effects(with_seed=False) == []
        assert not partner.player.stage.violations

    async def test_the_whole_balance_can_be_taken_and_no_cent_more(self, partner: Partner) -> None:
        assert (await partner.debit(amount="6.54")).status == 200
        assert partner.balance_minor() == 0
        assert (await partner.debit(str(uuid.uuid4()), amount="0.01")).code == "CARD-3"


class TestTickets:
    async def test_by_default_a_ticket_is_booked_as_often_as_it_comes(
        self, partner: Partner
    ) -> None:
        first, second = [await partner.debit() for _ in range(2)]
        assert (first.status, second.status) == (200, 200)
        assert first.json["payment_row"]["id"] != second.json["payment_row"]["id"]
        assert partner.balance_minor() == 154

    async def test_a_vendor_that_replays_answers_alike_and_books_once(
        self, partner: Partner
    ) -> None:
        partner.player.stage.settings = CardsapiSettings(repeat="replays")
        first, second = [await partner.debit() for _ in range(2)]
        assert first.raw == second.raw
        assert partner.balance_minor() == 404
        assert (await partner.debit(amount="1.00")).code == "CARD-3"

    async def test_a_vendor_that_refuses_repeats_books_once(self, partner: Partner) -> None:
        partner.player.stage.settings = CardsapiSettings(repeat="refuses")
        assert (await partner.debit()).status == 200
        assert (await partner.debit()).code == "CARD-3"
        assert partner.balance_minor() == 404

    async def test_a_ticket_is_the_same_in_capital_letters(self, partner: Partner) -> None:
        partner.player.stage.settings = CardsapiSettings(repeat="replays")
        await partner.debit(TICKET.upper())
        await partner.debit(TICKET)
        assert partner.balance_minor() == 404

    async def test_a_repeat_while_the_first_still_runs_is_an_internal_error(
        self, partner: Partner
    ) -> None:
        partner.player.stage.settings = CardsapiSettings(repeat="replays", slow_s=30)
        first = asyncio.ensure_future(partner.debit(fault="slow-before"))
        while not partner.player.stage.running:
            await asyncio.sleep(0.001)
        assert (await partner.debit()).code == "CARD-10"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


class TestFaults:
    def test_every_magic_number_is_a_pass(self) -> None:
        assert {it.card_id: it.fault for it in PASSES if it.fault} == {
            fault.card: fault.name for fault in FAULTS
        }

    @pytest.mark.parametrize(
        "fault", [fault for fault in FAULTS if fault.kind in ("500", "garbage", "429", "page")]
    )
    async def test_a_magic_pass_fails_the_first_time_and_not_the_second(
        self, partner: Partner, fault: Any
    ) -> None:
        found = (await partner.search("MANUAL", fault.card)).json["pass"]
        ticket = str(uuid.uuid4())
        row = {"pass_id": found["id"]}
        failed = await partner.debit(ticket, row=row, is_spoiled=True)
        assert failed.status != 200 or not failed.raw.startswith(b"{")
        assert partner.balance_minor(fault.card) == 10000 - 250 * fault.has_effect
        assert (await partner.debit(ticket, row=row)).status == 200

    async def test_a_refused_token_a_wrong_echo_and_a_yes_and_no_have_words(
        self, partner: Partner
    ) -> None:
        assert (await partner.debit(fault="unauthorized-once")).code == "CARD-7"
        echo = await partner.debit(str(uuid.uuid4()), fault="wrong-echo-after", is_spoiled=True)
        assert echo.json["ticket_id"] == "00000000-0000-4000-8000-000000000000"
        both = await partner.debit(
            str(uuid.uuid4()), "1.00", fault="contradictory-after", is_spoiled=True
        )
        assert (both.status, both.code) == (200, "CARD-1")
        assert both.json["receipt_row"]["amount"] == Decimal("1.00")

    async def test_an_unknown_fault_is_named(self, partner: Partner) -> None:
        reply = await partner.debit(fault="no-such-fault")
        assert (reply.status, reply.code) == (422, "CARD-3")
        assert "lost-after" in reply.json["message"]


def test_the_codes_are_those_of_the_document() -> None:
    text = resources.files("loyalty_gateway.sandbox.cardsapi").joinpath("openapi.yaml").read_text()
    schemas = yaml.safe_load(text)["components"]["schemas"]
    codes = {
        code
        for name in ("Error", "AuthError")
        for code in schemas[name]["properties"]["code"]["enum"]
    }
    # AUTH-10 is listed by the vendor without a status and a meaning, so it is not played.
    assert codes - set(wire.ERRORS) == {"AUTH-10"}
