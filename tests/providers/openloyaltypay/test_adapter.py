"""The adapter against the played vendor: what it offers, books, activates, undoes and tips."""

import json
from typing import Any

import pytest

from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    EntryMode,
    Operation,
    Order,
    Original,
    Person,
    Purchase,
    Receipt,
    RecoveryMode,
    Reference,
    Support,
)
from loyalty_gateway.providers import PROVIDERS
from loyalty_gateway.providers.connection import AdapterSettingsError
from loyalty_gateway.providers.openloyaltypay import OpenLoyaltyPayAdapter, open_adapter
from loyalty_gateway.providers.port import (
    Lookup,
    Send,
    Way,
)
from loyalty_gateway.sandbox import OpenLoyaltyPayPlayer
from tests.providers.fault_server import running
from tests.providers.openloyaltypay.conftest import CREDENTIALS, Open
from tests.providers.openloyaltypay.verbs import (
    ACTIVATE,
    CARD,
    DONE,
    EARN,
    KEY,
    OTHER_CARD,
    PAY,
    REDEEM,
    TIP,
    TOP_UP,
    VOID,
    VOID_KEY,
    answering,
    effects,
    envelope,
    order,
    paid,
    part,
    refused,
    turn,
)


class TestFacts:
    def test_it_is_one_of_the_providers(self) -> None:
        assert PROVIDERS["openloyaltypay"] is open_adapter

    def test_what_it_can_do_is_its_table(self, adapter: OpenLoyaltyPayAdapter) -> None:
        assert set(adapter.operations) == {
            Operation.SEARCH_CARDS,
            Operation.GET_CARD,
            Operation.GET_BALANCE,
            Operation.GET_GIFT_CARD,
            ACTIVATE,
            TOP_UP,
            PAY,
            VOID,
            TIP,
            EARN,
            REDEEM,
        }
        emulated = {
            operation
            for operation, offer in adapter.operations.items()
            if offer.support is Support.EMULATED
        }
        assert emulated == {Operation.SEARCH_CARDS}
        undone = {op: offer.undo for op, offer in adapter.operations.items() if offer.undo}
        assert undone == {PAY: VOID, TOP_UP: VOID}
        parts = {
            op: offer.partial_promise
            for op, offer in adapter.operations.items()
            if offer.partial_amounts
        }
        assert parts == {PAY: "amount_echo_unit"}
        needed = {
            op: offer.needed_fields
            for op, offer in adapter.operations.items()
            if offer.needed_fields
        }
        assert needed == {
            Operation.SEARCH_CARDS: ("scan",),
            EARN: ("points",),
            TIP: ("account",),
        }

    def test_its_ways_to_the_truth_rest_on_promises_that_no_document_makes(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        resend = Way(RecoveryMode.SAFE_RESEND, "order_number_replays")
        query = Way(RecoveryMode.STATUS_QUERY, "order_query_answers")
        reverse = Way(RecoveryMode.REVERSE, "void_takes_order_number")
        ways = {op: offer.ways for op, offer in adapter.operations.items() if offer.ways}
        assert ways == {
            ACTIVATE: (Way(RecoveryMode.SAFE_RESEND),),
            TOP_UP: (resend, query, reverse),
            PAY: (resend, query, reverse),
            VOID: (resend, query),
            TIP: (resend, query),
            EARN: (resend, query),
            REDEEM: (resend, query),
        }
        assert set(ways) == set(adapter.operations) & BOOKING_OPERATIONS
        for operation, offered in ways.items():
            assert (adapter.operations[operation].ask is not None) is (query in offered)
        named = {name for offer in adapter.operations.values() for name in offer.promises}
        assert named == set(adapter.promises)
        assert all(facts.is_provable for facts in adapter.promises.values())

    def test_the_target_is_the_merchant_at_the_vendor_and_shows_no_secret(
        self, open_connection_to: Open
    ) -> None:
        url = "http://127.0.0.1:1"
        first = open_connection_to(url).target
        others = {
            open_connection_to("http://127.0.0.1:2").target,
            open_connection_to(url, client_id="another").target,
            open_connection_to(url, jwt_token="ANOTHER0TOKEN").target,
            open_connection_to(url, loyalty_channel="OTHER").target,
        }
        assert len(others) == 4
        assert first not in others
        # A new secret of the same client signs for the same orders.
        assert open_connection_to(url, client_secret="renewed").target == first
        for target in {first, *others}:
            assert "TOKEN" not in target
            assert "secret" not in target


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"client_id": None}, "client_id: "),
            ({"client_id": "a b"}, "client_id: "),
            ({"client_secret": None}, "client_secret: give either"),
            ({"client_secret_file": "/no/file"}, "client_secret: give either"),
            ({"client_secret": "a b"}, "client_secret: must be printable"),
            ({"jwt_token": None}, "jwt_token: give either"),
            ({"jwt_token": None, "jwt_token_file": "/no/file"}, "jwt_token_file: "),
            ({"currency": "KWD"}, "currency: "),
            ({"currency": "XXX"}, "currency: "),
            ({"base_url": "http://vendor.example"}, "base_url: must begin"),
            ({"colour": 1}, "colour: is not"),
        ],
    )
    def test_a_bad_setting_is_named_and_not_shown(
        self, changes: dict[str, Any], problem: str
    ) -> None:
        settings = {"base_url": "https://v.example", **CREDENTIALS, **changes}
        given = {name: value for name, value in settings.items() if value is not None}
        with pytest.raises(AdapterSettingsError) as caught:
            open_adapter("openloyaltypay", given, "production")
        assert any(line.startswith(problem) for line in caught.value.problems)
        assert "SANDBOX0TOKEN" not in str(caught.value)
        assert "sandbox-secret" not in str(caught.value)

    async def test_the_secrets_may_come_from_files(
        self, player: OpenLoyaltyPayPlayer, open_connection_to: Open, tmp_path: Any
    ) -> None:
        files: dict[str, str | None] = {}
        for name in ("client_secret", "jwt_token"):
            file = tmp_path / name
            file.write_text(f"{CREDENTIALS[name]}\n")
            files |= {name: None, f"{name}_file": str(file)}
        adapter = open_connection_to(player.base_url, **files)
        assert (await adapter.get_card(Lookup(Operation.GET_CARD, CARD))).balances


class TestBookings:
    @pytest.mark.parametrize(
        ("operation", "effect"),
        [
            (TOP_UP, (CARD, 1250, 0)),
            (PAY, (CARD, -1250, 0)),
            (EARN, (CARD, 0, 200)),
            (REDEEM, (CARD, 0, -200)),
        ],
    )
    async def test_a_success_has_its_effect_and_yields_the_vendors_number(
        self,
        adapter: OpenLoyaltyPayAdapter,
        player: OpenLoyaltyPayPlayer,
        operation: Operation,
        effect: tuple[str, int, int],
    ) -> None:
        asked = order(operation)
        done = await adapter.book(Send(asked, KEY, 1))
        assert effects(player) == [effect]
        assert (done.http_status, done.receipt.echoed) == (200, asked.asked)
        assert [it.kind for it in done.receipt.references] == [
            "checkout_id",
            "trans_index_code",
            "paywizard_id",
            "mid",
        ]
        assert list(player.stage.violations) == []

    async def test_every_attempt_sends_the_same_number_and_the_same_bytes(
        self, open_connection_to: Open
    ) -> None:
        async with running(answering(json.dumps(envelope(DONE)).encode())) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            for number in (1, 2, 3):
                await adapter.book(Send(order(), KEY, number))
            assert len(set(server.effects)) == 1
            assert json.loads(server.effects[0])["tranOrderNo"] == KEY
            assert server.connections == 3

    @pytest.mark.parametrize("minor", [1, 10, 99, 100, 4249, 4250])
    async def test_amounts_arrive_to_the_cent(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer, minor: int
    ) -> None:
        await adapter.book(Send(order(asked=Money("USD", minor)), KEY, 1))
        assert effects(player) == [(CARD, -minor, 0)]

    @pytest.mark.parametrize("card", ["Grüße-7", 'a"b\\c', "10 472", "\U0001f381"])
    async def test_an_odd_card_number_is_signed_and_arrives_whole(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer, card: str
    ) -> None:
        error = await refused(adapter, Send(order(card=card), KEY, 1))
        assert error.provider_code == "4002"
        assert player.stage.exchanges[-1].card == card

    @pytest.mark.parametrize(
        ("asked", "code", "reason"),
        [
            (order(asked=Money("USD", 4251)), "4001", Reason.INSUFFICIENT_BALANCE),
            (order(REDEEM, Points(1281)), "4001", Reason.INSUFFICIENT_BALANCE),
            (order(card="99999"), "4002", Reason.ACCOUNT_NOT_FOUND),
            (order(TOP_UP, card="99999"), "4002", Reason.ACCOUNT_NOT_FOUND),
            (order(ACTIVATE, card="99999"), "4002", Reason.ACCOUNT_NOT_FOUND),
            (order(card="10490"), "4003", Reason.ACCOUNT_NOT_ACTIVE),
            (order(card="10496"), "4003", Reason.ACCOUNT_NOT_ACTIVE),
            (order(ACTIVATE, card="10490"), "4003", Reason.ACCOUNT_NOT_ACTIVE),
            (
                order(asked=Money("EUR", 1)),
                "400",
                Reason.PROVIDER_REJECTED_ARGUMENT,
            ),
        ],
    )
    async def test_a_documented_refusal_is_final_and_has_no_effect(
        self,
        adapter: OpenLoyaltyPayAdapter,
        player: OpenLoyaltyPayPlayer,
        asked: Order,
        code: str,
        reason: Reason,
    ) -> None:
        error = await refused(adapter, Send(asked, KEY, 1))
        assert (error.status.reason, error.status.fate) == (reason, Fate.NOT_EXECUTED)
        assert error.status.is_refusal
        assert (error.provider_code, error.rule) == (code, f"openloyaltypay: {code}")
        assert error.retry_after_s is None
        assert effects(player) == []

    async def test_a_failure_in_the_third_layer_is_a_refusal_too(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        error = await refused(adapter, Send(order(card="10492"), KEY, 1))
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_DECLINED,
            Fate.NOT_EXECUTED,
        )
        assert error.status.is_refusal
        assert (error.rule, error.provider_code) == ("openloyaltypay: result 1", "")
        assert effects(player) == []

    @pytest.mark.parametrize("as_status", [True, False])
    @pytest.mark.parametrize(
        ("changes", "code"),
        [({"jwt_token": "ANOTHER0TOKEN"}, "401"), ({"client_secret": "another"}, "403")],
    )
    async def test_a_refused_token_or_signature_is_our_trouble_and_may_be_repeated(
        self,
        player: OpenLoyaltyPayPlayer,
        open_connection_to: Open,
        changes: dict[str, str],
        code: str,
        as_status: bool,
    ) -> None:
        turn(player, codes_are_statuses=as_status)
        adapter = open_connection_to(player.base_url, **changes)
        error = await refused(adapter, Send(order(), KEY, 1))
        assert error.http_status == (int(code) if as_status else 200)
        assert (error.status.reason, error.provider_code) == (
            Reason.PROVIDER_CREDENTIALS_REJECTED,
            code,
        )
        assert (error.status.fate, error.status.is_refusal) == (Fate.NOT_EXECUTED, False)
        assert effects(player) == []

    @pytest.mark.parametrize("as_status", [True, False])
    async def test_a_spent_rate_limit_says_when_to_come_back(
        self, player: OpenLoyaltyPayPlayer, adapter: OpenLoyaltyPayAdapter, as_status: bool
    ) -> None:
        turn(player, rate_limit_per_minute=1, codes_are_statuses=as_status)
        await adapter.get_card(Lookup(Operation.GET_CARD, CARD))
        error = await refused(adapter, Send(order(), KEY, 1))
        assert (error.status.reason, error.provider_code) == (Reason.PROVIDER_RATE_LIMITED, "429")
        assert (error.status.fate, error.status.is_refusal) == (Fate.NOT_EXECUTED, False)
        assert error.retry_after_s == 5.0

    async def test_every_way_in_reaches_the_vendor(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        for number, mode in enumerate(EntryMode):
            asked = order(asked=Money("USD", 1), entry_mode=mode)
            await adapter.book(Send(asked, f"n-{number}", 1))
        assert list(player.stage.violations) == []

    async def test_a_purchase_is_refused_before_anything_is_sent(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        purchase = Purchase(Money("USD", 100), "coffee")
        error = await refused(adapter, Send(Order(EARN, CARD, purchase=purchase), KEY, 1))
        assert (error.status.reason, error.status.fate) == (
            Reason.FIELD_REQUIRED_BY_PROVIDER,
            Fate.NOT_EXECUTED,
        )
        assert error.status.is_refusal
        assert not player.stage.exchanges


class TestActivation:
    async def test_a_card_is_activated_with_its_holder(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        person = Person(given_name="Nina", family_name="Neu", attributes=(("city", "Bern"),))
        done = await adapter.book(Send(order(ACTIVATE, card="10496", person=person), KEY, 1))
        card = done.receipt.card
        assert card is not None
        assert (card.holder.given_name, card.holder.family_name) == ("Nina", "Neu")
        assert ("city", "Bern") in card.holder.attributes
        assert [it.amount for it in done.receipt.balances_after] == [Money("USD", 2500), Points(0)]
        assert done.receipt.references == ()
        await adapter.book(Send(order(card="10496", asked=Money("USD", 1)), "n-2", 1))
        assert list(player.stage.violations) == []

    async def test_it_may_be_sent_again_and_may_leave_a_card_as_it_is(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        passive = order(ACTIVATE, card="10496", activate=False)
        await adapter.book(Send(passive, KEY, 1))
        error = await refused(adapter, Send(order(card="10496"), "n-1", 1))
        assert error.provider_code == "4003"
        for number in (1, 2):
            await adapter.book(Send(order(ACTIVATE, card="10496"), KEY, number))
        assert (await adapter.book(Send(order(card="10496"), "n-2", 1))).receipt.references

    async def test_an_answer_without_data_is_the_one_that_the_vendors_first_page_prints(
        self, open_connection_to: Open
    ) -> None:
        plain = {"code": 200, "msg": "success", "timestamp": "2026-01-15 10:00:00"}
        async with running(answering(json.dumps(plain).encode())) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            assert (await adapter.book(Send(order(ACTIVATE), KEY, 1))).receipt == Receipt()
            error = await refused(adapter, Send(order(), KEY, 1))
            assert error.status.fate is Fate.UNKNOWN
        async with running(answering(json.dumps({**plain, "data": None}).encode())) as server:
            error = await refused(
                open_connection_to(f"http://127.0.0.1:{server.port}"), Send(order(ACTIVATE), KEY, 1)
            )
            assert error.status.fate is Fate.UNKNOWN

    async def test_a_top_up_may_activate(self, adapter: OpenLoyaltyPayAdapter) -> None:
        error = await refused(adapter, Send(order(TOP_UP, card="10495"), "n-1", 1))
        assert error.provider_code == "4003"
        await adapter.book(Send(order(TOP_UP, card="10495", activate=True), KEY, 1))

    async def test_an_attribute_without_a_place_is_not_dropped_in_silence(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        person = Person(attributes=(("shoeSize", "44"),))
        error = await refused(adapter, Send(order(ACTIVATE, person=person), KEY, 1))
        assert (error.status.reason, error.status.fate) == (
            Reason.REQUEST_INVALID,
            Fate.NOT_EXECUTED,
        )
        assert "city" in error.message
        assert "44" not in error.message
        assert not player.stage.exchanges


class TestParts:
    async def test_a_part_is_taken_and_told(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        done = await adapter.book(Send(part(5000), KEY, 1))
        assert done.receipt.echoed == Money("USD", 4250)
        assert effects(player) == [(CARD, -4250, 0)]

    async def test_no_part_is_taken_where_its_answer_could_not_be_trusted(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        error = await refused(
            adapter, Send(order(asked=Money("USD", 5000), allow_partial=True), KEY, 1)
        )
        assert error.status.reason is Reason.INSUFFICIENT_BALANCE

    async def test_an_echo_in_another_unit_is_evidence_only(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        turn(player, echo_amount="wrong_unit")
        done = await adapter.book(Send(order(), KEY, 1))
        assert done.receipt.echoed == Money("USD", 125000)
        assert effects(player) == [(CARD, -1250, 0)]


class TestVoids:
    @pytest.mark.parametrize("operation", [PAY, TOP_UP])
    async def test_a_void_names_the_vendors_number_and_gives_everything_back(
        self,
        adapter: OpenLoyaltyPayAdapter,
        player: OpenLoyaltyPayPlayer,
        operation: Operation,
    ) -> None:
        original = await paid(adapter, operation)
        done = await adapter.book(Send(order(VOID, original=original), VOID_KEY, 1))
        assert done.receipt.references[0].kind == "checkout_id"
        assert done.receipt.references[0] != original.references[0]
        assert done.receipt.echoed is None
        minor = player.ledger.find_card(CARD)
        assert minor is not None
        assert minor.balance_minor == 4250

    async def test_a_void_of_what_is_undone_shows_an_earlier_attempt_of_its_own(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        original = await paid(adapter)
        void = order(VOID, original=original)
        await adapter.book(Send(void, VOID_KEY, 1))
        error = await refused(adapter, Send(void, "another", 1))
        assert (error.status.reason, error.provider_code) == (Reason.ALREADY_REVERSED, "4006")
        assert error.status.is_refusal
        assert error.status.shows_earlier

    async def test_our_own_number_is_tried_where_the_vendors_was_lost(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        original = await paid(adapter)
        lost = order(VOID, original=Original(original.order, KEY))
        error = await refused(adapter, Send(lost, VOID_KEY, 1))
        assert (error.status.reason, error.provider_code) == (Reason.ORIGINAL_NOT_FOUND, "4005")
        assert error.status.is_refusal
        turn(player, void_takes_order_number=True)
        await adapter.book(Send(lost, VOID_KEY, 2))
        assert effects(player, VOID_KEY) == [(CARD, 1250, 0)]

    async def test_after_settlement_a_void_fails(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        original = await paid(adapter)
        turn(player, settles_after_s=0)
        error = await refused(adapter, Send(order(VOID, original=original), VOID_KEY, 1))
        assert error.status.reason is Reason.PROVIDER_DECLINED

    async def test_an_answer_about_another_original_proves_nothing(
        self, open_connection_to: Open
    ) -> None:
        answer = json.dumps(envelope({**DONE, "oriCheckoutId": "c-2"})).encode()
        async with running(answering(answer)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            original = Original(order(), KEY, (Reference("checkout_id", "c-1"),))
            error = await refused(adapter, Send(order(VOID, original=original), VOID_KEY, 1))
        assert error.status.fate is Fate.UNKNOWN


class TestTips:
    async def test_a_tip_goes_to_its_payment(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        original = await paid(adapter)
        tip = order(TIP, Money("USD", 200), original=original)
        done = await adapter.book(Send(tip, VOID_KEY, 1))
        assert done.receipt.echoed == Money("USD", 200)
        assert effects(player, VOID_KEY) == [(CARD, -200, 0)]

    async def test_a_tip_on_a_voided_or_a_foreign_payment_is_refused(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        original = await paid(adapter)
        foreign = order(TIP, Money("USD", 200), card=OTHER_CARD, original=original)
        error = await refused(adapter, Send(foreign, "t-1", 1))
        assert (error.status.reason, error.status.is_refusal) == (Reason.ORIGINAL_NOT_FOUND, True)
        await adapter.book(Send(order(VOID, original=original), VOID_KEY, 1))
        tip = order(TIP, Money("USD", 200), original=original)
        error = await refused(adapter, Send(tip, "t-2", 1))
        assert (error.status.reason, error.status.is_refusal) == (Reason.ALREADY_REVERSED, True)
        assert not error.status.shows_earlier

    async def test_a_tip_without_the_vendors_number_of_its_payment_is_never_sent(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        tip = order(TIP, Money("USD", 200), original=Original(order(), KEY))
        error = await refused(adapter, Send(tip, VOID_KEY, 1))
        assert (error.status.reason, error.status.fate, error.status.is_refusal) == (
            Reason.ORIGINAL_NOT_FOUND,
            Fate.NOT_EXECUTED,
            False,
        )
        assert not player.stage.exchanges
