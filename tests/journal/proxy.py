"""A line to PostgreSQL that a test can cut, or silence, to the byte, around a statement's end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

DARK_POLL_S = 0.02
_READY = b"Z\x00\x00\x00\x05I"
"""How an answer ends, in the protocol of PostgreSQL, when everything is committed."""
_READY_INSIDE = (b"Z\x00\x00\x00\x05T", b"Z\x00\x00\x00\x05E")
"""How one ends inside a transaction."""


class Cut(StrEnum):
    """Where the line breaks, or falls silent."""

    BEFORE = "BEFORE"
    """The server never hears the whole of the statement."""
    AFTER = "AFTER"
    """The server has committed it; the client never hears so."""


@dataclass(slots=True)
class Proxy:
    """Carries bytes both ways until the statement comes that it is armed for."""

    dsn: str
    """The same database, over this line."""
    upstream: str
    cuts: int = 0
    is_dark: bool = False
    """Whether nothing is carried, though every connection stays open."""
    _marker: bytes = b""
    _cut: Cut = Cut.BEFORE
    _stays_open: bool = False
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)

    def arm(self, marker: bytes, cut: Cut, *, stays_open: bool = False) -> None:
        """The next statement that holds the marker is the last of its connection.

        One that `stays_open` takes whatever comes and says nothing, until the client has gone.
        """
        self._marker, self._cut, self._stays_open = marker, cut, stays_open

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await _connect(self.upstream)
        except OSError:
            writer.transport.abort()
            return
        is_last = asyncio.Event()

        async def forth() -> None:
            tail = b""
            while chunk := await reader.read(65_536):
                await self._light()
                seen, tail = tail + chunk, chunk[-64:]
                if self._marker and self._marker in seen:
                    self._marker = b""
                    self.cuts += 1
                    if self._cut is Cut.BEFORE:
                        while self._stays_open and await reader.read(65_536):
                            pass
                        return
                    is_last.set()
                server_writer.write(chunk)
                await server_writer.drain()

        async def back() -> None:
            answer = b""
            while chunk := await server_reader.read(65_536):
                await self._light()
                if is_last.is_set():
                    answer += chunk
                    if answer.endswith(_READY):
                        # The other way ends with the client, and this one with it.
                        while self._stays_open:
                            await server_reader.read(65_536)
                            await asyncio.sleep(DARK_POLL_S)
                        return
                    if not answer.endswith(_READY_INSIDE):
                        continue
                    # Nothing is committed yet: the client still has to say so.
                    chunk, answer = answer, b""
                writer.write(chunk)
                await writer.drain()

        ways = {asyncio.create_task(forth()), asyncio.create_task(back())}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            # Before the wait, in which this may be cancelled itself.
            for side in (writer, server_writer):
                side.transport.abort()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _light(self) -> None:
        """Holds back what came, without a word to either side, while it is dark."""
        while self.is_dark:
            await asyncio.sleep(DARK_POLL_S)

    def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self.carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Also of one that is stopped before it has found the server, or has begun at all.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _connect(dsn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(dsn)
    folder = parse_qs(parts.query).get("host", [""])[0]
    port = parts.port or 5432
    if folder.startswith("/"):
        return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
    return await asyncio.open_connection(folder or parts.hostname or "127.0.0.1", port)


@asynccontextmanager
async def running_proxy(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy on loopback in front of the server of `dsn`."""
    proxy = Proxy("", dsn)
    server = await asyncio.start_server(proxy.accepted, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(dsn)
    user = (parts.username or "postgres") + (f":{parts.password}" if parts.password else "")
    # Nothing encrypted, so that the marker can be seen.
    query = urlencode({"sslmode": "disable", "gssencmode": "disable"})
    proxy.dsn = urlunsplit((parts.scheme, f"{user}@127.0.0.1:{port}", parts.path, query, ""))
    try:
        yield proxy
    finally:
        server.close()
        await proxy.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await server.wait_closed()
