"""Runs the sandbox: the vendors' players and the server, each in a process of its own.

It must never stop the players before the server: until its last booking is settled, the server
needs its vendors. Killing either loses nothing, since the truth is on disk.
"""

import asyncio
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from loyalty_gateway.cli.configuration import read_settings, server_addresses
from loyalty_gateway.cli.failure import CommandFailed, UsageFailed
from loyalty_gateway.cli.sandbox_home import VENDOR_SECTIONS, SandboxHome
from loyalty_gateway.settings import Server, split_address

READY_POLL_S: Final = 0.02
READY_LIMIT_S: Final = 30.0
HEALTH_CALL_S: Final = 2.0
# A killed supervisor's players go within a second of noticing, and their port must not move.
PORT_WAIT_S: Final = 3.0
# Beside delay and grace: the server waits for what was sent, hands over the rest, closes.
STOP_MARGIN_S: Final = 25.0
PLAYERS_STOP_S: Final = 10.0
RESTART_DELAYS_S: Final = (0.1, 0.5, 2.0, 5.0, 10.0)
"""Waiting times before a child that died is started again; one death more ends the sandbox."""
CALM_S: Final = 60.0
"""A child that has lived so long counts its deaths anew."""
LAST_WORDS_BYTES_MAX: Final = 65_536
LAST_WORDS_LINES: Final = 8
READINESS_SERVICE: Final = "loyalty.v1"
PROOF_CARD: Final = "10999"
"""The players' hidden card, on which the promises of their vendor are proved."""
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Found = TypeVar("Found")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the server listens, as host:port."""

    listen: str
    admin_listen: str
    metrics_listen: str


@dataclass(frozen=True, slots=True)
class Vendors:
    """Where the players are, by their own word."""

    base_urls: dict[str, str]
    control_urls: dict[str, str]


@dataclass(slots=True)
class Child:
    """A process of ours, in a session of its own so that Ctrl-C reaches the supervisor alone.

    Its standard input is a pipe that ends with the supervisor, however that ends; a line on it is
    the word to go. `keep_open` are descriptors that it holds as long as it lives.
    """

    name: str
    command: Sequence[str]
    log: Path
    keep_open: tuple[int, ...] = ()
    process: asyncio.subprocess.Process | None = None
    _log_start: int = 0

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=self.keep_open,
                start_new_session=True,
            )

    def let_go(self) -> None:
        """Lets a server go that has loaded its libraries; the player does not wait for it."""
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(b"\n")

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative means a signal."""
        assert self.process is not None, "the child was not started"
        return self.process.returncode

    async def end(self) -> int:
        """Waits until the process has ended by itself."""
        assert self.process is not None, "the child was not started"
        return await self.process.wait()

    async def until_ready(self, find: Callable[[], Awaitable[Found | None]]) -> Found:
        """What `find` finds at last.

        Raises: CommandFailed when the process ends before, or takes too long.
        """
        give_up = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < give_up:
            if self.exit_code is not None:
                raise self.failed(describe_end(self.exit_code))
            found = await find()
            if found is not None:
                return found
            await asyncio.sleep(READY_POLL_S)
        raise self.failed(f"was not ready after {READY_LIMIT_S:g} s")

    async def stop(self, limit_s: float, hurry: asyncio.Event) -> None:
        """Asks it to end and waits; kills it when time is up or when there is a hurry."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        ended = asyncio.create_task(self.process.wait())
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait({ended, hurried}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not ended.done():
            self.process.kill()
        await ended

    def failed(self, how: str) -> CommandFailed:
        """The failure in words, with the end of what the process wrote since it was started."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read(LAST_WORDS_BYTES_MAX).decode("utf-8", "replace").splitlines()
        words = "".join(f"\n  {line}" for line in lines[-LAST_WORDS_LINES:])
        return CommandFailed(
            f"the {self.name} {how}."
            + (f" Its last words:{words}" if words else "")
            + f"\nThe whole log: {self.log}"
        )


@dataclass(slots=True)
class Supervisor:
    """Starts, watches and stops the children of one sandbox.

    `tell` prints a line for a person; `show` prints the screen once everything answers.
    """

    home: SandboxHome
    settings: Server
    tell: Tell
    show: Callable[[Addresses, Vendors], None]
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until SIGTERM, SIGINT or SIGHUP asks it to stop; a second one makes it hurry.

        Raises: CommandFailed with the last words of a child that cannot be kept alive.
        """
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._be_asked_to_stop)
        addresses = choose_addresses(self.settings)
        players = self._players(await self._choose_players_ports())
        server = self._server(addresses)
        work = asyncio.create_task(self._work(players, server, addresses))
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            self.tell("Stopping: what was sent is finished first. Ctrl-C again is faster.")
        for task in (work, stop):
            task.cancel()
        await asyncio.wait({work, stop})
        limit_s = self.settings.endpoint_delay_s + self.settings.drain_grace_s + STOP_MARGIN_S
        await server.stop(limit_s, self._hurry)
        await players.stop(PLAYERS_STOP_S, self._hurry)
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
        if not work.cancelled():
            work.result()

    def _be_asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _work(self, players: Child, server: Child, addresses: Addresses) -> None:
        """Starts both, shows the screen, and keeps both alive; ends only by an error."""

        async def find_vendors() -> Vendors | None:
            assert players.process is not None
            return find_players(self.home.ready_file, players.process.pid)

        async def find_server() -> bool | None:
            return await is_serving(addresses.admin_listen) or None

        # The server proves its vendors' promises when it starts, so they are there before it;
        # while they come, it loads its libraries.
        await players.start()
        await server.start()
        vendors = await players.until_ready(find_vendors)
        self.home.write_config(vendors.base_urls, proof_card=PROOF_CARD)
        server.let_go()
        await server.until_ready(find_server)
        self.show(addresses, vendors)
        keepers = [
            asyncio.create_task(self._keep(players, find_vendors)),
            asyncio.create_task(self._keep(server, find_server)),
        ]
        try:
            await asyncio.gather(*keepers)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.wait(keepers)

    async def _keep(self, child: Child, find: Callable[[], Awaitable[object | None]]) -> None:
        """Starts a child again whenever it dies, until it dies too often."""
        deaths = 0
        born = time.monotonic()
        while True:
            code = await child.end()
            deaths = 1 if time.monotonic() - born > CALM_S else deaths + 1
            if deaths > len(RESTART_DELAYS_S):
                raise child.failed(f"{describe_end(code)}, {deaths} times in a row")
            delay_s = RESTART_DELAYS_S[deaths - 1]
            self.tell(
                f"The {child.name} {describe_end(code)}. Nothing is lost: what was sent stands on "
                f"disk. It is started again in {delay_s:g} s."
            )
            await asyncio.sleep(delay_s)
            born = time.monotonic()
            await child.start()
            child.let_go()
            try:
                await child.until_ready(find)
            except CommandFailed:
                if child.exit_code is None:
                    raise
            else:
                self.tell(f"The {child.name} is back after {time.monotonic() - born:.1f} s.")

    async def _choose_players_ports(self) -> dict[str, int]:
        """The ports of the last time, so that the journal meets the vendors it knows."""
        known = self.home.players_ports()
        give_up = time.monotonic() + PORT_WAIT_S
        with ExitStack() as held:
            chosen = {
                name: await self._choose_port(name, known.get(name, 0), give_up, held)
                for name in VENDOR_SECTIONS
            }
        self.home.remember_players_ports(chosen)
        return chosen

    async def _choose_port(self, name: str, port: int, give_up: float, held: ExitStack) -> int:
        """Holds the port until all are chosen, so that no two vendors get the same one."""
        while port and time.monotonic() < give_up:
            try:
                held.enter_context(_bind(f"127.0.0.1:{port}"))
            except OSError:
                await asyncio.sleep(READY_POLL_S)
            else:
                return port
        listener = held.enter_context(_bind("127.0.0.1:0"))
        chosen: int = listener.getsockname()[1]
        if port:
            self.tell(f"Port {port} is taken; the played {name} moves to {chosen}.")
        return chosen

    def _players(self, ports: Mapping[str, int]) -> Child:
        command = [
            *_python("loyalty_gateway.sandbox.players"),
            *("--data-dir", str(self.home.players)),
            *(word for name, port in ports.items() for word in (f"--{name}-port", str(port))),
            *("--ready-file", str(self.home.ready_file)),
            *("--parent-pid", str(os.getpid())),
        ]
        return Child("vendor player", command, self.home.log("players"), (self.home.lock_file,))

    def _server(self, addresses: Addresses) -> Child:
        command = [
            *_python("loyalty_gateway"),
            *("_serve-sandbox", "--config", str(self.home.config)),
            *("--listen", addresses.listen),
            *("--admin-listen", addresses.admin_listen),
            *("--metrics-listen", addresses.metrics_listen),
            "--wait",
        ]
        return Child("server", command, self.home.log("server"), (self.home.lock_file,))


def read_server_settings(
    listen: str | None, admin_listen: str | None, metrics_listen: str | None
) -> Server:
    """The addresses and times of a sandbox's server.

    Raises: UsageFailed naming the address or the LOYALTY_* variable that is wrong.
    """
    overrides = {"profile": "sandbox", **server_addresses(listen, admin_listen, metrics_listen)}
    settings = read_settings(None, overrides).server
    host, port = split_address(settings.admin_listen)
    has_moved = settings.admin_listen != Server.model_fields["admin_listen"].default
    if has_moved and "metrics_listen" not in settings.model_fields_set:
        # A second sandbox has moved its two addresses; the third one follows its neighbour.
        host = f"[{host}]" if ":" in host else host
        settings = settings.model_copy(
            update={"metrics_listen": f"{host}:{port + 1 if port else 0}"}
        )
    return settings.model_copy(update={"endpoint_delay_s": 0.0})


def choose_addresses(settings: Server) -> Addresses:
    """The addresses with every port 0 replaced by a free one.

    Raises: UsageFailed for an address that cannot be listened on, naming how to move it.
    """
    chosen: dict[str, str] = {}
    with ExitStack() as held:
        for setting, variable in (
            ("listen", "LOYALTY_LISTEN"),
            ("admin_listen", "LOYALTY_ADMIN_LISTEN"),
            ("metrics_listen", "LOYALTY_METRICS_LISTEN"),
        ):
            address: str = getattr(settings, setting)
            option = f"--{setting.replace('_', '-')}"
            try:
                listener = held.enter_context(_bind(address))
            except OSError as error:
                is_taken = error.errno == errno.EADDRINUSE
                why = (
                    "is taken by another process"
                    if is_taken
                    else f"cannot be used: {error.strerror}"
                )
                raise UsageFailed(
                    f"{address} {why}. Choose another address with {option} or {variable}, "
                    "for example 127.0.0.1:0 for any free port."
                ) from None
            port = listener.getsockname()[1]
            chosen[setting] = f"{address.rpartition(':')[0]}:{port}"
    return Addresses(**chosen)


def find_players(ready_file: Path, process_id: int) -> Vendors | None:
    """Where the players are, once this very process has said so."""
    try:
        announcement = json.loads(ready_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    if announcement["pid"] != process_id:
        # A killed predecessor could not take its announcement with it.
        return None
    players = announcement["players"]
    return Vendors(
        {name: urls["base_url"] for name, urls in players.items()},
        {name: urls["control_url"] for name, urls in players.items()},
    )


async def is_serving(admin_address: str) -> bool:
    """Whether the server's own health service says that bookings can be made."""
    host, port = split_address(admin_address)
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        # Asked before anybody listens, a gRPC channel would wait a second until it tries again.
        return False
    writer.close()
    # Loaded only here, while the server is busy with its own start.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(
        admin_address, options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        request = health_pb2.HealthCheckRequest(service=READINESS_SERVICE)
        # The library makes its methods at run time, and its types do not show them.
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
        try:
            answer = await check(request, timeout=HEALTH_CALL_S)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def describe_end(code: int) -> str:
    """How a process ended, after its name."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _bind(address: str) -> socket.socket:
    host, port = split_address(address)
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # As the server does: an old connection in TIME_WAIT does not make a port taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


def _python(module: str) -> list[str]:
    # -P: a folder of the caller's that is called like a package of ours must not be imported.
    return [sys.executable, "-P", "-m", module]
