"""Members at Loyalife against the player: profiles, links, codes and passwords."""

import dataclasses
from datetime import UTC, date, datetime
from typing import Any

import pytest

from loyalty_gateway.domain.amounts import Points
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    AccountKind,
    CardFacts,
    ChallengePurpose,
    Destination,
    External,
    Operation,
    Order,
    Person,
)
from loyalty_gateway.providers.loyalife import LoyalifeAdapter
from loyalty_gateway.providers.port import (
    CodeCheck,
    CodeWish,
    Lookup,
    PasswordCheck,
    ProviderError,
    Search,
)
from loyalty_gateway.sandbox import LoyalifePlayer, LoyalifeSettings
from loyalty_gateway.sandbox.book import Card
from loyalty_gateway.sandbox.loyalife import wire
from loyalty_gateway.sandbox.loyalife.cards import PASSWORD_HASH
from tests.providers.loyalife.test_adapter import SPEECHES, grow_old, routes
from tests.providers.loyalife.verbs import KEY, MEMBER, book, call, refused

EMAIL = "m8124@example.com"
PERSON = Person(
    "Nora Neu",
    email="nora@example.com",
    phone="+41791234567",
    birth_date=date(1990, 6, 15),
    attributes=(("gender", "F"),),
)


async def profile(adapter: LoyalifeAdapter, member: str = MEMBER) -> CardFacts:
    found = await call(adapter, Operation.GET_WALLET, Lookup(Operation.GET_WALLET, member))
    assert isinstance(found, CardFacts)
    return found


class TestProfiles:
    @pytest.mark.parametrize("settings", SPEECHES, ids=str)
    async def test_a_profile_is_told_in_the_contracts_words(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter, settings: LoyalifeSettings
    ) -> None:
        player.stage.settings = settings
        found = await profile(adapter)
        assert (found.account_id, found.kind, found.status) == (
            MEMBER,
            AccountKind.MEMBER,
            "ACTIVE",
        )
        assert (found.tier, found.holder.display_name) == ("Gold", "Asha Rao")
        assert [balance.amount for balance in found.balances] == [Points(4200)]

    @pytest.mark.parametrize(
        ("member", "status"), [("m_8126", "INACTIVE"), ("m_8127", "SUSPENDED")]
    )
    async def test_a_member_who_cannot_redeem_says_why(
        self, adapter: LoyalifeAdapter, member: str, status: str
    ) -> None:
        assert (await profile(adapter, member)).status == status

    async def test_an_odd_id_reaches_the_vendor_whole(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        for odd in ("m_8124&pintProgramId=20", "../m_8124", "m 8124#", "é@ü", "1\r\nx: y"):
            with pytest.raises(ProviderError) as caught:
                await profile(adapter, odd)
            assert caught.value.provider_code == "103"
        assert list(player.stage.violations) == []

    @pytest.mark.parametrize(
        ("search", "found"),
        [
            (Search(email=EMAIL), MEMBER),
            (Search(phone="+919876512346"), "m_8125"),
            (Search(attribute_name="email_id", attribute_value=EMAIL), MEMBER),
            (Search(scan_value=MEMBER), MEMBER),
            (Search(email="nobody@example.com"), None),
            (Search(scan_value="m_9999"), None),
        ],
    )
    async def test_a_search_finds_the_member_or_nobody(
        self, adapter: LoyalifeAdapter, search: Search, found: str | None
    ) -> None:
        lookup = Lookup(Operation.SEARCH_CARDS, search=search)
        page = await call(adapter, Operation.SEARCH_CARDS, lookup)
        assert [card.account_id for card in page.cards] == ([found] if found else [])
        assert page.next_cursor == ""

    async def test_an_attribute_that_is_not_unique_finds_nobody_by_chance(
        self, adapter: LoyalifeAdapter
    ) -> None:
        search = Search(attribute_name="tier", attribute_value="Gold")
        with pytest.raises(ProviderError) as caught:
            await call(
                adapter, Operation.SEARCH_CARDS, Lookup(Operation.SEARCH_CARDS, search=search)
            )
        assert caught.value.status.reason is Reason.PROVIDER_REJECTED_ARGUMENT


class TestEnrolling:
    @pytest.mark.parametrize("operation", [Operation.CREATE_CARD, Operation.CREATE_WALLET])
    async def test_a_new_member_has_the_callers_number_and_is_not_active(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter, operation: Operation
    ) -> None:
        done = await book(adapter, Order(operation, "m_new", person=PERSON))
        assert done.receipt.card is not None
        assert (done.receipt.card.account_id, done.receipt.card.status) == ("m_new", "INACTIVE")
        found = await profile(adapter, "m_new")
        assert (found.status, found.holder.display_name) == ("INACTIVE", "Nora Neu")
        assert found.holder.birth_date == date(1990, 6, 15)
        assert (found.holder.email, found.holder.phone) == ("nora@example.com", "+41791234567")
        assert ("gender", "F") in found.attributes
        assert list(player.stage.violations) == []

    @pytest.mark.parametrize("settings", SPEECHES, ids=str)
    async def test_a_number_that_exists_is_refused_and_nothing_is_overwritten(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter, settings: LoyalifeSettings
    ) -> None:
        player.stage.settings = settings
        error = await refused(adapter, Order(Operation.CREATE_CARD, MEMBER, person=PERSON))
        assert (error.status.reason, error.provider_code) == (
            Reason.ACCOUNT_ALREADY_EXISTS,
            "E201",
        )
        assert (error.http_status, error.status.is_refusal) == (409, True)
        assert (await profile(adapter)).holder.display_name == "Asha Rao"

    @pytest.mark.parametrize(
        ("account_id", "person"),
        [
            ("", PERSON),
            ("m_new", None),
            ("m_new", dataclasses.replace(PERSON, email="")),
            ("m_new", dataclasses.replace(PERSON, phone="")),
            ("m_new", dataclasses.replace(PERSON, display_name="")),
        ],
    )
    async def test_what_the_vendor_would_miss_is_never_sent(
        self,
        player: LoyalifePlayer,
        adapter: LoyalifeAdapter,
        account_id: str,
        person: Person | None,
    ) -> None:
        error = await refused(adapter, Order(Operation.CREATE_CARD, account_id, person=person))
        assert error.status.reason is Reason.FIELD_REQUIRED_BY_PROVIDER
        assert error.status.fate is Fate.NOT_EXECUTED
        assert list(player.stage.exchanges) == []


class TestUpdates:
    async def update(self, adapter: LoyalifeAdapter, **changes: object) -> Order:
        person = Person("Asha New", email="new@example.com", phone="+412")
        usual = Order(Operation.UPDATE_WALLET, MEMBER, person=person, update_mask=("email",))
        order = dataclasses.replace(usual, **changes)  # type: ignore[arg-type]
        prepare = adapter.operations[order.operation].prepare
        assert prepare is not None
        return dataclasses.replace(order, prepared=await prepare(order))

    async def test_what_the_mask_names_is_set_and_the_rest_stays(
        self, adapter: LoyalifeAdapter
    ) -> None:
        done = await book(adapter, await self.update(adapter))
        assert done.receipt.card is not None
        assert done.receipt.card.holder.email == "new@example.com"
        found = await profile(adapter)
        assert (found.holder.email, found.holder.display_name) == ("new@example.com", "Asha Rao")

    async def test_without_a_mask_all_that_is_told_is_set(self, adapter: LoyalifeAdapter) -> None:
        await book(adapter, await self.update(adapter, update_mask=()))
        found = (await profile(adapter)).holder
        assert (found.display_name, found.email, found.phone) == (
            "Asha New",
            "new@example.com",
            "+412",
        )

    async def test_the_same_update_twice_leaves_the_same_profile(
        self, adapter: LoyalifeAdapter
    ) -> None:
        order = await self.update(adapter)
        await refused(adapter, order, fault="lost-after")
        await book(adapter, order, attempt=2)
        assert (await profile(adapter)).holder.email == "new@example.com"

    async def test_a_member_who_is_not_there_is_found_out_before_anything_is_booked(
        self, adapter: LoyalifeAdapter
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await self.update(adapter, account_id="m_9999")
        assert caught.value.status.reason is Reason.ACCOUNT_NOT_FOUND
        assert caught.value.status.fate is Fate.NOT_EXECUTED

    async def test_another_members_profile_is_no_ground_for_an_update(
        self, adapter: LoyalifeAdapter, player: LoyalifePlayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encode = wire.encode_profile

        def of_another(card: Card) -> dict[str, Any]:
            return encode(card) | {"RelationReference": "m_8125"}

        monkeypatch.setattr(wire, "encode_profile", of_another)
        error = await refused(
            adapter, Order(Operation.UPDATE_WALLET, MEMBER, person=PERSON, update_mask=("email",))
        )
        assert (error.status.reason, error.status.fate) == (
            Reason.PROVIDER_ANSWER_UNREADABLE,
            Fate.NOT_EXECUTED,
        )
        assert routes(player)["UpdateProfileWithAttributes"] == 0

    async def test_what_this_vendor_cannot_set_is_never_sent(
        self, adapter: LoyalifeAdapter, player: LoyalifePlayer
    ) -> None:
        error = await refused(adapter, await self.update(adapter, update_mask=("type",)))
        assert (error.status.reason, error.status.fate) == (
            Reason.REQUEST_INVALID,
            Fate.NOT_EXECUTED,
        )
        assert routes(player)["UpdateProfileWithAttributes"] == 0


class TestLinks:
    def link(self, kind: str = "device", number: str = "D-1") -> Order:
        return Order(Operation.LINK_ACCOUNT, MEMBER, external=External(kind, number))

    async def test_what_is_linked_is_listed(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        for order in (self.link(), self.link("account", "A-1"), self.link("external-id", "X")):
            await book(adapter, order)
        lookup = Lookup(Operation.LIST_LINKED_ACCOUNTS, MEMBER)
        found = await call(adapter, Operation.LIST_LINKED_ACCOUNTS, lookup)
        assert {(external.kind, external.id) for external in found.externals} == {
            ("device", "D-1"),
            ("account", "A-1"),
            ("external_id", "X"),
        }
        assert list(player.stage.violations) == []

    async def test_a_link_that_is_there_is_a_duplicate_and_shows_an_earlier_attempt(
        self, adapter: LoyalifeAdapter
    ) -> None:
        await refused(adapter, self.link(), fault="lost-after")
        error = await refused(adapter, self.link(), attempt=2)
        assert error.provider_code == "E201"
        assert error.status.shows_earlier

    async def test_only_what_the_vendor_links_is_sent(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        error = await refused(adapter, self.link("spouse"))
        assert error.status.reason is Reason.REQUEST_INVALID
        assert list(player.stage.exchanges) == []


class TestCodes:
    def wish(self, destination: Destination) -> CodeWish:
        return CodeWish(ChallengePurpose.LOG_IN, destination, KEY)

    def check(self, destination: Destination, code: str = "000000") -> CodeCheck:
        return CodeCheck(ChallengePurpose.LOG_IN, destination, "", code)

    @pytest.mark.parametrize("settings", SPEECHES, ids=str)
    @pytest.mark.parametrize(
        "destination", [Destination(email=EMAIL), Destination(account_id=MEMBER)], ids=repr
    )
    async def test_a_right_code_names_the_member_and_holds_once(
        self,
        player: LoyalifePlayer,
        adapter: LoyalifeAdapter,
        settings: LoyalifeSettings,
        destination: Destination,
    ) -> None:
        player.stage.settings = settings
        await call(adapter, Operation.CREATE_CHALLENGE, self.wish(destination))
        right = self.check(destination)
        confirmed = await call(adapter, Operation.VERIFY_CHALLENGE, right)
        assert (confirmed.account_ids, confirmed.kind) == ((MEMBER,), AccountKind.MEMBER)
        with pytest.raises(ProviderError) as caught:
            await call(adapter, Operation.VERIFY_CHALLENGE, right)
        assert caught.value.status.reason is Reason.CODE_INVALID
        assert list(player.stage.violations) == []

    @pytest.mark.parametrize(("code", "is_sent"), [("123456", True), ("12345a", False)])
    async def test_a_wrong_code_is_wrong_and_what_is_no_number_is_not_sent(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter, code: str, is_sent: bool
    ) -> None:
        destination = Destination(account_id=MEMBER)
        await call(adapter, Operation.CREATE_CHALLENGE, self.wish(destination))
        with pytest.raises(ProviderError) as caught:
            await call(adapter, Operation.VERIFY_CHALLENGE, self.check(destination, code))
        assert caught.value.status.reason is Reason.CODE_INVALID
        assert routes(player)["VerifyOTPByRelationReference"] == is_sent

    async def test_codes_are_for_one_purpose(self, adapter: LoyalifeAdapter) -> None:
        destination = Destination(account_id=MEMBER)
        await call(adapter, Operation.CREATE_CHALLENGE, self.wish(destination))
        other = dataclasses.replace(self.check(destination), purpose=ChallengePurpose.SIGN_UP)
        with pytest.raises(ProviderError) as caught:
            await call(adapter, Operation.VERIFY_CHALLENGE, other)
        assert caught.value.status.reason is Reason.CODE_INVALID

    async def test_no_code_goes_to_a_phone_here(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await call(adapter, Operation.CREATE_CHALLENGE, self.wish(Destination(phone="+41")))
        assert caught.value.status.reason is Reason.REQUEST_INVALID
        assert list(player.stage.exchanges) == []

    async def test_no_code_goes_to_nobody(self, adapter: LoyalifeAdapter) -> None:
        with pytest.raises(ProviderError) as caught:
            await call(
                adapter, Operation.CREATE_CHALLENGE, self.wish(Destination(email="no@example.com"))
            )
        assert caught.value.status.reason is Reason.ACCOUNT_NOT_FOUND


class TestPasswords:
    def check(self, password_hash: str = PASSWORD_HASH, scheme: str = "md5") -> PasswordCheck:
        return PasswordCheck(MEMBER, password_hash, scheme)

    async def test_a_right_password_tells_of_the_login(self, adapter: LoyalifeAdapter) -> None:
        first = await call(adapter, Operation.VERIFY_CREDENTIALS, self.check())
        second = await call(adapter, Operation.VERIFY_CREDENTIALS, self.check(scheme="BCrypt"))
        assert (first.is_verified, first.is_activated, first.must_change_password) == (
            True,
            True,
            False,
        )
        assert first.last_login_time is None
        assert abs((second.last_login_time - datetime.now(UTC)).total_seconds()) < 60

    @pytest.mark.parametrize("settings", SPEECHES, ids=str)
    async def test_a_wrong_password_is_no_error_of_ours_and_is_tried_once(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter, settings: LoyalifeSettings
    ) -> None:
        player.stage.settings = settings
        found = await call(adapter, Operation.VERIFY_CREDENTIALS, self.check("wrong"))
        assert not found.is_verified
        assert player.ledger.find_thing("failed-logins", MEMBER) == 1
        assert routes(player)["Token"] == 1

    async def test_a_token_that_ended_does_not_make_a_password_wrong(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        await call(adapter, Operation.GET_BALANCE, Lookup(Operation.GET_BALANCE, MEMBER))
        grow_old(adapter)
        player._tokens.clear()
        found = await call(adapter, Operation.VERIFY_CREDENTIALS, self.check())
        assert found.is_verified
        assert not player.ledger.find_thing("failed-logins", MEMBER)

    async def test_a_member_who_is_not_there_is_not_a_wrong_password(
        self, adapter: LoyalifeAdapter
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await call(
                adapter,
                Operation.VERIFY_CREDENTIALS,
                PasswordCheck("m_9999", PASSWORD_HASH, "md5"),
            )
        assert caught.value.status.reason is Reason.ACCOUNT_NOT_FOUND

    async def test_a_hash_that_the_vendor_does_not_know_is_not_sent(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await call(adapter, Operation.VERIFY_CREDENTIALS, self.check(scheme="plain"))
        assert caught.value.status.reason is Reason.REQUEST_INVALID
        assert list(player.stage.exchanges) == []
