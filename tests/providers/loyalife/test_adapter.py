"""The Loyalife adapter against the player, over real HTTP: what is booked is what is said."""

import asyncio
import dataclasses
import json
from collections import Counter
from typing import Any

import pytest

from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    CardFacts,
    Operation,
    Order,
    Original,
    RecoveryMode,
    Reference,
    Sale,
)
from loyalty_gateway.providers import PROVIDERS
from loyalty_gateway.providers.connection import AdapterSettingsError
from loyalty_gateway.providers.loyalife import LoyalifeAdapter, open_adapter
from loyalty_gateway.providers.port import Lookup, ProviderError, Way
from loyalty_gateway.sandbox import LoyalifePlayer, LoyalifeSettings
from tests.providers.fault_server import Exchange, Script, running
from tests.providers.loyalife.conftest import PROGRAMME, Open
from tests.providers.loyalife.verbs import (
    HELD,
    KEY,
    MEMBER,
    UNDO_KEY,
    book,
    call,
    effects,
    points_of,
    purchase,
    redemption,
    refused,
    reversal,
)

GUID = "3FA85F64-5717-4562-B3FC-2C963F66AFA6"
SPEECHES = [
    LoyalifeSettings(envelope=envelope, error_codes=codes, refuses_by=how)
    for envelope in ("wrapped", "bare")
    for codes in ("text", "number")
    for how in ("flag", "status")
]


class TestFacts:
    def test_it_is_one_of_the_providers(self) -> None:
        assert PROVIDERS["loyalife"] is open_adapter

    def test_what_it_offers_is_what_the_vendor_can(self, adapter: LoyalifeAdapter) -> None:
        assert set(Operation) - set(adapter.operations) == {
            Operation.VERIFY_CARD_OWNERSHIP,
            Operation.LIST_TRANSACTION_ITEMS,
            Operation.TOP_UP_BALANCE,
            Operation.DEBIT_BALANCE,
            Operation.ACTIVATE_GIFT_CARD,
            Operation.GET_GIFT_CARD,
            Operation.TOP_UP_GIFT_CARD,
            Operation.PAY_WITH_GIFT_CARD,
            Operation.VOID_GIFT_TRANSACTION,
            Operation.ADD_GIFT_TIP,
        }
        assert set(adapter.unsupported_notes) <= set(Operation) - set(adapter.operations)

    def test_every_booking_has_a_way_to_the_truth_that_it_can_take(
        self, adapter: LoyalifeAdapter
    ) -> None:
        for operation, offer in adapter.operations.items():
            assert bool(offer.ways) is (operation in BOOKING_OPERATIONS)
            asks = {RecoveryMode.STATUS_QUERY, RecoveryMode.STATEMENT_MATCH}
            assert any(way.mode in asks for way in offer.ways) is (offer.ask is not None)
            assert set(offer.promises) <= set(adapter.promises)
        named = {name for offer in adapter.operations.values() for name in offer.promises}
        assert named == set(adapter.promises)

    def test_a_redemption_needs_what_no_setting_stands_in_for(
        self, player: LoyalifePlayer, open_connection_to: Open
    ) -> None:
        bare = open_connection_to(player.base_url)
        assert bare.operations[Operation.REDEEM_POINTS].needed_fields == (
            "money_value",
            "redemption_kind",
            "sale.merchant_name",
        )
        full = open_connection_to(
            player.base_url, merchant_name="Shop", redemption_kind="gift card"
        )
        assert full.operations[Operation.REDEEM_POINTS].needed_fields == ("money_value",)

    def test_the_target_is_the_programme_and_not_its_secret(self, open_connection_to: Open) -> None:
        url = "http://127.0.0.1:1"
        targets = {
            open_connection_to(url, **changes).target
            for changes in (
                {},
                {"program_id": 20},
                {"client_id": "other"},
                {"client_secret": "rotated"},
            )
        }
        assert len(targets) == 3
        assert not any("demo" in target or "rotated" in target for target in targets)


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"base_url": ""}, "base_url: "),
            ({"base_url": "http://vendor.example"}, "base_url: must begin"),
            ({"client_secret": None}, "client_secret: give either"),
            ({"client_secret": "a b"}, "client_secret: must be printable"),
            ({"client_id": ""}, "client_id: "),
            ({"currency": "XXX"}, "currency: must be an ISO"),
            ({"time_zone": "Mars/Olympus"}, "time_zone: must be an IANA"),
            ({"time_zone": "../etc/passwd"}, "time_zone: must be an IANA"),
            ({"redemption_kind": "groceries"}, "redemption_kind must be one of"),
            ({"codes": {"301": "no such meaning"}}, "codes: knows these meanings"),
            ({"new_member_status": "4"}, "new_member_status: "),
            ({"program_id": -1}, "program_id: "),
            ({"colour": "red"}, "colour: is not a known setting"),
        ],
    )
    def test_a_bad_setting_is_named_and_not_shown(
        self, changes: dict[str, Any], problem: str
    ) -> None:
        settings = {"base_url": "https://vendor.example", **PROGRAMME, **changes}
        with pytest.raises(AdapterSettingsError) as caught:
            open_adapter("loyalife", settings, "production")
        assert any(line.startswith(problem) for line in caught.value.problems)
        assert "demo_secret" not in str(caught.value)

    @pytest.mark.parametrize("missing", ["client_id", "program_id", "currency", "time_zone"])
    def test_what_only_an_operator_can_know_has_to_be_set(self, missing: str) -> None:
        settings = {"base_url": "https://vendor.example", **PROGRAMME}
        del settings[missing]
        with pytest.raises(AdapterSettingsError) as caught:
            open_adapter("loyalife", settings, "production")
        assert caught.value.problems == (f"{missing}: is missing",)


class TestRedemptions:
    @pytest.mark.parametrize("settings", SPEECHES, ids=str)
    async def test_a_redemption_is_booked_once_in_every_way_the_vendor_speaks(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter, settings: LoyalifeSettings
    ) -> None:
        player.stage.settings = settings
        done = await book(adapter, redemption())
        assert effects(player) == [("redeem", -1000)]
        (effect,) = player.ledger.effects(card_id=MEMBER, with_seed=False)
        assert done.receipt.references == (
            Reference("external_reference", effect.detail["guid"]),
            Reference("merchant_name", "Amazon"),
        )
        assert (done.http_status, done.receipt.echoed) == (200, None)
        assert MEMBER not in done.request_text
        assert list(player.stage.violations) == []

    @pytest.mark.parametrize("settings", SPEECHES, ids=str)
    @pytest.mark.parametrize(
        ("order", "code", "reason"),
        [
            (redemption(4201), "301", Reason.INSUFFICIENT_BALANCE),
            (redemption(member="m_8128"), "301", Reason.INSUFFICIENT_BALANCE),
            (redemption(member="m_8126"), "107", Reason.ACCOUNT_NOT_ACTIVE),
            (redemption(member="m_8127"), "107", Reason.ACCOUNT_NOT_ACTIVE),
            (redemption(member="m_9999"), "103", Reason.ACCOUNT_NOT_FOUND),
        ],
        ids=["more than held", "five points", "inactive", "suspended", "nobody"],
    )
    async def test_a_documented_refusal_is_final_and_has_no_effect(
        self,
        player: LoyalifePlayer,
        adapter: LoyalifeAdapter,
        settings: LoyalifeSettings,
        order: Order,
        code: str,
        reason: Reason,
    ) -> None:
        player.stage.settings = settings
        error = await refused(adapter, order)
        assert (error.status.reason, error.status.fate) == (reason, Fate.NOT_EXECUTED)
        assert error.status.is_refusal
        assert error.provider_code == code
        assert error.rule == f"loyalife: {code}"
        assert effects(player, order.account_id) == []
        assert order.account_id not in str(vars(error))

    async def test_all_the_points_can_be_redeemed(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        await book(adapter, redemption(HELD))
        assert points_of(player) == 0

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"money_value": None}, Reason.FIELD_REQUIRED_BY_PROVIDER),
            ({"money_value": Money("CHF", 1250)}, Reason.CURRENCY_NOT_ACCEPTED),
            ({"redemption_kind": "groceries"}, Reason.REQUEST_INVALID),
            ({"redemption_kind": ""}, Reason.FIELD_REQUIRED_BY_PROVIDER),
            ({"sale": Sale()}, Reason.FIELD_REQUIRED_BY_PROVIDER),
        ],
    )
    async def test_what_cannot_be_asked_is_never_sent(
        self,
        player: LoyalifePlayer,
        open_connection_to: Open,
        changes: dict[str, Any],
        reason: Reason,
    ) -> None:
        error = await refused(open_connection_to(player.base_url), redemption(**changes))
        assert (error.status.reason, error.status.fate) == (reason, Fate.NOT_EXECUTED)
        assert list(player.stage.exchanges) == []

    async def test_settings_stand_in_for_what_a_sale_does_not_say(
        self, player: LoyalifePlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(
            player.base_url,
            merchant_name="Corner Shop",
            redemption_kind="lounge",
            redemption_kinds={"lounge": 4},
        )
        await book(adapter, redemption(sale=Sale(), redemption_kind=""))
        (effect,) = player.ledger.effects(card_id=MEMBER, with_seed=False)
        assert effect.detail["merchant"] == "Corner Shop"
        assert effect.detail["loyalty_type"] == 4

    async def test_an_operator_may_say_what_a_code_of_the_programme_means(
        self, player: LoyalifePlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, codes={"301": "unknown"})
        error = await refused(adapter, redemption(HELD + 1))
        assert error.status.fate is Fate.UNKNOWN


class TestReversals:
    async def test_a_redemption_is_reversed_whole_by_what_its_receipt_holds(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        order = redemption()
        done = await book(adapter, order)
        undone = await book(adapter, reversal(order, done.receipt), UNDO_KEY)
        assert effects(player) == [("redeem", -1000), ("reversal", 1000)]
        assert points_of(player) == HELD
        number = done.receipt.references[0].value
        assert undone.receipt.references == (Reference("reversal_of", number),)

    @pytest.mark.parametrize("settings", SPEECHES, ids=str)
    async def test_a_second_reversal_is_refused_and_shows_the_first(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter, settings: LoyalifeSettings
    ) -> None:
        player.stage.settings = settings
        order = redemption()
        undo = reversal(order, (await book(adapter, order)).receipt)
        undone = await book(adapter, undo, UNDO_KEY)
        error = await refused(adapter, undo, UNDO_KEY, attempt=2)
        assert (error.status.reason, error.provider_code) == (Reason.ALREADY_REVERSED, "302")
        assert error.status.shows_earlier
        assert error.receipt == undone.receipt
        assert effects(player) == [("redeem", -1000), ("reversal", 1000)]

    @pytest.mark.parametrize(
        ("number", "merchant", "code", "reason"),
        [
            (GUID, "Amazon", "303", Reason.ORIGINAL_NOT_FOUND),
            (None, "Another", "304", Reason.ORIGINAL_NOT_REVERSIBLE),
        ],
    )
    async def test_a_reversal_of_something_else_is_refused(
        self,
        player: LoyalifePlayer,
        adapter: LoyalifeAdapter,
        number: str | None,
        merchant: str,
        code: str,
        reason: Reason,
    ) -> None:
        order = redemption()
        done = await book(adapter, order)
        references = (
            Reference("external_reference", number or done.receipt.references[0].value),
            Reference("merchant_name", merchant),
        )
        undo = Order(
            Operation.REVERSE_POINTS,
            MEMBER,
            Points(1000),
            original=Original(order, KEY, references),
        )
        error = await refused(adapter, undo, UNDO_KEY)
        assert (error.status.reason, error.provider_code) == (reason, code)
        assert error.status.is_refusal
        assert effects(player) == [("redeem", -1000)]

    async def test_without_the_vendors_number_nothing_is_sent(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        order = redemption()
        undo = Order(Operation.REVERSE_POINTS, MEMBER, Points(1000), original=Original(order, KEY))
        error = await refused(adapter, undo, UNDO_KEY)
        assert (error.status.reason, error.status.fate) == (
            Reason.ORIGINAL_NOT_REVERSIBLE,
            Fate.NOT_EXECUTED,
        )
        assert error.status.is_refusal
        assert list(player.stage.exchanges) == []

    async def test_an_earning_is_taken_back_by_a_purchase_that_takes(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        order = purchase()
        done = await book(adapter, order)
        undo = reversal(order, done.receipt)
        undone = await book(adapter, undo, UNDO_KEY)
        assert effects(player) == [("earn", 12), ("take_back", -12)]
        assert undone.receipt.references == (Reference("transaction_id", f"LG-{UNDO_KEY}"),)

    async def test_a_second_taking_back_is_a_duplicate_where_the_programme_keeps_keys(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        order = purchase()
        undo = reversal(order, (await book(adapter, order)).receipt)
        await book(adapter, undo, UNDO_KEY)
        error = await refused(adapter, undo, UNDO_KEY, attempt=2)
        assert error.status.shows_earlier
        assert error.receipt is not None
        assert error.receipt.references == (Reference("transaction_id", f"LG-{UNDO_KEY}"),)
        assert effects(player) == [("earn", 12), ("take_back", -12)]

    async def test_what_was_taken_for_the_undo_of_a_redemption_is_not_sent_twice(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        order = purchase()
        undo = reversal(order, (await book(adapter, order)).receipt)
        mistaken = dataclasses.replace(undo, asked=Points(12))
        await book(adapter, mistaken, UNDO_KEY)
        error = await refused(adapter, mistaken, UNDO_KEY, attempt=2)
        assert error.status.contradicts
        assert effects(player) == [("earn", 12), ("take_back", -12)]

    def test_an_undo_rests_on_what_holds_for_its_original(self, adapter: LoyalifeAdapter) -> None:
        ways = adapter.operations[Operation.REVERSE_POINTS].ways
        for asked, promise in (
            (Points(1000), "reversal_runs_once"),
            (None, "idempotency_key_dedupes"),
        ):
            undo = Order(Operation.REVERSE_POINTS, MEMBER, asked)
            (way,) = (it for it in ways if it.only_for is not None and it.only_for(undo))
            assert way == Way(RecoveryMode.SAFE_RESEND, promise, only_for=way.only_for)


class TestEarning:
    @pytest.mark.parametrize(
        ("minor", "product", "points"),
        [
            (1250, "RETAIL001", 12),
            (99, "RETAIL001", 0),
            (100, "TRAVEL001", 3),
            (1250, "FUEL001", 0),
            (1250, "NOBODY-KNOWS", 0),
        ],
    )
    async def test_the_vendors_rules_make_the_points_and_the_receipt_does_not_guess_them(
        self,
        player: LoyalifePlayer,
        adapter: LoyalifeAdapter,
        minor: int,
        product: str,
        points: int,
    ) -> None:
        done = await book(adapter, purchase(minor, product=product))
        assert effects(player) == [("earn", points)]
        assert done.receipt.echoed is None
        assert done.receipt.references == (Reference("transaction_id", f"LG-{KEY}"),)
        (effect,) = player.ledger.effects(card_id=MEMBER, with_seed=False)
        assert (effect.reference, effect.idempotency_key) == (f"LG-{KEY}", KEY)
        assert effect.detail["amount_minor"] == minor
        assert list(player.stage.violations) == []

    async def test_points_by_number_cannot_be_earned_here(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        error = await refused(adapter, Order(Operation.EARN_POINTS, MEMBER, Points(100)))
        assert error.status.reason is Reason.FIELD_REQUIRED_BY_PROVIDER
        assert error.status.fate is Fate.NOT_EXECUTED
        assert adapter.operations[Operation.EARN_POINTS].needed_fields == ("purchase",)
        assert list(player.stage.exchanges) == []

    async def test_a_repeat_is_a_duplicate_where_the_programme_keeps_keys(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        await book(adapter, purchase())
        error = await refused(adapter, purchase(), attempt=2)
        assert error.provider_code == "E201"
        assert error.status.shows_earlier
        # The number is ours, so the earlier attempt has it for certain.
        assert error.receipt is not None
        assert error.receipt.references == (Reference("transaction_id", f"LG-{KEY}"),)
        assert effects(player) == [("earn", 12)]

    async def test_a_repeat_earns_again_where_it_does_not(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        player.stage.settings = LoyalifeSettings(repeat="books_again")
        await book(adapter, purchase())
        await book(adapter, purchase(), attempt=2)
        assert effects(player) == [("earn", 12), ("earn", 12)]

    async def test_every_attempt_sends_the_same_bytes(self, open_connection_to: Open) -> None:
        async with running(
            token_and(b'{"IsSucessful":true,"ErrorCode":"001","ReturnObject":true}')
        ) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            prepare = adapter.operations[Operation.EARN_POINTS].prepare
            assert prepare is not None
            fresh = Order(Operation.EARN_POINTS, MEMBER, purchase=purchase().purchase)
            prepared = Order(
                Operation.EARN_POINTS,
                MEMBER,
                purchase=purchase().purchase,
                prepared=await prepare(fresh),
            )
            for attempt in (1, 2, 3):
                await book(adapter, prepared, attempt=attempt)
        sent = [body for body in server.effects if b"transaction_id" in body]
        assert len(sent) == 3
        assert len(set(sent)) == 1

    async def test_an_unknown_member_earns_nothing(
        self, adapter: LoyalifeAdapter, player: LoyalifePlayer
    ) -> None:
        error = await refused(adapter, purchase(member="m_9999"))
        assert error.status.reason is Reason.ACCOUNT_NOT_FOUND
        assert error.status.is_refusal


class TestBalance:
    async def test_a_balance_is_what_can_be_redeemed(self, adapter: LoyalifeAdapter) -> None:
        found = await call(adapter, Operation.GET_BALANCE, Lookup(Operation.GET_BALANCE, MEMBER))
        assert isinstance(found, CardFacts)
        assert [balance.amount for balance in found.balances] == [Points(HELD)]

    @pytest.mark.parametrize(
        ("member", "reason"),
        [("m_8126", Reason.ACCOUNT_NOT_ACTIVE), ("m_9999", Reason.ACCOUNT_NOT_FOUND)],
    )
    async def test_a_member_who_cannot_redeem_has_none(
        self, adapter: LoyalifeAdapter, member: str, reason: Reason
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await call(adapter, Operation.GET_BALANCE, Lookup(Operation.GET_BALANCE, member))
        assert caught.value.status.reason is reason
        assert member not in str(vars(caught.value))


def routes(player: LoyalifePlayer) -> Counter[str]:
    return Counter(exchange.path.rpartition("/")[2] for exchange in player.stage.exchanges)


def grow_old(adapter: LoyalifeAdapter) -> None:
    """Lets two seconds pass for the token: one that is refused at once is not renewed."""
    adapter._session._tokens._fetched_s -= 2.0


class TestToken:
    async def test_all_who_wait_share_one_token(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        await asyncio.gather(*(book(adapter, redemption(1), f"{KEY}{n}") for n in range(20)))
        assert routes(player) == {"Token": 1, "RedeemPoints": 20}

    async def test_a_refused_token_is_renewed_once_and_the_booking_happens_once(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        await book(adapter, redemption(1), "first")
        grow_old(adapter)
        await book(adapter, redemption(1), "second", fault="unauthorized-once")
        assert effects(player) == [("redeem", -1)] * 2
        assert routes(player) == {"Token": 2, "RedeemPoints": 3}

    async def test_a_new_token_that_is_refused_too_is_not_renewed_without_end(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        error = await refused(adapter, redemption(1), fault="unauthorized-once")
        assert error.status.reason is Reason.PROVIDER_CREDENTIALS_REJECTED
        assert error.status.fate is Fate.NOT_EXECUTED
        assert routes(player) == {"Token": 1, "RedeemPoints": 1}

    async def test_a_token_that_the_vendor_forgot_is_renewed_for_all_who_use_it(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        await book(adapter, redemption(1), "first")
        grow_old(adapter)
        player._tokens.clear()
        await asyncio.gather(*(book(adapter, redemption(1), f"{KEY}{n}") for n in range(10)))
        assert routes(player)["Token"] == 2
        assert effects(player) == [("redeem", -1)] * 11

    async def test_a_token_is_renewed_before_it_ends(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        player.stage.settings = LoyalifeSettings(token_lifetime_s=1)
        await book(adapter, redemption(1), "first")
        await book(adapter, redemption(1), "second")
        grow_old(adapter)
        await book(adapter, redemption(1), "third")
        assert routes(player)["Token"] >= 2
        assert not any(exchange.status == 401 for exchange in player.stage.exchanges)

    async def test_wrong_credentials_are_our_trouble_and_book_nothing(
        self, player: LoyalifePlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, client_secret="wrong")
        error = await refused(adapter, redemption())
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_CREDENTIALS_REJECTED,
            Fate.NOT_EXECUTED,
        )
        assert not error.status.is_refusal
        assert "wrong" not in str(vars(error))
        check = await adapter.check()
        assert (check.is_reachable, check.are_credentials_accepted) == (True, False)

    @pytest.mark.parametrize(
        "body",
        [
            b"<html>",
            b'{"results":{"token":"x"}}',
            b'{"results":{"token":"x","tokenExpiresOn":"2026-03-16T15:15:02"}}',
            b'{"results":{"IsSucessful":false,"ErrorCode":"997"}}',
        ],
    )
    async def test_without_a_token_nothing_else_is_sent(
        self, open_connection_to: Open, body: bytes
    ) -> None:
        async with running(answering(body)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, redemption())
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_UNREACHABLE,
            Fate.NOT_EXECUTED,
        )
        assert {path.rpartition("/")[2] for path in server.paths} == {"Token"}


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "rule", "fate", "has_effect"),
        [
            ("lost-before", "TRANSPORT ANSWER_LOST", Fate.UNKNOWN, False),
            ("lost-after", "TRANSPORT ANSWER_LOST", Fate.UNKNOWN, True),
            ("500-before", "loyalife: 997 under HTTP 500", Fate.UNKNOWN, False),
            ("500-after", "loyalife: 997 under HTTP 500", Fate.UNKNOWN, True),
            ("503-after", "loyalife: HTTP 503", Fate.UNKNOWN, True),
            ("garbage-before", "loyalife: 200 that proves nothing: ", Fate.UNKNOWN, False),
            ("garbage-after", "loyalife: 200 that proves nothing: ", Fate.UNKNOWN, True),
            ("truncated-after", "TRANSPORT ANSWER_BROKEN", Fate.UNKNOWN, True),
            ("contradictory-after", "loyalife: 200 that proves nothing: ", Fate.UNKNOWN, True),
            ("duplicate-keys-after", "loyalife: 200 that proves nothing: ", Fate.UNKNOWN, True),
            ("307-before", "loyalife: HTTP 307", Fate.UNKNOWN, False),
            ("429", "loyalife: HTTP 429", Fate.NOT_EXECUTED, False),
        ],
    )
    @pytest.mark.parametrize("http_engine", ["pyreqwest", "httpx"])
    async def test_a_fault_is_judged_by_what_it_proves(
        self,
        player: LoyalifePlayer,
        open_connection_to: Open,
        http_engine: str,
        fault: str,
        rule: str,
        fate: Fate,
        has_effect: bool,
    ) -> None:
        adapter = open_connection_to(player.base_url, http_engine=http_engine)
        error = await refused(adapter, redemption(), fault=fault)
        assert error.rule.startswith(rule)
        assert error.status.fate is fate
        assert not error.status.is_refusal
        assert effects(player) == ([("redeem", -1000)] if has_effect else [])

    async def test_a_late_answer_after_the_effect_is_unknown(
        self, player: LoyalifePlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, connect_s=1.0, attempt_total_s=2.0)
        error = await refused(adapter, redemption(), fault="slow-after")
        assert (error.rule, error.status.fate) == ("TRANSPORT TIMED_OUT", Fate.UNKNOWN)
        assert effects(player) == [("redeem", -1000)]

    async def test_a_spent_rate_limit_says_when_to_come_back(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        await book(adapter, redemption(1), "first")
        player.stage.settings = LoyalifeSettings(rate_limit_per_minute=1)
        await book(adapter, redemption(1), "second")
        error = await refused(adapter, redemption(1), "third")
        assert (error.status.reason, error.http_status) == (Reason.PROVIDER_RATE_LIMITED, 429)
        assert error.retry_after_s is not None
        assert 1 <= error.retry_after_s <= 60
        assert effects(player) == [("redeem", -1)] * 2

    async def test_a_lost_answer_of_a_reversal_is_found_out_by_a_second_one(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        order = redemption()
        undo = reversal(order, (await book(adapter, order)).receipt)
        await refused(adapter, undo, UNDO_KEY, fault="lost-after")
        error = await refused(adapter, undo, UNDO_KEY, attempt=2)
        assert error.status.shows_earlier
        await refused(adapter, undo, UNDO_KEY, attempt=3)
        assert effects(player) == [("redeem", -1000), ("reversal", 1000)]

    async def test_a_reversal_that_was_lost_before_its_effect_is_made_by_the_second(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        order = redemption()
        undo = reversal(order, (await book(adapter, order)).receipt)
        await refused(adapter, undo, UNDO_KEY, fault="lost-before")
        await book(adapter, undo, UNDO_KEY, attempt=2)
        assert effects(player) == [("redeem", -1000), ("reversal", 1000)]


def answering(body: bytes, *, status: str = "200 OK", extra: str = "") -> Script:
    async def script(exchange: Exchange) -> bool:
        await exchange.answer(body, status=status, extra=extra)
        return True

    return script


def token_and(body: bytes, *, status: str = "200 OK", extra: str = "") -> Script:
    """Gives a token, and then one answer to everything."""
    token = b'{"results":{"token":"t","tokenExpiresOn":"2099-01-01T00:00:00Z"}}'

    async def script(exchange: Exchange) -> bool:
        if exchange.path.endswith("/Token"):
            await exchange.answer(token)
        else:
            await exchange.answer(body, status=status, extra=extra)
        return True

    return script


def envelope(**members: Any) -> bytes:
    usual = {"IsSucessful": True, "ErrorCode": "000", "ExceptionMessage": "", "ReturnObject": GUID}
    return json.dumps({"results": {**usual, **members}}).encode()


class TestAnswersThatProveNothing:
    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"<html>" + MEMBER.encode(), id="html"),
            pytest.param(envelope(ErrorCode="997"), id="a success with a failure's code"),
            pytest.param(envelope(ErrorCode="001"), id="a code of another success"),
            pytest.param(envelope(IsSucessful=False), id="a failure with a success's code"),
            pytest.param(envelope(ErrorCode=None), id="no code"),
            pytest.param(envelope(IsSucessful="yes"), id="no flag"),
            pytest.param(envelope(ReturnObject=None), id="no number"),
            pytest.param(envelope(ReturnObject=True), id="a yes for a number"),
            pytest.param(b"[" * 200_000, id="deep"),
        ],
    )
    async def test_a_200_that_does_not_prove_the_booking_is_unknown(
        self, open_connection_to: Open, body: bytes
    ) -> None:
        async with running(token_and(body)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, redemption())
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_ANSWER_UNREADABLE,
            Fate.UNKNOWN,
        )
        assert error.http_status == 200
        assert error.rule.startswith("loyalife: 200 that proves nothing: ")
        assert MEMBER not in str(vars(error))

    @pytest.mark.parametrize(
        ("status", "body", "code"),
        [
            ("201 Created", envelope(), ""),
            ("202 Accepted", envelope(), ""),
            ("204 No Content", b"", ""),
            ("302 Found", b"{}", ""),
            ("400 Bad Request", b"<html>", ""),
            ("400 Bad Request", envelope(), ""),
            ("403 Forbidden", envelope(IsSucessful=False, ErrorCode="103"), "103"),
            ("404 Not Found", envelope(IsSucessful=False, ErrorCode="777"), "777"),
            ("409 Conflict", envelope(IsSucessful=False, ErrorCode="E201"), "E201"),
            ("500 Oops", envelope(IsSucessful=False, ErrorCode="301"), "301"),
            ("502 Bad Gateway", b"<html>", ""),
        ],
    )
    async def test_an_unlisted_answer_is_unknown(
        self, open_connection_to: Open, status: str, body: bytes, code: str
    ) -> None:
        async with running(token_and(body, status=status)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, redemption())
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_INTERNAL,
            Fate.UNKNOWN,
        )
        assert error.http_status == int(status[:3])
        assert error.provider_code == code

    async def test_a_401_that_stays_is_about_our_credentials(
        self, open_connection_to: Open
    ) -> None:
        async with running(token_and(b"no", status="401 Unauthorized")) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, redemption())
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_CREDENTIALS_REJECTED,
            Fate.NOT_EXECUTED,
        )
