"""Group commit: whatever opens and changes arrive while one commit runs share the next one.

One thread owns the one writing connection. Changes go first and in their own transaction,
since they free callers; a row that the database refuses is bisected out, so that its
neighbours live. Nothing is reported done before its COMMIT returned.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, bindparam, select, tuple_, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import (
    DataError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    SQLAlchemyError,
)

from loyalty_gateway.domain.booking import TRANSITIONS, Attempt, Booking
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.rows import attempt_row, booking_from_row, booking_row, mutable_row
from loyalty_gateway.telemetry import metrics


@dataclass(frozen=True, slots=True)
class Opening:
    """A booking to insert; it meets its own request_id if that is taken already."""

    booking: Booking
    actor: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """The row that stands under the request_id; `is_new` when it is the one handed in."""

    booking: Booking
    is_new: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A move from one booking to the next; written only over `before`'s state and epoch."""

    before: Booking
    after: Booking
    actor: str
    note: str = ""
    attempt: Attempt | None = None

    def __post_init__(self) -> None:
        move = (self.before.state, self.after.state)
        is_note_only = self.before.state == self.after.state
        assert move in TRANSITIONS or is_note_only, f"no such move: {move}"
        assert self.after.epoch == self.before.epoch + 1, "every change raises the epoch"


_BATCH_MAX = 512
_PROBE_EVERY_S = 1.0
_PROBE_BYTES = 65_536
_ROWS_FAULTS = (IntegrityError, DataError, InterfaceError, ProgrammingError)

_insert_booking = insert(schema.booking).on_conflict_do_nothing(
    index_elements=["tenant", "request_id"]
)
_insert_attempt = insert(schema.attempt).on_conflict_do_nothing(
    index_elements=["tenant", "booking_id", "number"]
)
_insert_history = insert(schema.history)
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


def _history_row(
    booking: Booking, before: Booking | None, actor: str, note: str, now_us: int
) -> Any:
    return {
        "tenant": booking.tenant,
        "booking_id": booking.booking_id,
        "sequence": booking.epoch,
        "from_state": before.state.value if before else "",
        "to_state": booking.state.value,
        "actor": actor,
        "time": now_us,
        "note": note,
    }


def _key(opening: Opening) -> tuple[str, str]:
    return (opening.booking.tenant, opening.booking.request_id)


def _apply_openings(
    connection: Connection, openings: Sequence[Opening], now_us: int
) -> list[Opened]:
    connection.execute(_insert_booking, [booking_row(opening.booking) for opening in openings])
    table = schema.booking
    key = tuple_(table.c.tenant, table.c.request_id)
    holders = {
        (row.tenant, row.request_id): row.booking_id
        for row in connection.execute(
            select(table.c.tenant, table.c.request_id, table.c.booking_id).where(
                key.in_({_key(opening) for opening in openings})
            )
        )
    }
    new = [it for it in openings if holders[_key(it)] == it.booking.booking_id]
    if new:
        connection.execute(
            _insert_history,
            [_history_row(it.booking, None, it.actor, it.note, now_us) for it in new],
        )
    # Whole rows are read of those alone that met another booking: most openings are new.
    met = {_key(it) for it in openings if holders[_key(it)] != it.booking.booking_id}
    known: dict[tuple[str, str], RowMapping] = {}
    if met:
        found = connection.execute(select(table).where(key.in_(met))).mappings()
        known = {(row["tenant"], row["request_id"]): row for row in found}
    return [
        Opened(it.booking, True)
        if holders[_key(it)] == it.booking.booking_id
        else Opened(booking_from_row(known[_key(it)]), False)
        for it in openings
    ]


def _apply_changes(connection: Connection, changes: Sequence[Change], now_us: int) -> list[bool]:
    rows = [
        {
            "b_tenant": change.before.tenant,
            "b_booking_id": change.before.booking_id,
            "b_epoch": change.before.epoch,
            "b_state": change.before.state.value,
            **mutable_row(change.after),
        }
        for change in changes
    ]
    result = connection.execute(_update_booking, rows)
    landed = [True] * len(changes)
    if result.rowcount != len(changes):
        # Someone else moved one of them: find out which, by applying one at a time what is left.
        connection.rollback()
        connection.begin()
        landed = [connection.execute(_update_booking, row).rowcount == 1 for row in rows]
    histories = [
        _history_row(change.after, change.before, change.actor, change.note, now_us)
        for change, is_done in zip(changes, landed, strict=True)
        if is_done
    ]
    attempts = [
        attempt_row(change.before.tenant, change.before.booking_id, change.attempt)
        for change, is_done in zip(changes, landed, strict=True)
        if is_done and change.attempt is not None
    ]
    if histories:
        connection.execute(_insert_history, histories)
    if attempts:
        connection.execute(_insert_attempt, attempts)
    return landed


def unavailable(error: BaseException) -> LoyaltyError:
    """The journal could not be asked or written; says nothing about any booking."""
    failure = LoyaltyError(
        Reason.JOURNAL_UNAVAILABLE,
        "The journal cannot be written at the moment; nothing was sent by this call. Repeat the"
        " same request_id.",
        retry_after_s=1,
    )
    failure.__cause__ = error
    return failure


@dataclass(slots=True)
class _Waiting:
    item: Any
    future: asyncio.Future[Any]


class Writer:
    """The one thread that writes. Its queue is bounded; a full queue is an unavailable journal."""

    def __init__(self, engine: Engine, now_us: Callable[[], int], queue_max: int = 20_000) -> None:
        self._engine = engine
        self._now_us = now_us
        self._queue_max = queue_max
        self._wake = threading.Condition()
        self._changes: deque[_Waiting] = deque()
        self._openings: deque[_Waiting] = deque()
        self._others: deque[_Waiting] = deque()
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_healthy = True

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
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

    async def run(self, work: Callable[[Connection], Any]) -> Any:
        """Any rare write, in a transaction of its own."""
        return await self._enqueue(self._others, work)

    async def _enqueue(self, queue: deque[_Waiting], item: Any) -> Any:
        assert self._loop is not None, "started"
        future: asyncio.Future[Any] = self._loop.create_future()
        with self._wake:
            if self._is_stopping or len(queue) >= self._queue_max:
                raise unavailable(RuntimeError("the writer's queue is full or closed"))
            queue.append(_Waiting(item, future))
            self._wake.notify()
        # The write happens whether or not this caller stays: shielded by not being a task.
        return await asyncio.shield(future)

    # --- the thread ---------------------------------------------------------------------

    def _take(self, queue: deque[_Waiting]) -> list[_Waiting]:
        return [queue.popleft() for _ in range(min(len(queue), _BATCH_MAX))]

    def _run(self) -> None:
        with self._engine.connect() as connection:
            while True:
                with self._wake:
                    while not (
                        self._changes or self._openings or self._others or self._is_stopping
                    ):
                        if not self._wake.wait(None if self.is_healthy else _PROBE_EVERY_S):
                            break
                    changes = self._take(self._changes)
                    openings = self._take(self._openings)
                    others = self._take(self._others)
                    if self._is_stopping and not (changes or openings or others):
                        return
                if not (changes or openings or others):
                    # Whoever is told that the journal is out of order sends no bookings, so
                    # the writer itself must find out when it works again.
                    self._commit(connection, [_fill, _clear], _apply_other)
                self._flush("change", connection, changes, _apply_changes)
                self._flush("open", connection, openings, _apply_openings)
                for other in others:
                    self._flush("other", connection, [other], _apply_other)

    def _flush(
        self,
        kind: str,
        connection: Connection,
        waiting: list[_Waiting],
        apply: Callable[[Connection, Sequence[Any], int], Sequence[Any]],
    ) -> None:
        if not waiting:
            return
        started = monotonic()
        results = self._commit(connection, [entry.item for entry in waiting], apply)
        metrics.journal_flushed(kind, len(waiting), monotonic() - started)
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_resolve, waiting, results)
        except RuntimeError:
            # The loop is closed: nobody is left to hear, and what was written stays written.
            return

    def _commit(
        self,
        connection: Connection,
        items: list[Any],
        apply: Callable[[Connection, Sequence[Any], int], Sequence[Any]],
    ) -> list[Any]:
        """One result or one exception for each item."""
        try:
            connection.begin()
            results = list(apply(connection, items, self._now_us()))
            connection.commit()
            self.is_healthy = True
            return results
        except BaseException as error:
            _quiet_rollback(connection)
            if _is_the_rows_fault(error):
                if len(items) == 1:
                    return [error]
                middle = len(items) // 2
                return [
                    *self._commit(connection, items[:middle], apply),
                    *self._commit(connection, items[middle:], apply),
                ]
            self.is_healthy = not isinstance(error, SQLAlchemyError)
            failure = unavailable(error) if isinstance(error, SQLAlchemyError) else error
            return [failure] * len(items)


def _apply_other(
    connection: Connection, works: Sequence[Callable[[Connection], Any]], now_us: int
) -> list[Any]:
    return [work(connection) for work in works]


def _fill(connection: Connection) -> None:
    """Needs room in the file, as a booking would."""
    connection.execute(schema.deployment.insert().values(name="probe", value=bytes(_PROBE_BYTES)))


def _clear(connection: Connection) -> None:
    connection.execute(schema.deployment.delete().where(schema.deployment.c.name == "probe"))


def _is_the_rows_fault(error: BaseException) -> bool:
    """Whether one row is to blame, not the database: then its neighbours can be saved."""
    if isinstance(error, SQLAlchemyError):
        return isinstance(error, _ROWS_FAULTS) and not error.connection_invalidated
    # What is not the database's complaint is about a value: half a surrogate pair, too large
    # an integer, a known row that cannot be understood.
    return isinstance(error, Exception)


def _quiet_rollback(connection: Connection) -> None:
    try:
        connection.rollback()
    except SQLAlchemyError:
        connection.invalidate()


def _resolve(waiting: list[_Waiting], results: list[Any]) -> None:
    for entry, result in zip(waiting, results, strict=True):
        if entry.future.done():
            continue
        if isinstance(result, BaseException):
            entry.future.set_exception(result)
        else:
            entry.future.set_result(result)
