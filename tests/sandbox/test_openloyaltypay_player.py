"""openLoyaltyPay as it is played: strict to its document, and open where the document is silent."""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loyalty_gateway.sandbox import OpenLoyaltyPayPlayer, OpenLoyaltyPaySettings
from loyalty_gateway.sandbox.openloyaltypay import wire
from loyalty_gateway.sandbox.openloyaltypay.player import document
from tests.sandbox.vendor_client import Clock, Reply, until

CARD, OTHER_CARD = "10472", "10480"
LOYALTY = "/ovstrade/openLoyaltyPay"
QUERY = "/ovstrade/openPay/queryOrder"
TOKENS = "/ovstrade/semiOpen/generateAccessToken"
DONE, FAILED, OPEN = 0, 1, 2


class Till:
    """A client of openLoyaltyPay that signs what it sends and distrusts every answer."""

    def __init__(self, player: OpenLoyaltyPayPlayer, session: aiohttp.ClientSession) -> None:
        self.player = player
        self._session = session

    async def post(
        self,
        path: str,
        body: bytes,
        *,
        headers: dict[str, str | None] | None = None,
        content_type: str = "application/json",
    ) -> Reply:
        sent = {"Content-Type": content_type, "jwt-token": wire.JWT_TOKEN, "sign": wire.sign(body)}
        changed = {**sent, **(headers or {})}
        named = {name: value for name, value in changed.items() if value is not None}
        url = self.player.base_url + path
        async with self._session.post(url, data=body, headers=named) as answer:
            reply = Reply(answer.status, answer.headers, await answer.read())
        operation = document().operations.get(("POST", path))
        if operation is not None and reply.status in operation.answers:
            assert operation.problems_of_answer(reply.status, reply.raw) == []
        return reply

    async def ask(self, path: str, *, fault: str | None = None, **fields: Any) -> Reply:
        body = json.dumps({"clientId": wire.CLIENT_ID, **fields}).encode()
        return await self.post(path, body, headers={"X-Sandbox-Fault": fault})

    async def book(
        self, name: str, number: str | None, card: str = CARD, fault: str | None = None, **more: Any
    ) -> Reply:
        known: dict[str, Any] = {"loyaltyChannel": wire.CHANNEL, "accountId": card}
        known |= {"entryType": "K"}
        if number is not None:
            known["tranOrderNo"] = number
        fields = {name: value for name, value in {**known, **more}.items() if value is not None}
        return await self.ask(f"{LOYALTY}/{name}", fault=fault, **fields)

    async def pay(self, number: str, amount: str = "10.50", **more: Any) -> Reply:
        return await self.book("giftTransaction", number, amount=amount, tranCurrency="USD", **more)

    async def top_up(self, number: str, amount: str = "20.00", **more: Any) -> Reply:
        asked = {"activating": "N", "amount": amount, "tranCurrency": "USD", **more}
        return await self.book("giftIssuance", number, **asked)

    async def points(self, name: str, number: str, amount: str, **more: Any) -> Reply:
        return await self.book(name, number, amount=amount, **more)

    async def void(self, number: str, original: str) -> Reply:
        return await self.ask(f"{LOYALTY}/giftVoid", tranOrderNo=number, oriOrderNo=original)

    async def tip(self, number: str, original: str, amount: str = "2.00", **more: Any) -> Reply:
        asked = {"loyaltyChannel": None, "oriOrderNo": original, "amount": amount, **more}
        return await self.book("giftTip", number, tranCurrency="USD", **asked)

    async def held(self, card: str = CARD) -> tuple[Any, Any]:
        reply = await self.book("giftInquiry", None, card)
        money, points = reply.json["data"]["balances"]
        return money["amount"], points["amount"]

    def effects(self, number: str) -> list[tuple[str, int, int]]:
        found = self.player.ledger.effects(idempotency_key=number)
        return [(effect.card_id, effect.amount_minor, effect.points) for effect in found]

    def turn(self, **settings: Any) -> None:
        self.player.stage.settings = self.player.stage.settings.changed(settings)


def code(reply: Reply) -> int:
    found = reply.json["code"]
    assert isinstance(found, int)
    return found


def result(reply: Reply) -> int:
    assert (reply.status, code(reply)) == (200, 200)
    found = reply.json["data"]["result"]
    assert isinstance(found, int)
    return found


def checkout(reply: Reply) -> str:
    found = reply.json["data"]["checkoutId"]
    assert isinstance(found, str)
    return found


@pytest.fixture
async def till(tmp_path: Path, clock: Clock) -> AsyncIterator[Till]:
    settings = OpenLoyaltyPaySettings(slow_s=30, late_effect_s=0.02)
    player = OpenLoyaltyPayPlayer(tmp_path, settings=settings, now=clock)
    await player.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield Till(player, session)
    assert player.ledger.audit() == []
    await player.stop()


class TestTheDoor:
    async def test_the_signature_is_over_the_bytes_as_they_came(self, till: Till) -> None:
        body = b'{ "clientId":"825429536610058240","accountId":"10472",'
        body += b'"loyaltyChannel":"FACTOR4","entryType":"K" }'
        path = f"{LOYALTY}/giftInquiry"
        assert code(await till.post(path, body)) == 200
        same = json.dumps(json.loads(body)).encode()
        reply = await till.post(path, body, headers={"sign": wire.sign(same)})
        assert (reply.status, code(reply)) == (403, 403)

    @pytest.mark.parametrize(
        ("headers", "refused"),
        [
            ({"jwt-token": None}, 401),
            ({"jwt-token": "another"}, 401),
            ({"jwt-token": "another", "sign": "another"}, 401),
            ({"sign": None}, 403),
            ({"sign": "0" * 64}, 403),
            ({"sign": ""}, 403),
        ],
    )
    async def test_token_and_signature_come_before_everything_else(
        self, till: Till, headers: dict[str, str | None], refused: int
    ) -> None:
        for body in (b"{}", b"not json"):
            reply = await till.post(f"{LOYALTY}/giftTransaction", body, headers=headers)
            assert (reply.status, code(reply)) == (refused, refused)
            assert reply.json["data"] is None
        till.turn(codes_are_statuses=False)
        reply = await till.post(f"{LOYALTY}/giftTransaction", b"{}", headers=headers)
        assert (reply.status, code(reply)) == (200, refused)

    async def test_an_upper_case_signature_is_another_one(self, till: Till) -> None:
        body = b"{}"
        reply = await till.post(
            f"{LOYALTY}/giftInquiry", body, headers={"sign": wire.sign(body).upper()}
        )
        assert code(reply) == 403

    async def test_the_rate_limit_is_the_tokens(self, till: Till) -> None:
        till.turn(rate_limit_per_minute=1)
        assert code(await till.book("giftInquiry", None)) == 200
        reply = await till.pay("n-1")
        assert (reply.status, code(reply)) == (429, 429)
        assert till.effects("n-1") == []

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("POST", "/ovstrade/openLoyaltyPay/giftRefund", 404), ("GET", QUERY, 405)],
    )
    async def test_what_the_document_does_not_know_is_not_there_and_is_reported(
        self, till: Till, method: str, path: str, status: int
    ) -> None:
        async with aiohttp.ClientSession() as session:
            url = till.player.base_url + path
            async with session.request(method, url, data=b"{}") as answer:
                assert answer.status == status
        assert len(till.player.stage.violations) == 1

    @pytest.mark.parametrize(
        "changes",
        [
            {"amount": "10.505"},
            {"amount": "0.00"},
            {"amount": "0"},
            {"amount": "-1.00"},
            {"amount": "1e1"},
            {"amount": "10.5\n"},
            {"amount": 10.5},
            {"amount": None},
            {"tranCurrency": "EUR"},
            {"tranCurrency": None},
            {"entryType": "X"},
            {"entryType": None},
            {"number": "n" * 61},
            {"number": None},
            {"nsfAllowed": "true"},
            {"unknown": "1"},
            {"loyaltyChannel": None},
        ],
    )
    async def test_a_request_that_does_not_fit_is_refused_and_reported(
        self, till: Till, changes: dict[str, Any]
    ) -> None:
        number = changes.pop("number", "n-1")
        asked = {"amount": "10.50", "tranCurrency": "USD", **changes}
        reply = await till.book("giftTransaction", number, **asked)
        assert (reply.status, code(reply)) == (400, 400)
        assert len(till.player.stage.violations) >= 1
        assert till.effects("n-1") == []

    @pytest.mark.parametrize("amount", ["0", "1.5", "", "-1"])
    async def test_points_are_whole_and_more_than_none(self, till: Till, amount: str) -> None:
        assert code(await till.points("loyaltyIssuance", "n-1", amount)) == 400

    async def test_a_top_up_without_an_amount_is_refused(self, till: Till) -> None:
        assert code(await till.book("giftIssuance", "n-1", activating="N")) == 400
        assert code(await till.top_up("n-1", tranCurrency=None)) == 400

    async def test_another_client_or_channel_is_not_ours(self, till: Till) -> None:
        assert code(await till.ask(QUERY, clientId="another", transIndexCode="n-1")) == 403
        assert code(await till.pay("n-1", loyaltyChannel="OTHER")) == 400

    async def test_a_body_too_large_to_read_is_refused(self, till: Till) -> None:
        reply = await till.post(f"{LOYALTY}/giftInquiry", b" " * 70_000)
        assert code(reply) == 400

    async def test_a_merchants_token_is_handed_out_against_the_clients_secret(
        self, till: Till
    ) -> None:
        asked = {"clientSecret": wire.CLIENT_SECRET, "merchantId": wire.MERCHANT_ID}
        headers: dict[str, str | None] = {"jwt-token": None, "sign": None}
        body = json.dumps({"clientId": wire.CLIENT_ID, **asked}).encode()
        reply = await till.post(TOKENS, body, headers=headers)
        (token,) = reply.json["data"]
        assert (token["token"], token["expiryTime"]) == (wire.JWT_TOKEN, -1)
        wrong = body.replace(b"sandbox-secret", b"guess")
        assert (await till.post(TOKENS, wrong, headers=headers)).status == 401


class TestCards:
    async def test_a_query_shows_balances_and_the_holder(self, till: Till) -> None:
        data = (await till.book("giftInquiry", None)).json["data"]
        assert data["accountId"] == CARD
        assert [line["valueCode"] for line in data["balances"]] == ["USD", "Points"]
        assert await till.held() == (Decimal("42.50"), 1280)
        assert data["customerInfo"]["firstName"] == "Max"

    async def test_an_unknown_card_has_its_code_on_every_call(self, till: Till) -> None:
        for reply in (
            await till.book("giftInquiry", None, "99999"),
            await till.book("giftActivate", None, "99999", activating="Y"),
            await till.pay("n-1", card="99999"),
            await till.top_up("n-2", card="99999"),
            await till.points("loyaltyIssuance", "n-3", "1", card="99999"),
        ):
            assert (reply.status, code(reply), reply.json["data"]) == (200, 4002, None)

    async def test_a_card_is_used_only_once_it_is_active(self, till: Till) -> None:
        assert code(await till.pay("n-1", "1.00", card="10496")) == 4003
        assert code(await till.top_up("n-2", card="10496")) == 4003
        passive = await till.book("giftActivate", None, "10496", activating="N")
        assert code(passive) == 200
        assert code(await till.pay("n-1", "1.00", card="10496")) == 4003
        customer = {"firstName": "Nina", "lastName": "Neu", "city": "Bern"}
        active = await till.book(
            "giftActivate", None, "10496", activating="Y", customerInfo=customer
        )
        assert active.json["data"]["customerInfo"] == customer
        assert result(await till.pay("n-1", "1.00", card="10496")) == DONE

    async def test_a_top_up_may_activate(self, till: Till) -> None:
        assert result(await till.top_up("n-1", card="10495", activating="Y")) == DONE
        assert result(await till.pay("n-2", "5.00", card="10495")) == DONE

    async def test_a_blocked_card_stays_so(self, till: Till) -> None:
        assert code(await till.book("giftActivate", None, "10490", activating="Y")) == 4003
        assert code(await till.top_up("n-1", card="10490", activating="Y")) == 4003

    async def test_activating_twice_is_harmless(self, till: Till) -> None:
        for _ in range(2):
            assert code(await till.book("giftActivate", None, "10495", activating="Y")) == 200

    async def test_an_activation_fails_when_it_is_asked_to_and_not_by_its_card(
        self, till: Till
    ) -> None:
        assert code(await till.book("giftActivate", None, "20002", activating="Y")) == 200
        with pytest.raises(aiohttp.ClientError):
            await till.book("giftActivate", None, "10496", fault="lost-after", activating="Y")
        assert result(await till.pay("n-1", "1.00", card="10496")) == DONE


class TestOrders:
    @pytest.mark.parametrize(
        ("name", "amount", "effect"),
        [
            ("giftTransaction", "10.50", (CARD, -1050, 0)),
            ("giftIssuance", "20.00", (CARD, 2000, 0)),
            ("loyaltyIssuance", "7", (CARD, 0, 7)),
            ("loyaltyRedemption", "200", (CARD, 0, -200)),
        ],
    )
    async def test_a_booking_moves_what_it_says_and_names_its_order(
        self, till: Till, name: str, amount: str, effect: tuple[str, int, int]
    ) -> None:
        more = {"tranCurrency": "USD"} if name.startswith("gift") else {}
        if name == "giftIssuance":
            more["activating"] = "N"
        reply = await till.book(name, "n-1", amount=amount, **more)
        assert result(reply) == DONE
        assert reply.json["data"]["amount"] == amount
        assert len(checkout(reply)) == 18
        assert till.effects("n-1") == [effect]

    async def test_both_paths_of_a_redemption_lead_to_the_same(self, till: Till) -> None:
        known = {"loyaltyChannel": wire.CHANNEL, "accountId": CARD, "entryType": "K"}
        for number, path in (
            ("n-1", "/openLoyaltyPay/loyaltyRedemption"),
            ("n-2", f"{LOYALTY}/loyaltyRedemption"),
        ):
            reply = await till.ask(path, tranOrderNo=number, amount="5", **known)
            assert result(reply) == DONE
            assert till.effects(number) == [(CARD, 0, -5)]

    async def test_what_a_card_does_not_hold_is_not_taken(self, till: Till) -> None:
        assert code(await till.pay("n-1", "42.51")) == 4001
        assert code(await till.points("loyaltyRedemption", "n-2", "1281")) == 4001
        assert code(await till.pay("n-3", "0.01", card="10491", nsfAllowed=True)) == 4001
        assert await till.held() == (Decimal("42.50"), 1280)

    async def test_a_part_is_taken_where_it_is_allowed(self, till: Till) -> None:
        reply = await till.pay("n-1", "50.00", nsfAllowed=True)
        assert (result(reply), reply.json["data"]["amount"]) == (DONE, "42.50")
        assert till.effects("n-1") == [(CARD, -4250, 0)]

    async def test_a_card_that_fails_everything_does_so_in_the_third_layer(
        self, till: Till
    ) -> None:
        reply = await till.pay("n-1", card="10492")
        assert result(reply) == FAILED
        state = await till.ask(QUERY, transIndexCode="n-1")
        assert state.json["data"]["state"] == 5
        assert till.effects("n-1") == []

    async def test_the_echo_may_be_in_another_unit(self, till: Till) -> None:
        till.turn(echo_amount="wrong_unit")
        assert (await till.pay("n-1")).json["data"]["amount"] == "1050"
        assert (await till.points("loyaltyIssuance", "n-2", "7")).json["data"]["amount"] == "7"
        assert (await till.ask(QUERY, transIndexCode="n-1")).json["data"]["amount"] == "1050"


class TestRepeats:
    async def test_a_used_number_is_refused_by_default(self, till: Till) -> None:
        await till.pay("n-1")
        for again in (
            await till.pay("n-1"),
            await till.pay("n-1", "1.00"),
            await till.top_up("n-1"),
        ):
            assert (again.status, code(again)) == (200, 4004)
        assert till.effects("n-1") == [(CARD, -1050, 0)]

    async def test_a_vendor_that_replays_answers_alike_and_books_once(self, till: Till) -> None:
        till.turn(repeat="replays")
        first, again = await till.pay("n-1"), await till.pay("n-1")
        assert first.raw == again.raw
        assert code(await till.pay("n-1", "1.00")) == 4004
        assert till.effects("n-1") == [(CARD, -1050, 0)]

    async def test_a_vendor_that_books_again_gives_each_its_own_order(self, till: Till) -> None:
        till.turn(repeat="books_again")
        first, again = await till.pay("n-1"), await till.pay("n-1")
        assert checkout(first) != checkout(again)
        assert len(till.effects("n-1")) == 2
        newest = await till.ask(QUERY, transIndexCode="n-1")
        assert newest.json["data"]["checkoutId"] == checkout(again)

    @pytest.mark.parametrize(("keeps", "second"), [(False, 200), (True, 4004)])
    async def test_whether_a_refused_number_is_used_up_is_a_setting(
        self, till: Till, keeps: bool, second: int
    ) -> None:
        till.turn(keeps_refused_keys=keeps)
        assert code(await till.pay("n-1", "42.51")) == 4001
        assert result(await till.top_up("n-2")) == DONE
        assert code(await till.pay("n-1", "42.51")) == second


class TestVoids:
    @pytest.mark.parametrize("name", ["pay", "top_up"])
    async def test_a_payment_and_a_top_up_are_voided_whole_and_once(
        self, till: Till, name: str
    ) -> None:
        paid = await (till.pay("n-1") if name == "pay" else till.top_up("n-1"))
        reply = await till.void("v-1", checkout(paid))
        assert result(reply) == DONE
        data = reply.json["data"]
        assert data["oriCheckoutId"] == checkout(paid)
        assert data["oriTransIndexCode"] == paid.json["data"]["transIndexCode"]
        assert "amount" not in data
        assert await till.held() == (Decimal("42.50"), 1280)
        assert code(await till.void("v-2", checkout(paid))) == 4006
        states = [
            (await till.ask(QUERY, transIndexCode=number)).json["data"]["state"]
            for number in ("n-1", "v-1")
        ]
        assert states == [3, 2]

    async def test_points_can_be_voided_and_a_tip_and_a_void_cannot(self, till: Till) -> None:
        earned = await till.points("loyaltyIssuance", "n-1", "7")
        assert result(await till.void("v-1", checkout(earned))) == DONE
        paid = await till.pay("n-2")
        tipped = await till.tip("t-1", checkout(paid))
        assert result(await till.void("v-2", checkout(tipped))) == FAILED
        voided = await till.void("v-3", checkout(paid))
        assert result(await till.void("v-4", checkout(voided))) == FAILED
        assert till.effects("v-2") == till.effects("v-4") == []

    async def test_an_original_that_is_not_there_is_unknown(self, till: Till) -> None:
        assert code(await till.void("v-1", "933392815902294016")) == 4005
        failed = await till.pay("n-1", card="10492")
        assert code(await till.void("v-2", checkout(failed))) == 4005

    async def test_the_callers_own_number_names_an_original_only_where_that_is_so(
        self, till: Till
    ) -> None:
        await till.pay("n-1")
        assert code(await till.void("v-1", "n-1")) == 4005
        till.turn(void_takes_order_number=True)
        assert result(await till.void("v-1", "n-1")) == DONE
        assert code(await till.void("v-2", "never-sent")) == 4005
        assert await till.held() == (Decimal("42.50"), 1280)

    async def test_nothing_is_voided_after_settlement(self, till: Till, clock: Clock) -> None:
        paid, later = await till.pay("n-1"), await till.pay("n-2")
        clock.now_s += 24 * 3600 - 1
        assert result(await till.void("v-1", checkout(paid))) == DONE
        clock.now_s += 1
        assert result(await till.void("v-2", checkout(later))) == FAILED
        till.turn(settles_after_s=None)
        assert result(await till.void("v-3", checkout(later))) == DONE

    async def test_what_was_spent_meanwhile_cannot_be_taken_back(self, till: Till) -> None:
        loaded = await till.top_up("n-1")
        await till.pay("n-2", "60.00")
        assert result(await till.void("v-1", checkout(loaded))) == FAILED
        earned = await till.points("loyaltyIssuance", "n-3", "7")
        await till.points("loyaltyRedemption", "n-4", "1285")
        assert result(await till.void("v-2", checkout(earned))) == FAILED


class TestTips:
    async def test_a_tip_is_taken_from_the_card_that_paid(self, till: Till) -> None:
        paid = await till.pay("n-1")
        assert result(await till.tip("t-1", checkout(paid))) == DONE
        assert till.effects("t-1") == [(CARD, -200, 0)]

    async def test_a_tip_needs_its_payment(self, till: Till) -> None:
        paid = await till.pay("n-1")
        loaded = await till.top_up("n-2")
        assert code(await till.tip("t-1", "933392815902294016")) == 4005
        assert code(await till.tip("t-2", checkout(loaded))) == 4005
        assert code(await till.tip("t-3", checkout(paid), card=OTHER_CARD)) == 4005
        assert code(await till.tip("t-4", "n-1")) == 4005
        assert code(await till.tip("t-5", checkout(paid), "52.01")) == 4001

    async def test_a_voided_payment_takes_no_tip(self, till: Till) -> None:
        paid = await till.pay("n-1")
        await till.void("v-1", checkout(paid))
        assert code(await till.tip("t-1", checkout(paid))) == 4006


class TestQueries:
    async def test_an_order_is_found_by_either_number(self, till: Till) -> None:
        paid = await till.pay("n-1")
        for asked in ({"transIndexCode": "n-1"}, {"checkoutId": checkout(paid)}):
            data = (await till.ask(QUERY, **asked)).json["data"]
            assert (data["state"], data["amount"]) == (2, "10.50")
            assert (data["checkoutId"], data["transIndexCode"]) == (checkout(paid), "n-1")
        both = await till.ask(QUERY, checkoutId="unknown", transIndexCode="n-1")
        assert both.json["data"] is None

    async def test_every_kind_of_order_is_found(self, till: Till) -> None:
        paid = await till.pay("n-1")
        await till.top_up("n-2")
        await till.points("loyaltyIssuance", "n-3", "7")
        await till.points("loyaltyRedemption", "n-4", "7")
        await till.tip("n-5", checkout(paid))
        await till.void("n-6", checkout(paid))
        for number in ("n-2", "n-3", "n-4", "n-5", "n-6"):
            data = (await till.ask(QUERY, transIndexCode=number)).json["data"]
            assert data["state"] == 2, number

    async def test_what_was_never_sent_or_refused_is_not_found(self, till: Till) -> None:
        await till.pay("n-1", "42.51")
        for number in ("n-1", "n-2"):
            reply = await till.ask(QUERY, transIndexCode=number)
            assert (code(reply), reply.json["data"]) == (200, None)

    async def test_a_query_that_does_not_cover_these_orders_finds_none(self, till: Till) -> None:
        till.turn(query_answers=False)
        await till.pay("n-1")
        assert (await till.ask(QUERY, transIndexCode="n-1")).json["data"] is None

    async def test_a_query_names_at_least_one_number(self, till: Till) -> None:
        assert code(await till.ask(QUERY)) == 400


class TestOpenOrders:
    async def state(self, till: Till, number: str) -> int:
        data = (await till.ask(QUERY, transIndexCode=number)).json["data"]
        found = data["state"]
        assert isinstance(found, int)
        return found

    async def test_an_open_order_has_used_its_number_and_moved_nothing(self, till: Till) -> None:
        till.turn(late_effect_s=600)
        assert result(await till.pay("n-1", fault="pending-then-success")) == OPEN
        assert await self.state(till, "n-1") == 1
        assert code(await till.pay("n-1")) == 4004
        assert till.effects("n-1") == []

    async def test_it_ends_in_success_or_in_failure(self, till: Till) -> None:
        good = await till.pay("n-1", fault="pending-then-success")
        await till.pay("n-2", fault="pending-then-failure")
        await until(lambda: bool(till.effects("n-1")))
        data = (await till.ask(QUERY, transIndexCode="n-1")).json["data"]
        assert (data["state"], data["checkoutId"]) == (2, checkout(good))
        async with asyncio.timeout(10):
            while await self.state(till, "n-2") != 5:
                await asyncio.sleep(0.01)
        assert till.effects("n-2") == []
        assert till.effects("n-1") == [(CARD, -1050, 0)]

    async def test_an_open_order_that_cannot_be_met_in_the_end_is_closed(self, till: Till) -> None:
        # A vendor that looks at the balance only when it comes to it.
        assert result(await till.pay("n-1", "42.51", fault="pending-then-success")) == OPEN
        async with asyncio.timeout(10):
            while await self.state(till, "n-1") != 5:
                await asyncio.sleep(0.01)
        assert till.effects("n-1") == []

    async def test_a_vendor_that_replays_says_that_it_is_still_open(self, till: Till) -> None:
        till.turn(repeat="replays", late_effect_s=600)
        first = await till.pay("n-1", fault="pending-then-success")
        again = await till.pay("n-1")
        assert (result(again), checkout(again)) == (OPEN, checkout(first))

    async def test_an_open_order_cannot_be_voided(self, till: Till) -> None:
        till.turn(late_effect_s=600)
        first = await till.pay("n-1", fault="pending-then-success")
        assert result(await till.void("v-1", checkout(first))) == FAILED

    async def test_an_activation_is_never_left_open(self, till: Till) -> None:
        reply = await till.book(
            "giftActivate", None, "10495", fault="pending-then-success", activating="Y"
        )
        assert code(reply) == 400


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "status", "is_booked"),
        [
            ("500-before", 500, False),
            ("500-after", 500, True),
            ("429", 429, False),
            ("unauthorized-once", 401, False),
            ("503-after", 503, True),
        ],
    )
    async def test_a_fault_is_in_the_vendors_own_words(
        self, till: Till, fault: str, status: int, is_booked: bool
    ) -> None:
        reply = await till.pay("n-1", fault=fault)
        assert reply.status == status
        assert bool(till.effects("n-1")) is is_booked

    async def test_a_contradictory_answer_says_yes_in_its_data_and_no_in_its_code(
        self, till: Till
    ) -> None:
        reply = await till.pay("n-1", fault="contradictory-after")
        assert (reply.status, code(reply), reply.json["data"]["result"]) == (200, 4001, DONE)
        assert till.effects("n-1") == [(CARD, -1050, 0)]

    async def test_a_fault_without_words_here_is_refused_by_name(self, till: Till) -> None:
        reply = await till.pay("n-1", fault="wrong-echo-after")
        assert code(reply) == 400
        assert "wrong-echo-after" in reply.json["msg"]

    async def test_a_magic_card_fails_the_first_attempt_of_a_number(self, till: Till) -> None:
        with pytest.raises(aiohttp.ClientError):
            await till.pay("n-1", card="20002")
        assert till.effects("n-1") == [("20002", -1050, 0)]
        assert code(await till.pay("n-1", card="20002")) == 4004
        with pytest.raises(aiohttp.ClientError):
            await till.pay("n-2", card="20001")
        assert result(await till.pay("n-2", card="20001")) == DONE

    async def test_a_repeat_may_be_declined_that_was_booked(self, till: Till) -> None:
        till.turn(repeat="replays")
        with pytest.raises(aiohttp.ClientError):
            await till.pay("n-1", fault="decline-on-repeat")
        assert code(await till.pay("n-1")) == 4001
        assert till.effects("n-1") == [(CARD, -1050, 0)]


async def test_its_books_outlive_the_player(tmp_path: Path, clock: Clock) -> None:
    replies = []
    for number in ("n-1", "n-2"):
        player = OpenLoyaltyPayPlayer(tmp_path, now=clock)
        await player.start()
        async with aiohttp.ClientSession() as session:
            till = Till(player, session)
            replies.append(await till.pay(number))
            if number == "n-2":
                assert result(await till.void("v-1", checkout(replies[0]))) == DONE
                assert code(await till.pay("n-1")) == 4004
        await player.stop()


async def test_the_hidden_card_is_not_among_the_shown(till: Till) -> None:
    shown = {card["card"] for card in till.player.shown_cards()}
    assert {"10472", "20001", "20011"} <= shown
    assert "10999" not in shown
    assert (await till.held("10999"))[0] == 100
