"""One or more gateways of a sandbox on one journal, each of which can be killed or frozen.

The vendors' process is the house's and is never harmed: it holds the truth.
"""

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from loyalty_gateway.sandbox.ledger import Ledger
from loyalty_gateway.sandbox.players import PLAYERS
from loyalty_gateway.supervisor import is_serving
from tests.e2e.caller import Caller
from tests.e2e.house import (
    READY_LIMIT_S,
    START_TRIES,
    Child,
    House,
    _free_addresses,
    _python,
    until,
)
from tests.faults.database import copy_journal
from tests.faults.trades import TRADES

CLEAN: Final = 0
KILLED: Final = -signal.SIGKILL
CLOCK: Final = Path(__file__).parent / "clock"
"""What a process finds on this path sets its clock."""


class Replica:
    """One gateway process after another in one place; `caller` calls the one of the moment."""

    def __init__(self, fleet: "Fleet", name: str) -> None:
        self.name = name
        self.is_up = asyncio.Event()
        self.ready_s: list[float] = []
        """How long each start took until it served."""
        self.clock_step_s = 0
        """How far the clock of the next process is off."""
        self._fleet = fleet
        self._callers: list[Caller] = []
        self.admin_listen = ""
        self.child: Child
        self.caller: Caller

    async def start(self, failpoints: str = "") -> bool:
        """Starts it; False where a failpoint killed it before it served."""
        if hasattr(self, "child") and self.is_running:
            # Left by something that broke; two of one name would share a file.
            await self.kill()
        began = time.monotonic()
        for _ in range(START_TRIES):
            listen, self.admin_listen, metrics_listen = _free_addresses(3)
            command = [
                *_python("loyalty_gateway"),
                *("_serve-sandbox", "--config", str(self._fleet.home.config)),
                *("--listen", listen),
                *("--admin-listen", self.admin_listen),
                *("--metrics-listen", metrics_listen),
            ]
            settings = {**self._fleet.settings, "FAILPOINTS": failpoints}
            if self.clock_step_s:
                settings |= {"TEST_CLOCK_STEP_S": str(self.clock_step_s)}
            paths = [CLOCK] if self.clock_step_s else []
            child = self.child = Child(command, self._fleet.home.log(self.name), settings, paths)
            await child.start()

            async def find(child: Child = child) -> bool:
                return child.process.returncode is not None or await is_serving(self.admin_listen)

            await until(find, f"{self.name} serves", READY_LIMIT_S)
            if child.process.returncode is None:
                self.caller = Caller(listen)
                self._callers.append(self.caller)
                self.ready_s.append(time.monotonic() - began)
                self.is_up.set()
                return True
            if await child.end() == KILLED:
                return False
            # Another process was given one of the ports between our look and its bind.
            assert "cannot listen" in child.words(), f"{self.name}:\n{child.words()}"
        raise AssertionError(f"{self.name} found no free ports")

    @property
    def is_running(self) -> bool:
        return self.child.process.returncode is None

    async def is_ready(self) -> bool:
        """Whether a probe is told that bookings can be made."""
        return await is_serving(self.admin_listen)

    async def end(self) -> int:
        """Waits until it has ended by itself, and returns its exit code."""
        code = await self.child.end()
        self.is_up.clear()
        return code

    def note_an_end(self) -> None:
        """One that has ended by itself, though nobody had killed or stopped it, is a finding."""
        code = self.child.process.returncode
        if code is not None and self.is_up.is_set():
            self._fleet.wrong.append(f"{self.name} had ended by itself, with {code}")

    async def kill(self) -> None:
        """kill -9; nothing of it runs any more on return."""
        self.note_an_end()
        self.is_up.clear()
        await self.child.kill()

    def terminate(self) -> None:
        self.note_an_end()
        self.is_up.clear()
        self.child.signal(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: it holds its connections, and hears and does nothing."""
        self.note_an_end()
        self.is_up.clear()
        self.child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.child.signal(signal.SIGCONT)
        self.is_up.set()

    async def close(self) -> int:
        """Ends it in good order where it runs; its exit code."""
        for caller in self._callers:
            await caller.close()
        if not hasattr(self, "child"):
            return CLEAN
        if self.is_running:
            self.child.signal(signal.SIGCONT)
            self.terminate()
            if await self.child.find_end(READY_LIMIT_S) is None:
                await self.child.kill()
            return self.child.process.returncode or CLEAN
        return CLEAN


class Fleet(House):
    """A house with replicas instead of its one server. `dsn` is empty for SQLite."""

    def __init__(
        self,
        folder: Path,
        *,
        names: Sequence[str],
        settings: Mapping[str, str],
        player_options: Sequence[str] = (),
        dsn: str = "",
        wire_dsn: str = "",
    ) -> None:
        """`wire_dsn` is how the gateways reach the database, where that is another way."""
        super().__init__(folder, player_options=player_options)
        self.dsn = dsn
        way = wire_dsn or dsn
        self.settings = {**settings, "JOURNAL__DSN": way} if way else dict(settings)
        self.replicas = [Replica(self, name) for name in names]
        self.wrong: list[str] = []
        """What is wrong with the processes themselves."""

    async def open(self) -> None:
        """Starts the vendors alone, with accounts for many callers; each replica is started by
        whoever wants it."""
        for name, trade in TRADES.items():
            ledger = Ledger(self.home.players / f"{name}.sqlite3")
            player = PLAYERS[name](self.home.players)
            await ledger.open([*player.card_seeds(), *trade.seeds()])
            await ledger.close()
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=60), connector=aiohttp.TCPConnector(limit=0)
        )
        await self._start_players()

    async def journal(self) -> Path:
        """A file to read the journal from, as it stands now."""
        if not self.dsn:
            return self.home.journal
        copy = self.home.folder / "journal" / "copy.sqlite3"
        return await asyncio.to_thread(copy_journal, self.dsn, copy)

    async def close(self) -> list[str]:
        """Ends everything; returns what did not end in good order."""
        wrong = []
        try:
            for replica in self.replicas:
                code = await replica.close()
                if code != CLEAN:
                    wrong.append(f"{replica.name} ended with {code} on SIGTERM")
        finally:
            if self._players is not None and self._players.process.returncode is None:
                self._players.signal(signal.SIGTERM)
                await self._players.end()
            await self._session.close()
            os.close(self.home.lock_file)
        return wrong
