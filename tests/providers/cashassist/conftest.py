"""A playing CashAssist and adapters to it, over real HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from loyalty_gateway.providers.cashassist import CashassistAdapter, open_adapter
from loyalty_gateway.sandbox import CashassistPlayer, Settings

Open = Callable[..., CashassistAdapter]


@pytest.fixture
async def player(tmp_path: Path) -> AsyncIterator[CashassistPlayer]:
    player = CashassistPlayer(tmp_path, settings=Settings(slow_s=60))
    await player.start()
    yield player
    assert player.ledger.audit() == []
    await player.stop()


@pytest.fixture
async def open_connection_to() -> AsyncIterator[Open]:
    """Opens adapters by base url and settings; they are closed with the test."""
    closers: list[Callable[[], Awaitable[None]]] = []

    def open_to(base_url: str, *, profile: str = "sandbox", **settings: Any) -> CashassistAdapter:
        adapter = open_adapter(
            "cashassist", {"base_url": base_url, "api_key": "sk_test_demo", **settings}, profile
        )
        closers.append(adapter.close)
        return adapter

    yield open_to
    for close in closers:
        await close()


@pytest.fixture
def adapter(player: CashassistPlayer, open_connection_to: Open) -> CashassistAdapter:
    return open_connection_to(player.base_url, proof_card="10999")
