"""Loyalife as it is played: strict to its document, and both ways where that has two."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loyalty_gateway.sandbox import LoyalifePlayer, LoyalifeSettings
from loyalty_gateway.sandbox.faults import FAULTS
from loyalty_gateway.sandbox.loyalife.cards import MEMBERS, PASSWORD_HASH, card_seeds
from loyalty_gateway.sandbox.loyalife.player import READS, TOKENS, VERBS, document
from tests.sandbox.vendor_client import Clock, Reply, until

MEMBER, OTHER = "m_8124", "m_8125"
LOGIN = {
    "grant_type": "client_credentials",
    "client_id": "demo_client",
    "client_secret": "demo_secret",
}
MEMBERS_API = "/lbms-ingress/member/api/Member"
TRANSACTIONS = "/lbms-ingress/transaction-lm/API/Transaction"
PG = "/lbms-ingress/pg-lm/API/PG"
TOKEN = "/lbms-ingress/oauth/api/Auth/Token"
FOUR: dict[str, Any] = {"TransactionCurrency": "DEFAULT", "RelationType": 4, "ProgramId": 19}
ALL_DAYS = {"DateFrom": "2000-01-01T00:00:00", "DateTo": "2099-01-01T00:00:00"}
KEY = "order-inv-2026-001"


class Programme:
    """A client of Loyalife that logs in once and distrusts every answer."""

    def __init__(self, player: LoyalifePlayer, session: aiohttp.ClientSession) -> None:
        self.player = player
        self._session = session
        self.token = ""

    async def log_in(self, path: str = TOKEN, **changes: str) -> Reply:
        reply = await self.post(path, json.dumps({**LOGIN, **changes}).encode(), token=None)
        if reply.status == 200:
            self.token = reply.json["results"]["token"]
        return reply

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
        token: str | None = "",
        fault: str | None = None,
        content_type: str = "application/json",
    ) -> Reply:
        headers = {"Content-Type": content_type} if body is not None else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token or self.token}"
        if fault is not None:
            headers["X-Sandbox-Fault"] = fault
        url = self.player.base_url + path
        async with self._session.request(
            method, url, params=query, data=body, headers=headers
        ) as answer:
            reply = Reply(answer.status, answer.headers, await answer.read())
        operation = document().operations.get((method, path))
        is_as_printed = self.player.settings.envelope == "wrapped" and fault is None
        is_as_printed &= reply.raw.startswith(b"{")
        if operation is not None and reply.status in operation.answers and is_as_printed:
            assert operation.problems_of_answer(reply.status, reply.raw) == []
        return reply

    async def post(self, path: str, body: bytes, **options: Any) -> Reply:
        return await self.call("POST", path, body=body, **options)

    async def ask(self, path: str, fault: str | None = None, **fields: Any) -> Reply:
        query = {"pintProgramId": "19"} if path.endswith(("Data", "Attributes")) else None
        return await self.post(path, json.dumps(fields).encode(), fault=fault, query=query)

    async def redeem(self, points: int = 1000, member: str = MEMBER, **changes: Any) -> Reply:
        usual: dict[str, Any] = {
            "RelationReference": member,
            "Amount": 12.5,
            "Points": points,
            "MerchantName": "Amazon",
            "LoyaltyTxnType": 30,
            **FOUR,
        }
        return await self.ask(f"{PG}/RedeemPoints", **{**usual, **changes})

    async def reverse(self, guid: str, **changes: Any) -> Reply:
        usual: dict[str, Any] = {
            "RelationReference": MEMBER,
            "MerchantName": "Amazon",
            "ExternalReference": guid,
            "ProgramId": 19,
        }
        return await self.ask(f"{PG}/ReversalPoints", **{**usual, **changes})

    async def earn(self, key: str | None = KEY, **changes: Any) -> Reply:
        usual: dict[str, Any] = {
            "transaction_id": "TXN-1",
            "amount": 12.5,
            "transaction_date": "2026-05-11",
            "product_code": "RETAIL001",
            "member_relation_reference": MEMBER,
            "transaction_type": "DR",
        }
        keyed: dict[str, Any] = {"_xoxo_api_client_idempotency": key} if key is not None else {}
        return await self.ask(
            f"{TRANSACTIONS}/InsertTransactionData", **{**usual, **keyed, **changes}
        )

    async def lines(self, first: int = 0, number: int = 100, **changes: Any) -> Any:
        usual: dict[str, Any] = {"RelationReference": MEMBER, **ALL_DAYS, **FOUR}
        ranges: dict[str, Any] = {"MinimumRange": first, "MaximumRange": number}
        path = f"{TRANSACTIONS}/GetMemberTransactionSummaryByDate"
        return inner(await self.ask(path, **{**usual, **ranges, **changes}))

    def points(self, member: str = MEMBER) -> int:
        card = self.player.ledger.find_card(member)
        assert card is not None
        return card.points

    def booked(self, member: str = MEMBER) -> list[tuple[str, int]]:
        found = self.player.ledger.effects(card_id=member, with_seed=False)
        return [(effect.kind, effect.points) for effect in reversed(found)]


def inner(reply: Reply) -> Any:
    """The envelope, out of its wrapper where it has one."""
    return reply.json.get("results", reply.json)


def code(reply: Reply) -> Any:
    assert inner(reply)["IsSucessful"] is False
    assert inner(reply)["ReturnObject"] is None
    return inner(reply)["ErrorCode"]


@pytest.fixture
async def player(tmp_path: Path, clock: Clock) -> AsyncIterator[LoyalifePlayer]:
    player = LoyalifePlayer(tmp_path, settings=LoyalifeSettings(slow_s=30), now=clock)
    await player.start()
    yield player
    assert player.ledger.audit() == []
    await player.stop()


@pytest.fixture
async def vendor(player: LoyalifePlayer) -> AsyncIterator[Programme]:
    timeout = aiohttp.ClientTimeout(total=20)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        vendor = Programme(player, session)
        await vendor.log_in()
        yield vendor


class TestSeeds:
    def test_the_members_are_there_for_what_their_purpose_says(self) -> None:
        assert {member.card_id for member in MEMBERS} >= {MEMBER, OTHER, "10999"}
        faults = {member.card_id: member.fault for member in MEMBERS if member.fault}
        assert faults == {fault.card: fault.name for fault in FAULTS}
        assert [member.card_id for member in MEMBERS if member.is_hidden] == ["10999"]

    def test_every_past_adds_up_and_a_seed_always_gives_the_same(self) -> None:
        for seed in (1, 2):
            for card in card_seeds(seed):
                assert sum(effect.points for effect in card.history) == card.points
        assert card_seeds(1) == card_seeds(1) != card_seeds(2)

    def test_what_is_played_is_in_the_document(self) -> None:
        names = {operation.name for operation in document().operations.values()}
        played = TOKENS | set(READS) | set(VERBS)
        assert names - played == {"insertTransactionDataV2", "pollTransactionBatchStatus"}
        assert played <= names


class TestTokens:
    @pytest.mark.parametrize("path", [TOKEN, "/oauth/Auth/Token"])
    async def test_a_login_gives_a_token_and_when_it_ends(
        self, vendor: Programme, clock: Clock, path: str
    ) -> None:
        reply = await vendor.log_in(path)
        assert reply.json["results"]["tokenExpiresOn"] == "2026-09-21T14:43:20Z"
        assert inner(await vendor.redeem(1))["IsSucessful"] is True

    @pytest.mark.parametrize("wrong", [{"client_secret": "x"}, {"client_id": "x"}])
    async def test_a_wrong_login_is_refused(self, vendor: Programme, wrong: dict[str, str]) -> None:
        reply = await vendor.log_in(**wrong)
        assert (reply.status, code(reply)) == (401, "401")

    async def test_a_token_ends_when_it_said(self, vendor: Programme, clock: Clock) -> None:
        clock.now_s += 1799
        assert (await vendor.redeem(1)).status == 200
        clock.now_s += 1
        reply = await vendor.redeem(1)
        assert (reply.status, code(reply)) == (401, "401")
        assert vendor.booked() == [("redeem", -1)]

    @pytest.mark.parametrize("token", [None, "no-such-token"])
    async def test_without_a_token_nothing_is_looked_at(
        self, vendor: Programme, token: str | None
    ) -> None:
        reply = await vendor.post(f"{PG}/RedeemPoints", b"nonsense", token=token)
        assert (reply.status, code(reply)) == (401, "401")
        reported = [violation.where for violation in vendor.player.stage.violations]
        assert reported == (["header.Authorization"] if token is None else [])


class TestStrictness:
    @pytest.mark.parametrize(
        "changes",
        [
            {"Points": 0},
            {"Points": 1.5},
            {"Points": "1"},
            {"Amount": 0},
            {"Amount": -1},
            {"Amount": 1.001},
            {"Amount": "12.50"},
            {"LoyaltyTxnType": 7},
            {"ProgramId": 20},
            {"Colour": "red"},
            {"MerchantName": None},
        ],
        ids=str,
    )
    async def test_a_body_that_does_not_fit_is_refused_and_reported(
        self, vendor: Programme, changes: dict[str, Any]
    ) -> None:
        reply = await vendor.redeem(**changes)
        assert (reply.status, code(reply)) == (400, "998")
        assert len(vendor.player.stage.violations) >= 1
        assert vendor.booked() == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"transaction_date": "11.05.2026"},
            {"transaction_type": "XX"},
            {"amount": 0},
            {"product_code": None},
        ],
        ids=str,
    )
    async def test_a_purchase_that_does_not_fit_is_refused_and_reported(
        self, vendor: Programme, changes: dict[str, Any]
    ) -> None:
        assert code(await vendor.earn(**changes)) == "998"
        assert vendor.booked() == []

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"a":1,"a":2}', b"\xff", b"NaN"])
    async def test_what_is_not_json_is_refused(self, vendor: Programme, body: bytes) -> None:
        reply = await vendor.post(f"{PG}/CheckAvailability", body)
        assert (reply.status, code(reply)) == (400, "998")

    async def test_a_route_that_is_not_there_is_refused_and_reported(
        self, vendor: Programme
    ) -> None:
        for method, path in (("GET", "/lbms-ingress/nowhere"), ("GET", f"{PG}/RedeemPoints")):
            reply = await vendor.call(method, path)
            assert (reply.status, code(reply)) == (400, "999")
        assert [violation.where for violation in vendor.player.stage.violations] == [
            "path",
            "method",
        ]

    async def test_batches_are_not_played(self, vendor: Programme) -> None:
        query = {"batch_id": "abc"}
        reply = await vendor.call("GET", f"{TRANSACTIONS}/PollTransactionBatchStatus", query=query)
        assert (reply.status, code(reply)) == (400, "999")

    async def test_a_rate_limit_says_when_to_come_back(
        self, vendor: Programme, clock: Clock
    ) -> None:
        vendor.player.stage.settings = LoyalifeSettings(rate_limit_per_minute=2)
        replies = [await vendor.redeem(1) for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 429]
        assert 1 <= int(replies[2].headers["Retry-After"]) <= 60


class TestSpeech:
    async def test_the_sources_two_envelopes_and_two_kinds_of_code(self, vendor: Programme) -> None:
        vendor.player.stage.settings = LoyalifeSettings(envelope="bare", error_codes="number")
        done = (await vendor.redeem(1)).json
        assert (done["IsSucessful"], done["ErrorCode"]) == (True, 0)
        assert (await vendor.redeem(9_999)).json["ErrorCode"] == 301
        # A code with a letter stays text.
        reply = await vendor.ask(
            f"{MEMBERS_API}/CreateProfileWithAttributes",
            relation_reference=MEMBER,
            full_name="x",
            email_id="x",
            mobile_number="x",
            status="5",
        )
        assert (reply.status, reply.json["ErrorCode"]) == (409, "E201")

    @pytest.mark.parametrize(
        ("how", "statuses"), [("flag", (200, 200, 200)), ("status", (422, 422, 404))]
    )
    async def test_a_refusal_shows_in_the_flag_or_in_the_status_too(
        self, vendor: Programme, how: str, statuses: tuple[int, ...]
    ) -> None:
        vendor.player.stage.settings = LoyalifeSettings().changed({"refuses_by": how})
        replies = [
            await vendor.redeem(9_999),
            await vendor.redeem(1, "m_8126"),
            await vendor.redeem(1, "m_9999"),
        ]
        assert tuple(reply.status for reply in replies) == statuses
        assert [code(reply) for reply in replies] == ["301", "107", "103"]

    async def test_the_redemption_of_the_product_page_has_its_own_shape(
        self, vendor: Programme
    ) -> None:
        reply = await vendor.ask("/v1/RedeemPoints", memberId=MEMBER, points=1000, amount=12.50)
        assert (reply.json["IsSucessful"], reply.json["ErrorCode"]) == (True, 0)
        assert vendor.booked() == [("redeem", -1000)]

    def test_a_setting_that_is_wrong_is_named(self) -> None:
        for wish, problem in (
            ({"time_zone": "Mars/Olympus"}, "time_zone"),
            ({"envelope": "paper"}, "envelope"),
            ({"token_lifetime_s": 0}, "token_lifetime_s"),
        ):
            with pytest.raises(ValueError, match=problem):
                LoyalifeSettings().changed(wish)


class TestRedeeming:
    async def test_every_request_books_for_there_is_no_key(self, vendor: Programme) -> None:
        guids = {inner(await vendor.redeem(100))["ReturnObject"] for _ in range(3)}
        assert len(guids) == 3
        assert vendor.booked() == [("redeem", -100)] * 3

    async def test_it_takes_all_or_nothing(self, vendor: Programme) -> None:
        assert code(await vendor.redeem(4_201)) == "301"
        assert vendor.points() == 4_200
        await vendor.redeem(4_200)
        assert vendor.points() == 0

    async def test_two_at_once_never_take_more_than_there_is(self, vendor: Programme) -> None:
        replies = await asyncio.gather(*(vendor.redeem(1_000) for _ in range(10)))
        assert sum(inner(reply)["IsSucessful"] for reply in replies) == 4
        assert vendor.points() == 200

    async def test_a_reversal_gives_back_once(self, vendor: Programme) -> None:
        guid = inner(await vendor.redeem())["ReturnObject"]
        assert inner(await vendor.reverse(guid))["ReturnObject"] is True
        assert code(await vendor.reverse(guid)) == "302"
        assert code(await vendor.reverse(guid.lower())) == "302"
        assert vendor.points() == 4_200

    async def test_a_reversal_refused_as_a_repeat_is_not_called_reversed(
        self, vendor: Programme
    ) -> None:
        guid = inner(await vendor.redeem())["ReturnObject"]
        assert code(await vendor.reverse(guid, fault="refused-first")) == "E201"
        assert vendor.points() == 3_200
        assert inner(await vendor.reverse(guid))["ReturnObject"] is True

    @pytest.mark.parametrize("repeat", ["refuses", "books_again"])
    async def test_ten_reversals_at_once_give_back_once(
        self, vendor: Programme, repeat: str
    ) -> None:
        vendor.player.stage.settings = LoyalifeSettings().changed({"repeat": repeat})
        guid = inner(await vendor.redeem())["ReturnObject"]
        replies = await asyncio.gather(*(vendor.reverse(guid) for _ in range(10)))
        assert sum(inner(reply)["IsSucessful"] for reply in replies) == 1
        assert vendor.points() == 4_200

    async def test_a_vendor_that_reverses_twice_can_be_played(self, vendor: Programme) -> None:
        vendor.player.stage.settings = LoyalifeSettings(reversal="again", repeat="books_again")
        guid = inner(await vendor.redeem())["ReturnObject"]
        for _ in range(2):
            assert inner(await vendor.reverse(guid))["ReturnObject"] is True
        assert vendor.points() == 5_200

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"RelationReference": OTHER}, "304"),
            ({"MerchantName": "Zalando"}, "304"),
            ({"RelationReference": "m_9999"}, "103"),
            ({"ExternalReference": "3FA85F64-5717-4562-B3FC-2C963F66AFA6"}, "303"),
        ],
        ids=str,
    )
    async def test_a_reversal_has_to_name_what_was_redeemed(
        self, vendor: Programme, changes: dict[str, str], expected: str
    ) -> None:
        guid = inner(await vendor.redeem())["ReturnObject"]
        assert code(await vendor.reverse(guid, **changes)) == expected
        # A refusal has not used the number up.
        assert inner(await vendor.reverse(guid))["ReturnObject"] is True

    @pytest.mark.parametrize("is_whole", [True, False])
    async def test_a_name_is_kept_whole_or_cut_and_can_be_reversed_either_way(
        self, vendor: Programme, is_whole: bool
    ) -> None:
        vendor.player.stage.settings = LoyalifeSettings(accepts_merchant_tag=is_whole)
        name = "Promise proof of the loy #ABCDEFGHIJ"
        guid = inner(await vendor.redeem(MerchantName=name))["ReturnObject"]
        line = (await vendor.lines())["ReturnObject"][-1]
        assert (line["MerchantName"] == name) is is_whole
        assert name.startswith(line["MerchantName"])
        assert inner(await vendor.reverse(guid, MerchantName=name))["ReturnObject"] is True


class TestEarning:
    async def test_the_rules_make_the_points_and_none_is_a_success(self, vendor: Programme) -> None:
        for number, product in enumerate(("RETAIL001", "TRAVEL001", "FUEL001", "UNKNOWN")):
            reply = await vendor.earn(f"{KEY}{number}", product_code=product)
            assert inner(reply)["ReturnObject"] is True
        assert vendor.booked() == [("earn", 12), ("earn", 36), ("earn", 0), ("earn", 0)]
        assert vendor.points() == 4_248

    async def test_a_key_counts_where_the_programme_keeps_it(self, vendor: Programme) -> None:
        await vendor.earn()
        reply = await vendor.earn()
        assert (reply.status, code(reply)) == (409, "E201")
        assert vendor.booked() == [("earn", 12)]

    @pytest.mark.parametrize("key", [KEY, None])
    async def test_it_does_not_count_where_it_is_not_kept_or_not_given(
        self, vendor: Programme, key: str | None
    ) -> None:
        if key is not None:
            vendor.player.stage.settings = LoyalifeSettings(repeat="books_again")
        await vendor.earn(key)
        await vendor.earn(key)
        assert vendor.booked() == [("earn", 12), ("earn", 12)]

    async def test_a_purchase_may_take_back(self, vendor: Programme) -> None:
        await vendor.earn()
        await vendor.earn("another", transaction_type="CR")
        assert vendor.booked() == [("earn", 12), ("take_back", -12)]

    async def test_nothing_is_taken_that_is_not_there(self, vendor: Programme) -> None:
        reply = await vendor.earn(
            transaction_type="CR", amount=100, member_relation_reference="m_8128"
        )
        assert code(reply) == "301"


class TestBooks:
    @pytest.mark.parametrize(("lists", "place"), [("oldest_first", -1), ("newest_first", 0)])
    async def test_lines_come_in_pages_and_all_are_counted(
        self, vendor: Programme, lists: str, place: int
    ) -> None:
        vendor.player.stage.settings = LoyalifeSettings().changed({"lists": lists})
        for number in range(4):
            await vendor.redeem(number + 1)
        whole = await vendor.lines()
        assert whole["Count"] == len(whole["ReturnObject"]) == 7
        assert whole["ReturnObject"][place]["Points"] == 4
        paged = [
            line
            for first in range(0, 7, 3)
            for line in (await vendor.lines(first, 3))["ReturnObject"]
        ]
        assert paged == whole["ReturnObject"]
        assert (await vendor.lines(7, 3))["ReturnObject"] == []

    async def test_both_ends_belong_to_a_period_in_the_deployments_time(
        self, vendor: Programme, clock: Clock
    ) -> None:
        await vendor.redeem(1)
        line = (await vendor.lines())["ReturnObject"][-1]
        time = line["TransactionDate"]
        assert time == "2026-09-21T19:43:20.000"
        assert (await vendor.lines(DateFrom=time, DateTo=time))["Count"] == 1
        assert (await vendor.lines(DateFrom="2026-09-21T19:43:20.001"))["Count"] == 0

    async def test_a_line_shows_all_that_a_search_needs(self, vendor: Programme) -> None:
        guid = inner(await vendor.redeem(500))["ReturnObject"]
        await vendor.reverse(guid)
        redeemed, reversed_ = (await vendor.lines())["ReturnObject"][-2:]
        assert redeemed["ExternalReference"] == guid
        assert (redeemed["MerchantName"], redeemed["LoyaltyTxnType"]) == ("Amazon", 30)
        assert (redeemed["Points"], redeemed["TransactionType"]) == (500, 2)
        assert (reversed_["Points"], reversed_["TransactionType"]) == (500, 1)
        assert reversed_["ExternalReference"] != guid

    async def test_sums_are_of_everything_or_of_a_period(self, vendor: Programme) -> None:
        await vendor.redeem(100)
        four: dict[str, Any] = {"RelationReference": MEMBER, **FOUR}
        summary = inner(await vendor.ask(f"{TRANSACTIONS}/GetMemberStatementSummary", **four))
        content = summary["ReturnObject"]
        assert content["PointBalance"] == 4_100
        assert content["Spend"] + content["Bonus"] - content["Redeem"] == 4_100
        today: dict[str, Any] = {"DateFrom": "2026-09-01T00:00:00", "DateTo": "2026-10-01T00:00:00"}
        path = f"{TRANSACTIONS}/GetMemberStatementByCategory"
        period = inner(await vendor.ask(path, **today, **four))
        assert period["ReturnObject"] == [{"Category": "Redeem", "Points": 100}]

    async def test_points_end_with_their_quarter_a_year_later(self, vendor: Programme) -> None:
        await vendor.redeem(200)
        path = f"{TRANSACTIONS}/GetExpirySchedule"
        four: dict[str, Any] = {"RelationReference": MEMBER, **FOUR}
        schedule = inner(await vendor.ask(path, Year=2027, **four))["ReturnObject"]
        (period,) = schedule["ExpiryPeriod"]
        assert period["ScheduleDate"] == "2027-03-31T00:00:00"
        assert period["TotalAvailablePoints"] == 4_000
        empty = inner(await vendor.ask(path, Year=2026, **four))["ReturnObject"]
        assert empty["ExpiryPeriod"] == []


class TestPeople:
    async def test_a_member_is_enrolled_changed_and_found(self, vendor: Programme) -> None:
        profile: dict[str, Any] = {
            "relation_reference": "m_new",
            "full_name": "Nora Neu",
            "email_id": "nora@example.com",
            "mobile_number": "+41",
            "status": "5",
            "dob": "1990-06-15",
        }
        reply = await vendor.ask(f"{MEMBERS_API}/CreateProfileWithAttributes", **profile)
        assert inner(reply)["ReturnObject"] is True
        found = await self.find(vendor, "email_id", "nora@example.com")
        number = found["ReturnObject"]["Id"]
        assert found["ReturnObject"]["RelationReference"] == "m_new"
        await vendor.ask(
            f"{MEMBERS_API}/UpdateProfileWithAttributes",
            id=number,
            data={"full_name": "Nora Alt", "status": "1"},
        )
        query = {"pintProgramId": "19", "pstrRelationReference": "m_new"}
        path = f"{MEMBERS_API}/GetMemberDetailsByRelationReference"
        shown = inner(await vendor.call("GET", path, query=query))["ReturnObject"]
        assert (shown["FullName"], shown["Status"]) == ("Nora Alt", 1)
        assert (shown["Email"], shown["TotalPoints"]) == ("nora@example.com", 0)

    async def find(self, vendor: Programme, name: str, value: str) -> Any:
        query = {"pintProgramId": "19", "attributeName": name, "attributeValue": value}
        path = f"{MEMBERS_API}/GetMemberDetailsByUniqueAttribute"
        return inner(await vendor.call("GET", path, query=query))

    async def test_only_a_unique_attribute_finds_anybody(self, vendor: Programme) -> None:
        assert (await self.find(vendor, "tier", "Gold"))["ErrorCode"] == "998"
        assert (await self.find(vendor, "email_id", "nobody"))["ErrorCode"] == "E001"

    async def test_an_update_of_nobody_is_refused(self, vendor: Programme) -> None:
        path = f"{MEMBERS_API}/UpdateProfileWithAttributes"
        assert code(await vendor.ask(path, id=1, data={"full_name": "x"})) == "103"

    async def test_a_link_is_made_once(self, vendor: Programme) -> None:
        link: dict[str, Any] = {"SubRelationReference": "D-1", "SubRelationType": "DEVICE"}
        member: dict[str, Any] = {"RelationReference": MEMBER, "ProgramId": 19}
        path = f"{MEMBERS_API}/AddSubRelation"
        assert inner(await vendor.ask(path, **member, **link))["ReturnObject"] is True
        assert code(await vendor.ask(path, **member, **link)) == "E201"
        shown = inner(await vendor.ask(f"{MEMBERS_API}/GetSubRelations", **member))
        assert shown["ReturnObject"] == [{**link, "IsActive": True}]

    async def test_a_wrong_password_is_counted_and_a_right_one_says_how_many(
        self, vendor: Programme
    ) -> None:
        path = f"{MEMBERS_API}/CheckMembershipCredentialsByRelationReference"
        login: dict[str, Any] = {"UniquerefID": MEMBER, "ProgramId": 19, "RelationType": 4}
        for _ in range(2):
            reply = await vendor.ask(path, Password="wrong", **login)
            assert (reply.status, code(reply)) == (401, "401")
        right = inner(await vendor.ask(path, Password=PASSWORD_HASH, **login))["ReturnObject"]
        assert (right["LoginAttempt"], right["IsAccountActivated"]) == (2, True)

    async def test_a_code_holds_once_for_one_purpose_and_not_for_long(
        self, vendor: Programme, clock: Clock
    ) -> None:
        wish: dict[str, Any] = {
            "UniquerefID": MEMBER,
            "SourceAddress": "127.0.0.1",
            "SourceCode": 1,
            "OtpType": "LOGIN",
            "ProgramId": 19,
            "RelationType": 4,
        }
        check: dict[str, Any] = {
            "UniquerefID": MEMBER,
            "OTP": 0,
            "DestinationAddress": "127.0.0.1",
            "Destination": "Web",
            "OtpType": "LOGIN",
            "ProgramId": 19,
            "RelationType": 4,
        }
        send_path = f"{MEMBERS_API}/GenerateOTPByRelationReference"
        check_path = f"{MEMBERS_API}/VerifyOTPByRelationReference"
        for changes in ({"OTP": 1}, {"OtpType": "ACTIVATION"}):
            await vendor.ask(send_path, **wish)
            reply = await vendor.ask(check_path, **{**check, **changes})
            assert (reply.status, code(reply)) == (400, "998")
        assert inner(await vendor.ask(check_path, **check))["ReturnObject"] is True
        assert code(await vendor.ask(check_path, **check)) == "998"
        await vendor.ask(send_path, **wish)
        clock.now_s += 300
        assert code(await vendor.ask(check_path, **check)) == "998"


class TestFaults:
    @pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.kind != "slow"], ids=repr)
    async def test_a_magic_member_fails_as_its_fault_says(
        self, vendor: Programme, fault: Any
    ) -> None:
        try:
            reply = await vendor.redeem(100, fault.card)
            is_success = reply.status == 200 and reply.raw.startswith(b"{")
        except aiohttp.ClientError:
            is_success = False
        assert not is_success
        await until(lambda: bool(vendor.booked(fault.card)) == fault.has_effect)

    async def test_a_fault_of_a_purchase_fires_on_the_first_attempt_of_its_key(
        self, vendor: Programme
    ) -> None:
        with pytest.raises(aiohttp.ClientError):
            await vendor.earn(member_relation_reference="20001")
        assert inner(await vendor.earn(member_relation_reference="20001"))["IsSucessful"]
        assert vendor.booked("20001") == [("earn", 12)]

    async def test_a_contradiction_is_a_success_with_the_code_of_a_failure(
        self, vendor: Programme
    ) -> None:
        usual: dict[str, Any] = {
            "RelationReference": MEMBER,
            "Amount": 1,
            "Points": 1,
            "MerchantName": "A",
        }
        reply = await vendor.ask(
            f"{PG}/RedeemPoints", "contradictory-after", LoyaltyTxnType=30, **usual, **FOUR
        )
        assert (inner(reply)["IsSucessful"], inner(reply)["ErrorCode"]) == (True, "997")

    @pytest.mark.parametrize("fault", ["wrong-echo-after", "pending-then-success", "no-such-fault"])
    async def test_a_fault_that_this_vendor_cannot_have_is_refused(
        self, vendor: Programme, fault: str
    ) -> None:
        usual: dict[str, Any] = {
            "RelationReference": MEMBER,
            "Amount": 1,
            "Points": 1,
            "MerchantName": "A",
        }
        reply = await vendor.ask(f"{PG}/RedeemPoints", fault, LoyaltyTxnType=30, **usual, **FOUR)
        assert (reply.status, code(reply)) == (400, "998")
        assert vendor.booked() == []

    async def test_a_reset_forgets_what_was_booked(self, vendor: Programme) -> None:
        await vendor.redeem(100)
        await vendor.player.reset()
        assert vendor.booked() == []
        assert vendor.points() == 4_200
