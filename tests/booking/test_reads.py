"""Reads at a vendor: what is asked, what is told, and what is never told."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from loyalty_gateway.booking.calls import (
    AccountKey,
    CardSearch,
    ConnectionState,
    ReadAnswer,
    ReadCall,
)
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.domain.operations import (
    AccountKind,
    CardFacts,
    CardPage,
    EntryMode,
    ExpiringPeriod,
    ExpirySchedule,
    External,
    Found,
    ItemPage,
    LinkedAccounts,
    Operation,
    PointsStatement,
    Reference,
    Support,
    Transaction,
    TransactionItem,
    TransactionKind,
    TransactionPage,
)
from loyalty_gateway.providers.port import Check, Lookup, Offer, ProviderError, Search, StatusRow
from tests.booking.house import CARD, KEYRING, TENANT, House, failure, in_s, open_house
from tests.booking.vendor import FakeVendor
from tests.postgres import Place

SCANNED = "9900112233445566"


class Reading:
    """A vendor's read that answers from a list and keeps what it was asked."""

    def __init__(self, *answers: Found | ProviderError) -> None:
        self.answers = list(answers)
        self.asked: list[Lookup] = []

    async def __call__(self, lookup: Lookup) -> Found:
        self.asked.append(lookup)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ProviderError):
            raise answer
        return answer


def a_vendor(
    operation: Operation, reading: Callable[[Lookup], Awaitable[Found]], **offer: Any
) -> FakeVendor:
    return FakeVendor(further={operation: Offer(reading, **offer)})


def a_read(operation: Operation, **changes: Any) -> ReadCall:
    call = ReadCall(
        tenant=TENANT,
        operation=operation,
        account=AccountKey("main", plain_id=CARD),
        deadline=in_s(10),
    )
    return replace(call, **changes)


def a_search(**changes: Any) -> ReadCall:
    search = CardSearch(scan_entry_mode=EntryMode.PROXIMITY, scan_value=SCANNED, group_id="7")
    return a_read(
        Operation.SEARCH_CARDS, **{"account": AccountKey("main"), "search": search, **changes}
    )


def refused(reason: Reason, **more: Any) -> ProviderError:
    return ProviderError(StatusRow(reason), "no", rule="for the test", **more)


def a_line(reference: str, outbound_id: str = "") -> Transaction:
    return Transaction(
        reference,
        datetime(2026, 11, 1, tzinfo=UTC),
        TransactionKind.DEBIT,
        "withdraw",
        outbound_id=outbound_id,
    )


# --- what the vendor is asked -----------------------------------------------------------------


async def test_everything_that_a_read_names_reaches_the_vendor(place: Place) -> None:
    reading = Reading(ItemPage(()))
    async with open_house(place, a_vendor(Operation.LIST_TRANSACTION_ITEMS, reading)) as house:
        await house.engine.read(
            a_read(
                Operation.LIST_TRANSACTION_ITEMS,
                account=AccountKey("main", plain_id=CARD, entry_mode=EntryMode.MAGNETIC),
                transaction_reference="tx-1",
                year=2027,
                start=datetime(2026, 1, 1, tzinfo=UTC),
                end=datetime(2026, 2, 1, tzinfo=UTC),
                page_size=20,
                fault="slow",
            )
        )

    assert reading.asked == [
        Lookup(
            Operation.LIST_TRANSACTION_ITEMS,
            CARD,
            start=datetime(2026, 1, 1, tzinfo=UTC),
            end=datetime(2026, 2, 1, tzinfo=UTC),
            page_size=20,
            entry_mode=EntryMode.MAGNETIC,
            transaction_reference="tx-1",
            year=2027,
            fault="slow",
        )
    ]


async def test_a_search_reaches_the_vendor_without_an_account(place: Place) -> None:
    reading = Reading(CardPage(()))
    async with open_house(place, a_vendor(Operation.SEARCH_CARDS, reading)) as house:
        await house.engine.read(a_search())

    (lookup,) = reading.asked
    assert lookup.account_id == ""
    assert lookup.search == Search(
        scan_entry_mode=EntryMode.PROXIMITY, scan_value=SCANNED, group_id="7"
    )


async def test_the_accounts_token_stands_for_its_id(place: Place) -> None:
    reading = Reading(CardFacts(CARD))
    async with open_house(place, a_vendor(Operation.GET_WALLET, reading)) as house:
        named = await house.engine.read(a_read(Operation.GET_WALLET))
        token = AccountKey("main", token=named.account_token)
        again = await house.engine.read(a_read(Operation.GET_WALLET, account=token))

    assert [lookup.account_id for lookup in reading.asked] == [CARD, CARD]
    assert again.account_token == named.account_token


async def test_what_the_vendor_cannot_do_is_refused_without_asking_it(
    house_of_cards: House,
) -> None:
    error = await failure(house_of_cards.engine.read(a_read(Operation.LIST_EXPIRING_POINTS)))

    assert error.reason is Reason.CAPABILITY_NOT_SUPPORTED
    assert error.provider == "fakevendor"
    assert error.fate is None


async def test_a_field_that_the_vendor_needs_is_asked_for_without_asking_the_vendor(
    place: Place,
) -> None:
    reading = Reading(CardFacts(CARD))
    vendor = a_vendor(
        Operation.GET_CARD, reading, needed_fields=("account.entry_mode", "account.id")
    )
    async with open_house(place, vendor) as house:
        error = await failure(
            house.engine.read(a_read(Operation.GET_CARD, filled_fields=frozenset({"account.id"})))
        )
        assert reading.asked == []
        filled = frozenset({"account.id", "account.entry_mode"})
        await house.engine.read(a_read(Operation.GET_CARD, filled_fields=filled))

    assert error.reason is Reason.FIELD_REQUIRED_BY_PROVIDER
    assert [violation.field for violation in error.violations] == ["account.entry_mode"]
    assert len(reading.asked) == 1


async def test_a_paused_connection_reads_nothing(place: Place) -> None:
    reading = Reading(CardPage(()))
    vendor = a_vendor(Operation.SEARCH_CARDS, reading)
    async with open_house(place, vendor, is_paused=True) as house:
        error = await failure(house.engine.read(a_search()))

    assert error.reason is Reason.CONNECTION_PAUSED
    assert reading.asked == []


# --- pages ------------------------------------------------------------------------------------


PAGES: tuple[tuple[Operation, Callable[[str], Found]], ...] = (
    (Operation.LIST_TRANSACTIONS, lambda cursor: TransactionPage((a_line("tx-1"),), cursor)),
    (Operation.LIST_TRANSACTION_ITEMS, lambda cursor: ItemPage((TransactionItem(1),), cursor)),
    (Operation.LIST_LINKED_ACCOUNTS, lambda cursor: LinkedAccounts((), cursor)),
)


@pytest.mark.parametrize(("operation", "page"), PAGES, ids=[it.method for it, _ in PAGES])
async def test_a_page_goes_on_where_the_last_one_ended(
    place: Place, operation: Operation, page: Callable[[str], Found]
) -> None:
    reading = Reading(page("vendor-cursor-2"), page(""))
    async with open_house(place, a_vendor(operation, reading)) as house:
        first = await house.engine.read(a_read(operation))
        second = await house.engine.read(
            a_read(operation, page_token=first.next_page_token, page_size=3)
        )

    assert [lookup.cursor for lookup in reading.asked] == ["", "vendor-cursor-2"]
    assert "vendor-cursor-2" not in first.next_page_token
    assert first.next_page_token != ""
    assert second.next_page_token == ""


async def test_a_search_goes_on_where_the_last_page_ended(place: Place) -> None:
    reading = Reading(CardPage((), "vendor-cursor-2"), CardPage(()))
    async with open_house(place, a_vendor(Operation.SEARCH_CARDS, reading)) as house:
        first = await house.engine.read(a_search())
        await house.engine.read(a_search(page_token=first.next_page_token))

    assert [lookup.cursor for lookup in reading.asked] == ["", "vendor-cursor-2"]


OTHER_QUESTIONS: tuple[dict[str, Any], ...] = (
    {"search": CardSearch(scan_entry_mode=EntryMode.PROXIMITY, scan_value="1", group_id="7")},
    {"search": CardSearch(scan_entry_mode=EntryMode.BARCODE, scan_value=SCANNED, group_id="7")},
    {"search": CardSearch(scan_entry_mode=EntryMode.PROXIMITY, scan_value=SCANNED)},
    {"search": CardSearch(phone=SCANNED)},
    {"tenant": "another"},
)


@pytest.mark.parametrize("change", OTHER_QUESTIONS, ids=str)
async def test_a_page_token_belongs_to_the_exact_search(
    place: Place, change: dict[str, Any]
) -> None:
    reading = Reading(CardPage((), "vendor-cursor-2"))
    async with open_house(place, a_vendor(Operation.SEARCH_CARDS, reading)) as house:
        first = await house.engine.read(a_search())
        error = await failure(
            house.engine.read(a_search(page_token=first.next_page_token, **change))
        )

    assert error.reason is Reason.REQUEST_INVALID
    assert [violation.field for violation in error.violations] == ["page.page_token"]
    assert len(reading.asked) == 1


@pytest.mark.parametrize(
    "change", [{"transaction_reference": "tx-2"}, {"account": AccountKey("main", plain_id="1")}]
)
async def test_a_page_token_belongs_to_one_transaction_of_one_account(
    place: Place, change: dict[str, Any]
) -> None:
    operation = Operation.LIST_TRANSACTION_ITEMS
    reading = Reading(ItemPage((), "vendor-cursor-2"))
    async with open_house(place, a_vendor(operation, reading)) as house:
        first = await house.engine.read(a_read(operation, transaction_reference="tx-1"))
        again = {"transaction_reference": "tx-1", **change}
        error = await failure(
            house.engine.read(a_read(operation, page_token=first.next_page_token, **again))
        )

    assert error.reason is Reason.REQUEST_INVALID


# --- what is told -----------------------------------------------------------------------------


ANSWERS: tuple[tuple[Operation, Found], ...] = (
    (Operation.GET_GIFT_CARD, CardFacts(CARD, AccountKind.GIFT_CARD)),
    (Operation.GET_POINTS_STATEMENT, PointsStatement(opening=5)),
    (Operation.LIST_EXPIRING_POINTS, ExpirySchedule((ExpiringPeriod(date(2027, 1, 1)),))),
    (Operation.LIST_LINKED_ACCOUNTS, LinkedAccounts((External("device", "d-1"),))),
    (
        Operation.LIST_TRANSACTION_ITEMS,
        ItemPage((TransactionItem(1, "sku", "tea", Decimal("0.250")),)),
    ),
)


@pytest.mark.parametrize(("operation", "found"), ANSWERS, ids=lambda it: type(it).__name__)
async def test_what_the_vendor_found_is_told_with_the_account_it_was_asked_for(
    place: Place, operation: Operation, found: Found
) -> None:
    async with open_house(place, a_vendor(operation, Reading(found))) as house:
        answer = await house.engine.read(a_read(operation))

    assert answer.found == found
    assert KEYRING.open_token(TENANT, "main", answer.account_token) == CARD
    assert answer.masked_id == "•" * 12 + CARD[-4:]


async def test_each_card_of_a_search_has_a_token_and_a_masked_id(place: Place) -> None:
    cards = (CardFacts(CARD, AccountKind.CARD), CardFacts("12345", AccountKind.MEMBER))
    async with open_house(
        place, a_vendor(Operation.SEARCH_CARDS, Reading(CardPage(cards)))
    ) as house:
        answer = await house.engine.read(a_search())

    assert answer.found == CardPage(cards)
    assert (answer.account_token, answer.masked_id) == ("", "")
    assert [seen.masked_id for seen in answer.accounts.values()] == ["•" * 12 + "1234", "•••45"]
    assert [seen.kind for seen in answer.accounts.values()] == [
        AccountKind.CARD,
        AccountKind.MEMBER,
    ]
    for account_id, seen in answer.accounts.items():
        assert KEYRING.open_token(TENANT, seen.connection, seen.token) == account_id


async def test_a_scanned_number_is_never_echoed(place: Place) -> None:
    facts = (("nfc_number", SCANNED), ("label", f"card {CARD}, tag {SCANNED}!"), ("store", "77"))
    page = CardPage((CardFacts(CARD, attributes=facts),))
    async with open_house(place, a_vendor(Operation.SEARCH_CARDS, Reading(page))) as house:
        answer = await house.engine.read(a_search())

    assert SCANNED not in repr(answer.found) + str(attributes_of(answer))
    assert CARD not in str(attributes_of(answer))
    assert attributes_of(answer) == [
        ("nfc_number", "•" * 12 + SCANNED[-4:]),
        ("label", f"card {'•' * 12}{CARD[-4:]}, tag {'•' * 12}{SCANNED[-4:]}!"),
        ("store", "77"),
    ]


async def test_a_short_number_is_masked_as_a_word_and_not_inside_of_others(place: Place) -> None:
    facts = (("number", "77"), ("since", "2077"))
    page = CardPage((CardFacts("77", attributes=facts),))
    async with open_house(place, a_vendor(Operation.SEARCH_CARDS, Reading(page))) as house:
        answer = await house.engine.read(a_search())

    assert attributes_of(answer) == [("number", "•7"), ("since", "2077")]


async def test_a_cards_own_number_is_not_among_its_further_facts(place: Place) -> None:
    card = CardFacts(CARD, attributes=(("number", CARD),))
    async with open_house(place, a_vendor(Operation.GET_CARD, Reading(card))) as house:
        answer = await house.engine.read(a_read(Operation.GET_CARD))

    assert isinstance(answer.found, CardFacts)
    assert answer.found.attributes == (("number", "•" * 12 + CARD[-4:]),)


def attributes_of(answer: ReadAnswer) -> list[tuple[str, str]]:
    assert isinstance(answer.found, CardPage)
    return [attribute for card in answer.found.cards for attribute in card.attributes]


async def test_a_search_that_finds_nobody_is_an_empty_page(place: Place) -> None:
    nobody = refused(Reason.ACCOUNT_NOT_FOUND, http_status=404)
    async with open_house(place, a_vendor(Operation.SEARCH_CARDS, Reading(nobody))) as house:
        answer = await house.engine.read(a_search())

    assert answer.found == CardPage(())
    assert answer.accounts == {}


async def test_our_own_bookings_are_found_in_a_vendors_history(place: Place) -> None:
    reading = Reading(TransactionPage(()))
    vendor = FakeVendor(further={Operation.LIST_TRANSACTIONS: Offer(reading)})
    async with open_house(place, vendor) as house:
        await house.book()
        booking = await house.get()
        ours = vendor.effects[0].outbound_id
        reading.answers = [
            TransactionPage((a_line("tx-2", "of another channel"), a_line("tx-1", ours)))
        ]
        answer = await house.engine.read(a_read(Operation.LIST_TRANSACTIONS))

    assert answer.booking_names == {ours: booking.name}


async def test_our_own_bookings_are_found_by_the_vendors_reference_too(place: Place) -> None:
    """Where a history shows no number of ours, what it was booked as tells whose it is."""
    reading = Reading(TransactionPage(()))
    vendor = FakeVendor(further={Operation.LIST_TRANSACTIONS: Offer(reading)})
    async with open_house(place, vendor) as house:
        await house.book()
        booking = await house.get()
        ours = booking.references[0]
        others = Reference(ours.kind, "R-of another channel")
        reading.answers = [
            TransactionPage(
                (
                    replace(a_line("tx-2"), booked_as=others),
                    replace(a_line("tx-1"), booked_as=ours),
                )
            )
        ]
        answer = await house.engine.read(a_read(Operation.LIST_TRANSACTIONS))

    assert answer.booking_names == {ours.value: booking.name}


# --- what goes wrong --------------------------------------------------------------------------


@pytest.fixture
async def house_of_cards(place: Place) -> Any:
    async with open_house(place) as house:
        yield house


async def test_a_transaction_that_the_vendor_does_not_know_is_not_found(place: Place) -> None:
    operation = Operation.LIST_TRANSACTION_ITEMS
    reading = Reading(refused(Reason.NOT_FOUND, provider_code="transaction_not_found"))
    async with open_house(place, a_vendor(operation, reading)) as house:
        error = await failure(house.engine.read(a_read(operation)))

    assert (error.reason, error.provider_code) == (Reason.NOT_FOUND, "transaction_not_found")
    assert error.retry_after_s is None
    assert error.fate is None


async def test_what_the_caller_must_mend_is_told_in_the_adapters_words(place: Place) -> None:
    too_long = ProviderError(
        StatusRow(Reason.REQUEST_INVALID), "the interval spans more than 20 pages", rule="pages"
    )
    operation = Operation.GET_POINTS_STATEMENT
    async with open_house(place, a_vendor(operation, Reading(too_long))) as house:
        error = await failure(house.engine.read(a_read(operation)))

    assert error.reason is Reason.REQUEST_INVALID
    assert error.message == "The interval spans more than 20 pages."


async def test_a_vendor_that_takes_too_long_is_given_up_and_said_to_be_degraded(
    place: Place,
) -> None:
    async def sleeps(lookup: Lookup) -> Found:
        await asyncio.Event().wait()
        raise AssertionError("nothing wakes it")

    vendor = a_vendor(Operation.SEARCH_CARDS, sleeps)
    async with open_house(place, vendor, limits=Limits(attempt_total_s=0.05)) as house:
        error = await failure(house.engine.read(a_search()))
        (connection,) = await house.engine.connections(TENANT)

    assert error.reason is Reason.PROVIDER_INTERNAL
    assert error.retry_after_s is not None
    assert connection.state is ConnectionState.DEGRADED


async def test_capabilities_tell_the_fields_that_a_read_needs(place: Place) -> None:
    vendor = a_vendor(
        Operation.SEARCH_CARDS,
        Reading(CardPage(())),
        support=Support.EMULATED,
        needed_fields=("scan",),
        note="by the balance inquiry",
    )
    async with open_house(place, vendor) as house:
        capabilities = await house.engine.capabilities(TENANT, "main")

    (search,) = (it for it in capabilities if it.operation is Operation.SEARCH_CARDS)
    assert (search.support, search.needed_fields) == (Support.EMULATED, ("scan",))
    assert search.note == "by the balance inquiry"
    assert search.recovery_mode is None
    assert search.promises == ()


# --- the check of a connection ----------------------------------------------------------------


class CheckedVendor(FakeVendor):
    """Answers the harmless question as a test says."""

    def __init__(self, check: Check | None) -> None:
        super().__init__()
        self._check = check

    async def check(self) -> Check:
        if self._check is None:
            await asyncio.Event().wait()
        assert self._check is not None
        return self._check


async def test_a_check_tells_how_the_vendor_does(place: Place) -> None:
    vendor = CheckedVendor(Check(True, True, latency_s=0.012, clock_skew_s=-3.0))
    async with open_house(place, vendor) as house:
        check = await house.engine.check(TENANT, "main")

    assert (check.is_reachable, check.are_credentials_accepted) == (True, True)
    assert (check.latency_s, check.clock_skew_s, check.error) == (0.012, -3.0, None)


async def test_a_check_that_meets_trouble_tells_it_in_its_answer(place: Place) -> None:
    trouble = refused(Reason.PROVIDER_CREDENTIALS_REJECTED, http_status=401, provider_code="CARD-5")
    vendor = CheckedVendor(Check(True, False, latency_s=0.012, error=trouble))
    async with open_house(place, vendor) as house:
        check = await house.engine.check(TENANT, "main")
        (connection,) = await house.engine.connections(TENANT)

    assert (check.is_reachable, check.are_credentials_accepted) == (True, False)
    assert isinstance(check.error, LoyaltyError)
    assert check.error.reason is Reason.PROVIDER_CREDENTIALS_REJECTED
    assert check.error.provider_code == "CARD-5"
    assert "booked" not in check.error.message
    assert connection.state is ConnectionState.CREDENTIALS_REJECTED


async def test_a_paused_connection_stays_paused_whatever_a_check_of_it_meets(
    place: Place,
) -> None:
    vendor = CheckedVendor(Check(True, True, latency_s=0.012))
    async with open_house(place, vendor, is_paused=True) as house:
        check = await house.engine.check(TENANT, "main")
        (connection,) = await house.engine.connections(TENANT)

    assert check.is_reachable
    assert connection.state is ConnectionState.PAUSED


async def test_a_check_without_an_answer_ends_in_time(place: Place) -> None:
    limits = Limits(attempt_total_s=0.05)
    async with open_house(place, CheckedVendor(None), limits=limits) as house:
        check = await house.engine.check(TENANT, "main")

    assert (check.is_reachable, check.are_credentials_accepted) == (False, False)
    assert check.error is not None and check.error.reason is Reason.PROVIDER_INTERNAL


async def test_a_connection_that_is_not_there_cannot_be_checked(house_of_cards: House) -> None:
    error = await failure(house_of_cards.engine.check(TENANT, "elsewhere"))

    assert error.reason is Reason.CONNECTION_NOT_FOUND
