"""A playing openLoyaltyPay and adapters to it, over real HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from loyalty_gateway.providers.openloyaltypay import OpenLoyaltyPayAdapter, open_adapter
from loyalty_gateway.sandbox import OpenLoyaltyPayPlayer, OpenLoyaltyPaySettings

Open = Callable[..., OpenLoyaltyPayAdapter]

CREDENTIALS = {
    "client_id": "825429536610058240",
    "client_secret": "sandbox-secret",
    "jwt_token": "SANDBOX0TOKEN0000000000000000001",
}


@pytest.fixture
async def player(tmp_path: Path) -> AsyncIterator[OpenLoyaltyPayPlayer]:
    settings = OpenLoyaltyPaySettings(slow_s=60, late_effect_s=0.05)
    player = OpenLoyaltyPayPlayer(tmp_path, settings=settings)
    await player.start()
    yield player
    assert player.ledger.audit() == []
    await player.stop()


@pytest.fixture
async def open_connection_to() -> AsyncIterator[Open]:
    """Opens adapters by base url and settings; they are closed with the test."""
    closers: list[Callable[[], Awaitable[None]]] = []

    def open_to(
        base_url: str, *, profile: str = "sandbox", **settings: Any
    ) -> OpenLoyaltyPayAdapter:
        adapter = open_adapter(
            "openloyaltypay", {"base_url": base_url, **CREDENTIALS, **settings}, profile
        )
        closers.append(adapter.close)
        return adapter

    yield open_to
    for close in closers:
        await close()


@pytest.fixture
def adapter(player: OpenLoyaltyPayPlayer, open_connection_to: Open) -> OpenLoyaltyPayAdapter:
    return open_connection_to(player.base_url, proof_card="10999")
