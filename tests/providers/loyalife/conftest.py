"""A playing Loyalife and adapters to it, over real HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from loyalty_gateway.providers.loyalife import LoyalifeAdapter, open_adapter
from loyalty_gateway.sandbox import LoyalifePlayer, LoyalifeSettings

Open = Callable[..., LoyalifeAdapter]

PROGRAMME: dict[str, Any] = {
    "client_id": "demo_client",
    "client_secret": "demo_secret",
    "program_id": 19,
    "currency": "EUR",
    "time_zone": "Asia/Kolkata",
}


@pytest.fixture
async def player(tmp_path: Path) -> AsyncIterator[LoyalifePlayer]:
    player = LoyalifePlayer(tmp_path, settings=LoyalifeSettings(slow_s=60))
    await player.start()
    yield player
    assert player.ledger.audit() == []
    await player.stop()


@pytest.fixture
async def open_connection_to() -> AsyncIterator[Open]:
    """Opens adapters by base url and settings; they are closed with the test."""
    closers: list[Callable[[], Awaitable[None]]] = []

    def open_to(base_url: str, *, profile: str = "sandbox", **settings: Any) -> LoyalifeAdapter:
        wanted = {"base_url": base_url, **PROGRAMME, **settings}
        adapter = open_adapter("loyalife", wanted, profile)
        closers.append(adapter.close)
        return adapter

    yield open_to
    for close in closers:
        await close()


@pytest.fixture
def adapter(player: LoyalifePlayer, open_connection_to: Open) -> LoyalifeAdapter:
    return open_connection_to(
        player.base_url,
        proof_member="10999",
        proof_product="RETAIL001",
        merchant_name="Corner Shop",
    )
