"""Fixtures for the players: a running CashAssist with a clock, and a client of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from loyalty_gateway.sandbox import CashassistPlayer, Settings
from tests.sandbox.vendor_client import Clock, VendorClient


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def player(tmp_path: Path, clock: Clock) -> AsyncIterator[CashassistPlayer]:
    player = CashassistPlayer(tmp_path, settings=Settings(slow_s=30), now=clock)
    await player.start()
    yield player
    assert player.ledger.audit() == []
    await player.stop()


@pytest.fixture
async def vendor(player: CashassistPlayer) -> AsyncIterator[VendorClient]:
    timeout = aiohttp.ClientTimeout(total=20)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        yield VendorClient(player, session)
