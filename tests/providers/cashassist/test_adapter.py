"""The CashAssist adapter against the player, over real HTTP: what is booked is what is said."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    CHALLENGE_OPERATIONS,
    CardFacts,
    Operation,
    Order,
    PointsStatement,
    RecoveryMode,
    Sale,
    Support,
    TransactionKind,
    TransactionPage,
)
from loyalty_gateway.providers import PROVIDERS
from loyalty_gateway.providers.cashassist import CashassistAdapter, open_adapter
from loyalty_gateway.providers.connection import AdapterSettingsError
from loyalty_gateway.providers.port import Lookup, NotShown, ProviderError, Send, Way
from loyalty_gateway.sandbox import CashassistPlayer, Settings
from loyalty_gateway.sandbox.cashassist import player as playing
from loyalty_gateway.telemetry.setup import Telemetry
from tests.providers.cashassist.conftest import Open
from tests.providers.fault_server import Exchange, Script, running

CARD = "10472"
OTHER_CARD = "10480"
KEY = "2f1c0f6e-6c0b-4a43-9a0e-7e1f7a2f6a11"


def order(
    operation: Operation = Operation.DEBIT_BALANCE,
    asked: Amount | None = None,
    *,
    card: str = CARD,
    sale: Sale | None = None,
) -> Order:
    usual: Amount = Points(200) if operation is Operation.REDEEM_POINTS else Money("CHF", 1250)
    return Order(operation, card, asked or usual, sale=sale or Sale())


async def refused(adapter: CashassistAdapter, send: Send) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await adapter.book(send)
    return caught.value


def effects(player: CashassistPlayer, key: str = KEY) -> list[tuple[str, int, int]]:
    return [
        (effect.card_id, effect.amount_minor, effect.points)
        for effect in player.ledger.effects(card_id=None, idempotency_key=key, with_seed=False)
    ]


class TestFacts:
    def test_it_is_one_of_the_providers(self) -> None:
        assert PROVIDERS["cashassist"] is open_adapter

    def test_what_it_can_do_is_its_table(self, adapter: CashassistAdapter) -> None:
        offers = adapter.operations
        emulated = {Operation.SEARCH_CARDS, Operation.GET_POINTS_STATEMENT}
        assert {name for name, it in offers.items() if it.support is Support.EMULATED} == emulated
        by_key = (Way(RecoveryMode.SAFE_RESEND, "resend_is_safe"),)
        by_state = (Way(RecoveryMode.SAFE_RESEND),)
        assert {name: it.ways for name, it in offers.items() if it.ways} == {
            Operation.TOP_UP_BALANCE: by_key,
            Operation.DEBIT_BALANCE: by_key,
            Operation.REDEEM_POINTS: by_key,
            Operation.CREATE_CARD: by_key,
            Operation.CREATE_WALLET: by_key,
            Operation.UPDATE_CARD: by_state,
            Operation.UPDATE_WALLET: by_state,
        }
        assert {name for name, it in offers.items() if it.is_held_in_doubt} == {
            Operation.UPDATE_CARD,
            Operation.UPDATE_WALLET,
        }
        assert CHALLENGE_OPERATIONS - set(offers) == {Operation.VERIFY_CREDENTIALS}
        assert not any(it.undo or it.partial_amounts for it in offers.values())
        assert not set(adapter.unsupported_notes) & set(offers)

    def test_every_promise_that_an_offer_rests_on_is_described(
        self, adapter: CashassistAdapter
    ) -> None:
        named = {name for offer in adapter.operations.values() for name in offer.promises}
        assert named <= set(adapter.promises) == {"resend_is_safe", "amount_echo_unit"}

    def test_the_target_changes_with_address_and_key_and_shows_no_key(
        self, open_connection_to: Open
    ) -> None:
        targets = {
            open_connection_to(url, api_key=key).target
            for url in ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1")
            for key in ("sk_test_demo", "sk_test_other")
        }
        assert len(targets) == 4
        assert not any("sk_test" in target or "demo" in target for target in targets)
        assert open_connection_to("http://127.0.0.1:1/v1/").target in targets


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "problem"),
        [
            ({}, "base_url: is missing"),
            ({"base_url": "https://vendor.example"}, "api_key: give either"),
            ({"base_url": "http://vendor.example", "api_key": "k"}, "base_url: must begin"),
            ({"base_url": "https://u:p@vendor.example", "api_key": "k"}, "base_url: must not"),
            ({"base_url": "https://v.example", "api_key": "a b"}, "api_key: must be printable"),
            ({"base_url": "https://v.example", "api_key": "k", "currency": "JPY"}, "currency: "),
            ({"base_url": "https://v.example", "api_key": "k", "currency": "XXX"}, "currency: "),
            ({"base_url": "https://v.example", "api_key": "k", "colour": 1}, "colour: is not"),
            ({"base_url": "https://v.example", "api_key": "k", "max_in_flight": 0}, "max_in_f"),
            ({"base_url": "https://v.example", "api_key_file": "/no/file"}, "api_key_file: "),
            (
                {"base_url": "https://v.example", "api_key": "k", "api_key_file": "/f"},
                "api_key: give either",
            ),
        ],
    )
    def test_a_bad_setting_is_named_and_not_shown(
        self, settings: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(AdapterSettingsError) as caught:
            open_adapter("cashassist", settings, "production")
        assert any(line.startswith(problem) for line in caught.value.problems)
        assert "u:p" not in str(caught.value)

    async def test_the_key_may_come_from_a_file(
        self, player: CashassistPlayer, open_connection_to: Open, tmp_path: Any
    ) -> None:
        file = tmp_path / "key"
        file.write_text("sk_test_demo\n")
        adapter = open_connection_to(player.base_url, api_key=None, api_key_file=str(file))
        assert (await adapter.reads.get_card(Lookup(Operation.GET_CARD, CARD))).status == "ACTIVE"


class TestBookings:
    @pytest.mark.parametrize(
        ("operation", "effect"),
        [
            (Operation.TOP_UP_BALANCE, (CARD, 1250, 0)),
            (Operation.DEBIT_BALANCE, (CARD, -1250, 0)),
            (Operation.REDEEM_POINTS, (CARD, 0, -200)),
        ],
    )
    async def test_a_success_has_its_effect_once_and_yields_a_reference(
        self,
        adapter: CashassistAdapter,
        player: CashassistPlayer,
        operation: Operation,
        effect: tuple[str, int, int],
    ) -> None:
        asked = order(operation)
        done = await adapter.book(Send(asked, KEY, 1))
        again = await adapter.book(Send(asked, KEY, 2))
        assert effects(player) == [effect]
        assert (done.http_status, done.receipt.echoed) == (200, asked.asked)
        assert [balance.amount for balance in done.receipt.balances_after] == [
            Money("CHF", 4250 + effect[1]),
            Points(1280 + effect[2]),
        ]
        assert done.receipt.references[0].value.startswith("tx_")
        assert again.receipt.references == done.receipt.references
        assert (done.receipt.is_replay, again.receipt.is_replay) == (False, True)
        assert player.stage.violations == type(player.stage.violations)()

    async def test_every_attempt_sends_the_same_key_and_the_same_bytes(
        self, open_connection_to: Open
    ) -> None:
        async with running(booked_without_echo) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            for number in (1, 2, 3):
                asked = order(sale=Sale(ticket_number="T-1", caller_reference=f"call {number}"))
                await adapter.book(Send(asked, KEY, number))
            assert len(set(server.effects)) == 1
            assert server.effects[0] == b'{"id":"10472","amount":12.50,"reference":"T-1"}'
            assert server.connections == 3

    @pytest.mark.parametrize("minor", [1, 10, 99, 100, 4249, 4250])
    async def test_amounts_arrive_to_the_cent(
        self, adapter: CashassistAdapter, player: CashassistPlayer, minor: int
    ) -> None:
        await adapter.book(Send(order(asked=Money("CHF", minor)), KEY, 1))
        assert effects(player) == [(CARD, -minor, 0)]

    @pytest.mark.parametrize(
        ("asked", "code", "reason"),
        [
            (order(asked=Money("CHF", 4251)), "insufficient_balance", Reason.INSUFFICIENT_BALANCE),
            (
                order(Operation.REDEEM_POINTS, Points(1281)),
                "insufficient_points",
                Reason.INSUFFICIENT_BALANCE,
            ),
            (order(card="99999"), "card_not_found", Reason.ACCOUNT_NOT_FOUND),
            (order(card="10490"), "card_blocked", Reason.ACCOUNT_NOT_ACTIVE),
            (
                order(asked=Money("CHF", 100_000_000)),
                "invalid_request",
                Reason.PROVIDER_REJECTED_ARGUMENT,
            ),
        ],
    )
    async def test_a_documented_refusal_is_final_and_has_no_effect(
        self,
        adapter: CashassistAdapter,
        player: CashassistPlayer,
        asked: Order,
        code: str,
        reason: Reason,
    ) -> None:
        error = await refused(adapter, Send(asked, KEY, 1))
        assert (error.status.reason, error.status.fate) == (reason, Fate.NOT_EXECUTED)
        assert error.status.is_refusal
        assert (error.provider_code, error.rule) == (code, f"cashassist: {code}")
        assert error.retry_after_s is None
        assert effects(player) == []

    @pytest.mark.parametrize(
        ("key", "reason", "code"),
        [
            ("sk_test_wrong", Reason.PROVIDER_CREDENTIALS_REJECTED, "invalid_api_key"),
            ("sk_test_read", Reason.PROVIDER_ACCESS_DENIED, "insufficient_scope"),
        ],
    )
    async def test_a_refused_credential_is_our_trouble_and_may_be_repeated(
        self,
        player: CashassistPlayer,
        open_connection_to: Open,
        key: str,
        reason: Reason,
        code: str,
    ) -> None:
        adapter = open_connection_to(player.base_url, api_key=key)
        error = await refused(adapter, Send(order(), KEY, 1))
        assert (error.status.reason, error.provider_code) == (reason, code)
        assert (error.status.fate, error.status.is_refusal) == (Fate.NOT_EXECUTED, False)
        assert effects(player) == []

    async def test_the_same_key_for_another_booking_is_for_a_person(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        await adapter.book(Send(order(), KEY, 1))
        error = await refused(adapter, Send(order(asked=Money("CHF", 1)), KEY, 2))
        assert error.status.contradicts
        assert error.status.reason is Reason.PROVIDER_KEY_CONFLICT
        assert effects(player) == [(CARD, -1250, 0)]

    async def test_a_first_request_that_still_runs_leaves_the_second_unknown(
        self, player: CashassistPlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, connect_s=1.0, attempt_total_s=2.0)
        first = await refused(adapter, Send(order(), KEY, 1, "slow-before"))
        second = await refused(adapter, Send(order(), KEY, 2))
        assert first.rule == "TRANSPORT TIMED_OUT"
        assert (second.provider_code, second.http_status) == ("request_in_progress", 409)
        assert (second.status.reason, second.status.fate) == (
            Reason.PROVIDER_PENDING,
            Fate.UNKNOWN,
        )

    async def test_a_spent_rate_limit_says_when_to_come_back(
        self, player: CashassistPlayer, adapter: CashassistAdapter
    ) -> None:
        player.stage.settings = Settings(rate_limit_per_minute=1)
        await adapter.reads.get_card(Lookup(Operation.GET_CARD, CARD))
        error = await refused(adapter, Send(order(), KEY, 1))
        assert (error.status.reason, error.http_status) == (Reason.PROVIDER_RATE_LIMITED, 429)
        assert (error.status.fate, error.status.is_refusal) == (Fate.NOT_EXECUTED, False)
        assert error.retry_after_s is not None
        assert 1 <= error.retry_after_s <= 300


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "rule", "fate", "has_effect"),
        [
            ("lost-before", "TRANSPORT ANSWER_LOST", Fate.UNKNOWN, False),
            ("lost-after", "TRANSPORT ANSWER_LOST", Fate.UNKNOWN, True),
            ("500-before", "cashassist: internal_error", Fate.UNKNOWN, False),
            ("500-after", "cashassist: internal_error", Fate.UNKNOWN, True),
            ("503-after", "cashassist: default", Fate.UNKNOWN, True),
            ("garbage-before", "cashassist: 200 that proves nothing: ", Fate.UNKNOWN, False),
            ("garbage-after", "cashassist: 200 that proves nothing: ", Fate.UNKNOWN, True),
            ("truncated-after", "TRANSPORT ANSWER_BROKEN", Fate.UNKNOWN, True),
            ("429", "cashassist: rate_limited", Fate.NOT_EXECUTED, False),
        ],
    )
    @pytest.mark.parametrize("http_engine", ["pyreqwest", "httpx"])
    async def test_a_fault_is_judged_by_what_it_proves_and_a_resend_ends_in_one_effect(
        self,
        player: CashassistPlayer,
        open_connection_to: Open,
        http_engine: str,
        fault: str,
        rule: str,
        fate: Fate,
        has_effect: bool,
    ) -> None:
        adapter = open_connection_to(player.base_url, http_engine=http_engine)
        error = await refused(adapter, Send(order(), KEY, 1, fault))
        assert error.rule.startswith(rule)
        assert error.status.fate is fate
        assert not error.status.is_refusal
        assert len(effects(player)) == has_effect
        done = await adapter.book(Send(order(), KEY, 2))
        assert done.receipt.is_replay is has_effect
        assert effects(player) == [(CARD, -1250, 0)]

    async def test_a_late_answer_after_the_effect_is_unknown(
        self, player: CashassistPlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, connect_s=1.0, attempt_total_s=2.0)
        error = await refused(adapter, Send(order(), KEY, 1, "slow-after"))
        assert (error.rule, error.status.fate) == ("TRANSPORT TIMED_OUT", Fate.UNKNOWN)
        assert effects(player) == [(CARD, -1250, 0)]

    async def test_faults_are_asked_for_in_the_sandbox_only(
        self, player: CashassistPlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, profile="production")
        done = await adapter.book(Send(order(), KEY, 1, "lost-after"))
        assert done.http_status == 200

    async def test_a_read_may_be_asked_to_fail_too(self, adapter: CashassistAdapter) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.reads.get_card(Lookup(Operation.GET_CARD, CARD, fault="500-before"))
        assert caught.value.status.reason is Reason.PROVIDER_INTERNAL


def answering(body: bytes, *, status: str = "200 OK", extra: str = "") -> Script:
    async def script(exchange: Exchange) -> bool:
        await exchange.answer(body, status=status, extra=extra)
        return True

    return script


async def booked_without_echo(exchange: Exchange) -> bool:
    await exchange.answer(json.dumps(PROVEN).encode())
    return True


PROVEN = {
    "transactionId": "tx_1",
    "id": CARD,
    "type": "withdraw",
    "balanceAfter": 30,
    "pointsAfter": 1280,
    "bookedAt": "2026-01-15T10:01:00Z",
}


class TestAnswersThatProveNothing:
    @pytest.mark.parametrize(
        "script",
        [
            pytest.param(answering(b""), id="empty"),
            pytest.param(answering(b"<html>" + CARD.encode()), id="html"),
            pytest.param(answering(b'{"error":{"code":"card_not_found"}}'), id="error as 200"),
            pytest.param(
                answering(json.dumps({**PROVEN, "id": OTHER_CARD}).encode()), id="another card"
            ),
            pytest.param(
                answering(json.dumps({**PROVEN, "idempotencyKey": "other"}).encode()),
                id="another key",
            ),
            pytest.param(
                answering(json.dumps({**PROVEN, "amount": 12.505}).encode()), id="no amount"
            ),
            pytest.param(
                answering(json.dumps({**PROVEN, "balanceAfter": float("nan")}).encode()), id="nan"
            ),
            pytest.param(answering(b"[" * 200_000), id="deep"),
        ],
    )
    async def test_a_200_that_does_not_prove_the_booking_is_unknown(
        self, open_connection_to: Open, script: Script
    ) -> None:
        async with running(script) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, Send(order(), KEY, 1))
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_ANSWER_UNREADABLE,
            Fate.UNKNOWN,
        )
        assert error.http_status == 200
        assert error.rule.startswith("cashassist: 200 that proves nothing: ")

    @pytest.mark.parametrize(
        ("status", "body", "code"),
        [
            ("201 Created", json.dumps(PROVEN).encode(), ""),
            ("204 No Content", b"", ""),
            ("302 Found", b"{}", ""),
            ("400 Bad Request", b"<html>", ""),
            ("401 Unauthorized", b"{}", ""),
            ("404 Not Found", b'{"error":{"code":"route_not_found","message":"x"}}', "same"),
            ("408 Request Timeout", b"", ""),
            ("500 Oops", b'{"error":{"code":"insufficient_balance","message":"x"}}', "same"),
            ("502 Bad Gateway", b"<html>", ""),
            ("422 Unprocessable", b'{"error":{"code":"brand_new","message":"x"}}', "same"),
        ],
    )
    async def test_an_unlisted_answer_is_unknown(
        self, open_connection_to: Open, status: str, body: bytes, code: str
    ) -> None:
        async with running(answering(body, status=status)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, Send(order(), KEY, 1))
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_INTERNAL,
            Fate.UNKNOWN,
        )
        assert error.http_status == int(status[:3])
        assert bool(error.provider_code) is bool(code)

    @pytest.mark.parametrize(
        ("header", "seconds"), [("7", 7.0), ("1000000", 300.0), ("-1", 1.0), ("soon", 5.0)]
    )
    async def test_a_bare_429_is_a_rate_limit_with_a_bounded_wait(
        self, open_connection_to: Open, header: str, seconds: float
    ) -> None:
        script = answering(b"slow down", status="429 Easy", extra=f"retry-after: {header}\r\n")
        async with running(script) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, Send(order(), KEY, 1))
        assert error.status.reason is Reason.PROVIDER_RATE_LIMITED
        assert error.retry_after_s == seconds


class TestReads:
    async def test_a_card_has_both_its_balances(self, adapter: CashassistAdapter) -> None:
        for operation in (Operation.GET_CARD, Operation.GET_BALANCE):
            card = await adapter.reads.get_card(Lookup(operation, CARD))
            assert isinstance(card, CardFacts)
            assert (card.holder.display_name, card.status) == ("Max Muster", "ACTIVE")
            assert [balance.amount for balance in card.balances] == [
                Money("CHF", 4250),
                Points(1280),
            ]

    async def test_an_unknown_card_is_not_found(self, adapter: CashassistAdapter) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.reads.get_card(Lookup(Operation.GET_CARD, "99999"))
        assert caught.value.status.reason is Reason.ACCOUNT_NOT_FOUND
        assert caught.value.provider_code == "card_not_found"
        assert "99999" not in str(vars(caught.value))

    async def test_an_odd_card_id_reaches_the_vendor_whole(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        for odd in ("../info?id=10472", "10472&id=10480", "10472#", "a b+c%20", "é@ü", "1\r\nx: y"):
            with pytest.raises(ProviderError) as caught:
                await adapter.reads.get_card(Lookup(Operation.GET_CARD, odd))
            assert caught.value.provider_code == "card_not_found"
        assert {exchange.path for exchange in player.stage.exchanges} == {
            "/v1/cashassist/loyalty-cards/info"
        }

    async def test_history_comes_in_pages_with_the_vendors_cursor(
        self, adapter: CashassistAdapter
    ) -> None:
        references: list[str] = []
        cursor = ""
        while True:
            page = await adapter.reads.list_transactions(
                Lookup(Operation.LIST_TRANSACTIONS, CARD, page_size=2, cursor=cursor)
            )
            assert isinstance(page, TransactionPage)
            assert 0 < len(page.transactions) <= 2
            references += [line.reference for line in page.transactions]
            cursor = page.next_cursor
            if not cursor:
                break
        assert len(references) == len(set(references)) >= 3

    async def test_a_large_page_is_cut_to_the_vendors_limit(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        await adapter.reads.list_transactions(
            Lookup(Operation.LIST_TRANSACTIONS, CARD, page_size=200)
        )
        assert not player.stage.violations

    async def test_our_own_booking_is_found_by_its_outbound_id(
        self, adapter: CashassistAdapter
    ) -> None:
        done = await adapter.book(Send(order(Operation.REDEEM_POINTS), KEY, 1))
        page = await adapter.reads.list_transactions(Lookup(Operation.LIST_TRANSACTIONS, CARD))
        newest = page.transactions[0]
        assert newest.outbound_id == KEY
        assert newest.reference == done.receipt.references[0].value
        assert (newest.kind, newest.points) == (TransactionKind.REDEEM, -200)

    async def test_an_interval_is_closed_at_its_start_and_open_at_its_end(
        self, adapter: CashassistAdapter
    ) -> None:
        lookup = Lookup(Operation.LIST_TRANSACTIONS, CARD)
        times = sorted(
            line.time for line in (await adapter.reads.list_transactions(lookup)).transactions
        )
        page = await adapter.reads.list_transactions(
            Lookup(Operation.LIST_TRANSACTIONS, CARD, start=times[1], end=times[-1])
        )
        assert sorted(line.time for line in page.transactions) == times[1:-1]


class TestStatements:
    YEAR = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))

    async def test_a_statement_adds_up(self, adapter: CashassistAdapter) -> None:
        await adapter.book(Send(order(Operation.REDEEM_POINTS), KEY, 1))
        found = await adapter.reads.get_points_statement(
            Lookup(Operation.GET_POINTS_STATEMENT, CARD, *self.YEAR)
        )
        assert found.opening == 0
        assert found.closing == 1080
        assert found.redeemed == 200
        assert found.earned is not None
        assert found.other is not None
        assert found.opening + found.earned + found.other - found.redeemed == found.closing
        assert (found.bonus, found.expired, found.by_category) == (None, None, ())

    async def test_an_interval_without_a_line_knows_its_sums_only(
        self, adapter: CashassistAdapter
    ) -> None:
        found = await adapter.reads.get_points_statement(
            Lookup(
                Operation.GET_POINTS_STATEMENT,
                CARD,
                datetime(2020, 1, 1, tzinfo=UTC),
                datetime(2020, 2, 1, tzinfo=UTC),
            )
        )
        assert found == PointsStatement(earned=0, redeemed=0, other=0)

    async def statement(self, open_connection_to: Open, script: Script) -> PointsStatement:
        async with running(script) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            return await adapter.reads.get_points_statement(
                Lookup(Operation.GET_POINTS_STATEMENT, CARD, *self.YEAR)
            )

    async def test_many_pages_are_one_statement(self, open_connection_to: Open) -> None:
        found = await self.statement(open_connection_to, history_of(pages=20, page_lines=3))
        assert found == PointsStatement(opening=0, earned=60, redeemed=0, other=0, closing=60)

    async def test_more_than_twenty_pages_are_refused(self, open_connection_to: Open) -> None:
        with pytest.raises(ProviderError) as caught:
            await self.statement(open_connection_to, history_of(pages=21, page_lines=1))
        assert caught.value.status.reason is Reason.REQUEST_INVALID
        assert caught.value.status.fate is Fate.NOT_EXECUTED

    async def test_a_line_without_points_leaves_the_sums_unknown(
        self, open_connection_to: Open
    ) -> None:
        found = await self.statement(
            open_connection_to, history_of(pages=1, page_lines=2, points=None)
        )
        assert found == PointsStatement(closing=2)

    async def test_an_opening_that_does_not_add_up_is_not_told(
        self, open_connection_to: Open
    ) -> None:
        found = await self.statement(
            open_connection_to, history_of(pages=1, page_lines=2, points=7)
        )
        assert found == PointsStatement(earned=14, redeemed=0, other=0, closing=2)


def history_of(*, pages: int, page_lines: int, points: int | None = 1) -> Script:
    """A card that earned one point with each line, however many a line says it earned."""
    total = pages * page_lines

    async def script(exchange: Exchange) -> bool:
        cursor = re.search(r"cursor=(\d+)", exchange.path)
        page = int(cursor[1]) if cursor else 0
        lines = [
            {
                "transactionId": f"tx_{number}",
                "id": CARD,
                "type": "purchase",
                "balanceAfter": 0,
                "pointsAfter": number,
                "bookedAt": (TestStatements.YEAR[0] + timedelta(hours=number)).isoformat(),
            }
            | ({} if points is None else {"points": points})
            for number in range(total - page * page_lines, total - (page + 1) * page_lines, -1)
        ]
        following = str(page + 1) if page + 1 < pages else None
        await exchange.answer(json.dumps({"transactions": lines, "nextCursor": following}).encode())
        return True

    return script


class TestProof:
    async def test_the_promise_is_shown_on_the_proof_card(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        evidence = await adapter.prove("resend_is_safe")
        assert "the history holds it once" in evidence
        assert "10999" not in evidence
        proofs = player.ledger.effects(card_id="10999", idempotency_key=None, with_seed=False)
        assert [(effect.amount_minor, effect.points) for effect in proofs] == [
            (0, -1),
            (-1, 0),
            (1, 0),
        ]

    @pytest.mark.parametrize(("field", "kind"), [("amount", "DebitB"), ("points", "RedeemP")])
    async def test_a_vendor_that_forgets_the_keys_of_one_kind_is_caught(
        self,
        adapter: CashassistAdapter,
        monkeypatch: pytest.MonkeyPatch,
        field: str,
        kind: str,
    ) -> None:
        monkeypatch.setitem(
            playing.BOOKINGS,
            "withdraw",
            lambda asked: replace(
                playing.withdraw(asked), key_dedupes=asked.body.get(field) is None
            ),
        )
        with pytest.raises(LookupError, match=kind) as caught:
            await adapter.prove("resend_is_safe")
        assert not isinstance(caught.value, NotShown)
        assert "holds 2 bookings of that key" in str(caught.value)

    async def test_a_repeat_that_is_refused_shows_that_it_is_not_safe(
        self, player: CashassistPlayer, open_connection_to: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(
            playing.BOOKINGS,
            "withdraw",
            lambda asked: replace(playing.withdraw(asked), key_dedupes=False),
        )
        adapter = open_connection_to(player.base_url, proof_card="10491")
        with pytest.raises(LookupError, match=r"DebitBalance.*refused.*insufficient") as caught:
            await adapter.prove("resend_is_safe")
        assert not isinstance(caught.value, NotShown)

    @pytest.mark.parametrize("promise", ["resend_is_safe", "amount_echo_unit"])
    async def test_a_card_that_cannot_have_every_kind_shows_nothing(
        self, player: CashassistPlayer, open_connection_to: Open, promise: str
    ) -> None:
        adapter = open_connection_to(player.base_url, proof_card="10491")
        with pytest.raises(NotShown, match="RedeemPoints, 1 "):
            await adapter.prove(promise)

    async def test_a_vendor_that_forgets_its_keys_is_caught(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        player.stage.settings = Settings(key_lifetime_s=0)
        with pytest.raises(LookupError, match="not marked as a replay"):
            await adapter.prove("resend_is_safe")

    async def test_without_a_proof_card_nothing_is_proven(
        self, player: CashassistPlayer, open_connection_to: Open
    ) -> None:
        with pytest.raises(LookupError, match="proof_card"):
            await open_connection_to(player.base_url).prove("resend_is_safe")
        with pytest.raises(LookupError, match="no promise"):
            await open_connection_to(player.base_url).prove("declines_are_replayed")

    async def test_a_vendor_that_cannot_be_asked_proves_nothing(
        self, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to("http://127.0.0.1:1", proof_card="10999")
        with pytest.raises(ProviderError):
            await adapter.prove("resend_is_safe")


class _TelemetrySettings:
    otlp_endpoint = ""
    trace_file = None
    sample_ratio = 1.0
    log_level = "info"
    log_format = "json"


class TestCanary:
    """A card number and a key that are unmistakable, through every kind of end of a call."""

    CARD = "7310472999888777"
    API_KEY = "sk_test_canary"

    async def test_neither_card_nor_key_nor_name_is_written_anywhere(
        self, open_connection_to: Open
    ) -> None:
        exporter = InMemorySpanExporter()
        telemetry = Telemetry(exporter=exporter)
        telemetry.start(_TelemetrySettings())  # type: ignore[arg-type]
        shown: list[str] = []
        talkative = {"code": "card_not_found", "message": f"Card {self.CARD} of Max Muster"}
        proven = {**PROVEN, "id": self.CARD, "name": "Max Muster", "reference": self.CARD}
        scripts = [
            answering(json.dumps(proven).encode()),
            answering(json.dumps({"error": talkative}).encode(), status="404 Not Found"),
            answering(f"<html>{self.CARD} Max Muster {self.API_KEY}".encode()),
            answering(
                json.dumps({"error": {"code": f"card_{self.CARD}"}}).encode(), status="422 x"
            ),
            answering(json.dumps({"error": {"code": self.API_KEY}}).encode(), status="422 x"),
            booked_without_echo,
        ]
        try:
            for script in scripts:
                async with running(script) as server:
                    adapter = open_connection_to(
                        f"http://127.0.0.1:{server.port}", api_key=self.API_KEY
                    )
                    sale = Sale(ticket_number=self.CARD)
                    send = Send(order(card=self.CARD, sale=sale), KEY, 1)
                    lookup = Lookup(Operation.GET_CARD, self.CARD)
                    for call in (adapter.book(send), adapter.reads.get_card(lookup)):
                        try:
                            done = await call
                            shown.append(f"{done!r}".replace(f"account_id='{self.CARD}'", ""))
                        except ProviderError as error:
                            shown.append(f"{error!r} {vars(error)!r}")
                    bare = Send(order(card=self.CARD), KEY, 1)
                    shown += [repr(bare), repr(lookup), repr(adapter.target)]
            shown += [span.to_json() for span in exporter.get_finished_spans()]
            shown.append(telemetry.metrics_text().decode())
        finally:
            await telemetry.stop()
        written = "\n".join(shown)
        assert len(exporter.get_finished_spans()) == 2 * len(scripts)
        assert 'loyalty_provider_call_duration_seconds_count{connection="cashassist"' in written
        assert "EXECUTED" in written
        for secret in (self.CARD, self.API_KEY, "Max Muster"):
            assert secret not in written
