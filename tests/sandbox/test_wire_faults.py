"""The faults that only the header asks for: what stands on the wire, what was booked, once each."""

import asyncio
import gzip
import json
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import aiohttp
import pytest

from loyalty_gateway.sandbox import CashassistPlayer, Settings, exact
from loyalty_gateway.sandbox.bookings import knows
from loyalty_gateway.sandbox.faults import (
    FAULT_BY_NAME,
    HEADER_FAULTS,
    NESTED_DEPTH,
    OVERSIZED_BYTES,
    UNPACKED_BYTES,
    Fault,
)
from tests.sandbox.vendor_client import CARDS_PATH, Clock, VendorClient, raw, raw_refill, until

REFILL = b'{"id": "10472", "amount": 1}'


class Wire:
    """What came back, taken apart."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        head, _, self.body = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1]) if first else None
        pairs = [line.split(": ", 1) for line in lines]
        self.headers = {name.lower(): value for name, value in pairs}

    @property
    def code(self) -> object:
        return json.loads(self.body)["error"]["code"]


def is_refused_by_strict_readers(wire: Wire) -> bool:
    try:
        exact.decode(wire.body)
    except exact.MalformedJson:
        return True
    return False


def waits(wire: Wire) -> str | None:
    assert (wire.status, wire.code) == (429, "rate_limited")
    return wire.headers.get("retry-after")


def page(wire: Wire, status: int) -> bool:
    return wire.status == status and wire.headers["content-type"] == "text/html"


# What must be on the wire, by fault; a fault without a row fails the completeness test.
SEEN: dict[str, Callable[[Wire], bool]] = {
    "late-effect": lambda w: w.answer == b"",
    "decline-on-repeat": lambda w: w.answer == b"",
    "502-before": lambda w: page(w, 502),
    "502-after": lambda w: page(w, 502),
    "503-before": lambda w: page(w, 503),
    "504-before": lambda w: page(w, 504),
    "504-after": lambda w: page(w, 504),
    "408-before": lambda w: page(w, 408),
    "408-after": lambda w: page(w, 408),
    "empty-after": lambda w: w.status == 200 and w.body == b"",
    "html-after": lambda w: (
        w.headers["content-type"].startswith("text/html") and b'"balanceAfter":43.50' in w.body
    ),
    "bad-utf8-after": lambda w: is_refused_by_strict_readers(w) and b"\xff" in w.body,
    "duplicate-keys-after": lambda w: (
        is_refused_by_strict_readers(w) and w.body.count(b'"transactionId"') == 2
    ),
    "nan-after": lambda w: is_refused_by_strict_readers(w) and b'"balanceAfter":NaN' in w.body,
    "1e999-after": lambda w: b'"balanceAfter":1e999,"pointsAfter":1e999' in w.body,
    "nested-after": lambda w: w.body == b"[" * NESTED_DEPTH + b"]" * NESTED_DEPTH,
    "oversized-after": lambda w: (
        len(w.body) > OVERSIZED_BYTES and not is_refused_by_strict_readers(w)
    ),
    "gzip-bomb-after": lambda w: (
        w.headers["content-encoding"] == "gzip"
        and len(w.body) < 100_000
        and len(gzip.decompress(w.body)) == UNPACKED_BYTES
    ),
    "chunks-cut-after": lambda w: (
        w.headers["transfer-encoding"] == "chunked" and not w.body.endswith(b"0\r\n\r\n")
    ),
    "drip-before": lambda w: w.status == 200 and w.body == b"{}",
    "drip-after": lambda w: w.status == 200 and b'"balanceAfter":43.50' in w.body,
    "second-0-after": lambda w: w.answer.count(b"HTTP/1.1 200 OK\r\n") == 2,
    "second-50-after": lambda w: w.status == 200,
    "second-500-after": lambda w: w.status == 200,
    "302-before": lambda w: w.status == 302 and w.headers["location"].endswith("/elsewhere"),
    "307-before": lambda w: w.status == 307 and w.headers["location"].endswith("/elsewhere"),
    "429-bare": lambda w: waits(w) is None,
    "429-date": lambda w: parsedate_to_datetime(waits(w) or "").timestamp() == Clock().now_s + 7,
    "429-far": lambda w: waits(w) == "1000000000",
    "429-negative": lambda w: waits(w) == "-1",
    "429-text": lambda w: waits(w) == "soon",
    "unauthorized-once": lambda w: (w.status, w.code) == (401, "invalid_api_key"),
    "refused-first": lambda w: (w.status, w.code) == (409, "idempotency_key_reused"),
    "contradictory-after": lambda w: b'"error":' in w.body and b'"transactionId":' in w.body,
    "wrong-echo-after": lambda w: (
        b'"idempotencyKey":"another-booking"' in w.body and b'"balanceAfter":43.50' in w.body
    ),
}
RESETS = {"reset-before", "reset-after"}
PLAYED = [fault for fault in HEADER_FAULTS if fault.kind != "pending"]


@pytest.fixture(autouse=True)
def short_waits(player: CashassistPlayer) -> None:
    player.stage.settings = Settings(late_effect_s=0.05, drip_s=0.0)


def test_every_fault_of_the_header_is_looked_at() -> None:
    assert set(SEEN) | RESETS == {fault.name for fault in PLAYED}


def test_the_names_and_accounts_are_each_given_once() -> None:
    assert len(FAULT_BY_NAME) == 11 + len(HEADER_FAULTS)
    assert not any(fault.card for fault in HEADER_FAULTS)


def test_cashassist_plays_all_but_open_bookings(player: CashassistPlayer) -> None:
    assert [fault for fault in HEADER_FAULTS if knows(player, fault)] == PLAYED


@pytest.mark.parametrize("fault", PLAYED, ids=lambda fault: fault.name)
async def test_the_first_attempt_fails_as_it_says_and_the_second_tells_the_truth(
    vendor: VendorClient, fault: Fault
) -> None:
    key = f"wire-{fault.name}"
    if fault.name in RESETS:
        with pytest.raises(ConnectionResetError):
            await raw_refill(vendor.player, key, fault=fault.name)
    else:
        wire = Wire(await raw_refill(vendor.player, key, fault=fault.name))
        assert SEEN[fault.name](wire), wire.answer[:500]
    if fault.when == "later":
        await until(lambda: not vendor.player.stage.running)
    assert len(vendor.effects(key)) == (1 if fault.has_effect else 0)
    again = await vendor.book("refill", key, REFILL, fault.name)
    if fault.kind == "decline-on-repeat":
        assert (again.status, again.code) == (422, "insufficient_balance")
    else:
        assert again.status == 200
        assert again.headers["Idempotent-Replayed"] == ("true" if fault.has_effect else "false")
    assert len(vendor.effects(key)) == 1


READ_FAULTS = [fault for fault in PLAYED if fault.kind != "refused-first"]


@pytest.mark.parametrize("fault", READ_FAULTS, ids=lambda fault: fault.name)
async def test_a_read_fails_likewise(player: CashassistPlayer, fault: Fault) -> None:
    lines = [
        f"GET /v1{CARDS_PATH}/info?id=10472 HTTP/1.1",
        "Host: vendor",
        "Connection: close",
        "x-api-key: sk_test_demo",
        f"X-Sandbox-Fault: {fault.name}",
        "",
    ]
    try:
        answer = await raw(player, "\n".join(lines))
    except ConnectionResetError:
        answer = b""
    assert (answer == b"") == (fault.kind in ("reset", "late", "decline-on-repeat"))
    assert player.stage.exchanges[-1].fault == fault.name
    assert player.ledger.effects(with_seed=False) == []


async def test_an_open_booking_is_a_fault_that_cashassist_does_not_know(
    vendor: VendorClient,
) -> None:
    reply = await vendor.book("refill", "never-open", REFILL, "pending-then-success")
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert vendor.effects("never-open") == []


@pytest.mark.parametrize("delay_ms", [0, 50, 500])
async def test_the_second_answer_waits_on_the_connection_for_whoever_reads_next(
    player: CashassistPlayer, delay_ms: int
) -> None:
    host, _, port = player.origin.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /v1{CARDS_PATH}/refill HTTP/1.1\r\nHost: vendor\r\nx-api-key: sk_test_demo\r\n"
        f"Idempotency-Key: second-{delay_ms:04}\r\nContent-Type: application/json\r\n"
        f"X-Sandbox-Fault: second-{delay_ms}-after\r\nContent-Length: {len(REFILL)}\r\n\r\n"
    )
    writer.write(head.encode() + REFILL)
    bodies = []
    async with asyncio.timeout(10):
        for _ in range(2):
            received = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(received.split("content-length: ")[1].split("\r\n")[0])
            bodies.append(await reader.readexactly(length))
    writer.close()
    assert bodies[0] == bodies[1]
    assert len(player.ledger.effects(idempotency_key=f"second-{delay_ms:04}")) == 1


async def test_who_follows_a_redirect_is_noted(player: CashassistPlayer) -> None:
    url = f"{player.base_url}{CARDS_PATH}/info?id=10472"
    headers = {"x-api-key": "sk_test_demo", "X-Sandbox-Fault": "307-before"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=headers, allow_redirects=True) as followed,
    ):
        assert await followed.json() == {"elsewhere": True}
    paths = [row.path for row in player.stage.exchanges]
    assert paths == [f"/v1{CARDS_PATH}/info", "/elsewhere"]
    assert player.stage.violations[-1].problem == "a redirect was followed"
