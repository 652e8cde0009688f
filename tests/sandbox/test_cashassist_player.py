"""CashAssist as its document has it: shapes, strictness, idempotency and exact money."""

import asyncio
import io
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession

from loyalty_gateway.sandbox import CashassistPlayer, Settings
from loyalty_gateway.sandbox.book import CardSeed
from loyalty_gateway.sandbox.cashassist import wire
from loyalty_gateway.sandbox.cashassist.cards import CARDS, card_seeds
from loyalty_gateway.sandbox.cashassist.holders import CHANGES
from loyalty_gateway.sandbox.cashassist.player import BOOKINGS, READS, document
from loyalty_gateway.sandbox.faults import FAULTS
from loyalty_gateway.sandbox.ledger import LedgerUnusable
from loyalty_gateway.sandbox.player import PortTaken
from tests.sandbox.vendor_client import CARDS_PATH, Clock, VendorClient, until


class TestReads:
    async def test_info_is_the_answer_that_the_vendor_prints(self, vendor: VendorClient) -> None:
        reply = await vendor.read("info", id="10472")
        assert reply.status == 200
        assert reply.raw.startswith(
            b'{"id":"10472","name":"Max Muster","balance":42.50,"points":1280'
        )

    async def test_a_blocked_card_can_be_read_and_says_so(self, vendor: VendorClient) -> None:
        assert (await vendor.read("info", id="10490")).json["status"] == "blocked"

    async def test_an_unknown_card_is_card_not_found(self, vendor: VendorClient) -> None:
        for name in ("info", "transactions"):
            reply = await vendor.read(name, id="99999")
            assert (reply.status, reply.code) == (404, "card_not_found")

    async def test_transactions_come_newest_first_in_pages(self, vendor: VendorClient) -> None:
        for number in range(5):
            await vendor.refill(f"page-key-{number}")
        seen: list[str] = []
        query: dict[str, Any] = {"id": "10472", "limit": 2}
        while True:
            page = (await vendor.read("transactions", **query)).json
            seen += [row["transactionId"] for row in page["transactions"]]
            assert len(page["transactions"]) <= 2
            if page["nextCursor"] is None:
                break
            query["cursor"] = page["nextCursor"]
        whole = (await vendor.read("transactions", id="10472")).json["transactions"]
        assert seen == [row["transactionId"] for row in whole]
        assert seen == sorted(seen, reverse=True)
        assert len(seen) == 5 + len(_seed_of("10472").history)

    async def test_an_idempotency_key_finds_its_booking_alone(self, vendor: VendorClient) -> None:
        booked = await vendor.refill("find-me-1")
        await vendor.refill("find-me-2")
        found = await vendor.read("transactions", id="10472", idempotencyKey="find-me-1")
        assert found.json["transactions"] == [booked.json]
        other_card = await vendor.read("transactions", id="10480", idempotencyKey="find-me-1")
        assert other_card.json["transactions"] == []

    async def test_from_belongs_to_the_interval_and_to_does_not(
        self, vendor: VendorClient, clock: Clock
    ) -> None:
        times = []
        for number in range(3):
            times.append((await vendor.refill(f"time-key-{number}")).json["bookedAt"])
            clock.now_s += 60
        query = {"id": "10472", "from": times[0], "to": times[2]}
        reply = await vendor.call("GET", f"{CARDS_PATH}/transactions", query=query)
        assert [row["bookedAt"] for row in reply.json["transactions"]] == [times[1], times[0]]

    @pytest.mark.parametrize("cursor", ["nonsense", "!!", "YmVmb3JlOi0x", ""])
    async def test_a_foreign_cursor_is_refused(self, vendor: VendorClient, cursor: str) -> None:
        reply = await vendor.read("transactions", id="10472", cursor=cursor)
        assert (reply.status, reply.code) == (400, "invalid_request")

    async def test_items_of_a_purchase_add_up_to_its_amount(self, vendor: VendorClient) -> None:
        rows = (await vendor.read("transactions", id="10472")).json["transactions"]
        purchases = [row for row in rows if row["type"] == "purchase"]
        assert purchases
        for purchase in purchases:
            number = purchase["transactionId"]
            items = (await vendor.read("transactions/items", transactionId=number)).json["items"]
            assert sum(item["total"] for item in items) == purchase["amount"]
            assert all(item["unitPrice"] * item["quantity"] == item["total"] for item in items)

    @pytest.mark.parametrize("number", ["tx_1", "tx_", "90001", "tx_९", "tx_-1", "tx_" + "9" * 30])
    async def test_an_unknown_transaction_has_no_items(
        self, vendor: VendorClient, number: str
    ) -> None:
        reply = await vendor.read("transactions/items", transactionId=number)
        assert (reply.status, reply.code) == (404, "transaction_not_found")


class TestBookings:
    async def test_a_refill_adds_to_the_balance(self, vendor: VendorClient) -> None:
        body = b'{"id":"10472","amount":20.00,"reference":"order-7781"}'
        reply = await vendor.book("refill", "key-refill", body)
        assert reply.status == 200
        assert reply.headers["Idempotent-Replayed"] == "false"
        assert b'"amount":20.00,"points":0,"balanceAfter":62.50,' in reply.raw
        assert reply.json["reference"] == "order-7781"
        assert reply.json["idempotencyKey"] == "key-refill"
        assert await vendor.balance("10472") == Decimal("62.50")

    async def test_a_withdrawal_takes_money_or_points(self, vendor: VendorClient) -> None:
        money = await vendor.book("withdraw", "key-money", b'{"id":"10472","amount":12.50}')
        points = await vendor.book("withdraw", "key-points", b'{"id":"10472","points":200}')
        assert (money.json["balanceAfter"], money.json["pointsAfter"]) == (Decimal("30.00"), 1280)
        assert (points.json["balanceAfter"], points.json["pointsAfter"]) == (Decimal("30.00"), 1080)
        assert (points.json["amount"], points.json["points"]) == (Decimal("0.00"), 200)

    @pytest.mark.parametrize(
        ("name", "body", "status", "code"),
        [
            ("withdraw", b'{"id":"10472","amount":42.51}', 422, "insufficient_balance"),
            ("withdraw", b'{"id":"10472","points":1281}', 422, "insufficient_points"),
            ("withdraw", b'{"id":"10491","amount":0.01}', 422, "insufficient_balance"),
            ("withdraw", b'{"id":"10472","points":' + b"9" * 40 + b"}", 422, "insufficient_points"),
            ("withdraw", b'{"id":"10490","amount":999999}', 422, "card_blocked"),
            ("refill", b'{"id":"10490","amount":1}', 422, "card_blocked"),
            ("refill", b'{"id":"99999","amount":1}', 404, "card_not_found"),
        ],
    )
    async def test_a_decline_books_nothing_and_is_replayed(
        self, vendor: VendorClient, name: str, body: bytes, status: int, code: str
    ) -> None:
        first = await vendor.book(name, "key-decline", body)
        again = await vendor.book(name, "key-decline", body)
        assert (first.status, first.code) == (status, code)
        assert (again.status, again.raw) == (first.status, first.raw)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert vendor.effects("key-decline") == []

    async def test_everything_can_be_taken_to_the_last_rappen(self, vendor: VendorClient) -> None:
        reply = await vendor.book("withdraw", "last-rappen", b'{"id":"10485","amount":0.05}')
        assert b'"balanceAfter":0.00' in reply.raw

    async def test_many_small_amounts_add_up_exactly(self, vendor: VendorClient) -> None:
        amounts = [Decimal(number).scaleb(-2) for number in range(1, 301)]
        await asyncio.gather(
            *(vendor.refill(f"small-{number:08}", f"{a}") for number, a in enumerate(amounts))
        )
        assert await vendor.balance("10472") == Decimal("42.50") + sum(amounts)

    async def test_racing_withdrawals_never_overdraw(self, vendor: VendorClient) -> None:
        body = b'{"id":"10472","amount":10.00}'
        replies = await asyncio.gather(
            *(vendor.book("withdraw", f"race-{number:04}", body) for number in range(20))
        )
        assert sorted(reply.status for reply in replies) == [200] * 4 + [422] * 16
        assert await vendor.balance("10472") == Decimal("2.50")


class TestIdempotency:
    async def test_the_same_key_and_body_replays_the_first_answer(
        self, vendor: VendorClient
    ) -> None:
        first = await vendor.refill("same-key-1")
        await vendor.refill("same-key-2")
        again = await vendor.refill("same-key-1")
        assert again.raw == first.raw
        assert again.headers["Idempotent-Replayed"] == "true"
        assert len(vendor.effects("same-key-1")) == 1

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("refill", b'{"id":"10472","amount":1.01}'),
            ("refill", b'{"id":"10480","amount":1.00}'),
            ("refill", b'{"id":"10472","amount":1.00,"reference":"r"}'),
            ("withdraw", b'{"id":"10472","amount":1.00}'),
            ("withdraw", b'{"id":"10472","points":1}'),
        ],
    )
    async def test_the_same_key_with_another_body_is_refused(
        self, vendor: VendorClient, name: str, body: bytes
    ) -> None:
        await vendor.refill("reused-key", "1.00")
        reply = await vendor.book(name, "reused-key", body)
        assert (reply.status, reply.code) == (409, "idempotency_key_reused")
        assert len(vendor.effects("reused-key")) == 1

    async def test_a_hundred_at_once_have_one_effect(self, vendor: VendorClient) -> None:
        replies = await asyncio.gather(*(vendor.refill("hundred-1") for _ in range(100)))
        booked = [reply for reply in replies if reply.status == 200]
        assert len({reply.raw for reply in booked}) == 1
        assert [r.headers["Idempotent-Replayed"] for r in booked].count("false") == 1
        others = [(reply.status, reply.code) for reply in replies if reply.status != 200]
        assert set(others) <= {(409, "request_in_progress")}
        assert len(vendor.effects("hundred-1")) == 1
        assert await vendor.balance("10472") == Decimal("43.50")

    async def test_a_key_whose_first_request_still_runs_is_in_progress(
        self, vendor: VendorClient
    ) -> None:
        gate = vendor.player.stage.gate
        gate.arm("before-effect", "still-running")
        first = asyncio.create_task(vendor.refill("still-running"))
        assert await gate.reached(10)
        repeats = await asyncio.gather(*(vendor.refill("still-running") for _ in range(100)))
        assert {(r.status, r.code) for r in repeats} == {(409, "request_in_progress")}
        other = await vendor.refill("still-running", "2.00")
        assert (other.status, other.code) == (409, "idempotency_key_reused")
        assert vendor.effects("still-running") == []
        gate.release()
        assert (await first).status == 200
        assert len(vendor.effects("still-running")) == 1

    async def test_a_booked_key_is_replayed_while_its_first_answer_is_held_back(
        self, vendor: VendorClient
    ) -> None:
        gate = vendor.player.stage.gate
        gate.arm("after-effect")
        first = asyncio.create_task(vendor.refill("held-back"))
        assert await gate.reached(10)
        again = await vendor.refill("held-back")
        gate.release()
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (await first).raw == again.raw
        assert len(vendor.effects("held-back")) == 1

    async def test_a_key_is_forgotten_after_its_lifetime(
        self, vendor: VendorClient, clock: Clock
    ) -> None:
        first = await vendor.refill("one-day-key")
        clock.now_s += 24 * 3600 - 1
        assert (await vendor.refill("one-day-key")).raw == first.raw
        clock.now_s += 1
        assert (await vendor.refill("one-day-key")).raw != first.raw
        assert len(vendor.effects("one-day-key")) == 2

    async def test_refusals_before_the_booking_leave_the_key_unused(
        self, vendor: VendorClient
    ) -> None:
        body = b'{"id":"10472","amount":1.00}'
        refusals = [
            await vendor.book("refill", "unused-key", body, api_key="wrong"),
            await vendor.book("refill", "unused-key", body, api_key="sk_test_read"),
            await vendor.book("refill", "unused-key", b'{"id":"10472"}'),
        ]
        assert [reply.status for reply in refusals] == [401, 403, 400]
        reply = await vendor.book("refill", "unused-key", body)
        assert (reply.status, reply.headers["Idempotent-Replayed"]) == (200, "false")

    async def test_a_repeat_in_other_bytes_is_replayed_and_reported(
        self, vendor: VendorClient
    ) -> None:
        first = await vendor.refill("bytes-key", "1.00")
        again = await vendor.refill("bytes-key", "1.0")
        assert again.raw == first.raw
        assert "other bytes" in vendor.player.stage.violations[-1].problem


class TestStrictness:
    @pytest.mark.parametrize(
        ("body", "where"),
        [
            (b'{"id":"10472","amount":1.001}', "body.amount"),
            (b'{"id":"10472","amount":1.000}', "body.amount"),
            (b'{"id":"10472","amount":0.001}', "body.amount"),
            (b'{"id":"10472","amount":0}', "body.amount"),
            (b'{"id":"10472","amount":-1}', "body.amount"),
            (b'{"id":"10472","amount":1000000}', "body.amount"),
            (b'{"id":"10472","amount":1e400}', "body.amount"),
            (b'{"id":"10472","amount":"1.00"}', "body.amount"),
            (b'{"id":"10472","amount":true}', "body.amount"),
            (b'{"id":"10472","amount":null}', "body.amount"),
            (b'{"id":10472,"amount":1}', "body.id"),
            (b'{"amount":1}', "body"),
            (b'{"id":"10472"}', "body"),
            (b'{"id":"10472","amount":1,"points":1}', "body"),
            (b'{"id":"10472","points":1.5}', "body.points"),
            (b'{"id":"10472","points":0}', "body.points"),
            (b'{"id":"10472","points":"1"}', "body.points"),
            (b'{"id":"10472","amount":1,"currency":"CHF"}', "body"),
            (b'{"id":"10472","amount":1,"reference":"' + b"r" * 65 + b'"}', "body.reference"),
            (b'{"id":"10472","amount":1,"amount":2}', "body"),
            (b'{"id":"10472","amount":NaN}', "body"),
            (b'{"id":"10472","amount":Infinity}', "body"),
            (b'{"id":"10472","amount":01}', "body"),
            (b'{"id":"\xff","amount":1}', "body"),
            (b"[" * 50_000, "body"),
            (b'["10472"]', "body"),
            (b'"10472"', "body"),
            (b"{", "body"),
            (b"", "body"),
        ],
    )
    async def test_a_body_outside_the_document_is_refused_and_reported(
        self, vendor: VendorClient, body: bytes, where: str
    ) -> None:
        reply = await vendor.book("withdraw", "strict-key", body)
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert where in {violation.where for violation in vendor.player.stage.violations}
        assert vendor.player.ledger.effects(with_seed=False) == []

    @pytest.mark.parametrize(
        ("key", "code"),
        [
            (None, "idempotency_key_missing"),
            ("seven77", "invalid_request"),
            ("k" * 129, "invalid_request"),
        ],
    )
    async def test_a_booking_takes_a_key_of_8_to_128_characters(
        self, vendor: VendorClient, key: str | None, code: str
    ) -> None:
        body = b'{"id":"10472","amount":1}'
        reply = await vendor.book("refill", key, body)
        assert (reply.status, reply.code) == (400, code)
        assert vendor.player.stage.violations[-1].where == "header.Idempotency-Key"
        for length in (8, 128):
            assert (await vendor.book("refill", "k" * length, body)).status == 200

    @pytest.mark.parametrize(
        ("query", "where"),
        [
            ([("id", "10472"), ("id", "10480")], "query.id"),
            ([("id", "10472"), ("card", "1")], "query.card"),
            ([("limit", "5")], "query.id"),
            ([("id", "10472"), ("limit", "0")], "query.limit"),
            ([("id", "10472"), ("limit", "101")], "query.limit"),
            ([("id", "10472"), ("limit", "ten")], "query.limit"),
            ([("id", "10472"), ("limit", "5.0")], "query.limit"),
            ([("id", "10472"), ("from", "2026-01-01")], "query.from"),
            ([("id", "10472"), ("to", "2026-13-01T00:00:00Z")], "query.to"),
            ([("id", "10472"), ("to", "2026-01-01T00:00:00+02:00")], "query.to"),
        ],
    )
    async def test_a_query_outside_the_document_is_refused_and_reported(
        self, vendor: VendorClient, query: Any, where: str
    ) -> None:
        reply = await vendor.call("GET", f"{CARDS_PATH}/transactions", query=query)
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert [violation.where for violation in vendor.player.stage.violations] == [where]

    @pytest.mark.parametrize(
        ("method", "route", "options", "status", "where"),
        [
            ("GET", f"{CARDS_PATH}/balance", {}, 404, "path"),
            ("GET", f"{CARDS_PATH}/info/", {"query": {"id": "10472"}}, 404, "path"),
            ("POST", f"{CARDS_PATH}/info", {}, 405, "method"),
            ("PUT", f"{CARDS_PATH}/refill", {}, 405, "method"),
            ("GET", f"{CARDS_PATH}/info", {"query": {"id": "1"}, "data": b"x"}, 400, "body"),
            ("POST", f"{CARDS_PATH}/refill", {"data": b" " * 70_000}, 413, "body"),
            ("POST", f"{CARDS_PATH}/refill", {"data": io.BytesIO(b" " * 2_000_000)}, 413, "body"),
            (
                "POST",
                f"{CARDS_PATH}/refill",
                {"data": b"{}", "headers": {"Content-Type": "text/plain"}},
                400,
                "header.Content-Type",
            ),
        ],
    )
    async def test_a_request_that_is_not_in_the_document_is_refused_and_reported(
        self,
        vendor: VendorClient,
        method: str,
        route: str,
        options: dict[str, Any],
        status: int,
        where: str,
    ) -> None:
        reply = await vendor.call(method, route, **options)
        assert reply.status == status
        assert where in {violation.where for violation in vendor.player.stage.violations}

    async def test_good_requests_leave_no_report(self, vendor: VendorClient) -> None:
        await vendor.read("info", id="10472")
        await vendor.read("transactions", id="10472", limit=100)
        await vendor.refill("good-key")
        assert not vendor.player.stage.violations
        logged = list(vendor.player.stage.exchanges)
        assert [(row.method, row.status, row.card) for row in logged] == [
            ("GET", 200, "10472"),
            ("GET", 200, "10472"),
            ("POST", 200, "10472"),
        ]
        assert logged[-1].idempotency_key == "good-key"


class TestKeysAndLimits:
    async def test_the_checks_come_in_the_order_of_the_vendor(self, vendor: VendorClient) -> None:
        """Each request is wrong in all that follows its first wrong thing."""
        vendor.player.stage.settings = Settings(rate_limit_per_minute=1)
        bad = b'{"id":"99999","amount":1.001}'
        assert (await vendor.book("refill", None, bad, api_key="no")).code == "invalid_api_key"
        scope = await vendor.book("refill", None, bad, api_key="sk_test_read")
        assert scope.code == "insufficient_scope"
        await vendor.read("info", id="10472")
        assert (await vendor.call("GET", "/nowhere")).code == "rate_limited"
        vendor.player.stage.settings = Settings()
        assert (await vendor.call("GET", "/nowhere")).status == 404
        assert (await vendor.book("refill", "order-key", bad)).code == "invalid_request"
        await vendor.refill("order-key")
        unknown = await vendor.refill("order-key", "1.00", "99999")
        assert unknown.code == "idempotency_key_reused"
        blocked = b'{"id":"10490","amount":9999.00}'
        assert (await vendor.book("withdraw", "order-key-2", blocked)).code == "card_blocked"

    @pytest.mark.parametrize("api_key", [None, "", "SK_TEST_DEMO", "sk_live"])
    async def test_an_unknown_key_is_refused(
        self, vendor: VendorClient, api_key: str | None
    ) -> None:
        path = f"{CARDS_PATH}/info"
        reply = await vendor.call("GET", path, query={"id": "10472"}, api_key=api_key)
        assert (reply.status, reply.code) == (401, "invalid_api_key")

    async def test_a_reading_key_reads_and_does_not_book(self, vendor: VendorClient) -> None:
        read = await vendor.call(
            "GET", f"{CARDS_PATH}/info", query={"id": "10472"}, api_key="sk_test_read"
        )
        body = b'{"id":"10472","amount":1}'
        booking = await vendor.book("refill", "scope-key", body, api_key="sk_test_read")
        assert read.status == 200
        assert (booking.status, booking.code) == (403, "insufficient_scope")
        assert vendor.effects("scope-key") == []

    async def test_the_rate_limit_is_off_until_it_is_set(self, vendor: VendorClient) -> None:
        reply = await vendor.read("info", id="10472")
        assert not [name for name in reply.headers if name.startswith("X-RateLimit")]

    async def test_the_rate_limit_counts_down_and_says_when_to_return(
        self, vendor: VendorClient, clock: Clock
    ) -> None:
        clock.now_s = 1_790_000_000 // 60 * 60 + 50
        vendor.player.stage.settings = Settings(rate_limit_per_minute=2)
        replies = [await vendor.read("info", id="10472") for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 429]
        assert [reply.headers["X-RateLimit-Remaining"] for reply in replies] == ["1", "0", "0"]
        assert {reply.headers["X-RateLimit-Limit"] for reply in replies} == {"2"}
        assert {int(r.headers["X-RateLimit-Reset"]) for r in replies} == {int(clock.now_s) + 10}
        assert replies[2].headers["Retry-After"] == "10"
        clock.now_s += 10
        assert (await vendor.read("info", id="10472")).status == 200


class TestLedger:
    async def test_a_restart_keeps_bookings_and_keys(self, tmp_path: Path, clock: Clock) -> None:
        async with ClientSession() as session:
            first_player = CashassistPlayer(tmp_path, now=clock)
            await first_player.start()
            first = await VendorClient(first_player, session).refill("survives-1")
            await first_player.stop()

            second_player = CashassistPlayer(tmp_path, now=clock)
            await second_player.start()
            vendor = VendorClient(second_player, session)
            again = await vendor.refill("survives-1")
            assert (again.raw, again.headers["Idempotent-Replayed"]) == (first.raw, "true")
            assert await vendor.balance("10472") == Decimal("43.50")
            await second_player.stop()

            third_player = CashassistPlayer(tmp_path, now=clock, is_reset=True)
            await third_player.start()
            vendor = VendorClient(third_player, session)
            assert await vendor.balance("10472") == Decimal("42.50")
            assert third_player.ledger.effects(with_seed=False) == []
            await third_player.stop()

    async def test_double_entry_sums_to_zero_and_sees_a_forged_balance(
        self, vendor: VendorClient
    ) -> None:
        await vendor.refill("double-1", "3.33")
        await vendor.book("withdraw", "double-2", b'{"id":"10480","points":77}')
        ledger = vendor.player.ledger
        assert ledger.audit() == []

        def forge(book: Any) -> None:
            book._connection.execute("UPDATE card SET points = points + 1 WHERE card_id = '10480'")

        def mend(book: Any) -> None:
            book._connection.execute("UPDATE card SET points = points - 1 WHERE card_id = '10480'")

        await ledger.run(forge)
        assert ledger.audit() == ["card 10480: its balance is not its postings"]
        await ledger.run(mend)

    async def test_a_failing_work_takes_back_only_itself(self, player: CashassistPlayer) -> None:
        def fail(book: Any) -> None:
            book.note_fault("failing-work", "500-after")
            raise ArithmeticError("on purpose")

        def work(book: Any) -> int:
            book.note_fault("good-work", "500-after")
            return 7

        results = await asyncio.gather(
            player.ledger.run(work), player.ledger.run(fail), return_exceptions=True
        )
        assert results[0] == 7
        assert isinstance(results[1], ArithmeticError)
        assert player.ledger.has_fired("good-work")
        assert not player.ledger.has_fired("failing-work")

    async def test_a_caller_that_leaves_does_not_take_its_booking_back(
        self, vendor: VendorClient
    ) -> None:
        gate = vendor.player.stage.gate
        gate.arm("before-effect")
        caller = asyncio.create_task(vendor.refill("caller-left"))
        assert await gate.reached(10)
        caller.cancel()
        gate.release()
        await until(lambda: len(vendor.effects("caller-left")) == 1)

    async def test_a_cancelled_wait_neither_takes_the_work_back_nor_ends_the_writer(
        self, player: CashassistPlayer
    ) -> None:
        may_go_on = threading.Event()
        blocking = asyncio.create_task(player.ledger.run(lambda book: may_go_on.wait(10)))
        cancelled = asyncio.create_task(
            player.ledger.run(lambda book: book.note_fault("cancelled-1", "429"))
        )
        await asyncio.sleep(0)
        cancelled.cancel()
        may_go_on.set()
        assert await blocking
        assert await player.ledger.run(lambda book: 7) == 7
        assert player.ledger.has_fired("cancelled-1")

    async def test_one_ledger_is_played_by_one_process(
        self, player: CashassistPlayer, tmp_path: Path
    ) -> None:
        with pytest.raises(LedgerUnusable, match="in use by another player"):
            await CashassistPlayer(tmp_path).start()

    async def test_a_taken_port_is_named(self, player: CashassistPlayer, tmp_path: Path) -> None:
        port = int(player.origin.rpartition(":")[2])
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port} .* --cashassist-port"):
            await CashassistPlayer(tmp_path / "other", port).start()


class TestTables:
    @pytest.mark.parametrize("seed", [1, 2, 99])
    def test_every_past_adds_up_to_its_card_and_never_overdraws(self, seed: int) -> None:
        for card in card_seeds(seed):
            balance_minor = points = 0
            assert 3 <= len(card.history) <= 5
            assert [p.booked_at_s for p in card.history] == sorted(
                {p.booked_at_s for p in card.history}
            )
            for past in card.history:
                balance_minor += past.amount_minor
                points += past.points
                assert balance_minor >= 0
                assert points >= 0
            assert (balance_minor, points) == (card.balance_minor, card.points)

    def test_the_same_seed_gives_the_same_past(self) -> None:
        assert card_seeds(5) == card_seeds(5)
        assert card_seeds(5) != card_seeds(6)

    def test_every_fault_has_one_magic_card_and_the_hidden_card_is_not_shown(
        self, player: CashassistPlayer
    ) -> None:
        shown = {card["card"]: card for card in player.shown_cards()}
        assert {f.card: f.name for f in FAULTS} == {
            number: card["fault"] for number, card in shown.items() if card["fault"]
        }
        assert len({card.card_id for card in CARDS}) == len(CARDS)
        assert "10999" not in shown
        assert player.ledger.find_card("10999") is not None

    def test_every_error_code_of_the_document_has_a_status(self) -> None:
        text = (Path(wire.__file__).parent / "openapi.yaml").read_text()
        error = yaml.safe_load(text)["components"]["schemas"]["Error"]
        codes = error["properties"]["error"]["properties"]["code"]["enum"]
        assert sorted(codes) == sorted(wire.ERRORS)

    def test_every_route_of_the_document_is_played_and_no_other(self) -> None:
        names = {operation.name for operation in document().operations.values()}
        assert names == set(READS) | set(BOOKINGS) | set(CHANGES)
        assert len(names) == 12


def _seed_of(card_id: str) -> CardSeed:
    return next(seed for seed in card_seeds(1) if seed.card_id == card_id)
