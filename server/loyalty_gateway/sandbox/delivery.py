"""Puts an answer on the wire, whole, in part, too slowly or twice; it must never decide which."""

import asyncio
import socket
import struct
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from loyalty_gateway.sandbox.faults import Answer

if TYPE_CHECKING:
    from loyalty_gateway.sandbox.stage import Stage

# A linger time of zero makes the kernel send a reset in place of an orderly end.
_LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)


async def send(
    request: web.BaseRequest, answer: Answer, stage: "Stage", server: str
) -> web.StreamResponse:
    """Send the answer as its delivery says; `server` is what the player calls itself."""
    headers = {"Server": server, "Content-Type": answer.content_type}
    headers.update(answer.headers)
    match answer.delivery:
        case "whole":
            return web.Response(status=answer.status, headers=headers, body=answer.body)
        case "none" | "reset":
            is_reset = answer.delivery == "reset" or stage.settings.hang_up == "reset"
            _hang_up(request, is_reset=is_reset)
            return web.Response()
        case "truncated" | "chunks-cut":
            return await _send_half(request, answer, headers)
        case "dripped":
            return await _drip(request, answer, headers, stage)
        case "twice":
            return await _send_twice(request, answer, headers, stage)


async def _send_half(
    request: web.BaseRequest, answer: Answer, headers: dict[str, str]
) -> web.StreamResponse:
    half = web.StreamResponse(status=answer.status, headers=headers)
    if answer.delivery == "chunks-cut":
        half.enable_chunked_encoding()
    else:
        half.content_length = len(answer.body)
    await half.prepare(request)
    await half.write(answer.body[: len(answer.body) // 2])
    if request.transport is not None:
        request.transport.close()
    return half


async def _drip(
    request: web.BaseRequest, answer: Answer, headers: dict[str, str], stage: "Stage"
) -> web.StreamResponse:
    transport = request.transport
    for byte in _as_bytes(answer, headers):
        if transport is None or transport.is_closing():
            break
        transport.write(bytes([byte]))
        if not await stage.pause(stage.settings.drip_s):
            break
    _hang_up(request, is_reset=False)
    return web.Response()


async def _send_twice(
    request: web.BaseRequest, answer: Answer, headers: dict[str, str], stage: "Stage"
) -> web.StreamResponse:
    """The answer, and after a while the same bytes again, whatever the connection does by then."""
    transport = request.transport
    again = _as_bytes(answer, headers)

    async def repeat() -> None:
        if answer.again_after_s and not await stage.pause(answer.again_after_s):
            return
        if isinstance(transport, asyncio.Transport) and not transport.is_closing():
            transport.write(again)

    first = web.StreamResponse(status=answer.status, headers=headers)
    first.content_length = len(answer.body)
    await first.prepare(request)
    await first.write(answer.body)
    await first.write_eof()
    if answer.again_after_s:
        stage.later(repeat())
    else:
        await repeat()
    return first


def _as_bytes(answer: Answer, headers: dict[str, str]) -> bytes:
    reason = HTTPStatus(answer.status).phrase
    lines = [f"HTTP/1.1 {answer.status} {reason}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(answer.body)}", "", ""]
    return "\r\n".join(lines).encode() + answer.body


def _hang_up(request: web.BaseRequest, *, is_reset: bool) -> None:
    """Close the socket without an answer; what aiohttp then writes goes nowhere."""
    transport = request.transport
    if transport is None:
        return
    if is_reset:
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL
        )
        transport.abort()
    else:
        transport.close()
