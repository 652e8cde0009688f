"""Ports are opened whole or not at all, and the admin ports tell what operators ask."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loyalty_gateway.domain.booking import Answer
from loyalty_gateway.rpc.admin import CONNECTIONS_MAX, AdminHttp
from loyalty_gateway.rpc.health import READINESS, Health
from loyalty_gateway.rpc.server import AddressTaken, WireLimits, open_server, server_options
from tests.rpc.conftest import Door
from tests.rpc.fakes import redeem

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Readiness:
    """A switch in place of the journal."""

    is_ready: bool = True

    def __call__(self) -> bool:
        return self.is_ready


@dataclass(frozen=True)
class Admin:
    """The admin server's health service, its switch and a caller before it."""

    readiness: Readiness
    health: Health
    stub: Any

    async def check(self, service: str) -> int:
        reply = await self.stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return int(reply.status)


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    readiness = Readiness()
    health = Health(["loyalty.v1.Points"], readiness)
    opened = await open_server("127.0.0.1:0", (), register=health.add_to)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{opened.port}") as channel:
        yield Admin(readiness, health, health_pb2_grpc.HealthStub(channel))
    await opened.server.stop(0)


@pytest.mark.parametrize("service", [READINESS, "loyalty.v1.Points"])
async def test_readiness_follows_the_callable_and_liveness_does_not(
    admin: Admin, service: str
) -> None:
    assert await admin.check(service) == SERVING
    admin.readiness.is_ready = False
    assert await admin.check(service) == NOT_SERVING
    assert await admin.check("") == SERVING
    admin.readiness.is_ready = True
    assert await admin.check(service) == SERVING


async def test_a_service_that_is_not_there_is_not_found(admin: Admin) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await admin.check("loyalty.v1.Nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_drained_process_is_alive_and_takes_no_calls_whatever_the_journal_says(
    admin: Admin,
) -> None:
    await admin.check(READINESS)
    await admin.health.drain()
    assert await admin.check(READINESS) == NOT_SERVING
    assert await admin.check("") == SERVING


async def test_who_watches_is_told_of_the_drain(admin: Admin) -> None:
    watch = admin.stub.Watch(health_pb2.HealthCheckRequest(service=READINESS), timeout=10)
    await admin.check(READINESS)
    seen = []
    async for reply in watch:
        seen.append(reply.status)
        if reply.status == SERVING:
            await admin.health.drain()
        if reply.status == NOT_SERVING:
            break
    watch.cancel()
    assert seen[-2:] == [SERVING, NOT_SERVING]


async def test_a_taken_port_is_named(door: Door) -> None:
    address = f"127.0.0.1:{door.port}"
    with pytest.raises(AddressTaken, match=address):
        await open_server(address, ())


async def test_a_port_has_one_owner(door: Door) -> None:
    """With the library's default a second server on the same port would get half the calls."""
    assert ("grpc.so_reuseport", 0) in server_options(WireLimits())


async def test_an_address_that_the_host_does_not_have_is_named() -> None:
    with pytest.raises(AddressTaken, match=r"192\.0\.2\.1:50051"):
        await open_server("192.0.2.1:50051", ())


async def test_a_large_answer_within_the_limit_arrives(door: Door) -> None:
    door.engine.answers(Answer(b"\x0a" + b"\x80\x80\x04" + b"\x00" * 65_536, "", False))
    reply = await door.wire.call("Points/RedeemPoints", redeem())
    assert len(reply.body) == 65_540


@dataclass(frozen=True)
class Http:
    """The HTTP port and its switch."""

    readiness: Readiness
    server: AdminHttp

    @property
    def port(self) -> int:
        return self.server.port

    async def ask(self, request: bytes) -> tuple[str, dict[str, str], bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        await writer.drain()
        try:
            whole = await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
            await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
        if not whole:
            raise ConnectionError("closed without an answer")
        head, _, body = whole.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        return first, headers, body


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    readiness = Readiness()
    server = AdminHttp(lambda: b"loyalty_up 1\n", readiness)
    await server.start("127.0.0.1:0")
    yield Http(readiness, server)
    await server.stop()


async def test_prometheus_gets_its_text(http: Http) -> None:
    first, headers, body = await http.ask(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert first == "HTTP/1.1 200 OK"
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert headers["content-length"] == str(len(body))
    assert body == b"loyalty_up 1\n"


async def test_probes_over_http_say_the_same_as_over_grpc(http: Http) -> None:
    assert (await http.ask(b"GET /readyz HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 200 OK"
    http.readiness.is_ready = False
    assert "503" in (await http.ask(b"GET /readyz HTTP/1.1\r\n\r\n"))[0]
    assert "200" in (await http.ask(b"GET /livez HTTP/1.1\r\n\r\n"))[0]


async def test_a_head_request_gets_the_length_and_no_body(http: Http) -> None:
    _, headers, body = await http.ask(b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert headers["content-length"] == "13"
    assert body == b""


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"GET /secret HTTP/1.1\r\n\r\n", "404"),
        (b"GET /metrics\r\n\r\n", "400"),
        (b"\x00\xff\r\n\r\n", "400"),
    ],
)
async def test_anything_else_is_refused(http: Http, request_bytes: bytes, status: str) -> None:
    assert status in (await http.ask(request_bytes))[0]


async def test_an_endless_head_is_cut_off(http: Http) -> None:
    with pytest.raises(ConnectionError):
        await http.ask(b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 100_000)


async def test_connections_that_say_nothing_keep_others_out_only_until_they_go(
    http: Http,
) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", http.port) for _ in range(CONNECTIONS_MAX)]
    with pytest.raises(ConnectionError):
        await http.ask(b"GET /livez HTTP/1.1\r\n\r\n")
    for _, writer in idle:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(10):
        while True:
            try:
                first, _, _ = await http.ask(b"GET /livez HTTP/1.1\r\n\r\n")
            except ConnectionError:
                continue  # the server has not seen all of them go yet
            assert "200" in first
            break


async def test_a_stop_ends_connections_that_say_nothing(http: Http) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    await http.server.stop()
    assert await asyncio.wait_for(reader.read(), 3) == b""
    writer.close()
    await writer.wait_closed()


async def test_a_taken_http_port_is_named(http: Http) -> None:
    with pytest.raises(AddressTaken, match=f"127.0.0.1:{http.port}"):
        await AdminHttp(lambda: b"", lambda: True).start(f"127.0.0.1:{http.port}")


def test_limits_are_all_handed_to_the_library() -> None:
    options = dict(server_options(WireLimits(request_bytes_max=1, answer_bytes_max=2)))
    assert options["grpc.max_receive_message_length"] == 1
    assert options["grpc.max_send_message_length"] == 2
    assert options["grpc.max_concurrent_streams"] == 100
    assert options["grpc.max_metadata_size"] * 2 == options["grpc.absolute_max_metadata_size"]
