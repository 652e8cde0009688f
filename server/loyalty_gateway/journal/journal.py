"""The journal: written in groups by one thread, read by a few, on either kind of database.

Every method either answers from disk or raises JOURNAL_UNAVAILABLE; nothing is cached.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Engine, RowMapping, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from loyalty_gateway.domain.booking import Attempt, Booking, HistoryEntry, State
from loyalty_gateway.domain.errors import LoyaltyError
from loyalty_gateway.domain.operations import Reference
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.challenges import (
    Challenge,
    ChallengeState,
    OpenedChallenge,
    find_challenge,
    open_challenge,
    prune_challenges,
    settle_challenge,
)
from loyalty_gateway.journal.references import find_holder, find_holders, taken_by_others
from loyalty_gateway.journal.rows import (
    attempt_from_row,
    booking_from_row,
    from_us,
    history_from_row,
    to_us,
)
from loyalty_gateway.journal.store import JournalRefused, Store, Trouble
from loyalty_gateway.journal.writer import Change, Claim, Opened, Opening, Writer, unavailable

__all__ = [
    "Challenge",
    "ChallengeState",
    "Excerpt",
    "Journal",
    "JournalRefused",
    "ListQuery",
    "OpenedChallenge",
    "Page",
    "PromiseRow",
    "Unresolved",
]

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_READERS = 4
_BACKGROUND_READERS = 2
_ALONE_POLL_S = 0.2
_KEPT_EXPIRED = timedelta(hours=1)
"""Longer than anybody who saw a challenge alive goes on with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which bookings of a tenant to read. `after` is the (time, id) of the last one seen."""

    tenant: str
    states: tuple[State, ...] = ()
    connection: str = ""
    incident: str = ""
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
class Page:
    """What can be understood of one page of a list; `next` is its end where more comes after it."""

    bookings: Sequence[Booking]
    next: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The first and the last moves and attempts of a booking, and how many between them are not
    in it."""

    history: Sequence[HistoryEntry]
    attempts: Sequence[Attempt]
    moves_left_out: int = 0
    attempts_left_out: int = 0


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
    oldest: datetime


class Journal:
    """A store and this process in it; `boot_id` is what this process owns bookings by."""

    def __init__(self, store: Store, boot_id: str) -> None:
        self.boot_id = boot_id
        self._store = store
        self._writer = Writer(store)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="journal-reader")
        self._background = ThreadPoolExecutor(
            _BACKGROUND_READERS, thread_name_prefix="journal-background"
        )

    # --- life ---------------------------------------------------------------------------

    async def start(self, salt_check: bytes) -> None:
        """Opens, migrates and checks the database.

        Raises:
            JournalRefused: it is another process's, another deployment's, newer than this
                program, not to be had, or not as durable as promised.
        """
        await asyncio.to_thread(self._store.start, salt_check)
        await self._writer.start()

    async def stop(self) -> None:
        """Writes what waits, closes the database and gives a lock back."""
        await self._writer.stop()
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._background.shutdown)
        await asyncio.to_thread(self._store.stop)

    @property
    def is_healthy(self) -> bool:
        """Whether the last write went to disk."""
        return self._writer.is_healthy

    @property
    def is_shared(self) -> bool:
        """Whether other processes may own bookings of this journal."""
        return self._store.is_shared

    def now(self) -> datetime:
        """The database's clock: one for everything that is stored."""
        return _EPOCH + timedelta(microseconds=self._store.now_us())

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Holds a name that no other process on this journal holds; waits until it is free.

        Raises:
            LoyaltyError: JOURNAL_UNAVAILABLE, and then the name is not held.
        """
        while True:
            trying = asyncio.ensure_future(asyncio.to_thread(self._store.try_alone, name))
            try:
                give_back = await asyncio.shield(trying)
            except SQLAlchemyError as error:
                raise unavailable(error) from error
            except asyncio.CancelledError:
                # Its thread goes on, and what it gets is nobody's: others would wait for it.
                with suppress(SQLAlchemyError):
                    not_wanted = await trying
                    if not_wanted is not None:
                        await asyncio.to_thread(not_wanted)
                raise
            if give_back is not None:
                break
            await asyncio.sleep(_ALONE_POLL_S)
        try:
            yield
        finally:
            await asyncio.to_thread(give_back)

    # --- writes ---------------------------------------------------------------------------

    async def open(self, opening: Opening) -> Opened:
        """Inserts a booking or finds the one that has its request_id. On disk on return."""
        return await self._writer.open(opening)

    async def change(self, change: Change) -> bool:
        """Moves a booking on. False when it is no longer as `change.before` says."""
        return await self._writer.change(change)

    async def save_promise(self, tenant: str, row: PromiseRow) -> None:
        """Records what `prove` found, over what was known before."""
        values = {
            "tenant": tenant,
            "connection": row.connection,
            "name": row.name,
            "target_hash": row.target_hash,
            "value": row.value,
            "time": to_us(row.time),
            "evidence": row.evidence,
        }
        await self._writer.run(lambda connection: connection.execute(_SAVE_PROMISE, values))

    async def open_challenge(self, challenge: Challenge) -> OpenedChallenge:
        """Takes a request_id for a code, or finds who has it. On disk on return.

        Of two at one moment one is new. An expired row may be taken anew.
        """
        work = partial(open_challenge, challenge=challenge, now=self.now())
        opened: OpenedChallenge = await self._writer.run(work)
        return opened

    async def settle_challenge(self, challenge: Challenge) -> bool:
        """Writes how an open challenge ended: its state, answer, reason and expire_time.

        False when it is not open any more.
        """
        has_landed: bool = await self._writer.run(partial(settle_challenge, challenge=challenge))
        return has_landed

    async def prune_challenges(self, tenant: str, limit: int) -> bool:
        """Deletes challenges that expired an hour ago or more, at most `limit` of them.

        Whether there may be more of them.
        """
        work = partial(
            prune_challenges, tenant=tenant, before=self.now() - _KEPT_EXPIRED, limit=limit
        )
        count: int = await self._writer.run(work)
        return count == limit

    # --- reads ----------------------------------------------------------------------------

    async def _read(self, query: Callable[[Connection], _T], *, is_background: bool = False) -> _T:
        store = self._store

        def run() -> _T:
            engine = store.background if is_background else store.engine
            try:
                return ask(engine)
            except SQLAlchemyError as error:
                if store.trouble(error) is not Trouble.LOST:
                    raise unavailable(error) from error
            # A pooled connection may have died unseen, and reading again does no harm.
            engine.dispose()
            try:
                return ask(engine)
            except SQLAlchemyError as error:
                raise unavailable(error) from error

        def ask(engine: Engine) -> _T:
            with engine.connect() as connection:
                return query(connection)

        threads = self._background if is_background else self._readers
        return await asyncio.get_running_loop().run_in_executor(threads, run)

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

    async def find_challenge(self, tenant: str, request_id: str) -> Challenge | None:
        """The challenge under this request_id, expired or not, or None."""
        query = partial(find_challenge, tenant=tenant, request_id=request_id)
        return await self._read(query)

    async def find_by_reference(
        self, tenant: str, connection_id: str, kind: str, value: str
    ) -> Booking | None:
        """The booking that a vendor's reference belongs to, or None."""

        def query(connection: Connection) -> str | None:
            return find_holder(connection, tenant, connection_id, kind, value)

        booking_id = await self._read(query)
        return await self.find(tenant, booking_id=booking_id) if booking_id else None

    async def taken_by_others(
        self, booking: Booking, references: Sequence[Reference]
    ) -> frozenset[Reference]:
        """Those of a vendor's references that belong to other bookings than this one."""
        if not references:
            return frozenset()
        return await self._read(
            partial(taken_by_others, booking=booking, references=references), is_background=True
        )

    async def following(self, tenant: str, originals: Sequence[str]) -> Sequence[Booking]:
        """The bookings that undo these or add to them, by the originals' names; oldest first."""
        table = schema.booking
        statement = select(table).where(
            table.c.tenant == tenant,
            text(schema.HAS_ORIGINAL),
            table.c.original_booking.in_(originals),
        )

        def query(connection: Connection) -> Sequence[Booking]:
            rows = connection.execute(statement).mappings()
            found = [booking_from_row(row, checks_answer=False) for row in rows]
            return sorted(found, key=lambda booking: (booking.create_time, booking.booking_id))

        return await self._read(query) if originals else ()

    async def list(self, wanted: ListQuery) -> Page:
        """Bookings newest first, or oldest settled first.

        A row that cannot be understood is logged and left out.
        """
        table = schema.booking
        conditions = [table.c.tenant == wanted.tenant]
        if wanted.states:
            conditions.append(table.c.state.in_([state.value for state in wanted.states]))
        for column, value in (
            (table.c.connection, wanted.connection),
            (table.c.incident, wanted.incident),
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
        statement = statement.where(*conditions).limit(wanted.limit + 1)

        def query(connection: Connection) -> Page:
            rows = connection.execute(statement).mappings().all()
            page = rows[: wanted.limit]
            end = None
            if len(rows) > len(page):
                time_us = page[-1]["settle_time" if wanted.by_settle_time else "create_time"]
                end = (time_us, page[-1]["booking_id"])
            # A list repeats no answer, so a damaged one is no reason to leave a booking out.
            return Page(_understood(page, checks_answer=False), end)

        return await self._read(query)

    async def claim(
        self,
        tenant: str,
        lease_s: float,
        limit: int,
        flying: Collection[str] = (),
        paused: Collection[str] = (),
    ) -> Sequence[Booking]:
        """Takes due open bookings that nobody holds, the longest due first, for a lease.

        What is in `flying` has an owner in this process, whatever its lease says; a doubt of a
        connection in `paused` waits. A row that cannot be understood is logged and left out: it
        must not stop the others.
        """
        lease_us = round(lease_s * 1_000_000)
        claim = Claim(tenant, self.boot_id, lease_us, limit, tuple(flying), tuple(paused))
        ids = await self._writer.claim(claim)
        table = schema.booking
        # Sorted below: SQLite would read all of the tenant's bookings in the order wished for.
        statement = select(table).where(
            table.c.tenant == tenant,
            table.c.booking_id.in_(ids),
            table.c.owner == self.boot_id,
        )

        def query(connection: Connection) -> Sequence[Booking]:
            found = _understood(connection.execute(statement).mappings())
            return sorted(found, key=lambda booking: booking.create_time)

        return await self._read(query, is_background=True) if ids else []

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

        return await self._read(query, is_background=True)

    async def orphans(
        self, tenant: str, limit: int, after: str = ""
    ) -> tuple[Sequence[Booking], str]:
        """Open bookings that another process holds; it is gone where the journal is one's own.

        At most `limit` of those whose ids come after `after`, and the `after` of the next ones,
        empty where these are the last. A row that cannot be understood is logged and left out.
        """
        table = schema.booking
        is_left = (
            (table.c.tenant == tenant)
            & text(schema.IS_OPEN)
            & table.c.owner.not_in(["", self.boot_id])
        )

        def query(connection: Connection) -> tuple[Sequence[Booking], str]:
            # Sorted here: SQLite would read all of the tenant's bookings in the order wished for.
            left = connection.execute(select(table.c.booking_id).where(is_left)).scalars()
            ids = sorted(booking_id for booking_id in left if booking_id > after)
            chosen = table.c.booking_id.in_(ids[:limit])
            rows = connection.execute(select(table).where(is_left, chosen)).mappings()
            return _understood(rows), ids[limit - 1] if len(ids) > limit else ""

        return await self._read(query, is_background=True)

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

    async def excerpt(self, tenant: str, booking_id: str, first: int, last: int) -> Excerpt:
        """Like `story`, and of a long one the first and the last moves and attempts alone."""

        def query(connection: Connection) -> Excerpt:
            moves, tries = schema.history, schema.attempt
            is_of = (moves.c.tenant == tenant) & (moves.c.booking_id == booking_id)
            entries, moves_left = _ends(connection, is_of, moves.c.sequence, first, last)
            is_of = (tries.c.tenant == tenant) & (tries.c.booking_id == booking_id)
            attempts, attempts_left = _ends(connection, is_of, tries.c.number, first, last)
            return Excerpt(
                [history_from_row(row) for row in entries],
                [attempt_from_row(row) for row in attempts],
                moves_left,
                attempts_left,
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
                Unresolved(
                    row.connection,
                    State(row.state),
                    row.number,
                    _EPOCH + timedelta(microseconds=row.oldest),
                )
                for row in connection.execute(statement)
            ]

        return await self._read(query, is_background=True)

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

    async def names_behind(
        self, tenant: str, connection_id: str, references: Sequence[Reference]
    ) -> dict[str, str]:
        """The names of our bookings behind the references of a vendor's history, by value."""

        def query(connection: Connection) -> dict[str, str]:
            holders = find_holders(connection, tenant, connection_id, references)
            return {value: f"bookings/{booking_id}" for value, booking_id in holders.items()}

        return await self._read(query) if references else {}

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


_columns = [column.name for column in schema.promise.c]
# One statement: whoever reads meanwhile finds what was known before, or this.
_SAVE_PROMISE = text(
    f"INSERT INTO promise ({', '.join(_columns)}) VALUES (:{', :'.join(_columns)})"
    " ON CONFLICT (tenant, connection, name) DO UPDATE SET target_hash = excluded.target_hash,"
    " value = excluded.value, time = excluded.time, evidence = excluded.evidence"
)


def _understood(rows: Iterable[RowMapping], *, checks_answer: bool = True) -> Sequence[Booking]:
    """The bookings of the rows; one that cannot be understood must not stop the others."""
    found = []
    for row in rows:
        try:
            found.append(booking_from_row(row, checks_answer=checks_answer))
        except LoyaltyError as error:
            log.error("Booking %s is left out: %s", error.booking, error.message)
    return found


def _ends(
    connection: Connection, is_of: ColumnElement[bool], key: Column[int], first: int, last: int
) -> tuple[Sequence[RowMapping], int]:
    """The first and the last rows by their key, in order, and how many are between them."""
    rows = select(key.table).where(is_of)
    begin = connection.execute(rows.order_by(key).limit(first)).mappings().all()
    if len(begin) < first:
        return begin, 0
    is_later = key > begin[-1][key]
    later = rows.where(is_later).order_by(key.desc()).limit(last)
    end = connection.execute(later).mappings().all()[::-1]
    if len(end) < last:
        return [*begin, *end], 0
    between = select(func.count(key)).where(is_of, is_later, key < end[0][key])
    return [*begin, *end], connection.execute(between).scalar_one()
