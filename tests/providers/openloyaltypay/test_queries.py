"""What became of a booking, as the vendor tells who asks."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    Operation,
    Receipt,
)
from loyalty_gateway.providers.openloyaltypay import OpenLoyaltyPayAdapter
from loyalty_gateway.providers.port import (
    ProviderError,
    Send,
)
from loyalty_gateway.sandbox import OpenLoyaltyPayPlayer
from tests.providers.fault_server import running
from tests.providers.openloyaltypay.conftest import Open
from tests.providers.openloyaltypay.verbs import (
    CARD,
    EARN,
    KEY,
    PAY,
    REDEEM,
    TIP,
    TOP_UP,
    VOID,
    VOID_KEY,
    answering,
    effects,
    envelope,
    fate_of,
    order,
    paid,
    part,
    question,
    refused,
    turn,
)


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
