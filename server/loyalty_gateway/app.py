"""The composition root: the only file that knows every room; builds, starts, drains, stops."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from loyalty_gateway import failpoints
from loyalty_gateway.booking.calls import Promise, PromiseSource
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.engine import Engine
from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.journal.journal import Journal, JournalRefused
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.journal.store import Store
from loyalty_gateway.providers import PROVIDERS
from loyalty_gateway.providers.connection import AdapterSettingsError
from loyalty_gateway.rpc.admin import AdminHttp
from loyalty_gateway.rpc.codec.answers import WireAnswerCodec
from loyalty_gateway.rpc.dispatch import Dispatcher, DoorLimits, anonymous
from loyalty_gateway.rpc.health import Health
from loyalty_gateway.rpc.reflection import reflection_handlers
from loyalty_gateway.rpc.server import AddressTaken, WireLimits, open_server
from loyalty_gateway.settings import Settings
from loyalty_gateway.telemetry.setup import Telemetry

log = logging.getLogger(__name__)

_SETTLE_S = 3.0


class StartRefused(Exception):
    """The process cannot start as configured; the text says what to change."""


class Gateway:
    """One gateway process. `port`, `admin_port` and `metrics_port` are known after start."""

    def __init__(self, settings: Settings, telemetry: Telemetry | None = None) -> None:
        self._settings = settings
        self._telemetry = telemetry or Telemetry()
        self._stack = AsyncExitStack()
        self._is_serving = False
        self._engine: Engine | None = None
        self._journal: Journal | None = None
        self._health: Health | None = None
        self.port = self.admin_port = self.metrics_port = 0

    async def start(self) -> None:
        """Starts everything in order; on failure stops what was started and raises.

        Raises:
            StartRefused: with one clear text.
        """
        try:
            await self._start()
        except BaseException as error:
            await self._stack.aclose()
            if isinstance(error, AddressTaken):
                raise StartRefused(
                    f"{error}. Choose others with LOYALTY_LISTEN, LOYALTY_ADMIN_LISTEN and"
                    " LOYALTY_METRICS_LISTEN."
                ) from error
            if isinstance(error, JournalRefused):
                raise StartRefused(str(error)) from error
            raise

    async def _start(self) -> None:
        settings, stack = self._settings, self._stack
        is_sandbox = settings.profile == "sandbox"
        self._telemetry.start(settings.telemetry)
        stack.push_async_callback(self._telemetry.stop)

        keyring = open_keyring(settings)
        journal = Journal(open_store(settings), boot_id=str(uuid.uuid4()))
        self._journal = journal
        stack.push_async_callback(journal.stop)
        await journal.start(keyring.salt_check)

        connections = open_connections(settings, keyring, stack)
        engine = Engine(
            journal,
            keyring,
            connections,
            WireAnswerCodec(),
            limits=Limits(
                deadline_min_s=settings.limits.deadline_min_s,
                in_flight_max=settings.limits.in_flight_max,
                in_flight_per_connection_max=settings.limits.in_flight_per_connection_max,
                tombstones_per_hour_max=settings.limits.tombstones_per_hour_max,
                unresolved_max=settings.limits.unresolved_max,
                attempt_total_s=settings.provider.attempt_total_s,
                lease_s=settings.engine.lease_s,
                send_by_s=settings.engine.send_by_s,
                challenge_life_s=settings.engine.challenge_life_s,
                proof_life_s=settings.engine.proof_life_s,
            ),
            policy=Policy(
                schedule_s=settings.recovery.schedule_s,
                then_every_s=settings.recovery.then_every_s,
                settle_s=settings.engine.settle_s,
                abandon_reserved_s=settings.recovery.abandon_reserved_s,
                not_found_waits_s=settings.recovery.not_found_waits_s,
                give_up_s=settings.recovery.give_up_s,
            ),
            tenant=settings.server.tenant,
            recovery_parallel_max=settings.recovery.parallel_max,
        )
        self._engine = engine
        await engine.start(proves_itself=is_sandbox)
        # Long enough for an attempt that was begun at the last moment, whoever waits for it.
        stack.push_async_callback(engine.stop, settings.provider.attempt_total_s + _SETTLE_S)
        await self._open_ports(engine, is_sandbox)
        self._is_serving = True

    async def _open_ports(self, engine: Engine, is_sandbox: bool) -> None:
        settings, stack = self._settings, self._stack
        dispatcher = Dispatcher(
            engine,
            authenticate=anonymous(settings.server.tenant),
            limits=DoorLimits(
                deadline_max_s=settings.limits.deadline_max_s,
                deadline_default_s=settings.limits.deadline_default_s,
            ),
            reads_faults=is_sandbox,
        )
        handlers = dispatcher.handlers()
        services = [handler.service_name() for handler in handlers]  # type: ignore[attr-defined]
        self._health = Health(services, self._is_ready)
        wire = WireLimits(
            request_bytes_max=settings.limits.request_bytes_max,
            answer_bytes_max=settings.limits.answer_bytes_max,
            metadata_bytes_max=settings.limits.metadata_bytes_max,
        )
        admin = await open_server(settings.server.admin_listen, (), register=self._health.add_to)
        self.admin_port = admin.port
        stack.push_async_callback(admin.server.stop, 0)
        http = AdminHttp(self._telemetry.metrics_text, self._is_ready)
        await http.start(settings.server.metrics_listen)
        stack.push_async_callback(http.stop)
        self.metrics_port = http.port
        if settings.server.reflection:
            handlers += reflection_handlers(services)
        opened = await open_server(settings.server.listen, handlers, wire)
        self.port = opened.port
        stack.push_async_callback(self._close_door, opened.server.stop)

    async def _close_door(self, stop_server: Callable[[float], Awaitable[None]]) -> None:
        """Answers what is under way, and ends the rest at the end of the grace."""
        await stop_server(self._settings.server.drain_grace_s)

    def _is_ready(self) -> bool:
        """Ready means that bookings can be journalled; a vendor's outage is no reason."""
        return self._is_serving and self._journal is not None and self._journal.is_healthy

    async def stop(self, *, endpoint_delay_s: float | None = None) -> None:
        """Not serving; a while for load balancers; drain; finish what was sent; close."""
        delay_s = self._settings.server.endpoint_delay_s
        self._is_serving = False
        failpoints.hit("draining")
        if self._health is not None:
            await self._health.drain()
        await asyncio.sleep(delay_s if endpoint_delay_s is None else endpoint_delay_s)
        if self._engine is not None:
            self._engine.drain()
        await self._stack.aclose()


def open_connections(settings: Settings, keyring: Keyring, stack: AsyncExitStack) -> Connections:
    """The connections of the configuration; the stack closes them. Nothing is sent yet.

    Raises:
        StartRefused: naming every setting of a connection that cannot be used.
    """
    links = []
    problems: list[str] = []
    limits = settings.provider
    for name, section in settings.connections.items():
        factory = PROVIDERS.get(section.provider)
        if factory is None:
            problems.append(
                f"connections.{name}.provider: there is no vendor {section.provider!r};"
                f" known are {', '.join(sorted(PROVIDERS))}"
            )
            continue
        shared = {
            "connect_s": limits.connect_s,
            "attempt_total_s": limits.attempt_total_s,
            "answer_bytes_max": limits.answer_bytes_max,
        }
        # Leases and drain times are checked against these, so a connection has no others.
        doubled = sorted(shared.keys() & section.adapter_settings.keys())
        if doubled:
            problems += (f"connections.{name}.{key}: belongs into [provider]" for key in doubled)
            continue
        own: Mapping[str, Any] = {**shared, **section.adapter_settings}
        try:
            adapter = factory(name, own, settings.profile)
        except AdapterSettingsError as error:
            problems.extend(f"connections.{name}.{problem}" for problem in error.problems)
            continue
        if section.display_name:
            adapter.display_name = section.display_name
        stack.push_async_callback(adapter.close)
        links.append(
            Link(
                name,
                adapter,
                keyring.target_hash(adapter.target),
                is_paused=section.paused,
                declared={
                    promise: Promise(
                        promise,
                        value=declared.value,
                        source=PromiseSource.DECLARED,
                        evidence=f"{declared.evidence} (seen on {declared.proven_on})",
                    )
                    for promise, declared in section.promises.items()
                },
            )
        )
    if problems:
        raise StartRefused("; ".join(problems))
    return Connections(links)


def open_store(settings: Settings) -> Store:
    """The journal's database, not started. Raises StartRefused where its driver is missing."""
    if settings.journal.dsn is None:
        return SqliteStore(settings.journal.path)
    # Imported only where it is used: the driver comes with the extra `postgres`.
    try:
        from loyalty_gateway.journal.postgres import PostgresStore

        return PostgresStore(settings.journal.dsn.get_secret_value(), ha=settings.journal.ha)
    except ImportError as error:
        raise StartRefused(
            "journal.dsn needs the PostgreSQL driver: install loyalty-gateway[postgres]"
        ) from error


def open_keyring(settings: Settings) -> Keyring:
    """The secrets of the configuration. Raises StartRefused where one is missing."""
    salt = settings.keys.outbound_salt_bytes
    if not settings.keys.sealing or salt is None:
        raise StartRefused("keys.sealing and keys.outbound_salt are both needed")
    return Keyring([(key.id, key.secret_bytes) for key in settings.keys.sealing], salt)


async def _serve(settings: Settings) -> int:
    gateway = Gateway(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await gateway.start()
    log.info(
        "Serving %s on port %d, health on %d, metrics on %d",
        settings.profile,
        gateway.port,
        gateway.admin_port,
        gateway.metrics_port,
    )
    await stop.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        # A second signal ends the process at once: what was sent is found again at the start.
        loop.remove_signal_handler(number)
    log.info("Draining")
    await gateway.stop()
    return 0


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; 0 after a clean drain, 2 where it could not start."""
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        new_loop = uvloop.new_event_loop
    try:
        # The configuration refuses the variable in production.
        failpoints.arm(os.environ.get("LOYALTY_FAILPOINTS", ""))
    except failpoints.FailpointsInvalid as error:
        print(f"loyalty: {error}", file=sys.stderr)
        return 2
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(_serve(settings))
    except StartRefused as error:
        print(f"loyalty: {error}", file=sys.stderr)
        return 2


def migrate(settings: Settings) -> None:
    """Brings the journal to this version's schema; beside running replicas on PostgreSQL.

    Raises:
        StartRefused: the journal is in use, newer than this program, or not to be had.
    """
    store = open_store(settings)
    try:
        store.start(open_keyring(settings).salt_check)
    except JournalRefused as error:
        raise StartRefused(str(error)) from error
    finally:
        store.stop()


def accept_journal(settings: Settings) -> None:
    """Accepts a promoted PostgreSQL whose last commits may be lost; a person's decision.

    Raises:
        StartRefused: the journal is not a PostgreSQL, or not to be had.
    """
    store = open_store(settings)
    if isinstance(store, SqliteStore):
        raise StartRefused("a SQLite journal has no timeline to accept")
    try:
        store.accept_timeline()  # type: ignore[attr-defined]
    except Exception as error:
        raise StartRefused(f"the journal cannot be reached: {type(error).__name__}") from error
    finally:
        store.stop()
