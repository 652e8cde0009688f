"""A vendor's books on disk: one file, one process, one writing thread; it must never know HTTP."""

import asyncio
import fcntl
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from loyalty_gateway.sandbox.book import (
    MONEY,
    POINTS,
    PROGRAMME,
    Book,
    CardSeed,
    Pages,
)
from loyalty_gateway.sandbox.schema import SCHEMA, SCHEMA_VERSION

Result = TypeVar("Result")
Work = tuple[Callable[[Book], Any], Future[Any]]

BATCH_MAX = 256


class LedgerUnusable(Exception):
    """The ledger cannot be opened; the text says what to do."""


class Ledger(Pages):
    """One file, one process, one writing thread.

    Works that arrive together share one commit, so a slow disk delays them but never the event
    loop. Reads run on the loop: they see every commit that was reported, and take microseconds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._works: queue.SimpleQueue[Work | None]
        self._works = queue.SimpleQueue()
        self._thread: threading.Thread
        self._lock_file: Any = None

    async def open(self, seeds: Sequence[CardSeed], *, is_reset: bool = False) -> None:
        """Take the file, create or reset it, and add the seeded cards that are missing.

        Raises: LedgerUnusable when another process has it, or another version wrote it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock()
        try:
            if is_reset:
                self._delete()
            self._connection = _connect(self._path)
            self._create_or_check()
        except BaseException:
            self._unlock()
            raise
        self._thread = threading.Thread(
            target=self._write, name=f"ledger-{self._path.stem}", daemon=True
        )
        self._thread.start()
        await self.run(lambda book: book.seed(seeds))

    async def close(self) -> None:
        """Finish the works that were handed in, and give the file back."""
        self._works.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()
        self._unlock()

    async def run(self, work: Callable[[Book], Result]) -> Result:
        """Run the work in a transaction of its own making and return once it is on disk.

        The caller being cancelled does not take the work back.
        """
        done: Future[Result] = Future()
        self._works.put((work, done))
        return await asyncio.shield(asyncio.wrap_future(done))

    def audit(self) -> list[str]:
        """What double entry finds wrong; empty when every sum is right."""
        uneven = self._connection.execute(
            "SELECT effect_number, unit, SUM(amount) FROM posting"
            " GROUP BY effect_number, unit HAVING SUM(amount) <> 0"
        )
        wrong_cards = self._connection.execute(
            "SELECT card.card_id FROM card LEFT JOIN posting ON account = 'card:' || card.card_id"
            " GROUP BY card.card_id HAVING"
            " balance_minor <> COALESCE(SUM(amount) FILTER (WHERE unit = ?), 0)"
            " OR card.points <> COALESCE(SUM(amount) FILTER (WHERE unit = ?), 0)",
            (MONEY, POINTS),
        )
        wrong_effects = self._connection.execute(
            "SELECT number FROM effect WHERE amount_minor <> (SELECT COALESCE(SUM(amount), 0)"
            " FROM posting WHERE effect_number = number AND unit = ? AND account <> ?)"
            " OR points <> (SELECT COALESCE(SUM(amount), 0)"
            " FROM posting WHERE effect_number = number AND unit = ? AND account <> ?)",
            (MONEY, PROGRAMME, POINTS, PROGRAMME),
        )
        return [
            *(f"effect {number}: {unit} is uneven by {total}" for number, unit, total in uneven),
            *(f"card {card_id}: its balance is not its postings" for (card_id,) in wrong_cards),
            *(f"effect {number}: its amounts are not its postings" for (number,) in wrong_effects),
        ]

    def _lock(self) -> None:
        self._lock_file = self._path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            raise LedgerUnusable(
                f"{self._path} is in use by another player; stop it, or choose another --data-dir"
            ) from error

    def _unlock(self) -> None:
        self._lock_file.close()

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def _create_or_check(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION:
            return
        if version != 0:
            raise LedgerUnusable(f"{self._path} was written by another version; use --reset")
        self._connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";"):
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._connection.execute("COMMIT")

    def _write(self) -> None:
        connection = _connect(self._path)
        try:
            while True:
                batch = self._next_batch()
                _commit(connection, [entry for entry in batch if entry is not None])
                if None in batch:
                    return
        finally:
            connection.close()

    def _next_batch(self) -> list[Work | None]:
        batch = [self._works.get()]
        with suppress(queue.Empty):
            while batch[-1] is not None and len(batch) < BATCH_MAX:
                batch.append(self._works.get_nowait())
        return batch


def _commit(connection: sqlite3.Connection, batch: Sequence[Work]) -> None:
    """Run the works, each in its savepoint, and commit them together."""
    results: list[tuple[Future[Any], Any, BaseException | None]] = []
    book = Book(connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for work, done in batch:
            connection.execute("SAVEPOINT work")
            try:
                results.append((done, work(book), None))
            except Exception as error:
                connection.execute("ROLLBACK TO work")
                results.append((done, None, error))
            connection.execute("RELEASE work")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        # Nothing of the batch may be reported as done when the commit was not.
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        results = [(done, None, error) for _, done in batch]
    for done, result, failure in results:
        if failure is None:
            done.set_result(result)
        else:
            done.set_exception(failure)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection
