"""A gateway and one played vendor in this very process, with their own ports and their own files:
everything but the start of a process, many times faster."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from loyalty_gateway.app import Gateway
from loyalty_gateway.cli.sandbox_home import SandboxHome, open_home
from loyalty_gateway.config import load_settings
from loyalty_gateway.sandbox.player import Player
from loyalty_gateway.settings import Recovery
from loyalty_gateway.supervisor import PROOF_CARD
from tests.e2e.caller import Caller
from tests.e2e.vendor import Vendor
from tests.faults.trades import Trade

SETTLE_S: Final = 1.5
PLAYER: Final[Mapping[str, Any]] = {
    # Slower than an attempt may be, and over well before anything counts as settled.
    "slow_s": 0.8,
    "late_effect_s": 0.25,
    "drip_s": 0.05,
}
SETTINGS: Final[Mapping[str, Any]] = {
    "server": {
        "listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "metrics_listen": "127.0.0.1:0",
        "drain_grace_s": 5,
    },
    "provider": {"connect_s": 0.4, "attempt_total_s": 0.5},
    "engine": {"lease_s": 1.5, "send_by_s": 0.5, "settle_s": SETTLE_S},
    "recovery": {"schedule_s": [0.1, 0.2, 0.3, 0.5], "then_every_s": 0.7, "parallel_max": 64},
    "limits": {"unresolved_max": 100_000, "tombstones_per_hour_max": 100_000},
    "telemetry": {"sample_ratio": 0},
}


class Inside:
    """The gateway of this process, as a fleet of one."""

    is_running = True

    def __init__(self, home: SandboxHome, gateway: Gateway, player: Player, vendor: Vendor) -> None:
        self.home = home
        self.gateway = gateway
        self.player = player
        self.vendors = {vendor.connection: vendor}
        self.caller = Caller(f"127.0.0.1:{gateway.port}")
        self.is_up = asyncio.Event()
        self.is_up.set()

    @property
    def replicas(self) -> list["Inside"]:
        return [self]

    async def journal(self) -> Path:
        return self.home.journal

    async def change(self, **settings: Any) -> None:
        """Changes how the vendor behaves from now on."""
        self.player.stage.settings = self.player.stage.settings.changed(settings)


@asynccontextmanager
async def open_inside(
    folder: Path, trade: Trade, player_type: type[Player], behaviour: Mapping[str, Any]
) -> AsyncIterator[Inside]:
    """Starts the vendor as it shall behave, then the gateway, which finds out how that is."""
    home = open_home(folder)
    fields = {it.name for it in dataclasses.fields(player_type.settings_type)}
    player = player_type(home.players)
    wish = {name: value for name, value in PLAYER.items() if name in fields}
    player.stage.settings = player.stage.settings.changed({**wish, **behaviour})
    await player.start()
    try:
        await player.ledger.run(lambda book: book.seed(trade.seeds()))
        home.write_config({trade.connection: player.base_url}, proof_card=PROOF_CARD)
        gateway = Gateway(load_settings(home.config, _settings()))
        await gateway.start()
        try:
            async with aiohttp.ClientSession() as session:
                vendor = Vendor(session, player.control_url, trade.connection)
                inside = Inside(home, gateway, player, vendor)
                yield inside
                await inside.caller.close()
        finally:
            await gateway.stop()
    finally:
        await player.stop()


def _settings() -> dict[str, Any]:
    recovery = dict(SETTINGS["recovery"])
    if "not_found_waits_s" in Recovery.model_fields:
        recovery["not_found_waits_s"] = [0.3, 0.3]
    return {**SETTINGS, "recovery": recovery}
