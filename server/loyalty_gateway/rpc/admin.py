"""Answers Prometheus and simple probes over HTTP; it reads nothing but the request line."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from loyalty_gateway.rpc.server import AddressTaken

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEAD_BYTES_MAX = 8 * 1024
REQUEST_TIMEOUT_S = 5.0
CONNECTIONS_MAX = 32


class AdminHttp:
    """GET /metrics, /livez and /readyz, one request a connection.

    Args:
        metrics_text: the figures in the Prometheus text format.
        is_ready: whether the process takes calls.
    """

    def __init__(self, metrics_text: Callable[[], bytes], is_ready: Callable[[], bool]) -> None:
        self._metrics_text = metrics_text
        self._is_ready = is_ready
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.port = 0

    async def start(self, address: str) -> None:
        """Listens on `host:port`; port 0 takes any free one and `port` tells which.

        Raises:
            AddressTaken: the address cannot be listened on; the text names it.
        """
        host, _, port = address.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._serve, host.strip("[]"), int(port), limit=HEAD_BYTES_MAX, reuse_port=False
            )
        except OSError as error:
            raise AddressTaken(
                f"cannot listen on {address}: another process has the port, "
                "or the host does not have the address"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Closes the port and every connection; what is asked at that moment is not answered."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        # Closed and not cancelled: who waits for a request sees its end and leaves by itself.
        for writer in self._open.values():
            writer.close()
        await asyncio.gather(*self._open, return_exceptions=True)
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "the library serves each connection in a task"
        self._open[task] = writer
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self._answer_one(reader, writer)
        except (TimeoutError, OSError, EOFError, asyncio.LimitOverrunError):
            # A slow, cut or overlong request gets no answer; there is nobody to tell.
            pass
        finally:
            del self._open[task]
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) > CONNECTIONS_MAX:
            return
        head = await reader.readuntil(b"\r\n\r\n")
        status, kind, body, head_only = self._answer(head)
        writer.write(_response_head(status, kind, len(body)))
        if not head_only:
            writer.write(body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def _answer(self, head: bytes) -> tuple[HTTPStatus, str, bytes, bool]:
        parts = head.split(b"\r\n", 1)[0].split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            return HTTPStatus.BAD_REQUEST, "text/plain", b"not HTTP/1.1\n", False
        method, target = parts[0], parts[1].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"only GET\n", False
        status, kind, body = HTTPStatus.OK, "text/plain", b"ok\n"
        if target == b"/metrics":
            kind, body = METRICS_TYPE, self._metrics_text()
        elif target == b"/readyz":
            if not self._is_ready():
                status, body = HTTPStatus.SERVICE_UNAVAILABLE, b"not ready\n"
        elif target != b"/livez":
            status, body = HTTPStatus.NOT_FOUND, b"try /metrics, /livez or /readyz\n"
        return status, kind, body, method == b"HEAD"


def _response_head(status: HTTPStatus, kind: str, length: int) -> bytes:
    allow = "Allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\n{allow}Connection: close\r\n\r\n"
    ).encode()
