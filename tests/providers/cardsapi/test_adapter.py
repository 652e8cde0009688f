"""The CardAPI adapter against the player, over real HTTP: what is booked is what is said."""

import asyncio
import json
import uuid
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    CHALLENGE_OPERATIONS,
    CardPage,
    EntryMode,
    Operation,
    Order,
    Person,
    RecoveryMode,
    Sale,
    Support,
)
from loyalty_gateway.providers import PROVIDERS
from loyalty_gateway.providers.cardsapi import CardsapiAdapter, open_adapter
from loyalty_gateway.providers.connection import AdapterSettingsError
from loyalty_gateway.providers.port import (
    Executed,
    Lookup,
    NotShown,
    ProviderError,
    Search,
    Send,
    Way,
)
from loyalty_gateway.sandbox.cardsapi.player import CardsapiPlayer, CardsapiSettings
from loyalty_gateway.telemetry.setup import Telemetry
from tests.providers.cardsapi.conftest import SETTINGS, Open
from tests.providers.fault_server import Exchange, Script, running
from tests.sandbox.vendor_client import Clock

CARD = "30001"
BARCODE = "3760000000017"
NFC = "04A2245B6C1D80"
TICKET = "9ffa8d1d-0765-41f1-88b3-0cc47a065898"
SALE = Sale(ticket_number="T-812", point_of_sale_id="65", device_id="till-4")
PREPARED = (
    ("pass_id", "pass_8f1c"),
    ("service_id", "3"),
    ("payment_method_id", "2"),
    ("balance_minor", "654"),
)


def order(
    minor: int = 250,
    *,
    card: str = CARD,
    entry_mode: EntryMode | None = None,
    sale: Sale = SALE,
    prepared: tuple[tuple[str, str], ...] = (),
) -> Order:
    return Order(
        Operation.DEBIT_BALANCE,
        card,
        Money("EUR", minor),
        sale=sale,
        entry_mode=entry_mode,
        prepared=prepared,
    )


async def debit(
    adapter: CardsapiAdapter, asked: Order, attempt: int = 1, fault: str = ""
) -> Executed:
    """As the engine does it: prepared first, unless it was before, then sent."""
    if not asked.prepared:
        asked = replace(asked, prepared=await adapter.prepare(asked))
    return await adapter.debit(Send(asked, TICKET, attempt, fault))


async def refused(
    adapter: CardsapiAdapter, asked: Order, attempt: int = 1, fault: str = ""
) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await debit(adapter, asked, attempt, fault)
    return caught.value


def effects(player: CardsapiPlayer) -> list[tuple[str, int]]:
    return [
        (effect.card_id, effect.amount_minor) for effect in player.ledger.effects(with_seed=False)
    ]


def paths(player: CardsapiPlayer) -> list[str]:
    return [exchange.path for exchange in player.stage.exchanges]


class TestFacts:
    def test_it_is_one_of_the_providers(self) -> None:
        assert PROVIDERS["cardsapi"] is open_adapter

    def test_what_it_can_do_is_its_table(self, adapter: CardsapiAdapter) -> None:
        offers = adapter.operations
        assert {operation: offer.support for operation, offer in offers.items()} == {
            Operation.SEARCH_CARDS: Support.NATIVE,
            Operation.GET_CARD: Support.EMULATED,
            Operation.GET_BALANCE: Support.EMULATED,
            Operation.DEBIT_BALANCE: Support.NATIVE,
        }
        booking = offers[Operation.DEBIT_BALANCE]
        assert booking.ways == (Way(RecoveryMode.SAFE_RESEND, "ticket_id_dedupes"),)
        assert booking.is_held_in_doubt
        assert booking.needed_fields == ("sale.point_of_sale_id", "sale.device_id")
        assert (booking.undo, booking.ask, booking.partial_amounts) == (None, None, False)
        assert not CHALLENGE_OPERATIONS & set(offers)
        assert not set(adapter.unsupported_notes) & set(offers)

    def test_every_promise_that_an_offer_rests_on_is_described(
        self, adapter: CardsapiAdapter
    ) -> None:
        named = {name for offer in adapter.operations.values() for name in offer.promises}
        assert named == set(adapter.promises)

    def test_the_target_changes_with_address_and_client_and_shows_neither_secret(
        self, open_connection_to: Open
    ) -> None:
        targets = {
            open_connection_to(url, client_id=client).target
            for url in ("http://127.0.0.1:1", "http://127.0.0.1:2")
            for client in ("demo-partner", "other-partner")
        }
        assert len(targets) == 4
        assert not any("partner" in target or "at_test" in target for target in targets)
        rotated = open_connection_to("http://127.0.0.1:1/", access_token="at_test_other")
        assert rotated.target in targets


class TestSettings:
    WHOLE: ClassVar = {
        "base_url": "https://v.example",
        "auth_url": "https://a.example",
        **SETTINGS,
    }

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"base_url": None}, "base_url: is missing"),
            ({"auth_url": None}, "auth_url: is missing"),
            ({"auth_url": "http://a.example"}, "auth_url: must begin"),
            ({"client_id": None}, "client_id: give either"),
            ({"client_id": "a:b"}, "client_id: must not hold a colon"),
            ({"access_token": None}, "access_token: give either"),
            ({"access_token": "a b"}, "access_token: must be printable"),
            ({"access_token_file": "/no/file"}, "access_token: give either"),
            ({"currency": "JPY"}, "currency: "),
            ({"group_id": None}, "set either group_id, or both"),
            ({"store_id": 12}, "set either group_id, or both"),
            ({"store_id": 12, "point_of_sale_id": 65}, "set either group_id, or both"),
            ({"group_id": None, "store_id": 12}, "set either group_id, or both"),
            ({"group_id": "one"}, "group_id: "),
            ({"token_scopes": []}, "token_scopes: "),
            ({"proof_entry_mode": "MAGNETIC"}, "proof_entry_mode: "),
            ({"colour": 1}, "colour: is not"),
        ],
    )
    def test_a_bad_setting_is_named_and_not_shown(
        self, changes: dict[str, Any], problem: str
    ) -> None:
        settings = {k: v for k, v in {**self.WHOLE, **changes}.items() if v is not None}
        with pytest.raises(AdapterSettingsError) as caught:
            open_adapter("cardsapi", settings, "production")
        assert any(line.startswith(problem) for line in caught.value.problems)
        assert "at_test" not in str(caught.value)

    async def test_both_secrets_may_come_from_files(
        self, player: CardsapiPlayer, open_connection_to: Open, tmp_path: Any
    ) -> None:
        for name in ("client_id", "access_token"):
            (tmp_path / name).write_text(f"{SETTINGS[name]}\n")
        adapter = open_connection_to(
            player.base_url,
            client_id=None,
            access_token=None,
            client_id_file=str(tmp_path / "client_id"),
            access_token_file=str(tmp_path / "access_token"),
        )
        assert (await adapter.get_card(Lookup(Operation.GET_CARD, CARD))).type == "CASHBACK"


class TestReads:
    @pytest.mark.parametrize("operation", [Operation.GET_CARD, Operation.GET_BALANCE])
    @pytest.mark.parametrize(
        ("number", "entry_mode"),
        [
            (CARD, None),
            (CARD, EntryMode.KEYED),
            (CARD, EntryMode.ONLINE),
            (BARCODE, EntryMode.BARCODE),
            (NFC, EntryMode.PROXIMITY),
        ],
    )
    async def test_a_card_is_found_by_the_number_that_was_read(
        self,
        adapter: CardsapiAdapter,
        player: CardsapiPlayer,
        operation: Operation,
        number: str,
        entry_mode: EntryMode | None,
    ) -> None:
        card = await adapter.get_card(Lookup(operation, number, entry_mode=entry_mode))
        assert (card.account_id, card.type) == (number, "CASHBACK")
        assert card.holder == Person(given_name="Camille", family_name="Durand")
        assert [balance.amount for balance in card.balances] == [Money("EUR", 654)]
        assert not player.stage.violations

    @pytest.mark.parametrize("number", ["99999", BARCODE, "30006", "a&group_id=2", "é\r\n", "%30"])
    async def test_an_unknown_number_is_not_found(
        self, adapter: CardsapiAdapter, number: str
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.get_card(Lookup(Operation.GET_CARD, number))
        assert caught.value.status.reason is Reason.ACCOUNT_NOT_FOUND
        assert caught.value.provider_code == "CARD-14"
        assert number not in str(vars(caught.value))

    async def test_a_connection_may_look_where_a_point_of_sale_looks(
        self, player: CardsapiPlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(
            player.base_url, group_id=None, store_id=13, point_of_sale_id=70
        )
        assert (await adapter.get_card(Lookup(Operation.GET_CARD, "30006"))).balances
        with pytest.raises(ProviderError):
            await adapter.get_card(Lookup(Operation.GET_CARD, CARD))

    async def test_a_magnetic_stripe_is_refused_without_a_request(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.get_card(Lookup(Operation.GET_CARD, CARD, entry_mode=EntryMode.MAGNETIC))
        assert caught.value.status.reason is Reason.REQUEST_INVALID
        assert "magnetic" in caught.value.message
        assert paths(player) == []

    @pytest.mark.parametrize(
        "scope",
        [{}, {"group_id": "1"}, {"store_id": "12", "point_of_sale_id": "65"}],
    )
    async def test_a_search_looks_in_its_own_scope_or_in_the_connections(
        self, adapter: CardsapiAdapter, scope: dict[str, str]
    ) -> None:
        search = Search(scan_entry_mode=EntryMode.BARCODE, scan_value=BARCODE, **scope)
        page = await adapter.search_cards(Lookup(Operation.SEARCH_CARDS, search=search))
        assert [card.account_id for card in page.cards] == [BARCODE]
        assert page.next_cursor == ""

    @pytest.mark.parametrize(
        "search",
        [
            Search(EntryMode.KEYED, "99999"),
            Search(EntryMode.KEYED, CARD, group_id="2"),
            Search(EntryMode.KEYED, CARD, store_id="13", point_of_sale_id="70"),
        ],
    )
    async def test_a_search_without_a_match_is_empty(
        self, adapter: CardsapiAdapter, search: Search
    ) -> None:
        found = await adapter.search_cards(Lookup(Operation.SEARCH_CARDS, search=search))
        assert found == CardPage(())

    @pytest.mark.parametrize(
        "search",
        [
            Search(phone="+33600000000"),
            Search(email="camille@example.com"),
            Search(attribute_name="name", attribute_value="Camille"),
            Search(EntryMode.MAGNETIC, CARD),
            Search(EntryMode.KEYED, CARD, group_id="one"),
            Search(EntryMode.KEYED, CARD, store_id="12"),
            Search(EntryMode.KEYED, CARD, store_id="12", point_of_sale_id="till"),
        ],
    )
    async def test_a_search_that_the_vendor_has_no_words_for_is_refused_without_a_request(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer, search: Search
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.search_cards(Lookup(Operation.SEARCH_CARDS, search=search))
        assert caught.value.status.reason is Reason.REQUEST_INVALID
        assert "Camille" not in str(vars(caught.value))
        assert paths(player) == []

    async def test_a_read_may_be_asked_to_fail(self, adapter: CardsapiAdapter) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.get_card(Lookup(Operation.GET_CARD, CARD, fault="500-before"))
        assert caught.value.status.reason is Reason.PROVIDER_INTERNAL


class TestPreparation:
    async def test_it_reads_what_a_debit_needs_and_has_no_effect(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer
    ) -> None:
        assert await adapter.prepare(order()) == PREPARED
        assert await adapter.prepare(order(card=NFC, entry_mode=EntryMode.PROXIMITY)) == PREPARED
        assert effects(player) == []

    @pytest.mark.parametrize(
        ("asked", "reason"),
        [
            (order(card="30005"), Reason.ACCOUNT_NOT_ACTIVE),
            (order(card="99999"), Reason.ACCOUNT_NOT_FOUND),
            (order(card=CARD, entry_mode=EntryMode.MAGNETIC), Reason.REQUEST_INVALID),
            (order(sale=Sale(point_of_sale_id="T65", device_id="d")), Reason.REQUEST_INVALID),
            (order(sale=Sale(point_of_sale_id="", device_id="d")), Reason.REQUEST_INVALID),
        ],
    )
    async def test_what_cannot_be_debited_is_refused_before_anything_is_opened(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer, asked: Order, reason: Reason
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.prepare(asked)
        assert caught.value.status.reason is reason
        assert caught.value.status.fate is Fate.NOT_EXECUTED
        assert caught.value.status.is_refusal
        assert effects(player) == []
        assert "/cards/cashback/debit" not in paths(player)

    async def test_a_pass_in_another_currency_is_not_debited(
        self, player: CardsapiPlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, currency="CHF")
        with pytest.raises(ProviderError) as caught:
            await adapter.prepare(order())
        assert caught.value.status.reason is Reason.CURRENCY_NOT_ACCEPTED


class TestDebits:
    async def test_a_success_has_its_effect_and_a_receipt_for_the_till(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer
    ) -> None:
        done = await debit(adapter, order())
        assert effects(player) == [(CARD, -250)]
        receipt = done.receipt
        assert [(it.kind, it.value[:3]) for it in receipt.references] == [
            ("ticket_id", TICKET[:3]),
            ("payment_row_id", "pr_"),
        ]
        assert receipt.echoed == Money("EUR", 250)
        assert [balance.amount for balance in receipt.balances_after] == [Money("EUR", 404)]
        assert [(line.label, line.amount) for line in receipt.receipt_lines] == [
            ("balance before", Money("EUR", 654)),
            ("Cashback", Money("EUR", 250)),
            ("balance after", Money("EUR", 404)),
        ]
        (effect,) = player.ledger.effects(with_seed=False)
        assert (effect.idempotency_key, effect.reference) == (TICKET, "T-812")
        assert not player.stage.violations

    @pytest.mark.parametrize("minor", [1, 10, 99, 100, 653, 654])
    async def test_amounts_arrive_to_the_cent(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer, minor: int
    ) -> None:
        await debit(adapter, order(minor))
        assert effects(player) == [(CARD, -minor)]

    async def test_every_attempt_sends_the_same_bytes(self, open_connection_to: Open) -> None:
        async with running(answering_debits(PROVEN)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            for attempt in (1, 2, 3):
                await debit(adapter, order(prepared=PREPARED), attempt)
            bodies = [
                body
                for path, body in zip(server.paths, server.effects, strict=True)
                if "debit" in path
            ]
        assert len(bodies) == 3
        assert len(set(bodies)) == 1

    async def test_a_balance_that_was_seen_to_be_too_low_tells_what_the_code_does_not(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer
    ) -> None:
        error = await refused(adapter, order(655))
        assert (error.status.reason, error.provider_code) == (
            Reason.INSUFFICIENT_BALANCE,
            "CARD-3",
        )
        assert error.rule == "cardsapi: CARD-3, and the pass was seen to hold less"
        assert error.status.is_refusal
        assert effects(player) == []

    @pytest.mark.parametrize(
        ("asked", "reason", "code"),
        [
            (
                order(sale=replace(SALE, point_of_sale_id="66")),
                Reason.PROVIDER_REJECTED_ARGUMENT,
                "CARD-3",
            ),
            (
                order(prepared=(("pass_id", "pass_nobody"), *PREPARED[1:])),
                Reason.ACCOUNT_NOT_FOUND,
                "CARD-14",
            ),
        ],
    )
    async def test_a_documented_refusal_is_final_and_has_no_effect(
        self,
        adapter: CardsapiAdapter,
        player: CardsapiPlayer,
        asked: Order,
        reason: Reason,
        code: str,
    ) -> None:
        error = await refused(adapter, asked)
        assert (error.status.reason, error.status.fate) == (reason, Fate.NOT_EXECUTED)
        assert error.status.is_refusal
        assert (error.provider_code, error.rule) == (code, f"cardsapi: {code}")
        assert effects(player) == []


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "rule", "fate", "has_effect"),
        [
            ("lost-before", "TRANSPORT ANSWER_LOST", Fate.UNKNOWN, False),
            ("lost-after", "TRANSPORT ANSWER_LOST", Fate.UNKNOWN, True),
            ("500-before", "cardsapi: CARD-1", Fate.UNKNOWN, False),
            ("500-after", "cardsapi: CARD-1", Fate.UNKNOWN, True),
            ("503-after", "cardsapi: default", Fate.UNKNOWN, True),
            ("garbage-before", "cardsapi: 200 that proves nothing: ", Fate.UNKNOWN, False),
            ("garbage-after", "cardsapi: 200 that proves nothing: ", Fate.UNKNOWN, True),
            ("truncated-after", "TRANSPORT ANSWER_BROKEN", Fate.UNKNOWN, True),
            ("contradictory-after", "cardsapi: 200 that proves nothing: ", Fate.UNKNOWN, True),
            ("wrong-echo-after", "cardsapi: 200 that proves nothing: ", Fate.UNKNOWN, True),
            ("429", "cardsapi: HTTP 429", Fate.NOT_EXECUTED, False),
        ],
    )
    @pytest.mark.parametrize("http_engine", ["pyreqwest", "httpx"])
    async def test_a_fault_is_judged_by_what_it_proves(
        self,
        player: CardsapiPlayer,
        open_connection_to: Open,
        http_engine: str,
        fault: str,
        rule: str,
        fate: Fate,
        has_effect: bool,
    ) -> None:
        adapter = open_connection_to(player.base_url, http_engine=http_engine)
        error = await refused(adapter, order(), fault=fault)
        assert error.rule.startswith(rule)
        assert error.status.fate is fate
        assert not error.status.is_refusal
        assert len(effects(player)) == has_effect

    async def test_a_late_answer_after_the_effect_is_unknown(
        self, player: CardsapiPlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, connect_s=1.0, attempt_total_s=2.0)
        error = await refused(adapter, order(), fault="slow-after")
        assert (error.rule, error.status.fate) == ("TRANSPORT TIMED_OUT", Fate.UNKNOWN)
        assert effects(player) == [(CARD, -250)]

    async def test_faults_are_asked_for_in_the_sandbox_only(
        self, player: CardsapiPlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, profile="production")
        assert (await debit(adapter, order(), fault="lost-after")).http_status == 200

    async def test_a_resend_is_a_second_debit_where_the_ticket_is_not_known(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer
    ) -> None:
        await refused(adapter, order(prepared=PREPARED), fault="lost-after")
        await debit(adapter, order(prepared=PREPARED), attempt=2)
        assert effects(player) == [(CARD, -250), (CARD, -250)]


class TestTokens:
    async def test_fifty_calls_at_once_fetch_one_token(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer
    ) -> None:
        lookup = Lookup(Operation.GET_CARD, CARD)
        await asyncio.gather(*(adapter.get_card(lookup) for _ in range(50)))
        assert paths(player).count("/token") == 1
        assert paths(player).count("/cards") == 50

    async def test_a_token_that_has_ended_is_renewed_once_for_fifty_calls(
        self, player: CardsapiPlayer, open_connection_to: Open, clock: Clock
    ) -> None:
        ages = TokenAges()
        adapter = open_connection_to(player.base_url)
        adapter._tokens._now = ages
        lookup = Lookup(Operation.GET_CARD, CARD)
        await adapter.get_card(lookup)
        clock.now_s += 3_600
        ages.now_s += 60
        cards = await asyncio.gather(*(adapter.get_card(lookup) for _ in range(50)))
        assert len(cards) == 50
        assert paths(player).count("/token") == 2

    async def test_a_debit_with_a_token_that_has_ended_is_booked_once(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer, clock: Clock
    ) -> None:
        ages = TokenAges()
        adapter._tokens._now = ages
        prepared = await adapter.prepare(order())
        clock.now_s += 3_600
        ages.now_s += 60
        done = await debit(adapter, order(prepared=prepared))
        assert done.http_status == 200
        assert effects(player) == [(CARD, -250)]
        assert paths(player).count("/cards/cashback/debit") == 2

    async def test_a_token_is_renewed_before_it_ends(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer, clock: Clock
    ) -> None:
        ages = TokenAges()
        adapter._tokens._now = ages
        lookup = Lookup(Operation.GET_CARD, CARD)
        await adapter.get_card(lookup)
        for step_s in (2_800, 100):
            clock.now_s += step_s
            ages.now_s += step_s
            await adapter.get_card(lookup)
        assert paths(player).count("/token") == 2
        assert [it.status for it in player.stage.exchanges] == [200] * 5

    @pytest.mark.parametrize(
        ("code", "reason", "tries"),
        [
            ("CARD-5", Reason.PROVIDER_CREDENTIALS_REJECTED, 2),
            ("CARD-6", Reason.PROVIDER_CREDENTIALS_REJECTED, 2),
            ("CARD-7", Reason.PROVIDER_CREDENTIALS_REJECTED, 2),
            ("CARD-8", Reason.PROVIDER_CREDENTIALS_REJECTED, 2),
            ("CARD-9", Reason.PROVIDER_ACCESS_DENIED, 1),
        ],
    )
    async def test_a_vendor_that_takes_no_token_gets_two_and_may_be_asked_again_later(
        self,
        adapter: CardsapiAdapter,
        player: CardsapiPlayer,
        code: Any,
        reason: Reason,
        tries: int,
    ) -> None:
        ages = TokenAges()
        adapter._tokens._now = ages
        prepared = await adapter.prepare(order())
        ages.now_s += 60
        player.stage.settings = CardsapiSettings(token_refusal=code)
        error = await refused(adapter, order(prepared=prepared))
        assert (error.status.reason, error.provider_code) == (reason, code)
        assert (error.status.fate, error.status.is_refusal) == (Fate.NOT_EXECUTED, False)
        assert paths(player).count("/cards/cashback/debit") == tries
        assert effects(player) == []

    async def test_a_fault_is_for_the_first_try_alone(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer
    ) -> None:
        ages = TokenAges()
        adapter._tokens._now = ages
        prepared = await adapter.prepare(order())
        ages.now_s += 60
        done = await debit(adapter, order(prepared=prepared), fault="unauthorized-once")
        assert done.http_status == 200
        assert effects(player) == [(CARD, -250)]

    @pytest.mark.parametrize(
        ("settings", "reason", "code"),
        [
            (
                {"access_token": "at_wrong"},
                Reason.PROVIDER_CREDENTIALS_REJECTED,
                "AUTH-1",
            ),
            ({"access_token": "a.b.c"}, Reason.PROVIDER_CREDENTIALS_REJECTED, "AUTH-9"),
            ({"token_scopes": ["terminal"]}, Reason.PROVIDER_ACCESS_DENIED, "AUTH-7"),
        ],
    )
    async def test_without_a_token_nothing_is_sent(
        self,
        player: CardsapiPlayer,
        open_connection_to: Open,
        settings: dict[str, Any],
        reason: Reason,
        code: str,
    ) -> None:
        adapter = open_connection_to(player.base_url, **settings)
        error = await refused(adapter, order(prepared=PREPARED))
        assert (error.status.reason, error.provider_code) == (reason, code)
        assert (error.status.fate, error.status.is_refusal) == (Fate.NOT_EXECUTED, False)
        assert error.rule == f"token: cardsapi: {code}"
        assert set(paths(player)) == {"/token"}

    async def test_an_auth_service_that_cannot_be_reached_means_that_nothing_was_sent(
        self, player: CardsapiPlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, auth_url="http://127.0.0.1:1")
        error = await refused(adapter, order(prepared=PREPARED))
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_UNREACHABLE,
            Fate.NOT_EXECUTED,
        )
        assert paths(player) == []


class TokenAges:
    """The clock by which an adapter's token ages, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


PROVEN: dict[str, Any] = {"ticket_id": TICKET, "payment_row": {}, "receipt_row": {}}


def answering_debits(
    document: Any, *, status: str = "200 OK", content: bytes | None = None
) -> Script:
    """A service that gives a token and answers everything else in one way."""

    async def script(exchange: Exchange) -> bool:
        if exchange.path == "/token":
            await exchange.answer(b'{"token":"abc"}')
        else:
            body = json.dumps(document).encode() if content is None else content
            await exchange.answer(body, status=status)
        return True

    return script


class TestAnswersThatProveNothing:
    @pytest.mark.parametrize(
        ("document", "content"),
        [
            pytest.param({}, b"", id="empty"),
            pytest.param({}, b"<html>", id="html"),
            pytest.param({}, b"[" * 200_000, id="deep"),
            pytest.param({"code": "CARD-14"}, None, id="error as 200"),
            pytest.param({**PROVEN, "ticket_id": str(uuid.uuid4())}, None, id="another ticket"),
            pytest.param({**PROVEN, "payment_row": None}, None, id="no row"),
            pytest.param({**PROVEN, "payment_row": {"pass_id": "p"}}, None, id="another pass"),
            pytest.param({**PROVEN, "x": float("nan")}, None, id="nan"),
        ],
    )
    async def test_a_200_that_does_not_prove_the_debit_is_unknown(
        self, open_connection_to: Open, document: Any, content: bytes | None
    ) -> None:
        async with running(answering_debits(document, content=content)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, order(prepared=PREPARED))
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_ANSWER_UNREADABLE,
            Fate.UNKNOWN,
        )
        assert error.rule.startswith("cardsapi: 200 that proves nothing: ")

    @pytest.mark.parametrize(
        ("status", "document", "code"),
        [
            ("201 Created", PROVEN, ""),
            ("302 Found", {}, ""),
            ("400 Bad Request", {"code": "CARD-3"}, "CARD-3"),
            ("401 Unauthorized", {}, ""),
            ("401 Unauthorized", {"code": "CARD-7"}, "CARD-7"),
            ("404 Not Found", {}, ""),
            ("404 Not Found", {"code": "CARD-3"}, "CARD-3"),
            ("422 Unprocessable", {"code": "CARD-12"}, "CARD-12"),
            ("422 Unprocessable", {"error": {"code": "CARD-3"}}, ""),
            ("500 Oops", {"code": "CARD-14"}, "CARD-14"),
            ("500 Oops", {"code": "CARD-1"}, "CARD-1"),
            ("500 Oops", {"code": "CARD-4"}, "CARD-4"),
            ("500 Oops", {"code": "CARD-10"}, "CARD-10"),
            ("500 Oops", {"code": "CARD-11"}, "CARD-11"),
        ],
    )
    async def test_an_unlisted_answer_is_unknown_even_where_the_balance_was_too_low(
        self, open_connection_to: Open, status: str, document: Any, code: str
    ) -> None:
        async with running(answering_debits(document, status=status)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, order(655, prepared=PREPARED))
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_INTERNAL,
            Fate.UNKNOWN,
        )
        assert (error.provider_code, error.http_status) == (code, int(status[:3]))

    async def test_an_invalid_path_is_the_adapters_fault_and_nothing_was_booked(
        self, open_connection_to: Open
    ) -> None:
        script = answering_debits({"code": "CARD-2"}, status="404 Not Found")
        async with running(script) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, order(prepared=PREPARED))
        assert error.status.reason is Reason.ADAPTER_ROUTE_INVALID
        assert (error.status.fate, error.status.is_refusal) == (Fate.NOT_EXECUTED, False)

    async def test_a_pass_without_its_service_cannot_be_debited(
        self, open_connection_to: Open
    ) -> None:
        found = {"type": "CASHBACK", "id": "p", "balance": 1, "currency": "EUR"}
        async with running(answering_debits({"pass": found})) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            with pytest.raises(ProviderError) as caught:
                await adapter.prepare(order())
        assert caught.value.status.reason is Reason.PROVIDER_ANSWER_UNREADABLE


class TestProof:
    async def test_a_vendor_that_replays_a_ticket_keeps_the_promise(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer
    ) -> None:
        player.stage.settings = CardsapiSettings(repeat="replays")
        evidence = await adapter.prove("ticket_id_dedupes")
        assert "the card holds 0.01 EUR less" in evidence
        assert "10999" not in evidence
        assert effects(player) == [("10999", -1)]

    async def test_a_vendor_that_books_a_ticket_again_does_not(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer
    ) -> None:
        with pytest.raises(LookupError, match=r"took 0\.02 EUR off the card") as caught:
            await adapter.prove("ticket_id_dedupes")
        assert not isinstance(caught.value, NotShown)
        assert effects(player) == [("10999", -1), ("10999", -1)]

    async def test_a_vendor_that_refuses_a_repeat_does_not_either(
        self, adapter: CardsapiAdapter, player: CardsapiPlayer
    ) -> None:
        player.stage.settings = CardsapiSettings(repeat="refuses")
        with pytest.raises(LookupError, match="refused the second time with CARD-3") as caught:
            await adapter.prove("ticket_id_dedupes")
        assert not isinstance(caught.value, NotShown)
        assert effects(player) == [("10999", -1)]

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"proof_card": "10999"},
            {"proof_point_of_sale_id": 65},
            {"proof_card": "30003", "proof_point_of_sale_id": 65},
        ],
    )
    async def test_without_a_card_that_holds_enough_nothing_is_shown(
        self, player: CardsapiPlayer, open_connection_to: Open, settings: dict[str, Any]
    ) -> None:
        with pytest.raises(NotShown):
            await open_connection_to(player.base_url, **settings).prove("ticket_id_dedupes")
        assert effects(player) == []

    async def test_no_other_promise_is_made(self, adapter: CardsapiAdapter) -> None:
        with pytest.raises(NotShown, match="no promise"):
            await adapter.prove("resend_is_safe")

    async def test_a_vendor_that_cannot_be_asked_proves_nothing(
        self, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(
            "http://127.0.0.1:1", proof_card="10999", proof_point_of_sale_id=65
        )
        with pytest.raises(ProviderError):
            await adapter.prove("ticket_id_dedupes")


class TestCheck:
    @pytest.mark.parametrize("proof_card", ["", "10999"])
    async def test_an_answer_about_any_card_shows_the_credentials_right(
        self, player: CardsapiPlayer, open_connection_to: Open, proof_card: str
    ) -> None:
        found = await open_connection_to(player.base_url, proof_card=proof_card).check()
        assert (found.is_reachable, found.are_credentials_accepted) == (True, True)
        assert found.error is None
        assert found.clock_skew_s is not None

    async def test_wrong_credentials_are_seen(
        self, player: CardsapiPlayer, open_connection_to: Open
    ) -> None:
        found = await open_connection_to(player.base_url, access_token="wrong").check()
        assert (found.is_reachable, found.are_credentials_accepted) == (True, False)

    async def test_nobody_there_is_seen(self, open_connection_to: Open) -> None:
        found = await open_connection_to("http://127.0.0.1:1").check()
        assert (found.is_reachable, found.are_credentials_accepted) == (False, False)


class _TelemetrySettings:
    otlp_endpoint = ""
    trace_file = None
    sample_ratio = 1.0
    log_level = "info"
    log_format = "json"


class TestCanary:
    """A card number and secrets that are unmistakable, through every kind of end of a call."""

    CARD = "7310472999888777"
    TOKEN = "token_canary"
    SECRET = "at_canary"
    PASS_ID = "pass_canary"

    async def test_neither_card_nor_secret_nor_name_is_written_anywhere(
        self, open_connection_to: Open
    ) -> None:
        exporter = InMemorySpanExporter()
        telemetry = Telemetry(exporter=exporter)
        telemetry.start(_TelemetrySettings())  # type: ignore[arg-type]
        shown: list[str] = []
        found = {
            "type": "CASHBACK",
            "id": self.PASS_ID,
            "service_id": 3,
            "payment_method_id": 2,
            "balance": 5,
            "currency": "EUR",
            "number": self.CARD,
            "consumer": {"given_name": "Camille", "family_name": "Durand"},
        }
        receipt_row = {"label": f"{self.CARD}", "amount": 1}
        answers: list[tuple[str, Any]] = [
            ("200 OK", {"pass": found, **PROVEN, "receipt_row": receipt_row}),
            ("404 Not Found", {"code": "CARD-14", "message": f"Pass {self.CARD} of Camille"}),
            ("422 x", {"code": f"CARD-{self.CARD}"}),
            ("400 x", {"code": "CARD-8", "message": self.TOKEN}),
            ("500 x", f"{self.CARD} {self.SECRET} Camille"),
        ]

        def script_of(status: str, document: Any) -> Script:
            async def script(exchange: Exchange) -> bool:
                token = {"token": self.TOKEN}
                is_token = exchange.path == "/token"
                body = json.dumps(token if is_token else document).encode()
                await exchange.answer(body, status="200 OK" if is_token else status)
                return True

            return script

        prepared = (("pass_id", self.PASS_ID), *PREPARED[1:])
        try:
            for status, document in answers:
                async with running(script_of(status, document)) as server:
                    adapter = open_connection_to(
                        f"http://127.0.0.1:{server.port}", access_token=self.SECRET
                    )
                    asked = order(
                        card=self.CARD,
                        sale=replace(SALE, ticket_number=self.CARD),
                        prepared=prepared,
                    )
                    send = Send(asked, TICKET, 1)
                    lookup = Lookup(Operation.GET_CARD, self.CARD)
                    for call in (adapter.debit(send), adapter.get_card(lookup)):
                        try:
                            shown.append(f"{await call!r}")
                        except ProviderError as error:
                            shown.append(f"{error!r} {vars(error)!r}")
                    bare = Send(order(card=self.CARD, prepared=prepared), TICKET, 1)
                    shown += [repr(bare), repr(lookup), repr(adapter.target)]
            shown += [span.to_json() for span in exporter.get_finished_spans()]
            shown.append(telemetry.metrics_text().decode())
        finally:
            await telemetry.stop()
        written = "\n".join(shown)
        assert 'loyalty_provider_call_duration_seconds_count{connection="cardsapi"' in written
        assert "EXECUTED" in written
        for secret in (self.CARD, self.TOKEN, self.SECRET, self.PASS_ID, "Camille", "Durand"):
            assert secret not in written


def test_no_booking_but_the_debit_is_offered(adapter: CardsapiAdapter) -> None:
    assert BOOKING_OPERATIONS & set(adapter.operations) == {Operation.DEBIT_BALANCE}
