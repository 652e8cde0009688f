"""A lost answer at Loyalife: what happened is found in the vendor's books, or left to a person."""

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from loyalty_gateway.booking.findings import after_finding
from loyalty_gateway.booking.judge import Means, Policy
from loyalty_gateway.domain.amounts import Points
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    Operation,
    Order,
    Person,
    RecoveryMode,
    Reference,
    Sale,
)
from loyalty_gateway.providers.loyalife import LoyalifeAdapter
from loyalty_gateway.providers.loyalife.wire.bookings import merchant_name
from loyalty_gateway.providers.loyalife.wire.times import DeploymentTime
from loyalty_gateway.providers.port import Finding, ProviderError, Question
from loyalty_gateway.sandbox import LoyalifePlayer, LoyalifeSettings
from tests.providers.fault_server import Exchange, running
from tests.providers.loyalife.conftest import PROGRAMME, Open
from tests.providers.loyalife.test_adapter import token_and
from tests.providers.loyalife.verbs import (
    KEY,
    MEMBER,
    UNDO_KEY,
    book,
    effects,
    prepared,
    redemption,
    refused,
    reversal,
)

OTHER_KEY = "00000000-6c0b-4a43-9a0e-7e1f7a2f6a11"
SWITCHES = [
    LoyalifeSettings().changed({"lists": lists, "time_zone": zone, **speech})
    for lists in ("oldest_first", "newest_first")
    for speech in ({}, {"envelope": "bare", "error_codes": "number"})
    for zone in ("Asia/Kolkata", "America/Los_Angeles")
]
LOSSES = [("lost-before", 0), ("lost-after", 1), ("500-after", 1), ("garbage-after", 1)]


async def ask(adapter: LoyalifeAdapter, order: Order, key: str = KEY) -> Finding:
    offer = adapter.operations[order.operation]
    assert offer.ask is not None
    order = await prepared(adapter, order)
    return await offer.ask(Question(order, key, datetime.now(UTC) - timedelta(seconds=5)))


def line_named(merchant: str) -> dict[str, Any]:
    """A line that shows the usual redemption and not its number."""
    return {
        "Id": 541_012,
        "Points": 1000,
        "TransactionDate": "2026-02-04T08:00:00",
        "MerchantName": merchant,
    }


def page_of(*lines: dict[str, Any], **changes: Any) -> bytes:
    usual = {"IsSucessful": True, "ErrorCode": "000", "ReturnObject": lines, "Count": len(lines)}
    return json.dumps({**usual, **changes}).encode()


class TestWithATag:
    @pytest.mark.parametrize("settings", SWITCHES, ids=str)
    @pytest.mark.parametrize(("fault", "count"), LOSSES)
    async def test_the_booking_itself_is_found_or_it_did_not_happen(
        self,
        player: LoyalifePlayer,
        adapter: LoyalifeAdapter,
        settings: LoyalifeSettings,
        fault: str,
        count: int,
    ) -> None:
        """The deployment's zone may be another than was set: nothing is overlooked for it."""
        player.stage.settings = settings
        order = redemption(carries_tag=True)
        # Two that look alike, before and after, under keys of their own.
        await book(adapter, order, OTHER_KEY)
        await refused(adapter, order, KEY, fault=fault)
        await book(adapter, order, UNDO_KEY)
        finding = await ask(adapter, order)
        assert (finding.is_pending, finding.is_refused) == (False, False)
        assert len(finding.candidates) == count
        for candidate in finding.candidates:
            assert candidate.is_certain
            assert candidate.receipt.echoed == Points(1000)
            number = candidate.receipt.references[0].value
            (effect,) = player.ledger.effects(detail={"guid": number})
            assert effect.number == 90_000 + len(player.ledger.effects()) - 1

    async def test_what_was_found_can_be_reversed(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        order = redemption(carries_tag=True)
        await refused(adapter, order, fault="lost-after")
        (candidate,) = (await ask(adapter, order)).candidates
        await book(adapter, reversal(order, candidate.receipt), UNDO_KEY)
        assert effects(player) == [("redeem", -1000), ("reversal", 1000)]
        # Its reversal has the same name and points, and is not taken for the booking.
        assert len((await ask(adapter, order)).candidates) == 1

    async def test_a_line_without_its_number_is_found_all_the_same(
        self, open_connection_to: Open
    ) -> None:
        order = redemption(carries_tag=True)
        line = line_named(merchant_name("Amazon", KEY, carries_tag=True))
        async with running(token_and(page_of(line))) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            (candidate,) = (await ask(adapter, order)).candidates
        assert candidate.is_certain
        assert candidate.receipt.references[0] == Reference("statement_line", "541012")

    @pytest.mark.parametrize(
        "shown",
        ["Caf&eacute; M&amp;M Ж", "Café M&M ?", "Caf? M&M ?", "Caf", "", " CAFÉ M&M Ж"],
    )
    async def test_a_line_is_found_by_its_tag_whatever_became_of_the_name(
        self, open_connection_to: Open, shown: str
    ) -> None:
        order = redemption(carries_tag=True, sale=Sale(merchant_name="Café M&M Ж"))
        tag = merchant_name("", KEY, carries_tag=True)
        async with running(token_and(page_of(line_named(f"{shown}{tag} ")))) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            (candidate,) = (await ask(adapter, order)).candidates
        assert candidate.is_certain

    @pytest.mark.parametrize(
        ("shown", "is_told"),
        [
            (merchant_name("Amazon", KEY, carries_tag=True)[:-1], True),
            (merchant_name("Amazon", KEY, carries_tag=True).replace("#", "&#35;"), True),
            ("Amazon", True),
            ("Zalando", True),
            ("", True),
            (merchant_name("Amazon", OTHER_KEY, carries_tag=True), False),
        ],
    )
    async def test_a_line_that_shows_nobodys_tag_is_told_and_never_certain(
        self, open_connection_to: Open, shown: str, is_told: bool
    ) -> None:
        async with running(token_and(page_of(line_named(shown)))) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            found = (await ask(adapter, redemption(carries_tag=True))).candidates
        assert [it.is_certain for it in found] == [False] * is_told

    async def test_other_points_under_our_tag_are_for_a_person(
        self, adapter: LoyalifeAdapter
    ) -> None:
        await book(adapter, redemption(999, carries_tag=True))
        with pytest.raises(ProviderError) as caught:
            await ask(adapter, redemption(1000, carries_tag=True))
        assert caught.value.status.contradicts
        assert caught.value.status.fate is Fate.UNKNOWN


class TestWithoutATag:
    @pytest.mark.parametrize("settings", SWITCHES, ids=str)
    @pytest.mark.parametrize(("fault", "count"), LOSSES)
    async def test_what_is_like_the_booking_is_told_and_is_never_certain(
        self,
        player: LoyalifePlayer,
        adapter: LoyalifeAdapter,
        settings: LoyalifeSettings,
        fault: str,
        count: int,
    ) -> None:
        player.stage.settings = settings
        await book(adapter, redemption(999), OTHER_KEY)
        await book(adapter, redemption(redemption_kind="hotel"), f"{OTHER_KEY}2")
        await refused(adapter, redemption(), fault=fault)
        finding = await ask(adapter, redemption())
        assert [found.is_certain for found in finding.candidates] == [False] * count
        assert [found.is_unlike for found in finding.candidates] == [False] * count

    @pytest.mark.parametrize("name", ["M&amp;M", "M?M", "Zalando"])
    async def test_a_line_under_another_name_is_told_and_is_a_persons(
        self, adapter: LoyalifeAdapter, name: str
    ) -> None:
        await book(adapter, redemption(sale=Sale(merchant_name=name)), OTHER_KEY)
        (found,) = (await ask(adapter, redemption(sale=Sale(merchant_name="M&M")))).candidates
        assert (found.is_certain, found.is_unlike) == (False, True)

    @pytest.mark.parametrize(
        ("changes", "earlier", "state"),
        [
            ({}, timedelta(), State.SUCCEEDED),
            ({}, timedelta(hours=20), State.NEEDS_REVIEW),
            ({"ExternalReference": None}, timedelta(), State.NEEDS_REVIEW),
        ],
        ids=["its own", "of another time", "without its number"],
    )
    async def test_a_line_that_may_be_another_booking_of_ours_is_a_persons(
        self,
        open_connection_to: Open,
        changes: dict[str, Any],
        earlier: timedelta,
        state: State,
    ) -> None:
        """A booking whose number the journal does not hold has a line that seems to be free."""
        now = datetime.now(UTC)
        shown = DeploymentTime(ZoneInfo(PROGRAMME["time_zone"])).encode(now - earlier)
        guid = str(uuid.uuid4())
        line = {**line_named("Amazon"), "TransactionDate": shown, "ExternalReference": guid}
        async with running(token_and(page_of({**line, **changes}))) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            finding = await ask(adapter, redemption())
        booking = Booking(
            tenant="default",
            booking_id="b-1",
            request_id="sale-0001",
            state=State.IN_DOUBT,
            create_time=now,
            order=redemption(),
            first_sent_time=now,
            doubt_time=now,
        )
        means = Means((RecoveryMode.STATEMENT_MATCH,), books_alone=True)
        policy = Policy((1.0,), 900.0, settle_s=60.0, abandon_reserved_s=900.0)
        assert after_finding(booking, finding, now, now, means, policy).state is state

    async def test_two_that_look_alike_are_both_told(self, adapter: LoyalifeAdapter) -> None:
        await book(adapter, redemption(), OTHER_KEY)
        await refused(adapter, redemption(), fault="lost-after")
        numbers = {
            found.receipt.references[0].value
            for found in (await ask(adapter, redemption())).candidates
        }
        assert len(numbers) == 2

    async def test_a_name_that_the_vendor_cut_is_not_overlooked(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        player.stage.settings = LoyalifeSettings(accepts_merchant_tag=False)
        order = redemption(sale=Sale(merchant_name="A shop with a name beyond all limits"))
        await refused(adapter, order, fault="lost-after")
        assert len((await ask(adapter, order)).candidates) == 1


class TestQuestions:
    async def test_a_question_is_about_what_was_sent_whatever_the_settings_say_by_then(
        self, player: LoyalifePlayer, open_connection_to: Open
    ) -> None:
        before = open_connection_to(
            player.base_url, merchant_name="Old Shop", redemption_kind="hotel"
        )
        bare = redemption(sale=Sale(), redemption_kind="", carries_tag=True)
        order = await prepared(before, bare)
        await refused(before, order, fault="lost-after")
        after = open_connection_to(player.base_url, merchant_name="New Shop")
        (candidate,) = (await ask(after, order)).candidates
        assert candidate.is_certain
        await book(after, reversal(order, candidate.receipt), UNDO_KEY)
        assert effects(player) == [("redeem", -1000), ("reversal", 1000)]

    async def test_a_question_reads_every_page_of_the_books(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        for number in range(120):
            await book(adapter, redemption(1), f"{OTHER_KEY}{number}")
        order = redemption(carries_tag=True)
        await refused(adapter, order, fault="lost-after")
        assert len((await ask(adapter, order)).candidates) == 1
        pages = [it for it in player.stage.exchanges if it.path.endswith("SummaryByDate")]
        assert len(pages) == 2

    async def test_lines_that_are_not_counted_are_read_until_there_are_no_more(
        self, open_connection_to: Open
    ) -> None:
        """The vendor's pages may be shorter than was asked for."""
        other = [line_named(merchant_name("Amazon", OTHER_KEY, carries_tag=True))] * 50
        ours = line_named(merchant_name("Amazon", KEY, carries_tag=True))
        pages = iter([other, [ours], []])

        async def script(exchange: Exchange) -> bool:
            if exchange.path.endswith("/Token"):
                return await token_and(b"")(exchange)
            await exchange.answer(page_of(*next(pages), Count=None))
            return True

        async with running(script) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            (candidate,) = (await ask(adapter, redemption(carries_tag=True))).candidates
        assert candidate.is_certain
        assert not list(pages)

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"<html>", Reason.PROVIDER_ANSWER_UNREADABLE),
            (
                b'{"IsSucessful":true,"ErrorCode":"000","ReturnObject":[],"Count":3}',
                Reason.PROVIDER_ANSWER_UNREADABLE,
            ),
            (page_of(line_named("Amazon"), Count=0), Reason.PROVIDER_ANSWER_UNREADABLE),
            (
                b'{"IsSucessful":false,"ErrorCode":"998","ReturnObject":null}',
                Reason.PROVIDER_REJECTED_ARGUMENT,
            ),
        ],
        ids=["no answer", "lines missing", "lines not counted", "bad request"],
    )
    async def test_a_question_that_fails_proves_nothing_of_the_booking(
        self, open_connection_to: Open, body: bytes, reason: Reason
    ) -> None:
        async with running(token_and(body)) as server:
            adapter = open_connection_to(f"http://127.0.0.1:{server.port}")
            with pytest.raises(ProviderError) as caught:
                await ask(adapter, redemption(carries_tag=True))
        status = caught.value.status
        assert (status.reason, status.fate) == (reason, Fate.UNKNOWN)
        assert not (status.is_refusal or status.shows_earlier or status.contradicts)

    async def test_who_is_no_member_has_no_line(
        self, player: LoyalifePlayer, adapter: LoyalifeAdapter
    ) -> None:
        """Else a doubt about an account that never was would be nobody's to end."""
        found = await ask(adapter, replace(redemption(carries_tag=True), account_id="m_nobody"))

        assert (found.candidates, found.is_refused, found.is_pending) == ((), False, False)


class TestEnrolment:
    person = Person("Nora Neu", email="nora@example.com", phone="+41791")

    def order(self, operation: Operation = Operation.CREATE_WALLET) -> Order:
        return Order(operation, "m_new", person=self.person)

    @pytest.mark.parametrize("operation", [Operation.CREATE_CARD, Operation.CREATE_WALLET])
    @pytest.mark.parametrize(("fault", "count"), LOSSES)
    async def test_a_member_is_there_or_was_not_enrolled(
        self, adapter: LoyalifeAdapter, operation: Operation, fault: str, count: int
    ) -> None:
        await refused(adapter, self.order(operation), fault=fault)
        finding = await ask(adapter, self.order(operation))
        assert [found.is_certain for found in finding.candidates] == [True] * count
        for found in finding.candidates:
            assert found.receipt.card is not None
            assert found.receipt.card.holder.display_name == "Nora Neu"

    async def test_another_person_under_the_number_is_for_a_person(
        self, adapter: LoyalifeAdapter
    ) -> None:
        other = Order(Operation.CREATE_WALLET, MEMBER, person=self.person)
        with pytest.raises(ProviderError) as caught:
            await ask(adapter, other)
        assert caught.value.status.contradicts
        assert "Asha" not in str(vars(caught.value))
