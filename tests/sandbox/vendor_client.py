"""A client of the CashAssist player that distrusts every answer, and what tests wait with."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, Any

import aiohttp

from loyalty_gateway.sandbox import CashassistPlayer, exact
from loyalty_gateway.sandbox.book import Effect
from loyalty_gateway.sandbox.cashassist.player import document

CARDS_PATH = "/cashassist/loyalty-cards"


class Clock:
    """The vendor's time, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came, and as exact JSON."""

    status: int
    headers: Any
    raw: bytes

    @property
    def json(self) -> Any:
        return exact.decode(self.raw)

    @property
    def code(self) -> str:
        code: str = self.json["error"]["code"]
        return code


class VendorClient:
    """Calls CashAssist; each answer with a documented status has to fit the document."""

    def __init__(self, player: CashassistPlayer, session: aiohttp.ClientSession) -> None:
        self.player = player
        self._session = session

    async def call(
        self,
        method: str,
        route: str,
        *,
        query: Any = None,
        data: bytes | IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
        api_key: str | None = "sk_test_demo",
    ) -> Reply:
        sent = dict(headers or {})
        if api_key is not None:
            sent["x-api-key"] = api_key
        url = self.player.base_url + route
        async with self._session.request(
            method, url, params=query, data=data, headers=sent
        ) as answer:
            reply = Reply(answer.status, answer.headers, await answer.read())
        operation = document().operations.get((method, route))
        if operation is not None and reply.status in operation.answers:
            assert operation.problems_of_answer(reply.status, reply.raw) == []
        return reply

    async def read(self, name: str, fault: str | None = None, **query: Any) -> Reply:
        headers = {"X-Sandbox-Fault": fault} if fault else {}
        return await self.call("GET", f"{CARDS_PATH}/{name}", query=query, headers=headers)

    async def book(
        self, name: str, key: str | None, body: bytes, fault: str | None = None, **options: Any
    ) -> Reply:
        headers: dict[str, str] = {}
        if key is not None:
            headers["Idempotency-Key"] = key
        if fault is not None:
            headers["X-Sandbox-Fault"] = fault
        return await self.post(name, body, headers, **options)

    async def post(
        self, name: str, body: bytes, headers: dict[str, str] | None = None, **options: Any
    ) -> Reply:
        sent = {"Content-Type": "application/json", **(headers or {})}
        return await self.call("POST", f"{CARDS_PATH}/{name}", data=body, headers=sent, **options)

    async def change(
        self, name: str, headers: dict[str, str] | None = None, /, **fields: str
    ) -> Reply:
        """Ask for something that takes texts alone."""
        return await self.post(name, json.dumps(fields).encode(), headers)

    async def refill(self, key: str, amount: str = "1.00", card: str = "10472") -> Reply:
        return await self.book("refill", key, f'{{"id":"{card}","amount":{amount}}}'.encode())

    async def balance(self, card: str) -> Decimal:
        balance = (await self.read("info", id=card)).json["balance"]
        assert isinstance(balance, Decimal)
        return balance

    def effects(self, key: str) -> list[Effect]:
        """What the ledger holds under the key."""
        return self.player.ledger.effects(idempotency_key=key)


async def raw(player: CashassistPlayer, text: str, body: bytes = b"") -> bytes:
    """Send bytes on a fresh connection and give all that comes until the other side ends it."""
    host, _, port = player.origin.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(text.replace("\n", "\r\n").encode() + b"\r\n" + body)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def raw_refill(
    player: CashassistPlayer, key: str, card: str = "10472", fault: str | None = None
) -> bytes:
    body = json.dumps({"id": card, "amount": 1}).encode()
    lines = [
        f"POST /v1{CARDS_PATH}/refill HTTP/1.1",
        "Host: vendor",
        "Connection: close",
        "x-api-key: sk_test_demo",
        f"Idempotency-Key: {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *([f"X-Sandbox-Fault: {fault}"] if fault else []),
        "",
    ]
    return await raw(player, "\n".join(lines), body)


async def until(is_so: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for a condition of the player under test."""
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.001)
