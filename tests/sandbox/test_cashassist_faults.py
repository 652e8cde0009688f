"""Each fault as a raw client meets it, and what the ledger holds afterwards."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loyalty_gateway.sandbox import CashassistPlayer, Settings
from loyalty_gateway.sandbox.faults import FAULT_BY_NAME, FAULTS, Fault
from tests.sandbox.vendor_client import CARDS_PATH, VendorClient, raw, raw_refill, until

QUICK = [fault for fault in FAULTS if fault.kind != "slow"]
BOOKS = [pytest.param(fault, id=fault.name) for fault in FAULTS]


def what_arrives(fault: Fault, answer: bytes) -> None:
    """Assert that the bytes on the wire are those of the fault."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1] if head else b""
    match fault.kind:
        case "lost":
            assert answer == b""
        case "500":
            assert status == b"500"
            assert json.loads(body)["error"]["code"] == "internal_error"
        case "503":
            assert status == b"503"
            assert body.startswith(b"<html>")
        case "garbage":
            assert status == b"200"
            assert body.startswith(b"<!doctype")
        case "truncated":
            assert status == b"200"
            promised = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert 0 < len(body) < promised
        case "429":
            assert status == b"429"
            assert b"\r\nRetry-After: 2\r\n" in head + b"\r\n"
            assert json.loads(body)["error"]["code"] == "rate_limited"
        case "slow":
            assert status == b"200"


@pytest.fixture(autouse=True)
def short_wait(player: CashassistPlayer) -> None:
    player.stage.settings = Settings(slow_s=0.05)


class TestBookingFaults:
    @pytest.mark.parametrize("fault", BOOKS)
    async def test_the_first_attempt_fails_as_the_table_says_and_the_second_tells_the_truth(
        self, vendor: VendorClient, fault: Fault
    ) -> None:
        player, key = vendor.player, f"fault-{fault.name}"
        what_arrives(fault, await raw_refill(player, key, fault=fault.name))
        assert len(vendor.effects(key)) == (1 if fault.has_effect else 0)
        again = await vendor.book("refill", key, b'{"id": "10472", "amount": 1}', fault.name)
        assert again.status == 200
        assert again.headers["Idempotent-Replayed"] == ("true" if fault.has_effect else "false")
        assert len(vendor.effects(key)) == 1

    @pytest.mark.parametrize("fault", BOOKS)
    async def test_a_magic_card_fails_so_on_every_new_booking(
        self, vendor: VendorClient, fault: Fault
    ) -> None:
        for number in (1, 2):
            key = f"magic-{fault.name}-{number}"
            what_arrives(fault, await raw_refill(vendor.player, key, fault.card))
            assert (await vendor.refill(key, "1", fault.card)).status == 200
            assert len(vendor.effects(key)) == 1

    async def test_a_decline_under_a_lost_answer_is_replayed(self, vendor: VendorClient) -> None:
        await raw_refill(vendor.player, "lost-decline", "10490", fault="lost-after")
        reply = await vendor.book("refill", "lost-decline", b'{"id": "10490", "amount": 1}')
        assert (reply.status, reply.code) == (422, "card_blocked")
        assert reply.headers["Idempotent-Replayed"] == "true"

    async def test_a_lost_answer_can_be_a_reset(self, player: CashassistPlayer) -> None:
        player.stage.settings = Settings(hang_up="reset")
        with pytest.raises(ConnectionResetError):
            await raw_refill(player, "reset-key", fault="lost-after")
        assert len(player.ledger.effects(idempotency_key="reset-key")) == 1

    async def test_a_vendor_that_forgets_keys_books_the_repeat_of_a_lost_answer_again(
        self, vendor: VendorClient
    ) -> None:
        vendor.player.stage.settings = Settings(key_lifetime_s=0)
        assert await raw_refill(vendor.player, "forgetful", fault="lost-after") == b""
        again = await raw_refill(vendor.player, "forgetful", fault="lost-after")
        assert again.startswith(b"HTTP/1.1 200")
        assert len(vendor.effects("forgetful")) == 2

    async def test_the_log_tells_what_was_sent(self, player: CashassistPlayer) -> None:
        await raw_refill(player, "logged-1", fault="lost-after")
        await raw_refill(player, "logged-1", fault="lost-after")
        rows = [
            (row.status, row.delivery, row.fault, row.is_replay) for row in player.stage.exchanges
        ]
        assert rows == [(None, "none", "lost-after", False), (200, "whole", None, True)]

    async def test_a_fired_fault_is_remembered_over_a_restart(self, tmp_path: Path) -> None:
        place = tmp_path / "restarted"
        first = CashassistPlayer(place)
        await first.start()
        assert await raw_refill(first, "fired-once", fault="lost-before") == b""
        await first.stop()
        second = CashassistPlayer(place)
        await second.start()
        answer = await raw_refill(second, "fired-once", fault="lost-before")
        await second.stop()
        assert answer.startswith(b"HTTP/1.1 200")

    async def test_slow_after_books_at_once_and_answers_later(self, vendor: VendorClient) -> None:
        vendor.player.stage.settings = Settings(slow_s=30)
        first = asyncio.create_task(vendor.refill("slow-key-1", "1.00", "20003"))
        await until(lambda: len(vendor.effects("slow-key-1")) == 1)
        # The effect shows a moment before the key is free again for a repeat.
        async with asyncio.timeout(5):
            while (repeated := await vendor.refill("slow-key-1", "1.00", "20003")).status == 409:
                pass
        assert repeated.status == 200
        assert not first.done()
        first.cancel()

    async def test_slow_before_is_in_progress_and_books_although_the_caller_has_gone(
        self, vendor: VendorClient
    ) -> None:
        vendor.player.stage.settings = Settings(slow_s=2)
        first = asyncio.create_task(vendor.refill("slow-key-2", "1.00", "20008"))
        await until(lambda: vendor.player.ledger.has_fired("slow-key-2"))
        assert (await vendor.refill("slow-key-2", "1.00", "20008")).code == "request_in_progress"
        assert vendor.effects("slow-key-2") == []
        first.cancel()
        await until(lambda: len(vendor.effects("slow-key-2")) == 1)

    async def test_a_player_that_stops_while_it_is_slow_books_nothing(self, tmp_path: Path) -> None:
        place = tmp_path / "stopped"
        player = CashassistPlayer(place, settings=Settings(slow_s=600))
        await player.start()
        caller = asyncio.create_task(raw_refill(player, "slow-stop", fault="slow-before"))
        await until(lambda: player.ledger.has_fired("slow-stop"))
        await player.stop()
        assert await caller == b""
        again = CashassistPlayer(place)
        await again.start()
        assert again.ledger.effects(idempotency_key="slow-stop") == []
        await again.stop()

    async def test_an_unknown_fault_is_refused_with_the_names_of_the_known(
        self, vendor: VendorClient
    ) -> None:
        body = b'{"id": "10472", "amount": 1}'
        for reply in (
            await vendor.book("refill", "unknown-fault", body, "lost"),
            await vendor.read("info", fault="lost", id="10472"),
        ):
            assert (reply.status, reply.code) == (400, "invalid_request")
            assert all(name in reply.json["error"]["message"] for name in FAULT_BY_NAME)
        assert vendor.effects("unknown-fault") == []


class TestReadFaults:
    @pytest.mark.parametrize("fault", [pytest.param(f, id=f.name) for f in QUICK])
    async def test_a_read_fails_each_time_the_header_says_so(
        self, player: CashassistPlayer, fault: Fault
    ) -> None:
        lines = [
            f"GET /v1{CARDS_PATH}/info?id=10472 HTTP/1.1",
            "Host: vendor",
            "Connection: close",
            "x-api-key: sk_test_demo",
        ]
        for _ in range(2):
            text = "\n".join([*lines, f"X-Sandbox-Fault: {fault.name}", ""])
            what_arrives(fault, await raw(player, text))
        assert (await raw(player, "\n".join([*lines, ""]))).startswith(b"HTTP/1.1 200")

    async def test_a_slow_read_answers_late(self, vendor: VendorClient) -> None:
        vendor.player.stage.settings = Settings(slow_s=0.2)
        started_s = time.monotonic()
        assert (await vendor.read("info", fault="slow-after", id="10472")).status == 200
        assert time.monotonic() - started_s >= 0.2

    async def test_reads_of_a_magic_card_are_well(self, vendor: VendorClient) -> None:
        for fault in FAULTS:
            reply = await vendor.read("info", id=fault.card)
            assert reply.raw.find(b'"balance":100.00,"points":5000') > 0


class TestControl:
    @pytest.fixture
    async def control(self, player: CashassistPlayer, vendor: VendorClient) -> Any:
        async def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
            async with (
                aiohttp.ClientSession() as session,
                session.request(method, player.control_url + path, json=body) as answer,
            ):
                return answer.status, await answer.json()

        return call

    async def test_the_ledger_shows_signed_minor_units(
        self, vendor: VendorClient, control: Any
    ) -> None:
        await vendor.refill("control-1", "12.50")
        await vendor.book("withdraw", "control-2", b'{"id":"10472","points":7}')
        _, shown = await control("GET", "/ledger?card=10472")
        card = {"card": "10472", "balance_minor": 5500, "points": 1273}
        detail = {"firstName": "Max", "lastName": "Muster", "phone": "+41790000000"}
        assert shown["cards"] == [card | {"is_blocked": False, "detail": detail}]
        assert shown["currency"] == "CHF"
        effects = [
            (row["idempotency_key"], row["card"], row["type"], row["amount_minor"], row["points"])
            for row in shown["effects"]
        ]
        assert effects == [
            ("control-1", "10472", "refill", 1250, 0),
            ("control-2", "10472", "withdraw", 0, -7),
        ]
        _, one = await control("GET", "/ledger?idempotency_key=control-2")
        assert [row["idempotency_key"] for row in one["effects"]] == ["control-2"]
        _, past = await control("GET", "/ledger?card=10472&history=true")
        assert len(past["effects"]) > 2

    async def test_the_gate_holds_a_booking_between_effect_and_answer(
        self, vendor: VendorClient, control: Any
    ) -> None:
        await control("POST", "/gate", {"point": "after-effect", "idempotency_key": "gate-key"})
        assert (await vendor.refill("passes-by")).status == 200
        held = asyncio.create_task(vendor.refill("gate-key"))
        _, state = await control("GET", "/gate?wait_s=10")
        waiting = {"point": "after-effect", "idempotency_key": "gate-key"}
        assert state == {"armed": None, "waiting": waiting}
        assert len(vendor.effects("gate-key")) == 1
        assert not held.done()
        assert (await control("POST", "/gate", {"point": "after-effect"}))[0] == 400
        assert (await control("POST", "/gate/release"))[1] == {"armed": None, "waiting": None}
        assert (await held).status == 200

    async def test_requests_and_violations_can_be_read_from_a_number_on(
        self, vendor: VendorClient, control: Any
    ) -> None:
        await vendor.read("info", id="10472")
        await vendor.read("info", card="10472")
        _, log = await control("GET", "/requests?after=1")
        assert [(row["path"], row["status"]) for row in log["requests"]] == [
            (f"/v1{CARDS_PATH}/info", 400)
        ]
        _, found = await control("GET", "/violations")
        assert [row["where"] for row in found["violations"]] == ["query.card", "query.id"]
        last = found["violations"][0]["number"]
        assert len((await control("GET", f"/violations?after={last}"))[1]["violations"]) == 1

    async def test_a_reset_goes_back_to_the_beginning(
        self, vendor: VendorClient, control: Any
    ) -> None:
        before = (await vendor.read("transactions", id="10472")).raw
        await vendor.refill("forgotten", "5.00")
        await control("POST", "/settings", {"rate_limit_per_minute": 1})
        status, _ = await control("POST", "/reset")
        assert status == 200
        assert (await vendor.read("transactions", id="10472")).raw == before
        assert (await vendor.refill("forgotten", "6.00")).status == 200
        assert (await control("GET", "/settings"))[1]["rate_limit_per_minute"] is None

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/settings", {"slow": 1}),
            ("/settings", {"slow_s": "1"}),
            ("/settings", {"slow_s": -1}),
            ("/settings", {"rate_limit_per_minute": 0}),
            ("/settings", {"rate_limit_per_minute": True}),
            ("/settings", {"key_lifetime_s": -1}),
            ("/settings", {"hang_up": "gently"}),
            ("/settings", [1]),
            ("/gate", {"point": "in-the-middle"}),
            ("/gate", {"point": "after-effect", "key": "k"}),
            ("/gate", []),
        ],
    )
    async def test_a_wrong_wish_is_refused_in_words(
        self, control: Any, path: str, body: Any
    ) -> None:
        status, answer = await control("POST", path, body)
        assert status == 400
        assert answer["error"]

    async def test_the_index_names_every_control_and_unknown_ones_lead_to_it(
        self, control: Any
    ) -> None:
        status, index = await control("GET", "/")
        assert status == 200
        for row in index["controls"]:
            if row["method"] == "GET":
                path = row["path"].removeprefix("/_sandbox")
                assert (await control("GET", path))[0] == 200
        status, answer = await control("DELETE", "/ledger")
        assert (status, answer["controls"]) == (404, index["controls"])

    async def test_the_hidden_card_is_not_shown(self, control: Any) -> None:
        _, shown = await control("GET", "/cards")
        numbers = [card["card"] for card in shown["cards"]]
        assert numbers[0] == "10472"
        assert "10999" not in numbers

    async def test_control_requests_are_not_in_the_log(
        self, player: CashassistPlayer, control: Any
    ) -> None:
        await control("GET", "/cards")
        assert not player.stage.exchanges
