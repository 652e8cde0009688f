"""Bookings as the journal's tests write them, and a journal that is open for a test."""

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, event, text

from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.operations import Operation, Order, RecoveryMode
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.postgres import PostgresStore
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.journal.store import Store
from loyalty_gateway.journal.writer import Change, Opening
from tests.booking.house import HookedJournal
from tests.postgres import Place, store_at

TENANT = "default"
T0 = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CHECK = b"c" * 16

_numbers = itertools.count(1)


def a_booking(**changes: Any) -> Booking:
    """A booking as write 1 stores it, with a request_id and an outbound id of its own."""
    number = next(_numbers)
    created = T0 + timedelta(seconds=number)
    booking = Booking(
        tenant=TENANT,
        booking_id=f"b-{number:08}",
        request_id=f"sale-{number:08}",
        state=State.SENDING,
        create_time=created,
        operation=Operation.DEBIT_BALANCE,
        connection="main",
        provider="fakevendor",
        account_hash=b"account",
        account_sealed=b"sealed",
        account_token="k1.token",
        masked_id="••••1234",
        fingerprint=b"fingerprint",
        order=Order(Operation.DEBIT_BALANCE, "", Money("CHF", 1000)),
        outbound_id=f"o-{number:08}",
        target_hash=b"target",
        recovery_mode=RecoveryMode.SAFE_RESEND,
        owner="boot-1",
        lease_until=created + timedelta(seconds=30),
        next_attempt_time=created + timedelta(seconds=30),
        attempt_count=1,
        doubtful_attempts=1,
        first_sent_time=created,
        sent_time=created,
    )
    return replace(booking, **changes)


def succeeded(booking: Booking, answer: bytes = b"answer") -> Change:
    """The settle of a booking that the vendor confirmed."""
    after = replace(
        booking,
        state=State.SUCCEEDED,
        epoch=booking.epoch + 1,
        owner="",
        lease_until=None,
        next_attempt_time=None,
        settle_time=booking.create_time + timedelta(seconds=1),
        applied=booking.asked,
        answer_bytes=answer,
    )
    return Change(booking, after, "caller")


def moved(booking: Booking, state: State, **changes: Any) -> Change:
    """Any move of a booking."""
    after = replace(booking, state=state, epoch=booking.epoch + 1, **changes)
    return Change(booking, after, "caller")


async def opened(journal: Journal, **changes: Any) -> Booking:
    """A new booking that is on disk."""
    booking = a_booking(**changes)
    result = await journal.open(Opening(booking, "caller"))
    assert result.is_new
    return booking


@asynccontextmanager
async def open_journal(
    place: Place, *, boot_id: str = "boot-1", store: Store | None = None
) -> AsyncIterator[HookedJournal]:
    journal = HookedJournal(store or store_at(place), boot_id)
    try:
        await journal.start(CHECK)
        yield journal
    finally:
        await journal.stop()


def engine_of(journal: Journal) -> Engine:
    """What a journal that was started reads with."""
    return journal._store.engine


def writers_engine_of(journal: Journal) -> Engine:
    """What it writes with."""
    store = journal._store
    assert isinstance(store, SqliteStore | PostgresStore)
    return store._writers


async def set_directly(journal: HookedJournal, booking: Booking, assignment: str) -> None:
    """Damage: columns that are overwritten behind the journal's back."""
    statement = text(f"UPDATE booking SET {assignment} WHERE booking_id = :booking_id")
    await journal.on_the_writers_connection(
        lambda connection: connection.execute(statement, {"booking_id": booking.booking_id})
    )


def lengthening(booking_id: str, more: int) -> list[str]:
    """Statements that write the last move and the first attempt of a booking again, so many times
    and a tenth of a second later each time."""
    numbers = (
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {more}) INSERT"
    )
    return [
        f"{numbers} INTO history (tenant, booking_id, sequence, from_state, to_state, actor, time,"
        " note) SELECT tenant, booking_id, sequence + i, from_state, to_state, actor,"
        " time + i * 100000, 'again ' || i FROM history CROSS JOIN n"
        f" WHERE booking_id = '{booking_id}' AND sequence ="
        f" (SELECT max(sequence) FROM history WHERE booking_id = '{booking_id}')",
        f"{numbers} INTO attempt (tenant, booking_id, number, kind, start_time, end_time, fate,"
        " proves, reason, http_status, provider_code, rule, request_text, answer_text)"
        " SELECT tenant, booking_id, number + i, kind, start_time + i * 100000,"
        " end_time + i * 100000, fate, proves, reason, http_status, provider_code, rule,"
        " request_text, answer_text FROM attempt CROSS JOIN n"
        f" WHERE booking_id = '{booking_id}' AND number = 1",
    ]


@contextmanager
def commits_counted(journal: Journal) -> Iterator[list[int]]:
    """Gets an entry for each commit of the writer."""
    engine = writers_engine_of(journal)
    commits: list[int] = []

    def on_commit(_: object) -> None:
        commits.append(1)

    event.listen(engine, "commit", on_commit)
    try:
        yield commits
    finally:
        event.remove(engine, "commit", on_commit)
