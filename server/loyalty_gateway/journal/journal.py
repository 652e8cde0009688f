"""The journal on SQLite: opened under a file lock, migrated, checked, written in groups.

Every method either answers from disk or raises JOURNAL_UNAVAILABLE; nothing is cached.
"""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, inspect, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from loyalty_gateway.domain.booking import Attempt, Booking, HistoryEntry, State
from loyalty_gateway.domain.errors import LoyaltyError
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.rows import (
    attempt_from_row,
    booking_from_row,
    from_us,
    history_from_row,
    to_us,
)
from loyalty_gateway.journal.writer import Change, Opened, Opening, Writer, unavailable

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_READERS = 2
_BUSY_TIMEOUT_MS = 5_000


class JournalRefused(Exception):
    """The journal cannot be used as it is; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which bookings of a tenant to read. `after` is the (time, id) of the last one seen."""

    tenant: str
    states: tuple[State, ...] = ()
    connection: str = ""
    operation: str = ""
    account_hash: bytes = b""
    created_from: datetime | None = None
    created_before: datetime | None = None
    settled_from: datetime | None = None
    settled_before: datetime | None = None
    by_settle_time: bool = False
    after: tuple[int, str] | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class PromiseRow:
    """A promise that was put to the proof, for the target it was proven on."""

    connection: str
    name: str
    target_hash: bytes
    value: bool
    time: datetime
    evidence: str


@dataclass(frozen=True, slots=True)
class Unresolved:
    """What a person or a machine still has to find out, per connection."""

    connection: str
    state: State
    count: int
    oldest: datetime | None


class Journal:
    """One SQLite file and the process that owns it. `boot_id` is that ownership."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self.boot_id = boot_id
        self._path = path
        self._lock_file: int | None = None
        self._engine: Engine | None = None
        self._writer: Writer | None = None
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="journal-reader")
        self._last_us = 0

    # --- life ---------------------------------------------------------------------------

    async def start(self, salt_check: bytes) -> None:
        """Locks, opens, migrates and checks the file.

        Raises:
            JournalRefused: the file is another process's, another deployment's, newer than
                this program, not as durable as promised, or cannot be opened at all.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_file = lock_file(self._path)
            await asyncio.to_thread(self._open, salt_check)
        except (OSError, SQLAlchemyError) as error:
            why = error.orig if isinstance(error, DBAPIError) else error
            raise JournalRefused(f"The journal {self._path} cannot be opened: {why}.") from error
        assert self._engine is not None
        self._writer = Writer(self._engine, self._now_us)
        self._writer.start()

    def _open(self, salt_check: bytes) -> None:
        self._engine = make_engine(self._path)
        if current_revision(self._engine) != schema.REVISION:
            migrate(self._engine)
        with self._engine.begin() as connection:
            self._check_durability(connection)
            self._check_deployment(connection, salt_check)

    @staticmethod
    def _check_durability(connection: Connection) -> None:
        mode = connection.execute(text("PRAGMA journal_mode")).scalar_one()
        synchronous = connection.execute(text("PRAGMA synchronous")).scalar_one()
        if mode != "wal" or synchronous != 2:
            raise JournalRefused(
                f"The journal's file is in mode {mode} with synchronous={synchronous}; it must"
                " be wal and 2 (FULL). Is the file on a network share?"
            )

    @staticmethod
    def _check_deployment(connection: Connection, salt_check: bytes) -> None:
        known = connection.execute(
            select(schema.deployment.c.value).where(schema.deployment.c.name == "salt_check")
        ).scalar_one_or_none()
        if known is None:
            connection.execute(
                schema.deployment.insert().values(name="salt_check", value=salt_check)
            )
        elif known != salt_check:
            raise JournalRefused(
                "The outbound salt is not the one this journal was made with; with another salt"
                " no booking would be recognised again. Restore the original"
                " keys.outbound_salt."
            )

    async def stop(self) -> None:
        """Writes what waits, closes the file and gives the lock back."""
        if self._writer is not None:
            await self._writer.stop()
        await asyncio.to_thread(self._readers.shutdown)
        if self._engine is not None:
            self._engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    @property
    def is_healthy(self) -> bool:
        """Whether the last write went to disk."""
        return self._writer is not None and self._writer.is_healthy

    # --- time: one clock for everything that is stored ------------------------------------

    def _now_us(self) -> int:
        # Never backwards within one process, so that history sorts as it happened.
        self._last_us = max(self._last_us + 1, time.time_ns() // 1000)
        return self._last_us

    def now(self) -> datetime:
        """The journal's clock."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._now_us())

    # --- writes ---------------------------------------------------------------------------

    async def open(self, opening: Opening) -> Opened:
        """Inserts a booking or finds the one that has its request_id. On disk on return."""
        assert self._writer is not None, "started"
        return await self._writer.open(opening)

    async def change(self, change: Change) -> bool:
        """Moves a booking on. False when it is no longer as `change.before` says."""
        assert self._writer is not None, "started"
        return await self._writer.change(change)

    async def save_promise(self, tenant: str, row: PromiseRow) -> None:
        """Records what `prove` found, over what was known before."""
        assert self._writer is not None, "started"

        def work(connection: Connection) -> None:
            table = schema.promise
            connection.execute(
                table.delete().where(
                    table.c.tenant == tenant,
                    table.c.connection == row.connection,
                    table.c.name == row.name,
                )
            )
            connection.execute(
                table.insert().values(
                    tenant=tenant,
                    connection=row.connection,
                    name=row.name,
                    target_hash=row.target_hash,
                    value=row.value,
                    time=to_us(row.time),
                    evidence=row.evidence,
                )
            )

        await self._writer.run(work)

    # --- reads ----------------------------------------------------------------------------

    async def _read(self, query: Callable[[Connection], _T]) -> _T:
        engine = self._engine
        assert engine is not None, "started"

        def run() -> _T:
            try:
                with engine.connect() as connection:
                    connection.begin()
                    return query(connection)
            except SQLAlchemyError as error:
                raise unavailable(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def find(
        self, tenant: str, *, booking_id: str = "", request_id: str = ""
    ) -> Booking | None:
        """The booking with this id or request_id of this tenant, or None."""
        table = schema.booking
        key = table.c.booking_id == booking_id if booking_id else table.c.request_id == request_id

        def query(connection: Connection) -> Booking | None:
            row = connection.execute(select(table).where(table.c.tenant == tenant, key))
            found = row.mappings().one_or_none()
            return None if found is None else booking_from_row(found)

        return await self._read(query)

    async def list(self, wanted: ListQuery) -> Sequence[Booking]:
        """Bookings newest first, or oldest settled first."""
        table = schema.booking
        conditions = [table.c.tenant == wanted.tenant]
        if wanted.states:
            conditions.append(table.c.state.in_([state.value for state in wanted.states]))
        for column, value in (
            (table.c.connection, wanted.connection),
            (table.c.operation, wanted.operation),
            (table.c.account_hash, wanted.account_hash),
        ):
            if value:
                conditions.append(column == value)
        for column, start, end in (
            (table.c.create_time, wanted.created_from, wanted.created_before),
            (table.c.settle_time, wanted.settled_from, wanted.settled_before),
        ):
            if start is not None:
                conditions.append(column >= to_us(start))
            if end is not None:
                conditions.append(column < to_us(end))
        statement = select(table)
        if wanted.by_settle_time:
            conditions.append(table.c.settle_time.is_not(None))
            if wanted.after is not None:
                time_us, booking_id = wanted.after
                # The first condition alone lets the index begin where the last page ended.
                conditions.append(table.c.settle_time >= time_us)
                conditions.append(
                    (table.c.settle_time > time_us) | (table.c.booking_id > booking_id)
                )
            statement = statement.order_by(table.c.settle_time, table.c.booking_id)
        else:
            if wanted.after is not None:
                time_us, booking_id = wanted.after
                conditions.append(table.c.create_time <= time_us)
                conditions.append(
                    (table.c.create_time < time_us) | (table.c.booking_id < booking_id)
                )
            statement = statement.order_by(table.c.create_time.desc(), table.c.booking_id.desc())
        statement = statement.where(*conditions).limit(wanted.limit)

        def query(connection: Connection) -> Sequence[Booking]:
            # A list repeats no answer, so a damaged one must not hide the whole page.
            return [
                booking_from_row(row, checks_answer=False)
                for row in connection.execute(statement).mappings()
            ]

        return await self._read(query)

    async def due(self, tenant: str, now: datetime, limit: int) -> Sequence[Booking]:
        """Open bookings whose next step is due, the longest due first.

        A row that cannot be understood is logged and left out: it must not stop the others.
        """
        table = schema.booking
        statement = (
            select(table)
            .where(
                table.c.tenant == tenant,
                text(schema.IS_OPEN),
                table.c.next_attempt_time <= to_us(now),
            )
            .order_by(table.c.next_attempt_time)
            .limit(limit)
        )

        def query(connection: Connection) -> Sequence[Booking]:
            found = []
            for row in connection.execute(statement).mappings():
                try:
                    found.append(booking_from_row(row))
                except LoyaltyError as error:
                    log.error("Booking %s is left alone: %s", error.booking, error.message)
            return found

        return await self._read(query)

    async def next_due_time(self, tenant: str, after: datetime) -> datetime | None:
        """When the next open booking becomes due later than `after`, or None."""
        table = schema.booking

        def query(connection: Connection) -> datetime | None:
            return from_us(
                connection.execute(
                    select(func.min(table.c.next_attempt_time)).where(
                        table.c.tenant == tenant,
                        text(schema.IS_OPEN),
                        table.c.next_attempt_time > to_us(after),
                    )
                ).scalar_one()
            )

        return await self._read(query)

    async def sending_of_other_boots(self, tenant: str, limit: int) -> Sequence[Booking]:
        """Bookings left in SENDING by a process that is gone."""
        table = schema.booking
        statement = (
            select(table)
            .where(
                table.c.tenant == tenant,
                text(schema.IS_UNRESOLVED),
                table.c.state == State.SENDING.value,
                table.c.owner != self.boot_id,
            )
            .limit(limit)
        )

        def query(connection: Connection) -> Sequence[Booking]:
            return [booking_from_row(row) for row in connection.execute(statement).mappings()]

        return await self._read(query)

    async def story(
        self, tenant: str, booking_id: str
    ) -> tuple[Sequence[HistoryEntry], Sequence[Attempt]]:
        """Every move and every ended attempt of a booking, in order."""

        def query(
            connection: Connection,
        ) -> tuple[Sequence[HistoryEntry], Sequence[Attempt]]:
            moves, tries = schema.history, schema.attempt
            entries = connection.execute(
                select(moves)
                .where(moves.c.tenant == tenant, moves.c.booking_id == booking_id)
                .order_by(moves.c.sequence)
            ).mappings()
            attempts = connection.execute(
                select(tries)
                .where(tries.c.tenant == tenant, tries.c.booking_id == booking_id)
                .order_by(tries.c.number)
            ).mappings()
            return (
                [history_from_row(row) for row in entries],
                [attempt_from_row(row) for row in attempts],
            )

        return await self._read(query)

    async def unresolved(self, tenant: str) -> Sequence[Unresolved]:
        """Bookings whose outcome is not known, counted by connection and state."""
        table = schema.booking
        statement = (
            select(
                table.c.connection,
                table.c.state,
                func.count().label("number"),
                func.min(table.c.create_time).label("oldest"),
            )
            .where(
                table.c.tenant == tenant,
                text(schema.IS_UNRESOLVED),
            )
            .group_by(table.c.connection, table.c.state)
        )

        def query(connection: Connection) -> Sequence[Unresolved]:
            return [
                Unresolved(row.connection, State(row.state), row.number, from_us(row.oldest))
                for row in connection.execute(statement)
            ]

        return await self._read(query)

    async def names_of(
        self, tenant: str, connection_id: str, outbound_ids: Sequence[str]
    ) -> dict[str, str]:
        """The names of our bookings behind the outbound ids of a vendor's history."""
        table = schema.booking
        statement = select(table.c.outbound_id, table.c.booking_id).where(
            table.c.tenant == tenant,
            table.c.connection == connection_id,
            table.c.outbound_id.in_(outbound_ids),
        )

        def query(connection: Connection) -> dict[str, str]:
            return {
                row.outbound_id: f"bookings/{row.booking_id}"
                for row in connection.execute(statement)
            }

        return await self._read(query) if outbound_ids else {}

    async def count_tombstones(self, tenant: str, since: datetime) -> int:
        """How many unknown request_ids were cancelled since then."""
        table = schema.booking
        statement = select(func.count()).where(
            table.c.tenant == tenant,
            text(schema.IS_TOMBSTONE),
            table.c.create_time >= to_us(since),
        )
        return await self._read(lambda connection: connection.execute(statement).scalar_one())

    async def promises(self, tenant: str) -> Sequence[PromiseRow]:
        """Every promise that was put to the proof."""
        table = schema.promise

        def query(connection: Connection) -> Sequence[PromiseRow]:
            rows = connection.execute(select(table).where(table.c.tenant == tenant))
            return [
                PromiseRow(
                    row.connection,
                    row.name,
                    row.target_hash,
                    row.value,
                    from_us(row.time) or self.now(),
                    row.evidence,
                )
                for row in rows
            ]

        return await self._read(query)


def lock_file(path: Path) -> int:
    """Takes the journal for this process. Raises JournalRefused when another one has it."""
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise JournalRefused(
            f"The journal {path} is in use by another process; a SQLite journal belongs to one."
        ) from error
    return descriptor


def make_engine(path: Path) -> Engine:
    """An engine whose every connection is durable (WAL, synchronous FULL) and explicit."""
    if not path.exists():
        # Born private: the file holds sealed account ids.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=_READERS + 1,
        max_overflow=1,
        pool_timeout=_BUSY_TIMEOUT_MS / 1000,
    )

    @event.listens_for(engine, "connect")
    def _prepare(dbapi_connection: Any, _record: Any) -> None:
        # The driver must not begin transactions of its own: BEGIN is ours, below.
        dbapi_connection.isolation_level = None
        cursor = dbapi_connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def current_revision(engine: Engine) -> str:
    """The migration that a journal stands at; empty for a new file."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return ""
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()  # type: ignore[no-any-return]


def migrate_file(path: Path) -> None:
    """Brings a journal's file to this program's schema, while no process uses it.

    Raises:
        JournalRefused: it is in use, or was made by a newer program.
    """
    descriptor = lock_file(path)
    try:
        engine = make_engine(path)
        if current_revision(engine) != schema.REVISION:
            migrate(engine)
        engine.dispose()
    finally:
        os.close(descriptor)


def migrate(engine: Engine) -> None:
    """Brings a journal to this program's schema, forward only.

    Raises:
        JournalRefused: the journal was made by a newer program.
    """
    # Imported late: alembic is needed once in a journal's life and takes long to import.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "loyalty_gateway.journal:migrations")
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise JournalRefused(
            f"The journal stands at a schema this program does not know ({error}); run the"
            " version of the gateway that last used it, or a newer one."
        ) from error
