"""A server whose journal falls silent: the line to PostgreSQL is open, and nothing comes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.caller import top_up
from tests.e2e.conftest import QUICK, open_house
from tests.e2e.house import House, until
from tests.e2e.truth import effects_of
from tests.journal.proxy import Proxy, running_proxy

GRACE_S = 20.0
"""`server.drain_grace_s`, after which an orchestrator may kill."""


@pytest.fixture
async def proxy(postgres_dsn: str) -> AsyncIterator[Proxy]:
    async with running_proxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
async def house(tmp_path: Path, proxy: Proxy) -> AsyncIterator[House]:
    settings = {**QUICK, "JOURNAL__DSN": proxy.dsn}
    async with open_house(tmp_path / "house", settings=settings) as house:
        yield house


async def test_sigterm_ends_a_server_in_good_order_although_its_journal_is_silent(
    house: House, proxy: Proxy
) -> None:
    request = top_up(40)
    proxy.is_dark = True
    call = asyncio.create_task(house.caller.call(request))

    async def is_under_way() -> bool:
        return "loyalty_bookings_in_flight 1.0" in await house.metrics()

    # On its way to the journal: the drain would refuse it otherwise.
    await until(is_under_way, "the booking is under way")
    house.terminate_server()
    code = await house.server.end(GRACE_S)
    reply = await call
    proxy.is_dark = False

    assert code == 0
    assert reply.reason == "JOURNAL_UNAVAILABLE"
    assert await effects_of(house, request) == []
