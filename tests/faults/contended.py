"""Cells in which the database is there, and others are in the way, or what it holds is damaged,
or older than what was told."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import grpc
import psycopg

from loyalty_gateway.supervisor import PROOF_CARD
from tests.e2e.house import until
from tests.e2e.wanted import MOVES
from tests.faults.broken_databases import ANSWER_LIMIT_S, FULL_LIMIT_S
from tests.faults.cells import under_load
from tests.faults.checker import look
from tests.faults.history import Told
from tests.faults.lane import Lane
from tests.faults.report import Result
from tests.faults.trades import ACCOUNTS

UNLUCKY_S_MAX: Final = 15.0
UNLUCKY_MIN: Final = 10
ONE_OF: Final = 20
"""Every so many statements one is refused, so that no repeat of it is refused again."""
LOCKED_S: Final = 2.5
"""Longer than one statement waits for a lock."""
DEADLOCK_TRIES: Final = 4
AT_ONCE: Final = 8
FULL_S: Final = 3.0
DAMAGED_MIN: Final = 6
SLOTS_MAX: Final = 400
NEEDS_ORIGINAL: Final = frozenset({"AddGiftTip"})
ANSWERS_AGAIN: Final = "cashassist"
GATEWAY: Final = "loyalty-gateway"
"""What the gateway calls itself at the database."""

_UNLUCKY: Final = (
    "CREATE SEQUENCE IF NOT EXISTS statements_made",
    "CREATE SEQUENCE IF NOT EXISTS conflicts_made",
    # A sequence counts on although its transaction is rolled back.
    "CREATE OR REPLACE FUNCTION unlucky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    f" IF nextval('statements_made') % {ONE_OF} = 0 THEN"
    " RAISE EXCEPTION 'others were in the way' USING ERRCODE ="
    " (ARRAY['40001', '40P01', '55P03'])[1 + nextval('conflicts_made') % 3];"
    " END IF; RETURN NULL; END $$",
    "CREATE OR REPLACE TRIGGER unlucky AFTER INSERT OR UPDATE ON booking"
    " FOR EACH STATEMENT EXECUTE FUNCTION unlucky()",
)
_LUCKY: Final = "DROP TRIGGER unlucky ON booking"
_SENDING: Final = (
    b"SELECT booking_id FROM booking WHERE state = 'SENDING' ORDER BY tenant, booking_id"
)
_LOCK: Final = b"SELECT 1 FROM booking WHERE booking_id = ANY(%s) ORDER BY booking_id FOR UPDATE"
_WAITERS: Final = (
    b"SELECT count(*) FROM pg_stat_activity"
    b" WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
_DEADLOCKS: Final = b"SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


async def conflicts(lane: Lane) -> None:
    """D5: others write the same rows: serialisation failures, lock time-outs, a true deadlock."""
    replica, dsn = lane.only, lane.fleet.dsn
    assert dsn, "SQLite has one writer, whom nobody meets"
    if not replica.is_up.is_set():
        await lane.start(replica)
    async with lane.cell("conflicts") as result:
        calm: list[int] = []

        async def harm(ends_at: float) -> None:
            calm.append(len(lane.history.told))
            await asyncio.to_thread(_execute, dsn, *_UNLUCKY)
            try:
                await asyncio.sleep(max(0.0, ends_at - time.monotonic()))
            finally:
                await asyncio.to_thread(_execute, dsn, _LUCKY)
            calm.append(len(lane.history.told))
            await asyncio.to_thread(_lock_out, dsn)

        length_s = min(lane.random_s, UNLUCKY_S_MAX)
        await under_load(lane, result, "conflicts", AT_ONCE, length_s, harm)
        made = await asyncio.to_thread(_read_number, dsn, b"SELECT last_value FROM conflicts_made")
        leaked = [it for it in lane.history.told[calm[0] : calm[1]] if _is_refused_by_journal(it)]
        result.facts["conflicts"] = made
        result.violations += [f"D5: a conflict reached {it.key[0]}" for it in leaked]
        result.require(made >= UNLUCKY_MIN, f"only {made} statements were refused")
        await _deadlock(lane, result)


def _is_refused_by_journal(it: Told) -> bool:
    """The journal could not be written; a write that only took too long tells an outcome."""
    reply = it.heard.reply
    return reply.reason == "JOURNAL_UNAVAILABLE" and not reply.outcome


def _lock_out(dsn: str) -> None:
    """As a careless migration does: the table is somebody else's for a while."""
    with psycopg.connect(dsn) as other:
        other.execute(b"LOCK TABLE booking IN ACCESS EXCLUSIVE MODE")
        time.sleep(LOCKED_S)


async def _deadlock(lane: Lane, result: Result) -> None:
    """Settles that share a commit hold one row and want another, which somebody else holds."""
    dsn, replica = lane.fleet.dsn, lane.only
    trade = lane.known_trades[0]
    method = sorted(trade.methods & MOVES - NEEDS_ORIGINAL)[0]
    before = await asyncio.to_thread(_read_number, dsn, _DEADLOCKS)
    count = 0
    callers = lane.callers(AT_ONCE, "deadlock", trades=[trade], faults=())
    for _ in range(DEADLOCK_TRIES):
        calls = []
        for number, caller in enumerate(callers):
            request = await caller.new_request(
                replica, trade=trade, method=method, account=ACCOUNTS[number]
            )
            assert request is not None, "it belongs to no other booking"
            calls.append(caller.book(replica, request, timeout_s=6.0, fault="slow-after"))
        await asyncio.gather(asyncio.to_thread(_cross, dsn), *calls)
        count = await asyncio.to_thread(_read_number, dsn, _DEADLOCKS) - before
        if count:
            break
    result.facts["deadlocks"] = count
    result.require(count > 0, "nobody met in a deadlock")
    await lane.rest(callers, result)


def _cross(dsn: str) -> None:
    """Holds the last row that is on its way; asks for the others once a commit waits for it."""
    with psycopg.connect(dsn, autocommit=True) as observer, psycopg.connect(dsn) as rival:
        _wait(lambda: len(_read_ids(observer)) >= AT_ONCE)
        ids = _read_ids(observer)
        # Whoever looks first is ended: the gateway is to be the one.
        rival.execute(b"SET deadlock_timeout = '30s'")
        rival.execute(_LOCK, (ids[-1:],))
        rival.execute(b"SAVEPOINT rest")
        rival.execute(_LOCK, (ids[:-1],))
        # The first settle waits, and all the others come together behind it.
        _wait(lambda: _number(observer, _WAITERS) > 0)
        time.sleep(0.5)
        rival.execute(b"ROLLBACK TO rest")
        time.sleep(0.1)
        _wait(lambda: _number(observer, _WAITERS) > 0)
        try:
            rival.execute(_LOCK, (ids[:-1],))
        except psycopg.errors.DeadlockDetected:
            # Somebody else looked first.
            rival.rollback()
    time.sleep(1.0)


async def no_slots(lane: Lane) -> None:
    """D6: the database takes no more connections, and the gateway has lost those that it had."""
    replica, dsn = lane.only, lane.fleet.dsn
    assert dsn, "SQLite has no connections to be used up"
    if not replica.is_up.is_set():
        await lane.start(replica)
    async with lane.cell("no connection left") as result:
        began = len(lane.history.told)

        async def is_told() -> bool:
            return not await replica.is_ready()

        async def harm(ends_at: float) -> None:
            await asyncio.sleep(1.0)
            crowd = await asyncio.to_thread(_take_every_slot, dsn)
            try:
                result.facts["connections"] = len(crowd)
                await until(is_told, "a full database is told to probes", FULL_LIMIT_S)
                await asyncio.sleep(FULL_S)
                result.harms += 1
            finally:
                await asyncio.to_thread(_leave, crowd)
            await until(replica.is_ready, "ready again", FULL_LIMIT_S)
            await asyncio.sleep(1.0)

        await under_load(lane, result, "no slots", AT_ONCE, lane.random_s, harm)
        told = lane.history.told[began:]
        slowest = max(it.ended_s - it.began_s for it in told)
        result.facts["slowest_answer_s"] = round(slowest, 2)
        if slowest > ANSWER_LIMIT_S:
            result.violations.append(f"D6: a caller waited {slowest:.1f} s for an answer")
        refused = sum(it.heard.reply.reason == "JOURNAL_UNAVAILABLE" for it in told)
        result.require(refused > 0, "no caller was told that the journal cannot be reached")
        result.require(replica.is_running, "the gateway did not outlive it")


def _take_every_slot(dsn: str) -> list[Any]:
    """Ends the gateway's connections and takes their places, until there is none left."""
    crowd: list[Any] = []
    with psycopg.connect(dsn, autocommit=True) as admin:
        while len(crowd) < SLOTS_MAX:
            ended = admin.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                b" WHERE application_name = %s",
                (GATEWAY,),
            ).fetchall()
            try:
                while len(crowd) < SLOTS_MAX:
                    crowd.append(psycopg.connect(dsn, autocommit=True))
            except psycopg.OperationalError:
                if not ended:
                    return crowd
    raise AssertionError(f"the database takes more than {SLOTS_MAX} connections")


def _leave(crowd: Sequence[Any]) -> None:
    for connection in crowd:
        connection.close()


async def damaged_answers(lane: Lane) -> None:
    """D9: a bit of stored answers flips; nobody is told such an answer, and nothing is sent."""
    replica = lane.only
    if not replica.is_up.is_set():
        await lane.start(replica)
    async with lane.cell("damaged answers") as result:
        began = len(lane.history.told)
        callers = lane.callers(AT_ONCE, "damaged", faults=(), down="")
        for _ in range(2):
            await asyncio.gather(*(caller.book_new() for caller in callers))
        told = [it for it in lane.history.told[began:] if it.heard.reply.is_final]
        answered = {it.heard.request.request_id: it for it in told}
        sent = await _count_sent(lane)
        # A file is one process's own: damage comes while it stands still.
        await replica.kill()
        result.kills += 1
        damaged = await asyncio.to_thread(_flip, lane, sorted(answered))
        await lane.start(replica)
        for request_id in damaged:
            reply = await replica.caller.call(answered[request_id].heard.request)
            if reply.code is not grpc.StatusCode.DATA_LOSS:
                result.violations.append(f"D9: {request_id} is damaged and was told {reply}")
        if await _count_sent(lane) != sent:
            result.violations.append("D9: a vendor was asked for what is damaged")
        await replica.kill()
        # The same bit once more: what was there before.
        await asyncio.to_thread(_flip, lane, damaged)
        await lane.start(replica)
        for request_id in damaged:
            before = answered[request_id].heard
            again = await lane.history.book(replica, before.request)
            if (again.code, again.body, again.status_bytes) != (
                before.reply.code,
                before.reply.body,
                before.reply.status_bytes,
            ):
                result.violations.append(f"D9: {request_id} is whole again and was told {again}")
        result.facts["damaged"] = len(damaged)
        result.require(len(damaged) >= DAMAGED_MIN, f"only {len(damaged)} answers were damaged")
        await lane.rest(callers, result)


async def restores(lane: Lane) -> None:
    """D8: the journal of an hour ago is put back; who repeats is booked once, and is told so.

    Only with a vendor that answers a known id as it did the first time. One that refuses it books
    once as well, but its refusal is all that the caller hears; the rest book twice. So a person
    must compare the statements first.
    """
    replica, home = lane.only, lane.fleet.home
    assert not lane.fleet.dsn, "a copy of files"
    if not replica.is_up.is_set():
        await lane.start(replica)
    trade = next((it for it in lane.trades if it.connection == ANSWERS_AGAIN), None)
    if trade is None:
        return
    async with lane.cell("restored journal") as result:
        await replica.kill()
        backup = await asyncio.to_thread(_copy_out, home.journal.parent)
        await lane.start(replica)
        callers = lane.callers(AT_ONCE, "restored", trades=[trade], faults=(), down="")
        lost = []
        for number, caller in enumerate(callers):
            for method in sorted(trade.methods & MOVES - NEEDS_ORIGINAL):
                request = await caller.new_request(
                    replica, trade=trade, method=method, account=ACCOUNTS[number]
                )
                # Not remembered: that answer is as lost as the row it stood in.
                if request is not None and (await replica.caller.call(request)).is_ok:
                    lost.append(request)
        await replica.kill()
        result.kills += 1
        await asyncio.to_thread(_copy_back, home.journal.parent, backup)
        await lane.start(replica)
        orphans = (await look(lane.fleet, lane.history)).cases().orphans
        result.facts["lost"] = len(lost)
        result.require(len(lost) >= AT_ONCE, f"only {len(lost)} bookings were lost")
        result.require(len(orphans) >= len(lost), "the checker does not see what is missing")
        for request in lost:
            reply = await lane.history.book(replica, request)
            if not reply.is_ok:
                result.violations.append(f"D8: {request.request_id} was repeated and told {reply}")
        await lane.rest(callers, result)


def _copy_out(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _copy_back(folder: Path, backup: Mapping[str, bytes]) -> None:
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    for name, content in backup.items():
        (folder / name).write_bytes(content)


async def _count_sent(lane: Lane) -> int:
    """How many entries the vendors' books have, but for what a start proves itself with."""
    entries = [it for vendor in lane.fleet.vendors.values() for it in await vendor.effects()]
    return sum(it.card != PROOF_CARD for it in entries)


def _flip(lane: Lane, request_ids: Sequence[str]) -> list[str]:
    """Flips a bit in the middle of each stored answer, or of the refusal where there is none."""
    read = "SELECT answer_bytes, status_bytes FROM booking WHERE request_id = {}"
    write = "UPDATE booking SET answer_bytes = {0}, status_bytes = {0} WHERE request_id = {0}"
    flipped = []
    connection: Any = (
        psycopg.connect(lane.fleet.dsn)
        if lane.fleet.dsn
        else sqlite3.connect(lane.fleet.home.journal)
    )
    mark = "%s" if lane.fleet.dsn else "?"
    with closing(connection):
        for request_id in request_ids:
            row = connection.execute(read.format(mark), (request_id,)).fetchone()
            if row is None or not any(row):
                continue
            answer, status = (None if it is None else bytes(it) for it in row)
            if answer:
                answer = _flipped(answer)
            else:
                status = _flipped(status or b"")
            connection.execute(write.format(mark), (answer, status, request_id))
            flipped.append(request_id)
        connection.commit()
    return flipped


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _read_number(dsn: str, statement: bytes) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return _number(connection, statement)


def _number(connection: Any, statement: bytes) -> int:
    row = connection.execute(statement).fetchone()
    return int(row[0])


def _read_ids(connection: Any) -> list[str]:
    return [row[0] for row in connection.execute(_SENDING).fetchall()]


def _wait(condition: Callable[[], bool], limit_s: float = 3.0) -> None:
    """Until it holds, or for so long: what came of it is counted in the end."""
    give_up = time.monotonic() + limit_s
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.01)
