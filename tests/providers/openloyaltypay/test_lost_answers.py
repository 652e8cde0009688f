"""Repeats, faults and answers that prove nothing: what is a doubt, and what is not."""

import json

import pytest

from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    Operation,
)
from loyalty_gateway.providers.openloyaltypay import OpenLoyaltyPayAdapter
from loyalty_gateway.providers.port import (
    Lookup,
    ProviderError,
    Send,
)
from loyalty_gateway.sandbox import OpenLoyaltyPayPlayer
from tests.providers.fault_server import running
from tests.providers.openloyaltypay.conftest import Open
from tests.providers.openloyaltypay.verbs import (
    CARD,
    DONE,
    KEY,
    answering,
    effects,
    envelope,
    order,
    part,
    question,
    refused,
    turn,
)


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
        adapter = open_connection_to(player.base_url, connect_s=1.0, attempt_total_s=2.0)
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
