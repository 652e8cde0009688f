"""The booking room as it runs: a real journal on disk, a real engine, and a played vendor."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy import Engine as SqlEngine

from loyalty_gateway.booking.calls import AccountKey, BookingCall, BookingKey, OriginalKey
from loyalty_gateway.booking.connections import Connections, Link, proof
from loyalty_gateway.booking.engine import Engine
from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import (
    Answer,
    Attempt,
    Booking,
    HistoryEntry,
    State,
)
from loyalty_gateway.domain.errors import LoyaltyError
from loyalty_gateway.domain.operations import Operation, Receipt
from loyalty_gateway.journal.journal import Journal, ListQuery
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.journal.store import Store
from loyalty_gateway.journal.writer import Change, Opened, Opening
from tests.booking.vendor import RESEND_IS_SAFE, FakeVendor
from tests.postgres import Place, store_at

TENANT = "default"
CARD = "6299123412341234"
KEYRING = Keyring([("k1", b"s" * 32)], b"p" * 32)

PATIENT = Policy(
    schedule_s=(3_600.0,), then_every_s=3_600.0, settle_s=60.0, abandon_reserved_s=900.0
)
"""Recovery takes no step by itself while a test runs."""

QUICK = Policy(
    schedule_s=(0.01, 0.02, 0.05),
    then_every_s=0.1,
    settle_s=60.0,
    abandon_reserved_s=900.0,
    not_found_waits_s=(0.05, 0.05),
)
"""Recovery does in fractions of a second what it does in minutes."""

BRIEF_S = 2.0
"""A caller who soon leaves: time enough to be written down and sent, on a busy machine too."""
LEAVES_S = 2.5
"""The same under AUTO_REVERSE, which keeps a part of it for noting the wish."""
PLENTY = Limits(send_by_s=20.0)
"""A write that a busy machine is slow with is no reason not to send, unless a test says so."""
HELD_S = 2.0
UNHURRIED = Limits(deadline_min_s=1.0)
"""With these a caller who waits for an account hears in time that it is still on hold, however
long the last look takes: it begins a second before the deadline."""


class PlainCodec:
    """An answer codec whose bytes can be read in a test; `breaks` makes it a bug of ours."""

    def __init__(self) -> None:
        self.breaks = False
        self.calls = 0

    def encode_private(self, booking: Booking, receipt: Receipt) -> bytes:
        return b"" if receipt.card is None else receipt.card.holder.display_name.encode()

    def encode_answer(self, booking: Booking, receipt: Receipt | None = None) -> bytes:
        self.calls += 1
        if self.breaks:
            raise RuntimeError("the codec has a bug")
        references = ",".join(reference.value for reference in booking.references)
        # The count makes two encodings differ: equal bytes were stored, not made again.
        return f"{booking.name} {booking.applied} {references} #{self.calls}".encode()

    def encode_error(self, error: LoyaltyError) -> bytes:
        self.calls += 1
        if self.breaks:
            raise RuntimeError("the codec has a bug")
        return f"{error.reason} {error.booking} #{self.calls}".encode()


_FULL = (
    "CREATE OR REPLACE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$",
    *(
        f"CREATE OR REPLACE TRIGGER full_{table} BEFORE INSERT OR UPDATE ON {table}"
        " EXECUTE FUNCTION disk_is_full()"
        for table in ("booking", "deployment")
    ),
)
_ROOM = "DROP FUNCTION disk_is_full CASCADE"


def _makes_room(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")


Hook = Callable[[], Awaitable[None]]


class HookedJournal(Journal):
    """The real journal; a test may stand at its door and hold what goes in or comes out."""

    def __init__(self, store: Store, boot_id: str) -> None:
        super().__init__(store, boot_id)
        self._limits: list[tuple[SqlEngine, Callable[[Any, object], None]]] = []
        self.ahead = timedelta()
        """How far the clock that everything is decided by goes before the real one."""
        self.after_open: Hook | None = None
        self.before_change: Hook | None = None
        self.after_change: Hook | None = None
        self.before_find: Hook | None = None
        self.before_due: Hook | None = None
        self.after_next_due: Hook | None = None

    def now(self) -> datetime:
        return super().now() + self.ahead

    async def open(self, opening: Opening) -> Opened:
        opened = await super().open(opening)
        if self.after_open is not None:
            await self.after_open()
        return opened

    async def change(self, change: Change) -> bool:
        if self.before_change is not None:
            await self.before_change()
        has_landed = await super().change(change)
        if self.after_change is not None:
            await self.after_change()
        return has_landed

    async def find(
        self, tenant: str, *, booking_id: str = "", request_id: str = ""
    ) -> Booking | None:
        if self.before_find is not None:
            await self.before_find()
        return await super().find(tenant, booking_id=booking_id, request_id=request_id)

    async def claim(
        self,
        tenant: str,
        lease_s: float,
        limit: int,
        flying: Collection[str] = (),
        paused: Collection[str] = (),
    ) -> Sequence[Booking]:
        if self.before_due is not None:
            await self.before_due()
        return await super().claim(tenant, lease_s, limit, flying, paused)

    async def next_due_time(self, tenant: str, after: datetime) -> datetime | None:
        due_time = await super().next_due_time(tenant, after)
        if self.after_next_due is not None:
            await self.after_next_due()
        return due_time

    async def on_the_writers_connection(self, work: Callable[[Connection], Any]) -> Any:
        """Runs in the writer's thread, on the connection that it writes with."""
        return await self._writer.run(work)

    async def fill_the_disk(self) -> None:
        """From now on the database itself answers "disk is full" to whatever needs room."""

        def work(connection: Connection) -> None:
            if self.is_shared:
                for statement in _FULL:
                    connection.exec_driver_sql(statement)
                return
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

            def limit(dbapi_connection: Any, _record: object) -> None:
                dbapi_connection.execute(f"PRAGMA max_page_count={pages}")

            # The limit is the connection's, and a writer in trouble makes a new one.
            event.listen(connection.engine, "connect", limit)
            self._limits.append((connection.engine, limit))
            limit(connection.connection.dbapi_connection, None)

        await self.on_the_writers_connection(work)

    async def clear_the_disk(self) -> None:
        """There is room again, and the writer knows it."""
        await asyncio.to_thread(self.make_room)
        await self.on_the_writers_connection(_makes_room)

    def make_room(self) -> None:
        """There is room again, which the writer has to find out by itself."""
        engine = self._store.engine
        if self.is_shared:
            with engine.connect() as connection:
                connection.exec_driver_sql(_ROOM)
        while self._limits:
            limited, limit = self._limits.pop()
            event.remove(limited, "connect", limit)

    @asynccontextmanager
    async def writer_held(self) -> AsyncIterator[None]:
        """The writer's thread is busy for the length of the block, as on a slow disk."""
        is_held, may_go = threading.Event(), threading.Event()

        def work(_: Connection) -> None:
            is_held.set()
            may_go.wait(30)

        held = asyncio.ensure_future(self.on_the_writers_connection(work))
        await asyncio.to_thread(is_held.wait, 30)
        try:
            yield
        finally:
            may_go.set()
            await held

    @property
    def writes_waiting(self) -> int:
        """How many opens and changes wait for the writer."""
        return len(self._writer._openings) + len(self._writer._changes)


@dataclass(slots=True, kw_only=True)
class House:
    """One running engine with what it stands on."""

    engine: Engine
    journal: HookedJournal
    vendor: FakeVendor
    link: Link
    codec: PlainCodec
    is_stopped: bool = field(default=False)

    async def book(self, request_id: str = "sale-0001", **changes: Any) -> Answer:
        return await self.engine.book(a_call(request_id, **changes))

    def booking_task(self, request_id: str = "sale-0001", **changes: Any) -> "asyncio.Task[Answer]":
        """A caller in a task of its own."""
        return asyncio.create_task(self.book(request_id, **changes))

    async def fails(self, request_id: str = "sale-0001", **changes: Any) -> LoyaltyError:
        """The error that a booking call ends with."""
        return await failure(self.book(request_id, **changes))

    async def find(self, request_id: str = "sale-0001") -> Booking | None:
        return await self.journal.find(TENANT, request_id=request_id)

    async def get(self, request_id: str = "sale-0001") -> Booking:
        found = await self.find(request_id)
        assert found is not None, "the booking is in the journal"
        return found

    async def cancel(self, request_id: str = "sale-0001") -> Booking:
        return await self.engine.cancel(TENANT, BookingKey(request_id=request_id), in_s(10))

    async def undo(self, request_id: str = "undo-0001", of: str = "sale-0001") -> Answer:
        """A caller undoes a booking that it names by its request_id."""
        return await self.engine.book(an_undo(request_id, of))

    async def story(
        self, request_id: str = "sale-0001"
    ) -> tuple[Sequence[HistoryEntry], Sequence[Attempt]]:
        booking = await self.get(request_id)
        return await self.journal.story(TENANT, booking.booking_id)

    async def moves(self, request_id: str = "sale-0001") -> list[State]:
        """The states that a booking went through."""
        return [entry.to_state for entry in (await self.story(request_id))[0]]

    async def is_quiet(self) -> None:
        """Waits until no machine has anything left to do."""

        async def nothing_is_open() -> bool:
            rows = (await self.journal.list(ListQuery(tenant=TENANT, limit=200))).bookings
            return all(it.is_final or it.state is State.NEEDS_REVIEW for it in rows)

        await until(nothing_is_open)

    async def becomes(self, *states: State, request_id: str = "sale-0001") -> Booking:
        """Waits until the booking stands at one of the states, by the journal's word."""

        async def stands() -> bool:
            booking = await self.find(request_id)
            return booking is not None and booking.state in states

        await until(stands)
        return await self.get(request_id)

    async def stop(self, timeout_s: float = 10.0) -> int:
        """Stops once; 0 seconds leave what is in flight as a crash would."""
        if self.is_stopped:
            return 0
        self.is_stopped = True
        left = await self.engine.stop(timeout_s)
        await self.journal.stop()
        return left


@asynccontextmanager
async def open_house(
    place: Place,
    vendor: FakeVendor | None = None,
    *,
    policy: Policy = PATIENT,
    limits: Limits | None = None,
    boot_id: str = "boot-1",
    promises: Mapping[str, bool] | None = None,
    is_paused: bool = False,
    connections: Mapping[str, FakeVendor] | None = None,
    keyring: Keyring = KEYRING,
    parallel_max: int = 8,
    starts: bool = True,
    store: Store | None = None,
) -> AsyncIterator[House]:
    """An engine with one connection called `main` and any others, on the journal at `place` or
    in `store`."""
    vendor = vendor or FakeVendor()
    journal = HookedJournal(store or store_at(place), boot_id)
    await journal.start(keyring.salt_check)
    held = {RESEND_IS_SAFE: True} if promises is None else promises
    vendors = {"main": vendor} if connections is None else connections
    links = [
        Link(
            name,
            played,
            keyring.target_hash(played.target),
            is_paused=is_paused,
            proven={
                promise: proof(promise, value, datetime.now(UTC), "for the test")
                for promise, value in held.items()
            },
        )
        for name, played in vendors.items()
    ]
    codec = PlainCodec()
    engine = Engine(
        journal,
        keyring,
        Connections(links),
        codec,
        limits=limits or PLENTY,
        policy=policy,
        tenant=TENANT,
        recovery_parallel_max=parallel_max,
    )
    house = House(
        engine=engine,
        journal=journal,
        vendor=vendor,
        link=links[0] if links else Link("none", vendor, b""),
        codec=codec,
    )
    try:
        if starts:
            await engine.start(proves_itself=False)
        yield house
    finally:
        await house.stop()


def a_call(request_id: str = "sale-0001", *, within_s: float = 20.0, **changes: Any) -> BookingCall:
    """A debit of 10.00 CHF; `changes` replace fields of the call."""
    call = BookingCall(
        tenant=TENANT,
        operation=Operation.DEBIT_BALANCE,
        request_id=request_id,
        account=AccountKey("main", plain_id=CARD),
        asked=Money("CHF", 1000),
        deadline=in_s(within_s),
    )
    return replace(call, **changes)


def an_undo(
    request_id: str = "undo-0001", of: str = "sale-0001", *, within_s: float = 20.0, **changes: Any
) -> BookingCall:
    """The reversal of another booking, whose account and amount are the original's."""
    call = BookingCall(
        tenant=TENANT,
        operation=Operation.REVERSE_POINTS,
        request_id=request_id,
        account=AccountKey(""),
        original=OriginalKey(request_id=of),
        deadline=in_s(within_s),
    )
    return replace(call, **changes)


def in_s(seconds: float) -> float:
    """Event-loop time so many seconds from now."""
    return asyncio.get_running_loop().time() + seconds


async def failure(call: Awaitable[object]) -> LoyaltyError:
    """The expected failure of a call."""
    with pytest.raises(LoyaltyError) as caught:
        await call
    return caught.value


async def until(condition: Callable[[], Awaitable[bool] | bool], limit_s: float = 20.0) -> None:
    """Waits until the condition holds; a test that waits in vain fails."""
    give_up = time.monotonic() + limit_s
    while True:
        holds = condition()
        if not isinstance(holds, bool):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < give_up, "waited in vain"
        await asyncio.sleep(0.002)
