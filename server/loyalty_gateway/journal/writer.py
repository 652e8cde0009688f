"""Group commit: whatever opens and changes arrive while one commit runs share the next one.

One thread owns the one writing connection. Changes go first and in their own transaction,
since they free callers; a row that the database refuses is bisected out, so that its
neighbours live; a commit whose answer was lost is read again before anything is concluded.
Nothing is reported done before its COMMIT returned.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from secrets import token_bytes
from time import monotonic
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from loyalty_gateway import failpoints
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.batches import Batches, Change, Claim, Opened, Opening
from loyalty_gateway.journal.store import JournalRefused, Store, Trouble
from loyalty_gateway.telemetry import metrics

__all__ = ["Change", "Claim", "Opened", "Opening", "Writer", "unavailable"]

log = logging.getLogger(__name__)

_BATCH_MAX = 512
_RETRIES = 3
_PROBE_EVERY_S = 1.0
_PROBE_BYTES = 65_536
_REFUSED_S = 0.5
_TOUCH = text(
    "INSERT INTO deployment (name, value) VALUES ('touch', :value)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)


def unavailable(error: BaseException) -> LoyaltyError:
    """The journal could not be asked or written; says nothing about any booking."""
    failure = LoyaltyError(
        Reason.JOURNAL_UNAVAILABLE,
        "The journal cannot be reached or written at the moment; nothing was sent by this call."
        " Repeat the same request_id.",
        retry_after_s=1,
    )
    failure.__cause__ = error
    return failure


@dataclass(slots=True)
class _Waiting:
    item: Any
    future: asyncio.Future[Any]


_Apply = Callable[[Connection, Sequence[Any]], Sequence[Any]]


class Writer:
    """The one thread that writes. Its queues are bounded; a full one is an unavailable journal."""

    def __init__(self, store: Store, queue_max: int = 20_000) -> None:
        self._store = store
        self._batches = Batches(store)
        self._queue_max = queue_max
        self._wake = threading.Condition()
        self._changes: deque[_Waiting] = deque()
        self._openings: deque[_Waiting] = deque()
        self._others: deque[_Waiting] = deque()
        self._is_stopping = False
        self._connection: Connection | None = None
        self._refusal: Exception | None = None
        self._refused_s = 0.0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_healthy = False

    async def start(self) -> None:
        """Connects, then begins to write. Raises JournalRefused."""
        self._loop = asyncio.get_running_loop()
        try:
            self._connection = await asyncio.to_thread(self._store.writer)
        except SQLAlchemyError as error:
            raise JournalRefused(
                "The journal's database went away while the journal was opened:"
                f" {type(getattr(error, 'orig', None) or error).__name__}."
            ) from error
        self.is_healthy = True
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Writes what waits, then ends the thread."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    async def open(self, opening: Opening) -> Opened:
        """Raises LoyaltyError JOURNAL_UNAVAILABLE; then nothing may be sent."""
        return await self._enqueue(self._openings, opening)  # type: ignore[no-any-return]

    async def change(self, change: Change) -> bool:
        """Whether the change landed; False when somebody else moved the booking meanwhile."""
        return await self._enqueue(self._changes, change)  # type: ignore[no-any-return]

    async def claim(self, claim: Claim) -> set[str]:
        """The ids of the bookings taken."""
        store = self._store

        def work(connection: Connection) -> set[str]:
            return store.claim(
                connection,
                claim.tenant,
                claim.owner,
                store.now_us(),
                claim.lease_us,
                claim.limit,
                claim.flying,
                claim.paused,
            )

        return await self.run(work)  # type: ignore[no-any-return]

    async def run(self, work: Callable[[Connection], Any]) -> Any:
        """Any rare write. PostgreSQL commits each of its statements by itself."""
        return await self._enqueue(self._others, work)

    async def _enqueue(self, queue: deque[_Waiting], item: Any) -> Any:
        assert self._loop is not None, "started"
        future: asyncio.Future[Any] = self._loop.create_future()
        with self._wake:
            if self._is_stopping or len(queue) >= self._queue_max:
                raise unavailable(RuntimeError("the writer's queue is full or closed"))
            queue.append(_Waiting(item, future))
            self._wake.notify()
        # The write happens whether or not this caller stays, so leaving cancels nothing.
        return await asyncio.shield(future)

    # --- the thread ---------------------------------------------------------------------

    def _take(self, queue: deque[_Waiting]) -> list[_Waiting]:
        return [queue.popleft() for _ in range(min(len(queue), _BATCH_MAX))]

    def _run(self) -> None:
        batches = self._batches
        while True:
            with self._wake:
                while not (self._changes or self._openings or self._others or self._is_stopping):
                    if not self._wake.wait(None if self.is_healthy else _PROBE_EVERY_S):
                        break
                changes = self._take(self._changes)
                openings = self._take(self._openings)
                others = self._take(self._others)
                if self._is_stopping and not (changes or openings or others):
                    break
            if not (changes or openings or others):
                # Whoever is told that the journal is out of order sends no bookings, so the
                # writer itself must find out when it works again.
                self._commit([_clear, _fill, _clear], _apply_other, None)
            self._flush("change", changes, batches.apply_changes, batches.found_changes)
            self._flush("open", openings, batches.apply_openings, batches.found_openings)
            for other in others:
                self._flush("other", [other], _apply_other, None)
        self._disconnect()

    def _flush(
        self,
        kind: str,
        waiting: list[_Waiting],
        apply: _Apply,
        found: _Apply | None,
    ) -> None:
        if not waiting:
            return
        started = monotonic()
        # One order everywhere, so that two replicas never wait for each other's rows.
        waiting.sort(key=_key)
        try:
            results = self._commit([entry.item for entry in waiting], apply, found)
        except Exception as error:
            # The thread's root: whatever is wrong, those who wait must hear, and it goes on.
            log.exception("The journal's writer failed")
            results = [unavailable(error)] * len(waiting)
        metrics.journal_flushed(kind, len(waiting), monotonic() - started)
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_resolve, waiting, results)
        except RuntimeError:
            # The loop is closed: nobody is left to hear, and what was written stays written.
            return

    def _commit(
        self, items: list[Any], apply: _Apply, found: _Apply | None, tries: int = 0
    ) -> list[Any]:
        """One result or one exception for each item."""
        try:
            connection = self._connected()
        except (SQLAlchemyError, JournalRefused) as error:
            self._unhealthy(error)
            return [unavailable(error)] * len(items)
        try:
            failpoints.hit("before-commit")
            with connection.begin():
                results = list(apply(connection, items))
            failpoints.hit("after-commit")
        except Exception as error:
            return self._failed(error, items, apply, found, tries)
        self.is_healthy = True
        return results

    def _failed(
        self,
        error: Exception,
        items: list[Any],
        apply: _Apply,
        found: _Apply | None,
        tries: int,
    ) -> list[Any]:
        trouble = self._store.trouble(error)
        if trouble is Trouble.ROW:
            if len(items) == 1:
                # Of two replicas that open one request_id at the same moment the second may meet
                # the outbound id first, which is derived from it; by now it finds the booking.
                # Likewise a settle's reference may have become another booking's meanwhile.
                if isinstance(error, IntegrityError) and not tries:
                    return self._commit(items, apply, found, tries + 1)
                if isinstance(error, IntegrityError) and _claims(items[0]) and tries == 1:
                    contradicted = self._batches.apply_contradicted
                    return self._commit(items, contradicted, found, tries + 1)
                return [error]
            middle = len(items) // 2
            return [
                *self._commit(items[:middle], apply, found),
                *self._commit(items[middle:], apply, found),
            ]
        if trouble is Trouble.RETRY and tries < _RETRIES:
            return self._commit(items, apply, found, tries + 1)
        if trouble is Trouble.LOST:
            # Another server may answer from now on; and the commit may have gone through.
            self._disconnect()
            if found is not None:
                return self._read_again(error, items, apply, found, tries)
        self._unhealthy(error)
        return [unavailable(error)] * len(items)

    def _read_again(
        self, error: Exception, items: list[Any], apply: _Apply, found: _Apply, tries: int
    ) -> list[Any]:
        """What stands after a commit whose answer was lost; what does not is written once more."""
        try:
            connection = self._connected()
            with connection.begin():
                results = list(found(connection, items))
                if any(result is not None for result in results):
                    # It can be read, also where its standby never had it: a commit that was
                    # waiting for one when the server fell is visible after the start. This one
                    # comes after it, and waits for the standby too.
                    _touch(connection)
        except (SQLAlchemyError, JournalRefused) as second:
            # Another server may answer from now on here too.
            self._disconnect()
            self._unhealthy(second)
            return [unavailable(second)] * len(items)
        except LoyaltyError as damage:
            return self._read_apart(damage, error, items, apply, found, tries)
        missing = [number for number, result in enumerate(results) if result is None]
        if missing and tries == 0:
            # Safe even if the lost one lands after all: a row is inserted under its request_id
            # and moved from its epoch once.
            again = self._commit([items[number] for number in missing], apply, found, tries + 1)
            for number, result in zip(missing, again, strict=True):
                results[number] = result
        elif missing:
            # It can be read, and yet it was not written: a full disk, say.
            self._unhealthy(error)
        return [unavailable(error) if result is None else result for result in results]

    def _read_apart(
        self,
        damage: LoyaltyError,
        error: Exception,
        items: list[Any],
        apply: _Apply,
        found: _Apply,
        tries: int,
    ) -> list[Any]:
        """One of the rows cannot be understood; its neighbours can be read without it."""
        if len(items) == 1:
            # Written once more, it meets the damage as on any other day, or moves on from it.
            return [damage] if tries else self._commit(items, apply, found, tries + 1)
        middle = len(items) // 2
        return [
            *self._read_again(error, items[:middle], apply, found, tries),
            *self._read_again(error, items[middle:], apply, found, tries),
        ]

    def _connected(self) -> Connection:
        if self._connection is not None and self._connection.invalidated:
            # It would connect again by itself, to a server that nobody has checked.
            self._disconnect()
        if self._connection is None:
            # Who did not answer a moment ago is not asked once more for each of those who wait.
            if self._refusal is not None and monotonic() - self._refused_s < _REFUSED_S:
                raise self._refusal
            try:
                self._connection = self._store.writer()
            except (SQLAlchemyError, JournalRefused) as error:
                self._refusal, self._refused_s = error, monotonic()
                raise
            self._refusal = None
            log.info("The journal's writer is connected again")
        else:
            try:
                self._store.keep_clock(self._connection)
            except SQLAlchemyError:
                self._disconnect()
                return self._connected()
        # What was read so far began a transaction of its own.
        self._connection.rollback()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def _unhealthy(self, error: BaseException) -> None:
        if self.is_healthy:
            cause = getattr(error, "orig", None) or error
            is_ours = isinstance(cause, JournalRefused)
            log.error(
                "The journal cannot be written: %s", cause if is_ours else type(cause).__name__
            )
        self.is_healthy = False


def _key(entry: _Waiting) -> tuple[str, str]:
    match entry.item:
        case Opening(booking):
            return booking.tenant, booking.request_id
        case Change(before):
            return before.tenant, before.booking_id
    return "", ""


def _claims(item: object) -> bool:
    return isinstance(item, Change) and item.claims is not None


def _apply_other(connection: Connection, works: Sequence[Callable[[Connection], Any]]) -> list[Any]:
    return [work(connection) for work in works]


def _touch(connection: Connection) -> None:
    """Changes nothing that is ever read, and yet has to be committed as a booking has."""
    # One statement, since PostgreSQL commits each by itself here: a row that was left between
    # two would be in the way of all that follow. SQLite does not write the same value again.
    connection.execute(_TOUCH, {"value": token_bytes(8)})


def _fill(connection: Connection) -> None:
    """Needs room in the database, as a booking would."""
    connection.execute(schema.deployment.insert().values(name="probe", value=bytes(_PROBE_BYTES)))


def _clear(connection: Connection) -> None:
    connection.execute(schema.deployment.delete().where(schema.deployment.c.name == "probe"))


def _resolve(waiting: list[_Waiting], results: list[Any]) -> None:
    for entry, result in zip(waiting, results, strict=True):
        # Nobody else can have ended it: whoever waits has a shield before it.
        if isinstance(result, BaseException):
            entry.future.set_exception(result)
        else:
            entry.future.set_result(result)
