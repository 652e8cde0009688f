"""Reads, the check of a connection, and the proofs of promises; and what stands in no log."""

import json
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import (
    AccountKind,
    CardPage,
    EntryMode,
    Operation,
    Person,
)
from loyalty_gateway.providers.openloyaltypay import OpenLoyaltyPayAdapter
from loyalty_gateway.providers.port import (
    Lookup,
    NotShown,
    ProviderError,
    Search,
    Send,
)
from loyalty_gateway.sandbox import OpenLoyaltyPayPlayer
from loyalty_gateway.telemetry.setup import Telemetry
from tests.providers.fault_server import running
from tests.providers.openloyaltypay.conftest import Open
from tests.providers.openloyaltypay.verbs import (
    ACTIVATE,
    CARD,
    DONE,
    KEY,
    PROOF_CARD,
    answering,
    envelope,
    order,
    question,
    turn,
)


class TestReads:
    async def test_a_card_has_its_balances_and_its_holder(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        for operation in (Operation.GET_CARD, Operation.GET_BALANCE, Operation.GET_GIFT_CARD):
            card = await adapter.get_card(Lookup(operation, CARD, entry_mode=EntryMode.BARCODE))
            assert card.kind is AccountKind.GIFT_CARD
            assert (card.holder.given_name, card.holder.family_name) == ("Max", "Muster")
            assert [it.amount for it in card.balances] == [Money("USD", 4250), Points(1280)]

    async def test_an_unknown_card_is_not_found(self, adapter: OpenLoyaltyPayAdapter) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.get_card(Lookup(Operation.GET_CARD, "99999"))
        assert caught.value.status.reason is Reason.ACCOUNT_NOT_FOUND
        assert "99999" not in str(vars(caught.value))

    async def test_a_search_finds_the_one_card_of_a_number_or_none(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        async def found(number: str) -> CardPage:
            search = Search(scan_entry_mode=EntryMode.BARCODE, scan_value=number)
            return await adapter.search_cards(Lookup(Operation.SEARCH_CARDS, search=search))

        (card,) = (await found(CARD)).cards
        assert card.account_id == CARD
        assert await found("99999") == CardPage(())

    @pytest.mark.parametrize(
        "search",
        [None, Search(phone="+41790000000"), Search(email="a@b.ch"), Search(attribute_name="x")],
    )
    async def test_any_other_search_is_refused_clearly(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer, search: Search | None
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.search_cards(Lookup(Operation.SEARCH_CARDS, search=search))
        assert caught.value.status.reason is Reason.FIELD_REQUIRED_BY_PROVIDER
        assert not player.stage.exchanges

    async def test_a_search_that_fails_is_no_empty_page(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        search = Search(scan_value=CARD)
        with pytest.raises(ProviderError):
            await adapter.search_cards(
                Lookup(Operation.SEARCH_CARDS, search=search, fault="500-before")
            )


class TestCheck:
    async def test_a_card_that_nobody_has_shows_that_the_credentials_are_right(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        check = await adapter.check()
        assert (check.is_reachable, check.are_credentials_accepted, check.error) == (
            True,
            True,
            None,
        )

    @pytest.mark.parametrize("changes", [{"jwt_token": "ANOTHER"}, {"client_secret": "another"}])
    async def test_a_wrong_token_or_secret_shows(
        self, player: OpenLoyaltyPayPlayer, open_connection_to: Open, changes: dict[str, str]
    ) -> None:
        check = await open_connection_to(player.base_url, **changes).check()
        assert (check.is_reachable, check.are_credentials_accepted) == (True, False)

    async def test_a_vendor_that_is_not_there_is_not_reachable(
        self, open_connection_to: Open
    ) -> None:
        check = await open_connection_to("http://127.0.0.1:1").check()
        assert not check.is_reachable


KINDS = (
    "giftTransaction",
    "giftIssuance",
    "giftTip",
    "giftVoid",
    "loyaltyIssuance",
    "loyaltyRedemption",
)


class TestProofs:
    PROMISES = (
        "order_number_replays",
        "order_query_answers",
        "void_takes_order_number",
        "amount_echo_unit",
    )

    @pytest.mark.parametrize(
        ("promise", "settings"),
        [
            ("order_number_replays", {"repeat": "replays"}),
            ("order_query_answers", {}),
            ("void_takes_order_number", {"void_takes_order_number": True}),
            ("amount_echo_unit", {}),
        ],
    )
    async def test_a_promise_that_holds_is_shown_on_the_proof_card(
        self,
        adapter: OpenLoyaltyPayAdapter,
        player: OpenLoyaltyPayPlayer,
        promise: str,
        settings: dict[str, Any],
    ) -> None:
        turn(player, **settings)
        evidence = await adapter.prove(promise)
        assert PROOF_CARD not in evidence
        assert len(evidence) <= 500
        booked = player.ledger.effects(with_seed=False)
        assert booked
        assert {effect.card_id for effect in booked} == {PROOF_CARD}
        assert sum(abs(effect.amount_minor) for effect in booked) <= 20_200
        assert list(player.stage.violations) == []
        held = player.ledger.find_card(PROOF_CARD)
        assert held is not None
        assert abs(held.balance_minor - 10_000) <= 1

    @pytest.mark.parametrize(
        ("promise", "settings", "why"),
        [
            ("order_number_replays", {"repeat": "refuses"}, "4004"),
            ("order_number_replays", {"repeat": "books_again"}, "two numbers"),
            ("order_query_answers", {"query_answers": False}, "no such order"),
            *(
                (
                    "order_number_replays",
                    {"repeat": "replays", "repeat_misses": kind},
                    "two numbers|4006",
                )
                for kind in KINDS
            ),
            *(("order_query_answers", {"query_misses": kind}, "no such order") for kind in KINDS),
            ("void_takes_order_number", {}, "4005"),
            *(
                (
                    "void_takes_order_number",
                    {"void_takes_order_number": True, "void_misses": kind},
                    "4005",
                )
                for kind in ("giftIssuance", "giftTransaction")
            ),
            ("amount_echo_unit", {"echo_amount": "wrong_unit"}, "answered with 7.00 USD"),
        ],
    )
    async def test_a_promise_that_does_not_hold_is_caught(
        self,
        adapter: OpenLoyaltyPayAdapter,
        player: OpenLoyaltyPayPlayer,
        promise: str,
        settings: dict[str, Any],
        why: str,
    ) -> None:
        turn(player, **settings)
        with pytest.raises(LookupError, match=why) as caught:
            await adapter.prove(promise)
        assert not isinstance(caught.value, NotShown)
        assert PROOF_CARD not in str(caught.value)

    async def test_an_emptied_proof_card_is_filled_before_it_is_used(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        everything = order(asked=Money("USD", 10_000), card=PROOF_CARD)
        await adapter.book(Send(everything, KEY, 1))
        assert await adapter.prove("amount_echo_unit")

    @pytest.mark.parametrize("promise", PROMISES[:3])
    async def test_an_order_that_the_proof_card_cannot_have_shows_nothing(
        self, player: OpenLoyaltyPayPlayer, open_connection_to: Open, promise: str
    ) -> None:
        turn(player, repeat="replays", void_takes_order_number=True)
        adapter = open_connection_to(player.base_url, proof_card="10492")
        with pytest.raises(NotShown, match="cannot have such an order"):
            await adapter.prove(promise)

    async def test_without_a_proof_card_nothing_is_proven(
        self, player: OpenLoyaltyPayPlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url)
        for promise in self.PROMISES:
            with pytest.raises(NotShown, match="proof_card"):
                await adapter.prove(promise)
        with pytest.raises(NotShown, match="no promise"):
            await adapter.prove("declines_are_replayed")

    @pytest.mark.parametrize("promise", PROMISES)
    async def test_a_vendor_that_cannot_be_asked_proves_nothing(
        self, open_connection_to: Open, promise: str
    ) -> None:
        adapter = open_connection_to("http://127.0.0.1:1", proof_card=PROOF_CARD)
        with pytest.raises(ProviderError):
            await adapter.prove(promise)

    @pytest.mark.parametrize("promise", PROMISES)
    async def test_a_vendor_that_is_busy_disproves_nothing(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer, promise: str
    ) -> None:
        turn(player, rate_limit_per_minute=2, repeat="replays", void_takes_order_number=True)
        with pytest.raises(ProviderError) as caught:
            await adapter.prove(promise)
        assert caught.value.status.reason is Reason.PROVIDER_RATE_LIMITED


class _TelemetrySettings:
    otlp_endpoint = ""
    trace_file = None
    sample_ratio = 1.0
    log_level = "info"
    log_format = "json"


class TestCanary:
    """A card, secrets and a person that are unmistakable, through every kind of end of a call."""

    CARD = "7310472999888777"
    TOKEN = "CANARY0TOKEN00000000000000000001"
    SECRET = "canary-secret"

    async def test_neither_card_nor_secret_nor_person_is_written_anywhere(
        self, open_connection_to: Open
    ) -> None:
        exporter = InMemorySpanExporter()
        telemetry = Telemetry(exporter=exporter)
        telemetry.start(_TelemetrySettings())  # type: ignore[arg-type]
        shown: list[str] = []
        talk = f"card {self.CARD} of Max Muster, {self.TOKEN}"
        customer = {"firstName": "Max Muster", "email": "max@muster.ch"}
        card = {"accountId": self.CARD, "balances": [], "customerInfo": customer}
        scripts = [
            answering(json.dumps({**envelope({**DONE, **card}), "msg": talk}).encode()),
            answering(json.dumps({**envelope(None, 4002), "msg": talk}).encode()),
            answering(json.dumps({**envelope({**DONE, "amount": self.CARD})}).encode()),
            answering(json.dumps(envelope({**DONE, "mid": talk})).encode()),
            answering(json.dumps(envelope(None, talk)).encode()),
            answering(f"<html>{talk}".encode()),
        ]
        person = Person(given_name="Max Muster", email="max@muster.ch")
        try:
            for script in scripts:
                async with running(script) as server:
                    adapter = open_connection_to(
                        f"http://127.0.0.1:{server.port}",
                        jwt_token=self.TOKEN,
                        client_secret=self.SECRET,
                    )
                    pay = order(card=self.CARD)
                    activation = order(ACTIVATE, card=self.CARD, person=person)
                    lookup = Lookup(Operation.GET_CARD, self.CARD)
                    for call in (
                        adapter.book(Send(pay, KEY, 1)),
                        adapter.book(Send(activation, KEY, 1)),
                        adapter.get_card(lookup),
                        adapter.ask(question(pay)),
                    ):
                        try:
                            done = await call
                            shown.append(repr(done))
                        except ProviderError as error:
                            shown.append(f"{error!r} {vars(error)!r}")
                    shown += [repr(Send(activation, KEY, 1)), repr(lookup), repr(adapter.target)]
            shown += [span.to_json() for span in exporter.get_finished_spans()]
            shown.append(telemetry.metrics_text().decode())
        finally:
            await telemetry.stop()
        written = "\n".join(shown)
        assert len(exporter.get_finished_spans()) == 4 * len(scripts)
        assert "EXECUTED" in written
        for secret in (self.CARD, self.TOKEN, self.SECRET, "Max Muster", "max@muster.ch"):
            assert secret not in written
