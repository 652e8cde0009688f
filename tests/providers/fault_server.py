"""A raw TCP server that answers as no good server would, and counts each effect it has."""

import asyncio
import gzip
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)
DRIP_S = 0.05
HUGE_BODY_BYTES = 200_000_000
_CHUNK = b" " * 65_536


@dataclass
class Exchange:
    """One request as the server got it, and the way back."""

    server: "FaultServer"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    path: str
    body: bytes
    number: int

    async def write(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
        await self.writer.drain()

    async def answer(self, body: bytes, *, status: str = "200 OK", extra: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{extra}"
        await self.write(f"{head}content-length: {len(body)}\r\n\r\n".encode(), body)


Script = Callable[[Exchange], Awaitable[bool]]
"""Answers one request; whether the connection stays open for another."""


@dataclass
class FaultServer:
    """Counts before it answers: what stands in `effects` has happened, whatever is seen of it."""

    script: Script
    effects: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    bytes_written: int = 0
    port: int = 0
    is_reset_on_accept: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    background: set[asyncio.Task[None]] = field(default_factory=set)

    async def until(self, is_so: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Waits for something that the server sees."""
        async with asyncio.timeout(timeout_s), self.changed:
            await self.changed.wait_for(is_so)

    def later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        await self._notify()
        try:
            if self.is_reset_on_accept:
                reset(writer)
                return
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                path = head.split(b" ", 2)[1].decode()
                self.paths.append(path)
                self.effects.append(body)
                await self._notify()
                number = len(self.effects)
                if not await self.script(Exchange(self, reader, writer, path, body, number)):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()
            self.open_connections -= 1
            await self._notify()

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL
    )
    writer.transport.abort()


@asynccontextmanager
async def running(
    script: Script, *, tls: ssl.SSLContext | None = None, is_reset_on_accept: bool = False
) -> AsyncIterator[FaultServer]:
    server = FaultServer(script, is_reset_on_accept=is_reset_on_accept)
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Kept here, because a task that is cancelled before it began closes nothing.
        writers.append(writer)
        task = asyncio.ensure_future(server.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in (*tasks, *server.background):
            task.cancel()
        await asyncio.gather(*tasks, *server.background, return_exceptions=True)
        for writer in writers:
            if not writer.transport.is_closing():
                writer.transport.abort()
        await listener.wait_closed()
        # Aborted transports let go of their sockets in the loop's next turn.
        await asyncio.sleep(0)


# The scripts. Each is one way to fail after the whole request has been read.


async def well(exchange: Exchange) -> bool:
    await exchange.answer(exchange.body or b"{}")
    return True


async def reset_after_effect(exchange: Exchange) -> bool:
    reset(exchange.writer)
    return False


async def close_after_effect(exchange: Exchange) -> bool:
    return False


async def hang(exchange: Exchange) -> bool:
    await exchange.reader.read()
    return False


async def drip_head(exchange: Exchange) -> bool:
    for letter in b"HTTP/1.1 200 OK\r\nx-slow: " + b"y" * 200:
        await exchange.write(bytes([letter]))
        await asyncio.sleep(DRIP_S)
    return False


async def drip_body(exchange: Exchange) -> bool:
    await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n")
    for _ in range(200):
        await exchange.write(b" ")
        await asyncio.sleep(DRIP_S)
    return False


async def two_pieces(exchange: Exchange) -> bool:
    await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n", b'{"whole"')
    await asyncio.sleep(DRIP_S)
    await exchange.write(b":true}")
    return True


async def truncated_length(exchange: Exchange) -> bool:
    await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n", b"{}")
    return False


async def truncated_chunked(exchange: Exchange) -> bool:
    await exchange.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"50\r\n{}")
    return False


async def reset_in_body(exchange: Exchange) -> bool:
    await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n", b"{}")
    reset(exchange.writer)
    return False


async def not_http(exchange: Exchange) -> bool:
    await exchange.write(b"220 mail.example ESMTP\r\n\r\n")
    return False


async def endless_head(exchange: Exchange) -> bool:
    await exchange.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        await exchange.write(b"x-%d: " % number + b"y" * 1_000 + b"\r\n")
        exchange.server.bytes_written += 1_000
    return False


async def huge_body(exchange: Exchange) -> bool:
    await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % HUGE_BODY_BYTES)
    while exchange.server.bytes_written < HUGE_BODY_BYTES:
        await exchange.write(_CHUNK)
        exchange.server.bytes_written += len(_CHUNK)
    return False


async def endless_chunks(exchange: Exchange) -> bool:
    await exchange.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while exchange.server.bytes_written < HUGE_BODY_BYTES:
        await exchange.write(b"10000\r\n", _CHUNK, b"\r\n")
        exchange.server.bytes_written += len(_CHUNK)
    return False


async def gzip_bomb(exchange: Exchange) -> bool:
    body = gzip.compress(b" " * 100_000_000, compresslevel=9)
    await exchange.answer(body, extra="content-encoding: gzip\r\n")
    return True


async def odd_header(exchange: Exchange) -> bool:
    head = b"HTTP/1.1 200 OK\r\nx-odd: \xe9\xff\r\ncontent-type: application/json\r\n"
    await exchange.write(head, b"content-length: 2\r\n\r\n{}")
    return True


async def cookie(exchange: Exchange) -> bool:
    await exchange.answer(b"{}", extra="set-cookie: session=first; path=/\r\n")
    return True


def redirect(status: int) -> Script:
    async def script(exchange: Exchange) -> bool:
        await exchange.answer(b"{}", status=f"{status} Elsewhere", extra="location: /elsewhere\r\n")
        return True

    return script


def stray_after(delay_s: float, *, then_takes_s: float) -> Script:
    """The first request gets a second answer that nobody asked for; later ones echo slowly."""

    async def stray(exchange: Exchange) -> None:
        try:
            if delay_s:
                await asyncio.sleep(delay_s)
            await exchange.answer(b'{"stray":true}')
        except ConnectionError:
            pass

    async def script(exchange: Exchange) -> bool:
        if exchange.number == 1:
            await exchange.answer(exchange.body)
            if delay_s:
                exchange.server.later(stray(exchange))
            else:
                await stray(exchange)
        else:
            await asyncio.sleep(then_takes_s)
            await exchange.answer(exchange.body)
        return True

    return script
