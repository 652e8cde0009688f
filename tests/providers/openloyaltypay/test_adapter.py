"""The openLoyaltyPay adapter against the player, over real HTTP: what is booked is what is said."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    AccountKind,
    CardPage,
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
    NotShown,
    ProviderError,
    Question,
    Search,
    Send,
    Way,
)
from loyalty_gateway.sandbox import OpenLoyaltyPayPlayer
from loyalty_gateway.telemetry.setup import Telemetry
from tests.providers.fault_server import Exchange, Script, running
from tests.providers.openloyaltypay.conftest import CREDENTIALS, Open

CARD = "10472"
OTHER_CARD = "10480"
PROOF_CARD = "10999"
KEY = "2f1c0f6e-6c0b-4a43-9a0e-7e1f7a2f6a11"
VOID_KEY = "7d3a52a4-5a25-4ad4-8e4c-2d6f3b9c1a02"
SENT = datetime(2026, 1, 15, 10, tzinfo=UTC)
PAY = Operation.PAY_WITH_GIFT_CARD
TOP_UP = Operation.TOP_UP_GIFT_CARD
VOID = Operation.VOID_GIFT_TRANSACTION
TIP = Operation.ADD_GIFT_TIP
EARN = Operation.EARN_POINTS
REDEEM = Operation.REDEEM_POINTS
ACTIVATE = Operation.ACTIVATE_GIFT_CARD


def order(
    operation: Operation = PAY, asked: Amount | None = None, *, card: str = CARD, **more: Any
) -> Order:
    usual: Amount | None = Money("USD", 1250)
    if operation in (EARN, REDEEM):
        usual = Points(200)
    elif operation in (VOID, ACTIVATE):
        usual = None
    return Order(operation, card, asked or usual, **more)


def part(minor: int = 1250) -> Order:
    return order(asked=Money("USD", minor), allow_partial=True, may_take_part=True)


def turn(player: OpenLoyaltyPayPlayer, **settings: Any) -> None:
    player.stage.settings = player.stage.settings.changed(settings)


def effects(player: OpenLoyaltyPayPlayer, key: str = KEY) -> list[tuple[str, int, int]]:
    return [
        (effect.card_id, effect.amount_minor, effect.points)
        for effect in player.ledger.effects(idempotency_key=key, with_seed=False)
    ]


async def refused(adapter: OpenLoyaltyPayAdapter, send: Send) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await adapter.book(send)
    return caught.value


async def fate_of(adapter: OpenLoyaltyPayAdapter, send: Send) -> Fate:
    try:
        await adapter.book(send)
    except ProviderError as error:
        return error.status.fate
    return Fate.EXECUTED


async def paid(adapter: OpenLoyaltyPayAdapter, operation: Operation = PAY) -> Original:
    asked = order(operation)
    receipt = (await adapter.book(Send(asked, KEY, 1))).receipt
    return Original(asked, KEY, receipt.references, asked.asked)


def question(asked: Order | None = None, key: str = KEY) -> Question:
    return Question(asked or order(), key, SENT)


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


class TestRepeats:
    async def test_a_used_number_is_a_doubt_to_a_resend_and_a_persons_to_a_first_attempt(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        await adapter.book(Send(order(), KEY, 1))
        again = await refused(adapter, Send(order(), KEY, 2))
        first = await refused(adapter, Send(order(), KEY, 1))
        for error in (again, first):
            assert (error.provider_code, error.status.reason) == (
                "4004",
                Reason.PROVIDER_KEY_CONFLICT,
            )
            assert error.status.fate is Fate.UNKNOWN
        assert (again.status.contradicts, first.status.contradicts) == (False, True)
        assert first.rule == "openloyaltypay: 4004 to a first attempt"
        assert effects(player) == [(CARD, -1250, 0)]

    async def test_a_first_attempt_refused_as_a_repeat_is_for_a_person(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        error = await refused(adapter, Send(order(), KEY, 1, "refused-first"))
        assert (error.provider_code, error.status.contradicts) == ("4004", True)
        assert effects(player) == []

    async def test_a_number_that_was_only_refused_tells_nothing_either(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        turn(player, keeps_refused_keys=True)
        too_much = order(asked=Money("USD", 4251))
        assert (await refused(adapter, Send(too_much, KEY, 1))).provider_code == "4001"
        error = await refused(adapter, Send(too_much, KEY, 2))
        assert (error.provider_code, error.status.fate) == ("4004", Fate.UNKNOWN)
        assert effects(player) == []

    async def test_a_vendor_that_replays_answers_with_the_same_number(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        turn(player, repeat="replays")
        first, again = [
            (await adapter.book(Send(order(), KEY, number))).receipt for number in (1, 2)
        ]
        assert first == again
        assert effects(player) == [(CARD, -1250, 0)]


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "rule", "fate", "has_effect"),
        [
            ("lost-before", "TRANSPORT ANSWER_LOST", Fate.UNKNOWN, False),
            ("lost-after", "TRANSPORT ANSWER_LOST", Fate.UNKNOWN, True),
            ("500-before", "openloyaltypay: 500", Fate.UNKNOWN, False),
            ("500-after", "openloyaltypay: 500", Fate.UNKNOWN, True),
            ("503-after", "openloyaltypay: default", Fate.UNKNOWN, True),
            ("garbage-before", "openloyaltypay: 200 that proves", Fate.UNKNOWN, False),
            ("garbage-after", "openloyaltypay: 200 that proves", Fate.UNKNOWN, True),
            ("truncated-after", "TRANSPORT ANSWER_BROKEN", Fate.UNKNOWN, True),
            ("contradictory-after", "openloyaltypay: 4001 with data", Fate.UNKNOWN, True),
            ("429", "openloyaltypay: 429", Fate.NOT_EXECUTED, False),
            ("unauthorized-once", "openloyaltypay: 401", Fate.NOT_EXECUTED, False),
        ],
    )
    @pytest.mark.parametrize("http_engine", ["pyreqwest", "httpx"])
    async def test_a_fault_is_judged_by_what_it_proves_and_the_query_tells_the_truth(
        self,
        player: OpenLoyaltyPayPlayer,
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
        finding = await adapter.ask(question())
        assert len(finding.candidates) == has_effect
        assert not finding.is_pending
        assert not finding.is_refused

    async def test_a_late_answer_after_the_effect_is_unknown(
        self, player: OpenLoyaltyPayPlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, connect_s=0.4, attempt_total_s=0.5)
        error = await refused(adapter, Send(order(), KEY, 1, "slow-after"))
        assert (error.rule, error.status.fate) == ("TRANSPORT TIMED_OUT", Fate.UNKNOWN)
        assert effects(player) == [(CARD, -1250, 0)]

    async def test_faults_are_asked_for_in_the_sandbox_only(
        self, player: OpenLoyaltyPayPlayer, open_connection_to: Open
    ) -> None:
        adapter = open_connection_to(player.base_url, profile="production")
        assert (await adapter.book(Send(order(), KEY, 1, "lost-after"))).http_status == 200

    async def test_a_read_may_be_asked_to_fail_too(self, adapter: OpenLoyaltyPayAdapter) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.get_card(Lookup(Operation.GET_CARD, CARD, fault="500-before"))
        assert caught.value.status.reason is Reason.PROVIDER_INTERNAL


class TestQueries:
    @pytest.mark.parametrize("operation", [PAY, TOP_UP, EARN, REDEEM])
    async def test_what_was_booked_is_found_by_our_own_number(
        self, adapter: OpenLoyaltyPayAdapter, operation: Operation
    ) -> None:
        asked = order(operation)
        receipt: Receipt = (await adapter.book(Send(asked, KEY, 1))).receipt
        (candidate,) = (await adapter.ask(question(asked))).candidates
        assert candidate.is_certain
        assert candidate.receipt.references[0] == receipt.references[0]
        assert candidate.receipt.echoed == asked.asked
        assert candidate.time is not None
        assert abs((datetime.now(UTC) - candidate.time).total_seconds()) < 60

    async def test_a_void_and_a_tip_are_found_too(self, adapter: OpenLoyaltyPayAdapter) -> None:
        original = await paid(adapter)
        for number, asked in (
            ("t-1", order(TIP, Money("USD", 200), original=original)),
            ("v-1", order(VOID, original=original)),
        ):
            receipt = (await adapter.book(Send(asked, number, 1))).receipt
            (candidate,) = (await adapter.ask(question(asked, number))).candidates
            assert candidate.is_certain
            assert candidate.receipt.references[0] == receipt.references[0]

    async def test_what_the_vendor_never_got_or_refused_is_not_found(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        await refused(adapter, Send(order(asked=Money("USD", 4251)), KEY, 1))
        for key in (KEY, "never-sent"):
            finding = await adapter.ask(question(key=key))
            assert (finding.candidates, finding.is_pending, finding.is_refused) == (
                (),
                False,
                False,
            )
            assert finding.rule == "openloyaltypay: no such order"

    async def test_a_query_that_does_not_cover_gift_orders_looks_the_same(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        """Which is why "not found" counts under order_query_answers only."""
        turn(player, query_answers=False)
        await adapter.book(Send(order(), KEY, 1))
        assert (await adapter.ask(question())).candidates == ()

    async def test_an_order_that_failed_is_refused_for_good(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        await refused(adapter, Send(order(card="10492"), KEY, 1))
        finding = await adapter.ask(question(order(card="10492")))
        assert finding.is_refused
        assert finding.candidates == ()

    async def test_an_order_that_was_undone_meanwhile_is_for_a_person(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        original = await paid(adapter)
        await adapter.book(Send(order(VOID, original=original), VOID_KEY, 1))
        with pytest.raises(ProviderError) as caught:
            await adapter.ask(question())
        assert caught.value.status.contradicts
        assert caught.value.status.fate is Fate.UNKNOWN

    async def test_a_part_is_told_by_the_query_as_well(
        self, adapter: OpenLoyaltyPayAdapter
    ) -> None:
        await refused(adapter, Send(part(5000), KEY, 1, "lost-after"))
        (candidate,) = (await adapter.ask(question(part(5000)))).candidates
        assert candidate.receipt.echoed == Money("USD", 4250)

    @pytest.mark.parametrize(
        ("fault", "ends_in"), [("pending-then-success", True), ("pending-then-failure", False)]
    )
    async def test_an_open_order_is_pending_until_it_is_done_or_refused(
        self,
        adapter: OpenLoyaltyPayAdapter,
        player: OpenLoyaltyPayPlayer,
        fault: str,
        ends_in: bool,
    ) -> None:
        turn(player, late_effect_s=600)
        error = await refused(adapter, Send(order(), KEY, 1, fault))
        assert (error.status.reason, error.status.fate, error.rule) == (
            Reason.PROVIDER_PENDING,
            Fate.UNKNOWN,
            "openloyaltypay: result 2",
        )
        assert (await adapter.ask(question())).is_pending
        turn(player, late_effect_s=0.01)
        await refused(adapter, Send(order(), "n-2", 1, fault))
        ended = await adapter.ask(question(key="n-2"))
        while ended.is_pending:
            ended = await adapter.ask(question(key="n-2"))
        assert ended.is_refused is not ends_in
        assert bool(ended.candidates) is ends_in
        assert effects(player, "n-2") == ([(CARD, -1250, 0)] if ends_in else [])

    async def test_a_replaying_vendor_answers_an_open_order_as_open_and_then_as_done(
        self, adapter: OpenLoyaltyPayAdapter, player: OpenLoyaltyPayPlayer
    ) -> None:
        turn(player, repeat="replays")
        first = await refused(adapter, Send(order(), KEY, 1, "pending-then-success"))
        assert first.status.reason is Reason.PROVIDER_PENDING
        fates = [await fate_of(adapter, Send(order(), KEY, 2))]
        while fates[-1] is not Fate.EXECUTED:
            fates.append(await fate_of(adapter, Send(order(), KEY, 2)))
        assert set(fates) <= {Fate.UNKNOWN, Fate.EXECUTED}
        assert effects(player) == [(CARD, -1250, 0)]

    @pytest.mark.parametrize(
        "data",
        [
            {"checkoutId": "c-1", "transIndexCode": "another", "state": 5},
            {"checkoutId": "c-1", "transIndexCode": "another", "state": 3},
            {"state": 2},
            {"checkoutId": "c-1", "transIndexCode": KEY, "state": 11},
            [],
        ],
    )
    async def test_an_answer_that_is_not_about_our_order_tells_nothing(
        self, open_connection_to: Open, data: Any
    ) -> None:
        async with running(answering(json.dumps(envelope(data)).encode())) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            with pytest.raises(ProviderError) as caught:
                await adapter.ask(question())
        assert caught.value.status.reason is Reason.PROVIDER_ANSWER_UNREADABLE
        assert not caught.value.status.contradicts

    async def test_an_order_under_another_number_is_no_certain_one(
        self, open_connection_to: Open
    ) -> None:
        data = {"checkoutId": "c-1", "transIndexCode": "100200000807293844967", "state": 2}
        async with running(answering(json.dumps(envelope(data)).encode())) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            (candidate,) = (await adapter.ask(question())).candidates
        assert not candidate.is_certain

    @pytest.mark.parametrize("code", [4001, 4002, 4005, 400, 401, 429, 500, 4999])
    async def test_a_refused_question_says_nothing_of_the_booking(
        self, open_connection_to: Open, code: int
    ) -> None:
        async with running(answering(json.dumps(envelope(None, code)).encode())) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            with pytest.raises(ProviderError) as caught:
                await adapter.ask(question())
        status = caught.value.status
        assert (status.fate, status.is_refusal, status.contradicts, status.shows_earlier) == (
            Fate.UNKNOWN,
            False,
            False,
            False,
        )

    async def test_a_question_about_a_booking_shares_its_connection_with_nothing(
        self, open_connection_to: Open
    ) -> None:
        async with running(answering(json.dumps(envelope(None)).encode())) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            for _ in range(3):
                await adapter.ask(question())
            assert server.connections == 3


def envelope(data: Any, code: Any = 200) -> dict[str, Any]:
    return {"code": code, "msg": "success", "timestamp": "2026-01-15 10:01:00", "data": data}


def answering(body: bytes, *, status: str = "200 OK", extra: str = "") -> Script:
    async def script(exchange: Exchange) -> bool:
        await exchange.answer(body, status=status, extra=extra)
        return True

    return script


DONE = {"checkoutId": "933392815902294016", "amount": "12.50", "result": 0}


class TestAnswersThatProveNothing:
    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"<html>" + CARD.encode(), id="html"),
            pytest.param(b"[" * 200_000, id="deep"),
            pytest.param(json.dumps(envelope(None)).encode(), id="no data"),
            pytest.param(b'{"code":200,"msg":"success"}', id="data left out"),
            pytest.param(json.dumps(envelope(DONE, None)).encode(), id="no code"),
            pytest.param(json.dumps(envelope(DONE, True)).encode(), id="a code that is true"),
            pytest.param(json.dumps(envelope({**DONE, "result": 3})).encode(), id="result 3"),
            pytest.param(json.dumps(envelope({"checkoutId": "c"})).encode(), id="no result"),
            pytest.param(json.dumps(envelope({"result": 0})).encode(), id="no number"),
            pytest.param(json.dumps(envelope(DONE, 4001)).encode(), id="a refusal with data"),
            pytest.param(
                b'{"code":200,"code":200,"data":{"checkoutId":"c","result":0}}', id="a code twice"
            ),
        ],
    )
    async def test_a_200_that_does_not_prove_the_booking_is_unknown(
        self, open_connection_to: Open, body: bytes
    ) -> None:
        async with running(answering(body)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, Send(order(), KEY, 1))
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_ANSWER_UNREADABLE,
            Fate.UNKNOWN,
        )
        assert error.http_status == 200

    async def test_a_code_and_a_result_may_be_texts(self, open_connection_to: Open) -> None:
        body = json.dumps(envelope({**DONE, "result": "0"}, "200")).encode()
        async with running(answering(body)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            assert (await adapter.book(Send(order(), KEY, 1))).receipt.references

    async def test_a_part_that_is_not_told_is_unknown(self, open_connection_to: Open) -> None:
        body = json.dumps(envelope({"checkoutId": "c", "result": 0})).encode()
        async with running(answering(body)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, Send(part(), KEY, 1))
            assert (await adapter.book(Send(order(), KEY, 1))).receipt.echoed is None
        assert error.status.fate is Fate.UNKNOWN

    @pytest.mark.parametrize(
        ("status", "body", "code"),
        [
            ("201 Created", json.dumps(envelope(DONE)).encode(), ""),
            ("204 No Content", b"", ""),
            ("302 Found", b"{}", ""),
            ("400 Bad Request", b"<html>", ""),
            ("401 Unauthorized", b"{}", ""),
            ("403 Forbidden", json.dumps(envelope(None, 401)).encode(), "401"),
            ("404 Not Found", json.dumps(envelope(None, 404)).encode(), "404"),
            ("400 Bad Request", json.dumps(envelope(None, 4001)).encode(), "4001"),
            ("500 Oops", json.dumps(envelope(None, 4002)).encode(), "4002"),
            ("502 Bad Gateway", b"<html>", ""),
            ("200 OK", json.dumps(envelope(None, 4999)).encode(), "4999"),
        ],
    )
    async def test_an_unlisted_answer_is_unknown(
        self, open_connection_to: Open, status: str, body: bytes, code: str
    ) -> None:
        async with running(answering(body, status=status)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            error = await refused(adapter, Send(order(), KEY, 1))
        assert error.status.fate is Fate.UNKNOWN
        assert not error.status.is_refusal
        assert error.http_status == int(status[:3])
        assert error.provider_code == code

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
