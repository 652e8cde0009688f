"""A sandbox whose two processes a test can kill, stop and start one by one; never in-process.

The server is the one that `loyalty sandbox` starts, with the folder and the settings that it
writes; only who watches over it differs.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import loyalty
import loyalty_gateway
from loyalty_gateway.cli.sandbox_home import open_home
from loyalty_gateway.sandbox.book import CardSeed
from loyalty_gateway.sandbox.cashassist.cards import card_seeds
from loyalty_gateway.sandbox.ledger import Ledger
from loyalty_gateway.supervisor import PROOF_CARD, READINESS_SERVICE, find_players, is_serving
from tests.e2e.caller import CHANNEL_OPTIONS, Caller
from tests.e2e.vendor import Vendor

READY_LIMIT_S: Final = 90.0
END_LIMIT_S: Final = 40.0
POLL_S: Final = 0.01
START_TRIES: Final = 3

Found = TypeVar("Found")


async def until(find: Callable[[], Awaitable[Found]], what: str, limit_s: float = 20.0) -> Found:
    """The first true value that `find` gives; fails saying what was waited for."""
    give_up = time.monotonic() + limit_s
    while True:
        found = await find()
        if found:
            return found
        assert time.monotonic() < give_up, f"not within {limit_s:g} s: {what}"
        await asyncio.sleep(POLL_S)


class Child:
    """One process of the house; what it writes goes to its log."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        settings: Mapping[str, str],
        more_paths: Sequence[Path] = (),
    ) -> None:
        self._command = command
        self._log = log
        self._environment = _environment(settings, more_paths)
        self._log_start = 0
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                # The server ends when this pipe does, as it would without its supervisor.
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def words(self) -> str:
        """What it wrote since it was started."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", "replace")

    def signal(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def end(self, limit_s: float = END_LIMIT_S) -> int:
        """Its exit code, once it has ended by itself."""
        code = await self.find_end(limit_s)
        assert code is not None, f"still running after {limit_s:g} s; it said:\n{self.words()}"
        return code

    async def find_end(self, limit_s: float) -> int | None:
        """Its exit code, or None when it still runs at the end of the limit."""
        try:
            async with asyncio.timeout(limit_s):
                code = await self.process.wait()
        except TimeoutError:
            return None
        assert self.process.stdin is not None
        self.process.stdin.close()
        return code

    async def kill(self) -> None:
        """As the kernel does when memory is short: nothing of it runs any more on return."""
        self.signal(signal.SIGKILL)
        await self.end()


class House:
    """A folder, the vendors' process and the server's. `caller` calls the server of the moment."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
        player_options: Sequence[str] = (),
        more_config: str = "",
    ) -> None:
        self.home = open_home(folder)
        self._settings = dict(settings or {})
        self._player_options = player_options
        self._more_config = more_config
        self._session: aiohttp.ClientSession
        self._callers: list[Caller] = []
        self._players: Child | None = None
        self._server: Child | None = None
        self.vendors: dict[str, Vendor] = {}
        """Every played vendor by the name of its connection."""
        self.caller: Caller
        self.listen = self.admin_listen = self.metrics_listen = ""

    # --- life -----------------------------------------------------------------------------

    async def start(self, more_cards: Sequence[CardSeed] = ()) -> None:
        """Starts the vendors, then the server. `more_cards` are the vendors' own beside theirs."""
        if more_cards:
            ledger = Ledger(self.home.players / "cashassist.sqlite3")
            await ledger.open([*card_seeds(1), *more_cards])
            await ledger.close()
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=60), connector=aiohttp.TCPConnector(limit=0)
        )
        await self._start_players()
        await self.start_server()

    async def _start_players(self) -> None:
        command = [
            *_python("loyalty_gateway.sandbox.players"),
            *("--data-dir", str(self.home.players)),
            *("--ready-file", str(self.home.ready_file)),
            *("--parent-pid", str(os.getpid())),
            *self._player_options,
        ]
        players = self._players = Child(command, self.home.log("players"), {})
        await players.start()

        async def find() -> Any:
            assert players.process.returncode is None, players.words()
            return find_players(self.home.ready_file, players.process.pid)

        found = await until(find, "the players are ready", READY_LIMIT_S)
        self.vendors = {
            name: Vendor(self._session, url, name) for name, url in found.control_urls.items()
        }
        self.home.write_config(found.base_urls, proof_card=PROOF_CARD)
        base_url = found.base_urls["cashassist"]
        with self.home.config.open("a") as config:
            config.write(self._more_config.replace("{base_url}", base_url))

    async def start_server(self, **settings: str) -> None:
        """Starts the server on free ports and waits until it serves.

        `settings` are LOYALTY_* variables without that prefix, over those of the house.
        """
        for last in (False, False, True):
            if await self._try_to_start(settings):
                break
            # Another process was given one of the ports between our look and the server's bind.
            assert not last, f"the server did not start:\n{self.server.words()}"
        self.caller = Caller(self.listen)
        self._callers.append(self.caller)

    async def _try_to_start(self, settings: Mapping[str, str]) -> bool:
        self.listen, self.admin_listen, self.metrics_listen = _free_addresses(3)
        command = [
            *_python("loyalty_gateway"),
            *("_serve-sandbox", "--config", str(self.home.config)),
            *("--listen", self.listen),
            *("--admin-listen", self.admin_listen),
            *("--metrics-listen", self.metrics_listen),
        ]
        server = Child(command, self.home.log("server"), {**self._settings, **settings})
        self._server = server
        await server.start()

        async def find() -> bool:
            return server.process.returncode is not None or await is_serving(self.admin_listen)

        await until(find, "the server serves", READY_LIMIT_S)
        if server.process.returncode is None:
            return True
        await server.end()
        assert "cannot listen" in server.words(), server.words()
        return False

    @property
    def vendor(self) -> Vendor:
        """The vendor that most tests book with."""
        return self.vendors["cashassist"]

    @property
    def server(self) -> Child:
        assert self._server is not None, "the server was not started"
        return self._server

    async def kill_server(self) -> None:
        await self.server.kill()

    def terminate_server(self) -> None:
        self.server.signal(signal.SIGTERM)

    async def stop(self) -> None:
        """Ends everything; the server must drain to the exit code 0 if it runs."""
        code = 0
        for caller in self._callers:
            await caller.close()
        try:
            if self._server is not None and self._server.process.returncode is None:
                self.terminate_server()
                code = await self._server.end()
        finally:
            for child in (self._server, self._players):
                if child is not None and child.process.returncode is None:
                    child.signal(signal.SIGTERM if child is self._players else signal.SIGKILL)
                    await child.end()
            await self._session.close()
            os.close(self.home.lock_file)
        assert code == 0, f"the server ended with {code}:\n{self.server.words()}"

    # --- what can be seen from outside ------------------------------------------------------

    async def health(self) -> int | None:
        """The readiness that a probe is told, or None when nobody answers."""
        async with grpc.aio.insecure_channel(self.admin_listen, CHANNEL_OPTIONS) as channel:
            request = health_pb2.HealthCheckRequest(service=READINESS_SERVICE)
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(request, timeout=5)
            except grpc.aio.AioRpcError:
                return None
        return int(answer.status)

    async def until_not_serving(self) -> None:
        """Waits until a probe is told so; a port that is closed says nothing."""

        async def is_told() -> bool:
            return await self.health() == health_pb2.HealthCheckResponse.NOT_SERVING

        await until(is_told, "readiness says NOT_SERVING")

    async def metrics(self) -> str:
        async with self._session.get(f"http://{self.metrics_listen}/metrics") as answer:
            assert answer.status == 200
            return await answer.text()


def _environment(settings: Mapping[str, str], more_paths: Sequence[Path]) -> dict[str, str]:
    """This process's environment without settings of its own, and with the tests' packages."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("LOYALTY_")
    }
    packages = (*loyalty_gateway.__path__, *loyalty.__path__)
    roots = {str(Path(package).resolve().parent) for package in packages}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, more_paths), *sorted(roots)])
    for name, value in settings.items():
        environment[name if name.startswith("OTEL_") else f"LOYALTY_{name}"] = value
    return environment


def _python(module: str) -> list[str]:
    return [sys.executable, "-P", "-m", module]


def _free_addresses(count: int) -> list[str]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
    for listener in listeners:
        listener.close()
    return addresses
