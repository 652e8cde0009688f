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
from time import monotonic
from typing import Any

from sqlalchemy import Connection, select, text, tuple_
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from loyalty_gateway import failpoints
from loyalty_gateway.domain.booking import TRANSITIONS, Attempt, Booking, State
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.rows import (
    ACTOR_MAX,
    attempt_row,
    booking_from_row,
    booking_row,
    changed_row,
    storable,
)
from loyalty_gateway.journal.store import JournalRefused, Row, Store, Trouble
from loyalty_gateway.telemetry import metrics

log = logging.getLogger(__name__)

_BATCH_MAX = 512
_RETRIES = 3
_PROBE_EVERY_S = 1.0
_PROBE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Opening:
    """A booking to insert; it meets its own request_id if that is taken already."""

    booking: Booking
    actor: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """The row that stands under the request_id; `is_new` when it is the one handed in.

    `is_held` when nothing stands there, because another booking holds the account.
    """

    booking: Booking
    is_new: bool
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A move from one booking to the next; written only over `before`'s state and epoch."""

    before: Booking
    after: Booking
    actor: str
    note: str = ""
    attempt: Attempt | None = None
    holds_account: bool | None = None
    """True writes a hold on the booking's account, False releases it, None leaves it."""

    def __post_init__(self) -> None:
        move = (self.before.state, self.after.state)
        is_note_only = self.before.state == self.after.state
        assert move in TRANSITIONS or is_note_only, f"no such move: {move}"
        assert self.after.epoch == self.before.epoch + 1, "every change raises the epoch"


@dataclass(frozen=True, slots=True)
class Claim:
    """A wish to take due bookings for the length of a lease."""

    tenant: str
    owner: str
    lease_us: int
    limit: int
    flying: tuple[str, ...] = ()
    """Bookings that are not taken, because this process still works on them."""


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
        self._queue_max = queue_max
        self._wake = threading.Condition()
        self._changes: deque[_Waiting] = deque()
        self._openings: deque[_Waiting] = deque()
        self._others: deque[_Waiting] = deque()
        self._is_stopping = False
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_healthy = False

    async def start(self) -> None:
        """Connects, then begins to write. Raises JournalRefused."""
        self._loop = asyncio.get_running_loop()
        self._connection = await asyncio.to_thread(self._store.writer)
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
            )

        return await self.run(work)  # type: ignore[no-any-return]

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
        # The write happens whether or not this caller stays, so leaving cancels nothing.
        return await asyncio.shield(future)

    # --- the thread ---------------------------------------------------------------------

    def _take(self, queue: deque[_Waiting]) -> list[_Waiting]:
        return [queue.popleft() for _ in range(min(len(queue), _BATCH_MAX))]

    def _run(self) -> None:
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
            self._flush("change", changes, self._apply_changes, self._found_changes)
            self._flush("open", openings, self._apply_openings, self._found_openings)
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
                if isinstance(error, IntegrityError) and not tries:
                    return self._commit(items, apply, found, tries + 1)
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
        except (SQLAlchemyError, JournalRefused) as second:
            self._unhealthy(second)
            return [unavailable(second)] * len(items)
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

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._store.writer()
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
            try:
                connection.invalidate()
                connection.close()
            except SQLAlchemyError:
                log.debug("A broken connection could not be closed in order")

    def _unhealthy(self, error: BaseException) -> None:
        if self.is_healthy:
            cause = getattr(error, "orig", None) or error
            is_ours = isinstance(cause, JournalRefused)
            log.error(
                "The journal cannot be written: %s", cause if is_ours else type(cause).__name__
            )
        self.is_healthy = False

    # --- what is written ------------------------------------------------------------------

    def _apply_openings(self, connection: Connection, openings: Sequence[Opening]) -> list[Opened]:
        now_us = self._store.now_us()
        # The second of two equal keys in one batch meets the first.
        firsts: dict[tuple[str, str], Opening] = {}
        for opening in openings:
            firsts.setdefault((opening.booking.tenant, opening.booking.request_id), opening)
        new = self._store.insert(
            connection,
            [booking_row(opening.booking) for opening in firsts.values()],
            [
                _history_row(opening.booking, None, opening.actor, opening.note, now_us)
                for opening in firsts.values()
            ],
        )
        missing = [o for o in openings if o.booking.booking_id not in new]
        known = _standing(connection, missing)
        answers: list[Opened] = []
        for opening in openings:
            booking = opening.booking
            if booking.booking_id in new:
                answers.append(Opened(booking, True))
                continue
            found = known.get((booking.tenant, booking.request_id))
            if found is None:
                answers.append(Opened(booking, False, is_held=True))
            else:
                # A batch that was tried again may meet what it wrote itself.
                answers.append(Opened(found, found.booking_id == booking.booking_id))
        return answers

    def _found_openings(
        self, connection: Connection, openings: Sequence[Opening]
    ) -> list[Opened | None]:
        """After a lost commit: what stands under each request_id, None where nothing does."""
        known = _standing(connection, openings)
        answers: list[Opened | None] = []
        for opening in openings:
            booking = known.get((opening.booking.tenant, opening.booking.request_id))
            is_ours = booking is not None and booking.booking_id == opening.booking.booking_id
            answers.append(None if booking is None else Opened(booking, is_ours))
        return answers

    def _apply_changes(self, connection: Connection, changes: Sequence[Change]) -> list[bool]:
        # One statement moves a booking once. Two changes of one booking in a batch go one after
        # the other: the first may be stale and the second the one that must land.
        rounds: list[list[Change]] = []
        places: dict[tuple[str, str], int] = {}
        for change in changes:
            key = (change.before.tenant, change.before.booking_id)
            place = places[key] = places.get(key, -1) + 1
            if place == len(rounds):
                rounds.append([])
            rounds[place].append(change)
        if len(rounds) > 1 or any(change.holds_account is not None for change in changes):
            self._store.begin_whole(connection)
        landed: set[int] = set()
        for chosen in rounds:
            landed |= self._apply_round(connection, chosen)
        return [id(change) in landed for change in changes]

    def _apply_round(self, connection: Connection, changes: Sequence[Change]) -> set[int]:
        """Changes of different bookings; the identities of those that landed."""
        now_us = self._store.now_us()
        ids = self._store.update(
            connection,
            [changed_row(change.after) for change in changes],
            [
                _history_row(change.after, change.before, change.actor, change.note, now_us)
                for change in changes
            ],
            [
                attempt_row(change.before.tenant, change.before.booking_id, change.attempt)
                for change in changes
                if change.attempt is not None
            ],
        )
        landed = [change for change in changes if change.before.booking_id in ids]
        self._apply_holds(connection, landed)
        return set(map(id, landed))

    def _apply_holds(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Rare, so one statement each; a hold comes with the doubt and goes with it."""
        table = schema.account_hold
        for change in changes:
            after = change.after
            if change.holds_account is True:
                connection.execute(
                    text(
                        "INSERT INTO account_hold"
                        " (tenant, connection, account_hash, root_booking, create_time)"
                        " VALUES (:tenant, :connection, :account_hash, :root, :now_us)"
                        " ON CONFLICT DO NOTHING"
                    ),
                    {
                        "tenant": after.tenant,
                        "connection": after.connection,
                        "account_hash": after.account_hash,
                        "root": after.booking_id,
                        "now_us": self._store.now_us(),
                    },
                )
            elif change.holds_account is False:
                connection.execute(
                    table.delete().where(
                        table.c.tenant == after.tenant,
                        table.c.connection == after.connection,
                        table.c.account_hash == after.account_hash,
                        table.c.root_booking == after.booking_id,
                    )
                )

    def _found_changes(
        self, connection: Connection, changes: Sequence[Change]
    ) -> list[bool | None]:
        """After a lost commit: whether each change stands, None where nothing has moved."""
        table = schema.booking
        keys = {(change.before.tenant, change.before.booking_id) for change in changes}
        rows = connection.execute(
            select(
                table.c.tenant, table.c.booking_id, table.c.epoch, table.c.state, table.c.owner
            ).where(tuple_(table.c.tenant, table.c.booking_id).in_(keys))
        )
        standing = {(row.tenant, row.booking_id): row for row in rows}
        answers: list[bool | None] = []
        for change in changes:
            row = standing[(change.before.tenant, change.before.booking_id)]
            if row.epoch == change.before.epoch:
                answers.append(None)
            else:
                after = change.after
                answers.append(
                    (row.epoch, State(row.state), row.owner)
                    == (after.epoch, after.state, after.owner)
                )
        return answers


def _standing(
    connection: Connection, openings: Sequence[Opening]
) -> dict[tuple[str, str], Booking]:
    """The bookings that stand under these request_ids, read in a statement of their own."""
    if not openings:
        return {}
    table = schema.booking
    keys = {(opening.booking.tenant, opening.booking.request_id) for opening in openings}
    rows = connection.execute(
        select(table).where(tuple_(table.c.tenant, table.c.request_id).in_(keys))
    ).mappings()
    return {(row["tenant"], row["request_id"]): booking_from_row(row) for row in rows}


def _history_row(
    booking: Booking, before: Booking | None, actor: str, note: str, now_us: int
) -> Row:
    return {
        "tenant": booking.tenant,
        "booking_id": booking.booking_id,
        "sequence": booking.epoch,
        "from_state": before.state.value if before else "",
        "to_state": booking.state.value,
        "actor": storable(actor, ACTOR_MAX),
        "time": now_us,
        "note": storable(note),
    }


def _key(entry: _Waiting) -> tuple[str, str]:
    match entry.item:
        case Opening(booking):
            return booking.tenant, booking.request_id
        case Change(before):
            return before.tenant, before.booking_id
    return "", ""


def _apply_other(connection: Connection, works: Sequence[Callable[[Connection], Any]]) -> list[Any]:
    return [work(connection) for work in works]


def _fill(connection: Connection) -> None:
    """Needs room in the database, as a booking would."""
    connection.execute(schema.deployment.insert().values(name="probe", value=bytes(_PROBE_BYTES)))


def _clear(connection: Connection) -> None:
    connection.execute(schema.deployment.delete().where(schema.deployment.c.name == "probe"))


def _resolve(waiting: list[_Waiting], results: list[Any]) -> None:
    for entry, result in zip(waiting, results, strict=True):
        if entry.future.done():
            continue
        if isinstance(result, BaseException):
            entry.future.set_exception(result)
        else:
            entry.future.set_result(result)
