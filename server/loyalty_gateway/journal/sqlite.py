"""The journal on SQLite: one file, one process, every commit on disk before it is reported."""

import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    bindparam,
    create_engine,
    event,
    select,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import (
    DataError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from loyalty_gateway.journal import migrations, schema
from loyalty_gateway.journal.store import Examination, JournalRefused, Row, Trouble

_ROWS_FAULTS = (IntegrityError, DataError, InterfaceError, ProgrammingError)
_READERS = 2
_BACKGROUND = 1
_BUSY_TIMEOUT_MS = 5_000

_columns = [column.name for column in schema.booking.c]
_insert_booking = text(
    f"INSERT INTO booking ({', '.join(_columns)}) SELECT :{', :'.join(_columns)}"
    # A tombstone has no account, and an undo passes; every other booking waits for an account
    # that is held.
    f" WHERE :operation IN {schema.UNDOES} OR"
    " NOT EXISTS (SELECT 1 FROM account_hold h WHERE h.tenant = :tenant"
    " AND h.connection = :connection AND h.account_hash = :account_hash)"
    " ON CONFLICT (tenant, request_id) DO NOTHING"
)
_insert_attempt = insert(schema.attempt).on_conflict_do_nothing(
    index_elements=["tenant", "booking_id", "number"]
)
_insert_history = insert(schema.history)
# What is this booking's already stays so; what is another's breaks the key.
_names = [column.name for column in schema.vendor_reference.c]
_insert_reference = text(
    f"INSERT INTO vendor_reference ({', '.join(_names)}) SELECT :{', :'.join(_names)}"
    " WHERE NOT EXISTS (SELECT 1 FROM vendor_reference k WHERE k.tenant = :tenant"
    " AND k.connection = :connection AND k.kind = :kind AND k.value = :value"
    " AND k.booking_id = :booking_id)"
)
_update_booking = (
    update(schema.booking)
    .where(
        schema.booking.c.tenant == bindparam("b_tenant"),
        schema.booking.c.booking_id == bindparam("b_booking_id"),
        schema.booking.c.epoch == bindparam("b_epoch"),
        schema.booking.c.state == bindparam("b_state"),
    )
    .values({name: bindparam(name) for name in schema.MUTABLE})
)
_DUE = text(
    "SELECT booking_id FROM booking WHERE tenant = :tenant AND next_attempt_time <= :now_us"
    f" AND {schema.IS_OPEN}"
    " AND (lease_until IS NULL OR lease_until <= :now_us) AND booking_id NOT IN :flying"
    " AND (state <> 'IN_DOUBT' OR connection NOT IN :paused)"
    " ORDER BY next_attempt_time LIMIT :limit"
).bindparams(bindparam("flying", expanding=True), bindparam("paused", expanding=True))


class SqliteStore:
    """One SQLite file (WAL, synchronous FULL) under a file lock."""

    is_shared = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None
        self._last_us = 0
        self._clock_offset_us = (time.time_ns() - time.monotonic_ns()) // 1000
        self.engine: Engine
        self.background: Engine
        self._writers: Engine

    # --- life -------------------------------------------------------------------------------

    def start(self, salt_check: bytes) -> None:
        try:
            self._start(salt_check)
        except (OSError, SQLAlchemyError) as error:
            cause = getattr(error, "orig", None) or error
            raise JournalRefused(
                f"The journal {self._path} cannot be used: {cause}. It must be a file of this"
                " gateway's own in a folder that it may write to."
            ) from error

    def _start(self, salt_check: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_file(self._path)
        if not self._path.exists():
            # Born private: the file holds sealed account ids.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        self.engine = _make_engine(self._path, _READERS)
        self.background = _make_engine(self._path, _BACKGROUND)
        self._writers = _make_engine(self._path, 1)
        with self._writers.begin() as connection:
            migrations.migrate(connection)
            migrations.check_deployment(connection, salt_check)

    def stop(self) -> None:
        for engine in ("engine", "background", "_writers"):
            if hasattr(self, engine):
                getattr(self, engine).dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def examine(self, salt_check: bytes) -> Examination:
        path = self._path
        try:
            folder = next(each for each in path.absolute().parents if each.exists())
            if not os.access(folder, os.W_OK | os.X_OK):
                raise JournalRefused(f"The folder {folder} cannot be written to.")
            free_bytes = shutil.disk_usage(folder).free
            if _is_locked(path):
                return Examination(is_in_use=True, free_bytes=free_bytes)
            if not path.exists():
                return Examination(free_bytes=free_bytes)
            engine = create_engine("sqlite://", creator=partial(_open_to_read, path))
            try:
                with engine.connect() as connection:
                    revision = migrations.examine(connection, salt_check)
            finally:
                engine.dispose()
        except (OSError, SQLAlchemyError) as error:
            cause = getattr(error, "orig", None) or error
            raise JournalRefused(f"The journal {path} cannot be read: {cause}.") from error
        return Examination(revision, free_bytes=free_bytes)

    def writer(self) -> Connection:
        connection = self._writers.connect()
        mode = connection.execute(text("PRAGMA journal_mode")).scalar_one()
        synchronous = connection.execute(text("PRAGMA synchronous")).scalar_one()
        connection.rollback()
        if mode != "wal" or synchronous != 2:
            connection.close()
            raise JournalRefused(
                f"The journal's file is in mode {mode} with synchronous={synchronous}; it must"
                " be wal and 2 (FULL). Is the file on a network share?"
            )
        return connection

    # --- statements --------------------------------------------------------------------------

    def begin_whole(self, connection: Connection) -> None:
        """Every batch is a transaction here."""

    def lock_account(self, connection: Connection, account_hash: bytes) -> None:
        """There is one writer here."""

    def insert(
        self, connection: Connection, bookings: Sequence[Row], histories: Sequence[Row]
    ) -> set[str]:
        connection.execute(_insert_booking, list(bookings))
        ids = [row["booking_id"] for row in bookings]
        table = schema.booking
        new = set(
            connection.execute(
                select(table.c.booking_id).where(
                    table.c.tenant.in_({row["tenant"] for row in bookings}),
                    table.c.booking_id.in_(ids),
                )
            ).scalars()
        )
        rows = [row for row in histories if row["booking_id"] in new]
        if rows:
            connection.execute(_insert_history, rows)
        return new

    def update(
        self,
        connection: Connection,
        bookings: Sequence[Row],
        histories: Sequence[Row],
        attempts: Sequence[Row],
        references: Sequence[Row] = (),
    ) -> set[str]:
        rows = [
            {
                "b_tenant": row["tenant"],
                "b_booking_id": row["booking_id"],
                "b_epoch": row["epoch"] - 1,
                "b_state": move["from_state"],
                **{name: row[name] for name in schema.MUTABLE},
            }
            for row, move in zip(bookings, histories, strict=True)
        ]
        connection.exec_driver_sql("SAVEPOINT together")
        if connection.execute(_update_booking, rows).rowcount == len(rows):
            landed = {row["booking_id"] for row in bookings}
        else:
            # Somebody else moved one of them: one at a time tells which.
            connection.exec_driver_sql("ROLLBACK TO together")
            landed = {
                row["b_booking_id"]
                for row in rows
                if connection.execute(_update_booking, row).rowcount == 1
            }
        connection.exec_driver_sql("RELEASE together")
        moves = [row for row in histories if row["booking_id"] in landed]
        tries = [row for row in attempts if row["booking_id"] in landed]
        if moves:
            connection.execute(_insert_history, moves)
        if tries:
            connection.execute(_insert_attempt, tries)
        claims = [row for row in references if row["booking_id"] in landed]
        if claims:
            connection.execute(_insert_reference, claims)
        return landed

    def claim(
        self,
        connection: Connection,
        tenant: str,
        owner: str,
        now_us: int,
        lease_us: int,
        limit: int,
        flying: Sequence[str],
        paused: Sequence[str],
    ) -> set[str]:
        parameters = {
            "tenant": tenant,
            "now_us": now_us,
            "limit": limit,
            "flying": list(flying),
            "paused": list(paused),
        }
        ids = list(connection.execute(_DUE, parameters).scalars())
        table, moves = schema.booking, schema.history
        mine = (table.c.tenant == tenant) & table.c.booking_id.in_(ids)
        if ids:
            connection.execute(
                update(table)
                .where(mine)
                .values(
                    owner=owner,
                    lease_until=now_us + lease_us,
                    next_attempt_time=now_us + lease_us,
                    epoch=table.c.epoch + 1,
                )
            )
            columns = [column.name for column in moves.c]
            taken = select(
                table.c.tenant,
                table.c.booking_id,
                table.c.epoch,
                table.c.state,
                table.c.state,
                text("'recovery'"),
                text(str(int(now_us))),
                text("'taken up'"),
            ).where(mine)
            connection.execute(insert(moves).from_select(columns, taken))
        return set(ids)

    # --- clock and errors ----------------------------------------------------------------------

    def now_us(self) -> int:
        # A wall clock that is set back or forth while the process lives must neither stop
        # recovery nor cut a settle time short, so it is read once and counted on from there.
        now_us = time.monotonic_ns() // 1000 + self._clock_offset_us
        self._last_us = max(self._last_us + 1, now_us)
        return self._last_us

    def keep_clock(self, connection: Connection) -> None:
        """The clock of the file is this machine's own."""

    def try_alone(self, name: str) -> Callable[[], None] | None:
        # The file has one process.
        return lambda: None

    def trouble(self, error: BaseException) -> Trouble:
        if isinstance(error, PoolTimeout):
            return Trouble.REFUSED
        if not isinstance(error, SQLAlchemyError):
            # About a value: half a surrogate pair, a row that cannot be understood.
            return Trouble.ROW
        is_rows = isinstance(error, _ROWS_FAULTS) and not error.connection_invalidated
        # All the rest is the file's: disk full, locked, I/O error.
        return Trouble.ROW if is_rows else Trouble.LOST


def _lock_file(path: Path) -> int:
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


def _is_locked(path: Path) -> bool:
    """Whether a process has the journal at this moment."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, and for the length of this call alone: a server that starts must not miss it.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _make_engine(path: Path, size: int) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=1,
        pool_timeout=_BUSY_TIMEOUT_MS / 1000,
        connect_args={"check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _prepare(dbapi_connection: Any, _record: Any) -> None:
        # The driver must not begin transactions of its own: BEGIN is ours, below.
        dbapi_connection.isolation_level = None
        cursor = dbapi_connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine
