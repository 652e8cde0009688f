"""Measures what one vendor call costs with each HTTP client; it measures nothing else.

A small server answers at once in a process of its own, on loopback. Every variant makes the same
POST; variants take turns in each round, ratios are taken inside a round, and the median over the
rounds is given. CPU is this process's own, the Rust client's threads included.

    python benchmarks/http_engines.py [--rounds 5] [--calls 1500] [--json FILE]
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.connection import (
    Connection,
    ConnectionSettings,
    VendorCall,
    open_connection,
)
from loyalty_gateway.providers.http import HttpRequest, HttpxEngine, Limits, PyreqwestEngine

IN_FLIGHT = (1, 16, 64)
BASELINE = "httpx stock"
BODY = b'{"id":"10472","amount":12.50,"reference":"receipt-5512"}'
ANSWER = (
    b'{"transactionId":"tx_90003","id":"10472","type":"withdraw","amount":12.50,"points":0,'
    b'"balanceAfter":30.00,"pointsAfter":1280,"bookedAt":"2026-01-15T10:01:00Z"}'
)
HEADERS = (
    ("content-type", "application/json"),
    ("x-api-key", "sk_test_demo"),
    ("idempotency-key", "2f1c0f6e-6c0b-4a43-9a0e-7e1f7a2f6a11"),
)
CALLS_SHARE_OF_BASELINE = 5
"""The stock client is so slow at 64 in flight that it makes this many times fewer calls."""

Call = Callable[[], Awaitable[None]]


class Vendor(asyncio.Protocol):
    """Answers each POST at once."""

    _answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(
        ANSWER
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            is_last = b"connection: close" in head
            self._transport.write(
                self._answer + (b"connection: close\r\n\r\n" if is_last else b"\r\n") + ANSWER
            )
            if is_last:
                self._transport.close()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Vendor, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Ends with its parent, whose end of this pipe then closes.
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


async def variants(port: int, stack: AsyncExitStack) -> dict[str, Call]:
    url = f"http://127.0.0.1:{port}/v1/withdraw"
    limits = Limits(in_flight_max=max(IN_FLIGHT))
    stock = await stack.enter_async_context(httpx.AsyncClient())
    fast = PyreqwestEngine(limits, is_https=False)
    portable = HttpxEngine(limits, is_https=False)
    connection: Connection = open_connection(
        "bench", ConnectionSettings(base_url=f"http://127.0.0.1:{port}/v1")
    )
    for closing in (fast, portable, connection):
        stack.push_async_callback(closing.close)

    async def stock_call() -> None:
        response = await stock.post(url, content=BODY, headers=dict(HEADERS))
        assert response.status_code == 200

    def engine_call(engine: PyreqwestEngine | HttpxEngine, *, is_exclusive: bool) -> Call:
        request = HttpRequest("POST", url, HEADERS, BODY, is_exclusive)

        async def call() -> None:
            assert (await engine.send(request)).status == 200

        return call

    def through_connection(operation: Operation) -> Call:
        vendor_call = VendorCall(
            operation, "POST", "/withdraw", "POST /withdraw", (), HEADERS, BODY
        )

        async def call() -> None:
            assert await connection.exchange(vendor_call, lambda answer: answer.status) == 200

        return call

    found: dict[str, Call] = {
        BASELINE: stock_call,
        "pyreqwest, kept connections": engine_call(fast, is_exclusive=False),
        "pyreqwest, a connection each": engine_call(fast, is_exclusive=True),
        "httpx engine, a connection each": engine_call(portable, is_exclusive=True),
        "Connection, read": through_connection(Operation.GET_BALANCE),
        "Connection, booking": through_connection(Operation.DEBIT_BALANCE),
    }
    try:
        import aiohttp
    except ImportError:
        return found
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    )

    async def aiohttp_call() -> None:
        async with session.post(url, data=BODY, headers=dict(HEADERS)) as response:
            assert response.status == 200
            await response.read()

    return {**found, "aiohttp, kept connections": aiohttp_call}


async def measure(call: Call, calls: int, in_flight: int) -> tuple[float, float]:
    """CPU in microseconds a call, and calls a second."""
    turns: Iterator[int] = iter(range(calls))

    async def worker() -> None:
        for _ in turns:
            await call()

    cpu_s, wall_s = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return cpu_s / calls * 1e6, calls / wall_s


async def run(port: int, rounds: int, calls: int) -> list[dict[str, object]]:
    seen: dict[tuple[str, int], list[tuple[float, float, float, float]]] = {}
    async with AsyncExitStack() as stack:
        found = await variants(port, stack)
        for call in found.values():
            await measure(call, 50, 1)
        for _ in range(rounds):
            for in_flight in IN_FLIGHT:
                base_cpu_us, base_rate = 0.0, 0.0
                for name, call in found.items():
                    is_slow = "httpx" in name
                    share = CALLS_SHARE_OF_BASELINE if is_slow else 1
                    cpu_us, rate = await measure(call, calls // share, in_flight)
                    if name == BASELINE:
                        base_cpu_us, base_rate = cpu_us, rate
                    seen.setdefault((name, in_flight), []).append(
                        (cpu_us, rate, cpu_us / base_cpu_us, rate / base_rate)
                    )
    return [
        {
            "client": name,
            "in_flight": in_flight,
            "cpu_us": round(statistics.median(row[0] for row in rows), 1),
            "calls_per_s": round(statistics.median(row[1] for row in rows)),
            "cpu_ratio": round(statistics.median(row[2] for row in rows), 4),
            "rate_ratio": round(statistics.median(row[3] for row in rows), 2),
            "cpu_us_rounds": [round(row[0], 1) for row in rows],
        }
        for (name, in_flight), rows in sorted(seen.items(), key=lambda item: item[0][1])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 51), metavar="1..50")
    parser.add_argument("--calls", type=int, default=1_500)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
        return
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as vendor:
        assert vendor.stdout is not None
        port = int(vendor.stdout.readline())
        rows = asyncio.run(run(port, arguments.rounds, arguments.calls))
        assert vendor.stdin is not None
        vendor.stdin.close()
    print(f"{'client':34} {'in flight':>9} {'CPU us':>9} {'calls/s':>9} {'CPU /':>8} {'rate /':>7}")
    for row in rows:
        print(
            f"{row['client']:34} {row['in_flight']:>9} {row['cpu_us']:>9} "
            f"{row['calls_per_s']:>9} {row['cpu_ratio']:>8} {row['rate_ratio']:>7}"
        )
    print(f"ratios are to {BASELINE}, inside a round; median of {arguments.rounds} rounds")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": arguments.rounds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
