"""Fixtures for the door: a real server on a real port over a fake booking room."""

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from loyalty_gateway.rpc.catalog import SERVICES
from loyalty_gateway.rpc.dispatch import Authenticator, Dispatcher, DoorLimits, anonymous
from loyalty_gateway.rpc.reflection import reflection_handlers
from loyalty_gateway.rpc.server import WireLimits, open_server
from tests.rpc.fakes import FakeEngine, Wire


@dataclass(frozen=True)
class Door:
    """A running server, the fake behind it and a caller before it."""

    engine: FakeEngine
    wire: Wire
    port: int


@asynccontextmanager
async def open_door(
    *, reads_faults: bool = False, authenticate: Authenticator | None = None
) -> AsyncIterator[Door]:
    """A server on a free port; everybody is anonymous unless an authenticator is given."""
    engine = FakeEngine()
    dispatcher = Dispatcher(
        engine,
        authenticate=authenticate or anonymous("default"),
        limits=DoorLimits(deadline_max_s=60, deadline_default_s=30),
        reads_faults=reads_faults,
    )
    names = [service.full_name for service in SERVICES]
    opened = await open_server(
        "127.0.0.1:0",
        (*dispatcher.handlers(), *reflection_handlers(names)),
        WireLimits(request_bytes_max=64 * 1024),
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{opened.port}") as channel:
        yield Door(engine, Wire(channel), opened.port)
    await opened.server.stop(0)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A server as it is in production."""
    async with open_door() as door:
        yield door


@pytest.fixture
async def sandbox_door() -> AsyncIterator[Door]:
    """A server as it is in the sandbox."""
    async with open_door(reads_faults=True) as door:
        yield door


@pytest.fixture(scope="session")
def grpcurl() -> str:
    """The grpcurl on PATH, else the one beside this Python."""
    found = shutil.which("grpcurl") or shutil.which("grpcurl", path=Path(sys.executable).parent)
    assert found, "grpcurl is missing; `make test` installs it"
    return found
