"""A playing CardAPI and adapters to it, over real HTTP."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from loyalty_gateway.providers.cardsapi import CardsapiAdapter, open_adapter
from loyalty_gateway.sandbox.cardsapi.player import CardsapiPlayer, CardsapiSettings
from tests.sandbox.vendor_client import Clock

Open = Callable[..., CardsapiAdapter]

SETTINGS = {
    "client_id": "demo-partner",
    "access_token": "at_test_demo",
    "group_id": 1,
}


@pytest.fixture
def clock() -> Clock:
    """The vendor's time: at first ours, since it also dates its answers by the true one."""
    clock = Clock()
    clock.now_s = time.time()
    return clock


@pytest.fixture
async def player(tmp_path: Path, clock: Clock) -> AsyncIterator[CardsapiPlayer]:
    player = CardsapiPlayer(tmp_path, settings=CardsapiSettings(slow_s=60), now=clock)
    await player.start()
    yield player
    assert player.ledger.audit() == []
    await player.stop()


@pytest.fixture
async def open_connection_to() -> AsyncIterator[Open]:
    """Opens adapters by base url and settings; they are closed with the test."""
    closers: list[Callable[[], Awaitable[None]]] = []

    def open_to(base_url: str, *, profile: str = "sandbox", **settings: Any) -> CardsapiAdapter:
        given = {"base_url": base_url, "auth_url": base_url, **SETTINGS, **settings}
        chosen = {name: value for name, value in given.items() if value is not None}
        adapter = open_adapter("cardsapi", chosen, profile)
        closers.append(adapter.close)
        return adapter

    yield open_to
    for close in closers:
        await close()


@pytest.fixture
def adapter(player: CardsapiPlayer, open_connection_to: Open) -> CardsapiAdapter:
    return open_connection_to(player.base_url, proof_card="10999", proof_point_of_sale_id=65)
