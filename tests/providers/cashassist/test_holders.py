"""CashAssist's codes, receipts, creations and changes, against the player over real HTTP."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import (
    AccountKind,
    CardFacts,
    CardPage,
    ChallengePurpose,
    Confirmed,
    Destination,
    EntryMode,
    ItemPage,
    Operation,
    Order,
    Person,
)
from loyalty_gateway.providers.cashassist import CashassistAdapter
from loyalty_gateway.providers.cashassist.proofs import Proofs
from loyalty_gateway.providers.cashassist.wire import HistoryPage
from loyalty_gateway.providers.port import (
    CodeCheck,
    CodeWish,
    Executed,
    Lookup,
    NotShown,
    ProviderError,
    ReceiptCheck,
    Search,
    Send,
)
from loyalty_gateway.sandbox import CashassistPlayer, Settings
from loyalty_gateway.sandbox.cashassist.holders import SANDBOX_CODE
from tests.providers.cashassist.conftest import Open
from tests.providers.fault_server import Exchange, Script, running

CARD = "10472"
PHONE = "+41790000000"
NEW_PHONE = "+41791112233"
KEY = "2f1c0f6e-6c0b-4a43-9a0e-7e1f7a2f6a11"
NEWCOMER = Person(given_name="Nora", family_name="Neu", email="nora@example.com")
LINK = ChallengePurpose.LINK_CARD
SIGN_UP = ChallengePurpose.SIGN_UP


async def send_code(
    adapter: CashassistAdapter,
    purpose: ChallengePurpose = LINK,
    phone: str = PHONE,
    person: Person | None = None,
) -> str:
    wish = CodeWish(purpose, Destination(phone=phone), KEY, person)
    return (await adapter.holders.send_code(wish)).handle


async def check_code(
    adapter: CashassistAdapter,
    handle: str,
    purpose: ChallengePurpose = LINK,
    code: str = SANDBOX_CODE,
    phone: str = PHONE,
) -> Confirmed:
    return await adapter.holders.check_code(
        CodeCheck(purpose, Destination(phone=phone), handle, code)
    )


async def sign_up(adapter: CashassistAdapter, phone: str = NEW_PHONE) -> str:
    handle = await send_code(adapter, SIGN_UP, phone, NEWCOMER)
    return (await check_code(adapter, handle, SIGN_UP, phone=phone)).proof


def creation(proof: str, person: Person | None = None) -> Order:
    return Order(Operation.CREATE_WALLET, person=person, proof=proof)


def change(*mask: str, card: str = CARD, **person: Any) -> Order:
    return Order(
        Operation.UPDATE_CARD, card, person=Person(**person), update_mask=mask or tuple(person)
    )


def card_of(done: Executed) -> CardFacts:
    assert done.receipt.card is not None
    return done.receipt.card


def detail(player: CashassistPlayer, card_id: str = CARD) -> dict[str, Any]:
    card = player.ledger.find_card(card_id)
    assert card is not None
    return dict(card.detail)


def paths(player: CashassistPlayer) -> list[str]:
    return [exchange.path.rpartition("/")[2] for exchange in player.stage.exchanges]


class TestCodes:
    async def test_a_right_code_names_the_cards_of_the_number(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        wish = CodeWish(LINK, Destination(phone=PHONE), KEY)
        issued = await adapter.holders.send_code(wish)
        assert issued.handle.startswith("vr_")
        assert issued.expire_time is not None
        confirmed = await check_code(adapter, issued.handle)
        assert confirmed == Confirmed((CARD,), AccountKind.CARD)
        assert not player.stage.violations

    async def test_a_number_without_a_card_has_none(self, adapter: CashassistAdapter) -> None:
        handle = await send_code(adapter, phone=NEW_PHONE)
        assert (await check_code(adapter, handle)).account_ids == ()

    async def test_a_sign_up_ends_in_a_proof_that_lasts_a_while(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        handle = await send_code(adapter, SIGN_UP, NEW_PHONE, NEWCOMER)
        confirmed = await check_code(adapter, handle, SIGN_UP, phone=NEW_PHONE)
        assert confirmed.proof.startswith("sut_")
        assert confirmed.expire_time is not None
        assert confirmed.account_ids == ()
        assert not player.stage.violations

    @pytest.mark.parametrize("purpose", [LINK, SIGN_UP])
    async def test_a_wrong_code_is_invalid_and_a_used_one_expired(
        self, adapter: CashassistAdapter, purpose: ChallengePurpose
    ) -> None:
        handle = await send_code(adapter, purpose, NEW_PHONE, NEWCOMER)
        with pytest.raises(ProviderError) as wrong:
            await check_code(adapter, handle, purpose, code="123456")
        await check_code(adapter, handle, purpose)
        with pytest.raises(ProviderError) as used:
            await check_code(adapter, handle, purpose)
        for caught, reason in ((wrong, Reason.CODE_INVALID), (used, Reason.CODE_EXPIRED)):
            assert caught.value.status.reason is reason
            assert caught.value.status.fate is Fate.NOT_EXECUTED
            assert handle not in str(vars(caught.value))

    async def test_a_number_that_has_a_card_cannot_sign_up(
        self, adapter: CashassistAdapter
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await send_code(adapter, SIGN_UP, PHONE, NEWCOMER)
        assert caught.value.status.reason is Reason.ACCOUNT_ALREADY_EXISTS
        assert caught.value.status.fate is Fate.NOT_EXECUTED

    @pytest.mark.parametrize(
        ("wish", "reason"),
        [
            (
                CodeWish(ChallengePurpose.LOG_IN, Destination(phone=PHONE), KEY),
                Reason.REQUEST_INVALID,
            ),
            (CodeWish(LINK, Destination(email="m@example.com"), KEY), Reason.REQUEST_INVALID),
            (CodeWish(LINK, Destination(account_id=CARD), KEY), Reason.REQUEST_INVALID),
            (
                CodeWish(SIGN_UP, Destination(phone=NEW_PHONE), KEY),
                Reason.FIELD_REQUIRED_BY_PROVIDER,
            ),
            (
                CodeWish(SIGN_UP, Destination(phone=NEW_PHONE), KEY, Person(display_name="N N")),
                Reason.FIELD_REQUIRED_BY_PROVIDER,
            ),
        ],
    )
    async def test_a_code_that_the_vendor_does_not_send_is_refused_without_a_request(
        self, adapter: CashassistAdapter, player: CashassistPlayer, wish: CodeWish, reason: Reason
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.holders.send_code(wish)
        assert caught.value.status.reason is reason
        assert caught.value.status.fate is Fate.NOT_EXECUTED
        assert paths(player) == []

    async def test_a_lost_answer_leaves_open_whether_a_code_was_sent(
        self, adapter: CashassistAdapter
    ) -> None:
        for fault in ("lost-after", "500-before", "garbage-after"):
            wish = CodeWish(LINK, Destination(phone=PHONE), KEY, fault=fault)
            with pytest.raises(ProviderError) as caught:
                await adapter.holders.send_code(wish)
            assert caught.value.status.fate is Fate.UNKNOWN


class TestReceipts:
    @pytest.fixture
    def receipt(self, player: CashassistPlayer) -> dict[str, Any]:
        (card,) = [it for it in player.shown_cards() if it["card"] == CARD]
        found: dict[str, Any] = card["receipts"][0]
        return found

    async def test_a_receipt_of_the_card_proves_it(
        self, adapter: CashassistAdapter, player: CashassistPlayer, receipt: dict[str, Any]
    ) -> None:
        for day, total in (
            (None, None),
            (
                date.fromisoformat(receipt["date"]),
                Money("CHF", receipt["total_minor"]),
            ),
        ):
            check = ReceiptCheck(CARD, receipt["number"], day, total)
            confirmed = await adapter.holders.check_receipt(check)
            assert confirmed == Confirmed((CARD,), AccountKind.CARD)
        assert not player.stage.violations

    async def test_another_receipt_is_a_no_and_no_error(
        self, adapter: CashassistAdapter, receipt: dict[str, Any]
    ) -> None:
        for check in (
            ReceiptCheck(CARD, "2026-999999"),
            ReceiptCheck("10480", receipt["number"]),
            ReceiptCheck(CARD, receipt["number"], receipt_amount=Money("CHF", 1)),
            ReceiptCheck(CARD, receipt["number"], date(2020, 1, 1)),
        ):
            assert await adapter.holders.check_receipt(check) is None

    async def test_an_unknown_card_is_not_found(self, adapter: CashassistAdapter) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.holders.check_receipt(ReceiptCheck("99999", "2026-1"))
        assert caught.value.status.reason is Reason.ACCOUNT_NOT_FOUND


class TestCreations:
    async def test_a_sign_up_becomes_a_card_with_its_links_once(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        order = creation(await sign_up(adapter))
        before = len(player.ledger.cards())
        first = await adapter.holders.create(Send(order, KEY, 1))
        second = await adapter.holders.create(Send(order, KEY, 2))
        card = card_of(first)
        assert card_of(second).account_id == card.account_id
        assert (first.receipt.is_replay, second.receipt.is_replay) == (False, True)
        assert len(player.ledger.cards()) == before + 1
        assert (card.holder.display_name, card.kind) == ("Nora Neu", AccountKind.CARD)
        assert [it.amount for it in card.balances] == [Money("CHF", 0), Points(0)]
        assert dict(card.wallet_links) == {
            "apple": f"https://wallet.example/a/{card.account_id}",
            "google": f"https://wallet.example/g/{card.account_id}",
        }
        assert not player.stage.violations

    @pytest.mark.parametrize(
        ("person", "name"),
        [
            (Person(display_name="The Neus"), "The Neus"),
            (Person(given_name="N.", family_name="Neu"), "N. Neu"),
            (Person(display_name="The Neus", given_name="N."), "The Neus"),
            (Person(), "Nora Neu"),
        ],
    )
    async def test_a_name_may_be_given_for_the_card(
        self, adapter: CashassistAdapter, person: Person, name: str
    ) -> None:
        order = creation(await sign_up(adapter), person)
        assert await adapter.holders.check_new(order) == ()
        done = await adapter.holders.create(Send(order, KEY, 1))
        assert card_of(done).holder.display_name == name

    async def test_a_number_that_got_a_card_meanwhile_gets_no_second_one(
        self, adapter: CashassistAdapter
    ) -> None:
        first, second = await sign_up(adapter), await sign_up(adapter)
        await adapter.holders.create(Send(creation(first), KEY, 1))
        with pytest.raises(ProviderError) as caught:
            await adapter.holders.create(Send(creation(second), KEY.replace("2", "3"), 1))
        assert caught.value.status.reason is Reason.ACCOUNT_ALREADY_EXISTS
        assert caught.value.status.is_refusal

    async def test_a_used_or_unknown_proof_has_expired(self, adapter: CashassistAdapter) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.holders.create(Send(creation("sut_unknown"), KEY, 1))
        assert (caught.value.status.reason, caught.value.provider_code) == (
            Reason.CODE_EXPIRED,
            "code_invalid",
        )
        assert caught.value.status.is_refusal

    @pytest.mark.parametrize(
        "person",
        [
            Person(phone=NEW_PHONE),
            Person(email="n@example.com"),
            Person(birth_date=date(1990, 4, 1)),
            Person(attributes=(("size", "38"),)),
        ],
    )
    async def test_what_a_new_card_cannot_be_given_is_refused_and_not_left_out(
        self, adapter: CashassistAdapter, player: CashassistPlayer, person: Person
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.holders.check_new(creation("sut_1", person))
        assert caught.value.status.reason is Reason.REQUEST_INVALID
        assert caught.value.status.is_refusal
        assert "example.com" not in str(vars(caught.value))
        assert paths(player) == []

    @pytest.mark.parametrize(
        ("fault", "fate", "cards"),
        [
            ("lost-before", Fate.UNKNOWN, 0),
            ("lost-after", Fate.UNKNOWN, 1),
            ("500-after", Fate.UNKNOWN, 1),
            ("garbage-after", Fate.UNKNOWN, 1),
            ("contradictory-after", Fate.UNKNOWN, 1),
            ("429", Fate.NOT_EXECUTED, 0),
        ],
    )
    async def test_a_fault_is_judged_by_what_it_proves_and_a_resend_ends_in_one_card(
        self,
        adapter: CashassistAdapter,
        player: CashassistPlayer,
        fault: str,
        fate: Fate,
        cards: int,
    ) -> None:
        order = creation(await sign_up(adapter))
        before = len(player.ledger.cards())
        with pytest.raises(ProviderError) as caught:
            await adapter.holders.create(Send(order, KEY, 1, fault))
        assert caught.value.status.fate is fate
        assert len(player.ledger.cards()) == before + cards
        await adapter.holders.create(Send(order, KEY, 2))
        assert len(player.ledger.cards()) == before + 1

    async def test_a_refused_resend_is_no_proof(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        """A vendor that does not know its key again refuses what it did itself."""
        player.stage.settings = Settings(key_lifetime_s=0)
        order = creation(await sign_up(adapter))
        await adapter.holders.create(Send(order, KEY, 1))
        with pytest.raises(ProviderError) as caught:
            await adapter.holders.create(Send(order, KEY, 2))
        assert (caught.value.status.is_refusal, caught.value.status.may_be_own) == (True, True)
        assert caught.value.status.proves is Proves.THIS_ATTEMPT

    @pytest.mark.parametrize("attempt", [2, 3])
    async def test_a_refusal_that_is_replayed_is_a_proof_while_only_one_came_before(
        self, adapter: CashassistAdapter, attempt: int
    ) -> None:
        order = creation("sut_unknown")
        with pytest.raises(ProviderError):
            await adapter.holders.create(Send(order, KEY, 1, "lost-after"))
        with pytest.raises(ProviderError) as caught:
            await adapter.holders.create(Send(order, KEY, attempt))
        status = caught.value.status
        assert (status.fate, status.is_refusal) == (Fate.NOT_EXECUTED, True)
        is_whole = attempt == 2
        assert status.may_be_own is not is_whole
        assert (status.proves is Proves.WHOLE_BOOKING) is is_whole


class TestChanges:
    async def test_only_what_the_mask_names_is_changed(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        order = change(
            "family_name",
            "birth_date",
            given_name="Moritz",
            family_name="Meier",
            birth_date=date(1990, 4, 1),
        )
        assert await adapter.holders.check_change(order) == ()
        done = await adapter.holders.update(Send(order, KEY, 1))
        assert card_of(done).holder.display_name == "Max Meier"
        assert card_of(done).account_id == CARD
        assert detail(player) == {
            "firstName": "Max",
            "lastName": "Meier",
            "phone": PHONE,
            "birthday": "1990-04-01",
        }
        assert not player.stage.violations

    async def test_everything_can_be_changed_at_once_and_twice(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        order = change(
            given_name="Nora",
            family_name="Neu",
            email="nora@example.com",
            phone=NEW_PHONE,
            birth_date=date(2000, 2, 29),
        )
        for attempt in (1, 2):
            await adapter.holders.update(Send(order, KEY, attempt))
        assert detail(player) == {
            "firstName": "Nora",
            "lastName": "Neu",
            "email": "nora@example.com",
            "phone": NEW_PHONE,
            "birthday": "2000-02-29",
        }

    @pytest.mark.parametrize(
        "order",
        [
            change(display_name="Max M."),
            change("type", given_name="Max"),
            change(attributes=(("size", "38"),)),
            change("email", "given_name", given_name="Max"),
            change("birth_date"),
        ],
    )
    async def test_what_cannot_be_changed_is_refused_and_not_left_out(
        self, adapter: CashassistAdapter, player: CashassistPlayer, order: Order
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.holders.check_change(order)
        assert caught.value.status.reason is Reason.REQUEST_INVALID
        assert "Max" not in str(vars(caught.value))
        assert paths(player) == []

    @pytest.mark.parametrize(
        ("order", "reason"),
        [
            (change(card="99999", given_name="N"), Reason.ACCOUNT_NOT_FOUND),
            (change(card="10490", given_name="N"), Reason.ACCOUNT_NOT_ACTIVE),
            (change(phone="0790000000"), Reason.PROVIDER_REJECTED_ARGUMENT),
        ],
    )
    async def test_a_documented_refusal_is_final(
        self, adapter: CashassistAdapter, order: Order, reason: Reason
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.holders.update(Send(order, KEY, 1))
        assert caught.value.status.reason is reason
        assert caught.value.status.is_refusal

    async def test_a_lost_answer_is_unknown(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.holders.update(Send(change(given_name="Nora"), KEY, 1, "lost-after"))
        assert caught.value.status.fate is Fate.UNKNOWN
        assert detail(player)["firstName"] == "Nora"


class TestSearches:
    @pytest.mark.parametrize("entry_mode", [None, *EntryMode])
    async def test_a_number_is_taken_for_the_cards_id(
        self, adapter: CashassistAdapter, entry_mode: EntryMode | None
    ) -> None:
        search = Search(scan_entry_mode=entry_mode, scan_value=CARD)
        page = await adapter.reads.search_cards(Lookup(Operation.SEARCH_CARDS, search=search))
        assert [card.account_id for card in page.cards] == [CARD]
        assert page.next_cursor == ""

    async def test_a_number_without_a_card_finds_nothing(self, adapter: CashassistAdapter) -> None:
        search = Search(scan_value="99999")
        page = await adapter.reads.search_cards(Lookup(Operation.SEARCH_CARDS, search=search))
        assert page == CardPage(())

    @pytest.mark.parametrize(
        "search",
        [
            Search(phone=PHONE),
            Search(email="max@example.com"),
            Search(attribute_name="a", attribute_value="b"),
            Search(scan_value=CARD, group_id="1"),
            Search(scan_value=CARD, store_id="1", point_of_sale_id="2"),
        ],
    )
    async def test_a_search_that_the_vendor_has_no_words_for_is_refused_without_a_request(
        self, adapter: CashassistAdapter, player: CashassistPlayer, search: Search
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.reads.search_cards(Lookup(Operation.SEARCH_CARDS, search=search))
        assert caught.value.status.reason is Reason.REQUEST_INVALID
        assert paths(player) == []


def answering(document: Any) -> Script:
    async def script(exchange: Exchange) -> bool:
        await exchange.answer(json.dumps(document).encode())
        return True

    return script


class TestItems:
    def lookup(self, reference: str, **page: Any) -> Lookup:
        return Lookup(
            Operation.LIST_TRANSACTION_ITEMS, CARD, transaction_reference=reference, **page
        )

    async def test_the_lines_of_a_purchase_add_up_to_it(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        history = await adapter.reads.list_transactions(Lookup(Operation.LIST_TRANSACTIONS, CARD))
        purchase = next(it for it in history.transactions if it.provider_kind == "purchase")
        page = await adapter.reads.list_items(self.lookup(purchase.reference))
        assert [item.position for item in page.items] == list(range(1, len(page.items) + 1))
        assert all(item.description and item.quantity >= 1 for item in page.items)
        total = sum(item.amount.minor for item in page.items if item.amount)
        assert purchase.money == Money("CHF", -total)
        assert not player.stage.violations

    async def test_an_unknown_transaction_is_not_found(self, adapter: CashassistAdapter) -> None:
        with pytest.raises(ProviderError) as caught:
            await adapter.reads.list_items(self.lookup("tx_1"))
        assert caught.value.status.reason is Reason.NOT_FOUND

    async def test_a_long_sale_comes_in_pages(self, open_connection_to: Open) -> None:
        lines = [{"line": n, "description": "", "quantity": 0.5, "total": n} for n in range(1, 6)]
        script = answering({"transactionId": "tx_1", "items": lines})
        seen: list[int] = []
        cursor = ""
        async with running(script) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            while True:
                page = await adapter.reads.list_items(
                    self.lookup("tx_1", page_size=2, cursor=cursor)
                )
                seen += [item.position for item in page.items]
                assert all(item.quantity == Decimal("0.5") for item in page.items)
                cursor = page.next_cursor
                if not cursor:
                    break
        assert seen == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        "document",
        [
            {"transactionId": "tx_2", "items": []},
            {"items": []},
            {"transactionId": "tx_1", "items": {}},
            {"transactionId": "tx_1", "items": [5]},
            {"transactionId": "tx_1", "items": [{"line": 1, "description": "", "total": 1}]},
            {
                "transactionId": "tx_1",
                "items": [{"line": 1, "description": "", "quantity": True, "total": 1}],
            },
            {
                "transactionId": "tx_1",
                "items": [{"line": 1, "description": "", "quantity": 1, "total": 1.005}],
            },
        ],
    )
    async def test_items_that_are_none_are_unreadable(
        self, open_connection_to: Open, document: Any
    ) -> None:
        async with running(answering(document)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            with pytest.raises(ProviderError) as caught:
                await adapter.reads.list_items(self.lookup("tx_1"))
        assert caught.value.status.reason is Reason.PROVIDER_ANSWER_UNREADABLE

    async def test_a_sale_without_lines_is_an_empty_page(self, open_connection_to: Open) -> None:
        async with running(answering({"transactionId": "tx_1", "items": []})) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            assert await adapter.reads.list_items(self.lookup("tx_1")) == ItemPage(())


WHOLE_CARD = {"id": "30001", "name": "Nora Neu", "balance": 0, "points": 0}


class TestAnswersThatProveNothing:
    @pytest.mark.parametrize(
        "document",
        [
            {},
            {"card": None},
            {"card": {**WHOLE_CARD, "id": 30001}},
            {"card": {**WHOLE_CARD, "id": ""}},
            {"card": {**WHOLE_CARD, "balance": "0"}},
            {"card": WHOLE_CARD, "walletLinks": []},
            {"card": WHOLE_CARD, "walletLinks": {"apple": 5}},
            {"card": WHOLE_CARD, "error": {"code": "card_exists", "message": ""}},
            {"card": WHOLE_CARD, "idempotencyKey": "another-booking"},
        ],
    )
    async def test_a_200_without_a_whole_card_leaves_the_creation_in_doubt(
        self, open_connection_to: Open, document: Any
    ) -> None:
        async with running(answering(document)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            with pytest.raises(ProviderError) as caught:
                await adapter.holders.create(Send(creation("sut_1"), KEY, 1))
        assert caught.value.status.fate is Fate.UNKNOWN
        assert "Nora" not in str(vars(caught.value))

    @pytest.mark.parametrize("links", [None, {}, {"google": "https://wallet.example/g/1"}])
    async def test_links_may_be_missing(self, open_connection_to: Open, links: Any) -> None:
        async with running(answering({"card": WHOLE_CARD, "walletLinks": links})) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            done = await adapter.holders.create(Send(creation("sut_1"), KEY, 1))
        assert dict(card_of(done).wallet_links) == (links or {})

    @pytest.mark.parametrize(
        "document",
        [
            {**WHOLE_CARD, "id": "10480"},
            {**WHOLE_CARD, "id": CARD, "points": None},
            {**WHOLE_CARD, "id": CARD, "error": {}},
            {**WHOLE_CARD, "id": CARD, "idempotencyKey": KEY},
        ],
    )
    async def test_a_200_about_another_card_leaves_the_change_in_doubt(
        self, open_connection_to: Open, document: Any
    ) -> None:
        async with running(answering(document)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            with pytest.raises(ProviderError) as caught:
                await adapter.holders.update(Send(change(given_name="N"), KEY, 1))
        assert caught.value.status.fate is Fate.UNKNOWN

    @pytest.mark.parametrize(
        "document",
        [
            {"verified": "yes", "card": WHOLE_CARD},
            {"verified": True},
            {"verified": True, "card": WHOLE_CARD},
            {"card": {**WHOLE_CARD, "id": CARD}},
        ],
    )
    async def test_an_ownership_is_neither_yes_nor_no_where_the_answer_is_odd(
        self, open_connection_to: Open, document: Any
    ) -> None:
        async with running(answering(document)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            with pytest.raises(ProviderError):
                await adapter.holders.check_receipt(ReceiptCheck(CARD, "R-1"))

    async def test_a_plain_no_is_a_no(self, open_connection_to: Open) -> None:
        document = {"verified": False, "card": {**WHOLE_CARD, "id": CARD}}
        async with running(answering(document)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            assert await adapter.holders.check_receipt(ReceiptCheck(CARD, "R-1")) is None

    @pytest.mark.parametrize(
        ("purpose", "document"),
        [
            (LINK, {}),
            (LINK, {"cards": {}}),
            (LINK, {"cards": [5]}),
            (LINK, {"cards": [{"name": "Max"}]}),
            (LINK, {"cards": [WHOLE_CARD] * 101}),
            (SIGN_UP, {}),
            (SIGN_UP, {"signupToken": ""}),
            (SIGN_UP, {"signupToken": "s" * 513}),
            (SIGN_UP, {"signupToken": "sut_1", "expiresAt": "soon"}),
        ],
    )
    async def test_a_confirmation_that_is_none_is_unreadable(
        self, open_connection_to: Open, purpose: ChallengePurpose, document: Any
    ) -> None:
        async with running(answering(document)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            with pytest.raises(ProviderError) as caught:
                await check_code(adapter, "vr_1", purpose)
        assert caught.value.status.reason is Reason.PROVIDER_ANSWER_UNREADABLE


class TestBodies:
    """What is sent, to the letter."""

    async def sent(self, open_connection_to: Open, document: Any, call: Any) -> bytes:
        async with running(answering(document)) as server:
            await call(open_connection_to(f"http://127.0.0.1:{server.port}"))
            (body,) = server.effects
        return body

    async def test_a_sign_up(self, open_connection_to: Open) -> None:
        pending = {"requestId": "su_1", "expiresAt": "2026-01-15T10:05:00Z"}
        body = await self.sent(
            open_connection_to,
            pending,
            lambda adapter: send_code(adapter, SIGN_UP, NEW_PHONE, NEWCOMER),
        )
        assert body == (
            b'{"phone":"+41791112233","firstName":"Nora","lastName":"Neu",'
            b'"email":"nora@example.com"}'
        )

    async def test_a_wish_to_link_names_the_number_alone(self, open_connection_to: Open) -> None:
        pending = {"requestId": "vr_1", "expiresAt": "2026-01-15T10:05:00Z"}
        body = await self.sent(
            open_connection_to, pending, lambda adapter: send_code(adapter, person=NEWCOMER)
        )
        assert body == b'{"phone":"+41790000000"}'

    async def test_a_code_keeps_its_zeros(self, open_connection_to: Open) -> None:
        body = await self.sent(
            open_connection_to,
            {"cards": []},
            lambda adapter: check_code(adapter, "vr_1", code="000042"),
        )
        assert body == b'{"requestId":"vr_1","code":"000042"}'

    async def test_a_receipt(self, open_connection_to: Open) -> None:
        check = ReceiptCheck(CARD, "2026-000815", date(2026, 1, 14), Money("CHF", 1840))
        body = await self.sent(
            open_connection_to,
            {"verified": False, "card": {"id": CARD}},
            lambda adapter: adapter.holders.check_receipt(check),
        )
        assert body == (
            b'{"id":"10472","receiptNumber":"2026-000815","receiptDate":"2026-01-14",'
            b'"receiptTotal":18.40}'
        )

    async def test_a_creation(self, open_connection_to: Open) -> None:
        order = creation("sut_1", Person(display_name="Zoë"))
        body = await self.sent(
            open_connection_to,
            {"card": WHOLE_CARD},
            lambda adapter: adapter.holders.create(Send(order, KEY, 1)),
        )
        assert body == b'{"signupToken":"sut_1","name":"Zo\\u00eb"}'


class TestEchoProof:
    async def test_the_unit_of_the_echo_is_shown_on_the_proof_card(
        self, adapter: CashassistAdapter, player: CashassistPlayer
    ) -> None:
        evidence = await adapter.prove("amount_echo_unit")
        assert "top-ups and debits of 0.01 CHF" in evidence
        assert "10999" not in evidence
        proofs = player.ledger.effects(card_id="10999", with_seed=False)
        moved = [(effect.amount_minor, effect.points) for effect in proofs]
        assert moved == [(0, -1), (-1, 0), (-1, 0), (1, 0), (1, 0)]

    @pytest.mark.parametrize("operation", [Operation.DEBIT_BALANCE, Operation.REDEEM_POINTS])
    async def test_another_form_of_one_kinds_echo_is_caught(
        self, adapter: CashassistAdapter, operation: Operation
    ) -> None:
        async def book(send: Send) -> Executed:
            done = await adapter.book(send)
            if send.order.operation is not operation:
                return done
            return replace(done, receipt=replace(done.receipt, echoed=None))

        async def read_history(key: str) -> HistoryPage:
            raise AssertionError("the echo needs no history")

        with pytest.raises(LookupError, match=operation.method) as caught:
            await Proofs("10999", "CHF", book, read_history).show_amount_echo_unit()
        assert not isinstance(caught.value, NotShown)

    @pytest.mark.parametrize(("echo", "words"), [(1, "1.00 CHF"), (None, "no amount")])
    async def test_another_unit_and_no_echo_are_caught(
        self, open_connection_to: Open, echo: int | None, words: str
    ) -> None:
        balance = 0

        async def script(exchange: Exchange) -> bool:
            nonlocal balance
            balance += 1
            document = {
                "transactionId": f"tx_{balance}",
                "id": "10999",
                "type": "refill",
                "balanceAfter": balance / 100,
                "pointsAfter": 0,
                "bookedAt": datetime.now(UTC).isoformat(),
            } | ({} if echo is None else {"amount": echo})
            await exchange.answer(json.dumps(document).encode())
            return True

        async with running(script) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}", proof_card="10999")
            with pytest.raises(LookupError, match=words) as caught:
                await adapter.prove("amount_echo_unit")
        assert not isinstance(caught.value, NotShown)


class TestCanary:
    """A person, a code and a proof that are unmistakable are in nothing that people are shown."""

    PERSON = Person(
        display_name="Canary Carla",
        given_name="Carla",
        family_name="Canary",
        phone="+41799998877",
        email="carla.canary@example.com",
        birth_date=date(1987, 6, 5),
    )
    CARD = "7310472999888777"
    CODE = "48151623"
    PROOF = "sut_canary"

    async def test_nothing_of_a_person_is_shown(self, open_connection_to: Open) -> None:
        talkative = f"{self.CARD} Canary {self.CODE} {self.PROOF} carla.canary@example.com"
        card = {"id": self.CARD, "name": "Canary Carla", "balance": 1, "points": 2}
        documents: list[Any] = [
            {"card": card, **card, "cards": [card], "verified": True, "signupToken": self.PROOF},
            {"error": {"code": "code_invalid", "message": talkative}},
            {"message": talkative},
        ]
        shown: list[str] = []
        for document in documents:
            async with running(answering(document)) as server:
                adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
                holders = adapter.holders
                everything = (
                    "given_name",
                    "family_name",
                    "phone",
                    "email",
                    "birth_date",
                )
                new = Order(Operation.CREATE_CARD, person=self.PERSON, proof=self.PROOF)
                changed = Order(
                    Operation.UPDATE_CARD, self.CARD, person=self.PERSON, update_mask=everything
                )
                to = Destination(phone=self.PERSON.phone)
                for call in (
                    holders.create(Send(new, KEY, 1)),
                    holders.update(Send(changed, KEY, 1)),
                    holders.send_code(CodeWish(SIGN_UP, to, KEY, self.PERSON)),
                    holders.check_code(CodeCheck(SIGN_UP, to, "su_canary", self.CODE)),
                    holders.check_code(CodeCheck(LINK, to, "su_canary", self.CODE)),
                    holders.check_receipt(ReceiptCheck(self.CARD, "R-1")),
                ):
                    try:
                        result: Any = await call
                        shown.append(repr(result))
                    except ProviderError as error:
                        shown.append(f"{error!r} {vars(error)!r}")
        written = "\n".join(shown)
        assert "POST /cashassist/loyalty-cards/update: given_name" in written
        for secret in (
            "Canary",
            "Carla",
            "carla.canary",
            "99998877",
            "1987",
            self.CARD,
            self.CODE,
            self.PROOF,
            "su_canary",
        ):
            assert secret not in written, secret
