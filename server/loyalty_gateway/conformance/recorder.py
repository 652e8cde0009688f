"""Stands on the wire between an adapter and the played vendor, and notes each request to the byte.

It hands everything on as it comes, broken answers too, unless a check puts words into the
vendor's mouth. It knows no vendor and judges nothing.
"""

import asyncio
import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from typing import Final
from urllib.parse import urlsplit

from loyalty_gateway.sandbox.faults import Answer

HOST: Final = "127.0.0.1"
HEAD_BYTES_MAX: Final = 65_536
_RESETS: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came over the wire; names of headers are in lower case."""

    number: int
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    @property
    def route(self) -> tuple[str, str]:
        """Method and path, which hold no id, by the rule for an adapter's routes."""
        return self.method, self.target.partition("?")[0]

    def header(self, name: str) -> str:
        """The header's value, or empty."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def text(self) -> str:
        """Everything in which an id may stand, for a search in it."""
        heads = "\n".join(f"{name}: {value}" for name, value in self.headers)
        return f"{self.target}\n{heads}\n{self.body.decode('utf-8', 'replace')}"


Play = Callable[[Seen], Answer | None]
"""What is answered in the vendor's place; None lets the vendor answer."""


class Recorder:
    """A port on loopback that the adapter takes for the vendor's."""

    def __init__(self, vendor_origin: str) -> None:
        self._vendor_port = urlsplit(vendor_origin).port
        self._server: asyncio.Server | None = None
        self._port = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._count = 0
        self.seen: list[Seen] = []
        self.play: Play | None = None
        self.around: Callable[[Seen, bool], None] | None = None
        """Called before a request is handed on (False) and after its answer has come (True)."""

    @property
    def origin(self) -> str:
        """Scheme, host and port; the port stays the same while it pauses."""
        return f"http://{HOST}:{self._port}"

    async def start(self) -> None:
        """Listens, on the same port as before if it has listened before."""
        self._server = await asyncio.start_server(
            self._accept, HOST, self._port, limit=HEAD_BYTES_MAX
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuses connections from now on, and drops those that are under way."""
        assert self._server is not None, "it was started"
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def forget(self) -> None:
        """Nothing seen, and nothing played from now on."""
        self.seen.clear()
        self.play = self.around = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            seen = await self._read(head, reader)
            answer = self.play(seen) if self.play is not None else None
            if answer is not None:
                writer.write(_as_bytes(answer))
                await writer.drain()
            else:
                await self._hand_on(seen, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            # The client left before it had asked or heard everything.
            writer.transport.abort()
        finally:
            writer.close()

    async def _read(self, head: bytes, reader: asyncio.StreamReader) -> Seen:
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = first.split(" ", 2)
        pairs = [line.partition(":") for line in lines]
        headers = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
        length = next((int(value) for name, value in headers if name == "content-length"), 0)
        self._count += 1
        seen = Seen(self._count, method, target, headers, await reader.readexactly(length))
        self.seen.append(seen)
        return seen

    async def _hand_on(
        self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        from_vendor, to_vendor = await asyncio.open_connection(HOST, self._vendor_port)
        try:
            if self.around is not None:
                self.around(seen, False)
            to_vendor.write(_request_bytes(seen))
            if self.around is None:
                await self._pump(from_vendor, reader, writer)
            else:
                # Held until it is noted, so that whoever has the answer also finds the note.
                answer = await from_vendor.read()
                self.around(seen, True)
                writer.write(answer)
                await writer.drain()
        finally:
            to_vendor.close()

    async def _pump(
        self,
        from_vendor: asyncio.StreamReader,
        from_client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
    ) -> None:
        """The vendor's bytes as they come; a reset is handed on as one."""
        is_gone = asyncio.ensure_future(from_client.read())
        try:
            while True:
                piece = asyncio.ensure_future(from_vendor.read(65_536))
                await asyncio.wait((piece, is_gone), return_when=asyncio.FIRST_COMPLETED)
                if not piece.done():
                    piece.cancel()
                    return
                try:
                    received = piece.result()
                except ConnectionError:
                    _reset(to_client)
                    return
                if not received:
                    return
                to_client.write(received)
                await to_client.drain()
        finally:
            is_gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await is_gone


def _request_bytes(seen: Seen) -> bytes:
    lines = [f"{seen.method} {seen.target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in seen.headers if name != "connection"]
    # Each exchange has a connection of its own, so its end is the end of the answer.
    lines += ["connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + seen.body


def _as_bytes(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} Played", f"content-type: {answer.content_type}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    lines += [f"content-length: {len(answer.body)}", "connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + answer.body


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _RESETS)
    writer.transport.abort()
