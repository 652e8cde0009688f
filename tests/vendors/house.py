"""A whole gateway and every played vendor in the test's own loop, with a recorder before each.

The gateway is the one that `loyalty sandbox` starts, with the settings that it writes; only the
addresses of the vendors lead through the recorders, and recovery is in a hurry.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

import grpc
from google.protobuf.message import Message

from loyalty.v1 import bookings_pb2, providers_pb2, types_pb2
from loyalty_gateway.app import Gateway
from loyalty_gateway.cli.sandbox_home import VENDOR_SECTIONS, open_home
from loyalty_gateway.config import load_settings
from loyalty_gateway.conformance.books import Books, read_books
from loyalty_gateway.conformance.recorder import Play, Recorder
from loyalty_gateway.conformance.stage import MEMORY, PLAYER_SETTINGS
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.sandbox.player import Player
from loyalty_gateway.sandbox.players import PLAYERS
from loyalty_gateway.supervisor import PROOF_CARD
from tests.e2e.caller import Caller, Reply

QUICK: Final[Mapping[str, Any]] = {
    "server": {
        "listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "metrics_listen": "127.0.0.1:0",
        "drain_grace_s": 6,
    },
    "provider": {"attempt_total_s": 5, "connect_s": 2},
    "engine": {"settle_s": 0.4},
    "recovery": {
        "schedule_s": [0.05, 0.1, 0.2],
        "then_every_s": 0.3,
        "not_found_waits_s": [0.05, 0.05],
    },
    "telemetry": {"log_level": "error"},
}
"""Recovery does in fractions of a second what it does in minutes."""

TRUTH_S: Final = 20.0
POLL_S: Final = 0.02
FINAL: Final = frozenset(
    {
        types_pb2.BOOKING_STATE_SUCCEEDED,
        types_pb2.BOOKING_STATE_DECLINED,
        types_pb2.BOOKING_STATE_NOT_EXECUTED,
        types_pb2.BOOKING_STATE_REVERSED,
    }
)


@dataclass(frozen=True, slots=True)
class Vendor:
    """One played vendor and the recorder on the way to it."""

    player: Player
    recorder: Recorder

    @property
    def name(self) -> str:
        return self.player.name

    @property
    def base_url(self) -> str:
        """What the gateway takes for the vendor's address."""
        return self.recorder.origin + self.player.base_path

    @property
    def books(self) -> Books:
        """The vendor's books as they are now."""
        return read_books(self.player.ledger)

    def things(self) -> list[tuple[str, str, Any]]:
        """The vendor's other records: codes, links."""
        return list(self.player.ledger.things())


class JumpingStore(SqliteStore):
    """A journal whose clock may jump ahead."""

    ahead_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us


@dataclass(frozen=True, slots=True)
class House:
    """A running gateway; `vendors` by the name of their connection."""

    caller: Caller
    vendors: Mapping[str, Vendor]
    folder: Path
    store: JumpingStore

    def move_on(self, seconds: float) -> None:
        """So much time passes at once for the gateway's bookings."""
        self.store.ahead_us += round(seconds * 1_000_000)

    async def call(self, request: Message, *, timeout_s: float = 15.0, fault: str = "") -> Reply:
        """One call; where the network ended it, or the time before it was known what became of it,
        the same call again, as a caller would."""
        while True:
            reply = await self.caller.call(request, timeout_s=timeout_s, fault=fault)
            is_open = reply.reason in ("", "BOOKING_IN_PROGRESS")
            if reply.is_ok or reply.code is not grpc.StatusCode.DEADLINE_EXCEEDED or not is_open:
                return reply

    async def capabilities(self, connection: str) -> dict[str, providers_pb2.Capability]:
        """What the connection says that it can do, by `Service.Method`."""
        reply = await self.call(providers_pb2.GetCapabilitiesRequest(connection=connection))
        assert reply.is_ok, str(reply)
        return {f"{it.service}.{it.method}": it for it in reply.response.capabilities}

    async def end(self, request_id: str) -> types_pb2.Booking:
        """The booking once no machine works on it any more."""
        give_up_s = time.monotonic() + TRUTH_S
        while True:
            booking = await self.caller.get(request_id)
            assert booking is not None, "the booking was never journalled"
            if booking.state in FINAL | {types_pb2.BOOKING_STATE_NEEDS_REVIEW}:
                return booking
            assert time.monotonic() < give_up_s, f"the booking stays at {booking.state}"
            await asyncio.sleep(POLL_S)

    async def close(self, request_id: str) -> types_pb2.Booking:
        """Lets nothing of a booking stand open: what a machine cannot, a person decides here."""
        booking = await self.end(request_id)
        if booking.state != types_pb2.BOOKING_STATE_NEEDS_REVIEW:
            return booking
        decision = bookings_pb2.Decision(
            outcome=types_pb2.OUTCOME_NOT_EXECUTED,
            evidence="the played vendor's books",
            reason="the test is over",
        )
        reply = await self.call(
            bookings_pb2.ResolveBookingRequest(name=booking.name, decision=decision)
        )
        assert reply.is_ok, str(reply)
        return reply.booking

    def journal_bytes(self) -> bytes:
        """Everything that the journal has on disk, its log included."""
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("journal/*")))

    def play(self, connection: str, play: Play | None) -> None:
        """Puts words into a vendor's mouth, or gives it its own back."""
        self.vendors[connection].recorder.play = play


# It names no proof card, so that nothing is asked on it before a test does.
_TOKENLESS: Final = """
[connections.cardsapi-tokenless]
provider = "cardsapi"
base_url = "{address}"
auth_url = "{address}"
client_id = "demo-partner"
access_token = "at_test_demo"
currency = "EUR"
group_id = 1
"""


@asynccontextmanager
async def open_house() -> AsyncIterator[House]:
    """A running house; at its end no vendor complains and every double entry is right."""
    async with AsyncExitStack() as stack:
        memory = MEMORY if MEMORY.is_dir() else None
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="vendors-", dir=memory))
        )
        home = open_home(folder / "sandbox")
        stack.callback(os.close, home.lock_file)
        vendors = {}
        for name, make in PLAYERS.items():
            player = make(home.players, settings=make.settings_type().changed(PLAYER_SETTINGS))
            await player.start()
            stack.push_async_callback(player.stop)
            recorder = Recorder(player.origin)
            await recorder.start()
            stack.push_async_callback(recorder.stop)
            vendors[name] = Vendor(player, recorder)
        assert set(vendors) == set(VENDOR_SECTIONS), "every played vendor has a connection"
        home.write_config(
            {name: it.base_url for name, it in vendors.items()},
            proof_card=PROOF_CARD,
        )
        with home.config.open("a") as config:
            config.write(_TOKENLESS.format(address=vendors["cardsapi"].base_url))
        settings = load_settings(home.config, QUICK)
        store = JumpingStore(settings.journal.path)
        gateway = Gateway(settings)
        with mock.patch("loyalty_gateway.app.open_store", return_value=store):
            await gateway.start()
        stack.push_async_callback(gateway.stop, endpoint_delay_s=0)
        caller = Caller(f"127.0.0.1:{gateway.port}")
        stack.push_async_callback(caller.close)
        yield House(caller, vendors, home.folder, store)
        for vendor in vendors.values():
            assert vendor.player.ledger.audit() == [], vendor.name
            assert list(vendor.player.stage.violations) == [], vendor.name
