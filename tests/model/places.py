"""Where the models' journals stand: one example after the other, each on an empty journal."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Protocol

import psycopg

from loyalty_gateway.journal.postgres import PostgresStore
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.journal.store import Store
from tests.booking.house import KEYRING

_MEMORY = Path("/dev/shm")
_FOLDER = str(_MEMORY) if _MEMORY.is_dir() else None
"""The disk's own time is nobody's subject here."""
_EMPTIED = (
    "booking, history, attempt, vendor_reference, account_hold, challenge, promise, deployment"
)


class Jumping(Store, Protocol):
    """A journal whose clock may jump ahead."""

    offset_us: int


class JumpingSqlite(SqliteStore):
    """A file whose clock may jump ahead."""

    offset_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.offset_us


class JumpingPostgres(PostgresStore):
    """A database whose clock may jump ahead.

    One process at a time has it, so what a dead one left is taken over at once, as with a file:
    the models are about what happens to a booking, and not about whose it is.
    """

    is_shared = False
    offset_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.offset_us


class ModelPlace(Protocol):
    """The journal of one example, over all lives of its process."""

    def open(self) -> Jumping:
        """The journal for one life of the process."""
        ...

    def clear(self) -> None:
        """At the end of the example."""
        ...


class FilePlace:
    """A SQLite file of the example's own."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lgmodel-", dir=_FOLDER))
        shutil.copy(_migrated(), self._folder / "journal")

    def open(self) -> Jumping:
        return JumpingSqlite(self._folder / "journal")

    def clear(self) -> None:
        shutil.rmtree(self._folder)


class DatabasePlace:
    """A PostgreSQL database that all examples use, and that each of them finds empty."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.clear()

    def open(self) -> Jumping:
        return JumpingPostgres(self._dsn)

    def clear(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(f"TRUNCATE {_EMPTIED}".encode())


@cache
def _migrated() -> Path:
    """A journal's file with its tables and nothing in it, made once a run."""
    folder = tempfile.mkdtemp(prefix="lgmodel-", dir=_FOLDER)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "journal"
    store = SqliteStore(path)
    store.start(KEYRING.salt_check)
    store.stop()
    return path
