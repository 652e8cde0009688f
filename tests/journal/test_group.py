"""A group of 64 in one commit on PostgreSQL: one bad row, one deadlock, one cut connection.

Whatever happens to one of them, the others are as if nothing had happened.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection

from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.journal.postgres import PostgresStore
from loyalty_gateway.journal.writer import Opened, Opening
from tests.booking.house import HookedJournal, failure, open_house, until
from tests.booking.vendor import FakeVendor
from tests.journal.proxy import Cut, Proxy, running_proxy
from tests.journal.rows import (
    TENANT,
    a_booking,
    moved,
    open_journal,
    opened,
    set_directly,
    succeeded,
)
from tests.journal.test_postgres import throw_out
from tests.journal.test_writer import queued

GROUP = 64


@pytest.fixture
async def journal(postgres_dsn: str) -> AsyncIterator[HookedJournal]:
    async with open_journal(postgres_dsn) as journal:
        yield journal


@pytest.fixture
async def proxy(postgres_dsn: str) -> AsyncIterator[Proxy]:
    async with running_proxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
async def over_proxy(proxy: Proxy) -> AsyncIterator[HookedJournal]:
    async with open_journal(proxy.dsn) as journal:
        yield journal


async def states_told(journal: HookedJournal, booking: Booking) -> list[State]:
    history, _ = await journal.story(TENANT, booking.booking_id)
    assert [entry.sequence for entry in history] == list(range(1, len(history) + 1))
    return [entry.to_state for entry in history]


async def open_all(journal: HookedJournal, bookings: list[Booking]) -> list[Any]:
    return await queued(
        journal, *(journal.open(Opening(booking, "caller")) for booking in bookings)
    )


# --- one bad row ------------------------------------------------------------------------------


async def test_one_bad_opening_in_a_group_costs_its_63_neighbours_nothing(
    journal: HookedJournal,
) -> None:
    """PostgreSQL has no NUL in a text."""
    bookings = [a_booking() for _ in range(GROUP)]
    bookings[40] = replace(bookings[40], account_token="a\0b")
    results = await open_all(journal, bookings)

    assert isinstance(results.pop(40), Exception)
    assert await journal.find(TENANT, booking_id=bookings.pop(40).booking_id) is None
    assert all(result.is_new for result in results)
    for booking in bookings:
        assert await journal.find(TENANT, booking_id=booking.booking_id) == booking
        assert await states_told(journal, booking) == [State.SENDING]
    assert journal.is_healthy


async def test_one_bad_settle_in_a_group_costs_its_63_neighbours_nothing(
    journal: HookedJournal,
) -> None:
    changes = [succeeded(await opened(journal)) for _ in range(GROUP)]
    changes[40] = replace(changes[40], after=replace(changes[40].after, incident="a\0b"))
    results = await queued(journal, *(journal.change(change) for change in changes))

    assert isinstance(results.pop(40), Exception)
    left = changes.pop(40).before
    assert await journal.find(TENANT, booking_id=left.booking_id) == left
    assert results == [True] * (GROUP - 1)
    for change in changes:
        assert await journal.find(TENANT, booking_id=change.after.booking_id) == change.after
        assert await states_told(journal, change.after) == [State.SENDING, State.SUCCEEDED]


# --- one deadlock -----------------------------------------------------------------------------


async def test_a_deadlock_with_a_group_costs_none_of_the_64_anything(
    journal: HookedJournal, postgres_dsn: str
) -> None:
    """Somebody else holds the last row and wants the first one: PostgreSQL ends our statement."""
    changes = [succeeded(await opened(journal)) for _ in range(GROUP)]
    first, last = changes[0].before.booking_id, changes[-1].before.booking_id
    lock = b"SELECT 1 FROM booking WHERE booking_id = %s FOR UPDATE"

    async with (
        await psycopg.AsyncConnection.connect(postgres_dsn) as rival,
        await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as observer,
    ):

        async def waiting() -> int:
            rows = await observer.execute(
                b"SELECT count(*) FROM pg_stat_activity"
                b" WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            row = await rows.fetchone()
            assert row is not None
            return int(row[0])

        async def is_waiting() -> bool:
            return await waiting() == 1

        async def has_met() -> bool:
            rows = await observer.execute(
                b"SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            )
            row = await rows.fetchone()
            return row is not None and row[0] >= 1

        # Whoever looks first is ended; on a busy machine that might be the rival.
        await rival.execute(b"SET deadlock_timeout = '30s'")
        await rival.execute(lock, (last,))
        await journal.on_the_writers_connection(
            lambda it: it.exec_driver_sql("SET deadlock_timeout = '3s'; SET lock_timeout = 0")
        )
        settling = asyncio.ensure_future(
            queued(journal, *(journal.change(change) for change in changes))
        )
        await until(is_waiting)
        # Returns only once our statement was ended: it waits for a row that ours holds.
        await rival.execute(lock, (first,))
        await rival.commit()
        results = await settling
        await until(has_met)

    assert results == [True] * GROUP
    for change in changes:
        assert await journal.find(TENANT, booking_id=change.after.booking_id) == change.after
        assert await states_told(journal, change.after) == [State.SENDING, State.SUCCEEDED]
    assert journal.is_healthy


async def test_a_serialization_failure_is_tried_again_as_a_whole(journal: HookedJournal) -> None:
    """The database itself raises 40001, once."""
    bookings = [a_booking() for _ in range(GROUP)]
    once = (
        "CREATE SEQUENCE tries; CREATE FUNCTION once() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF nextval('tries') = 1 THEN RAISE EXCEPTION 'once'"
        " USING ERRCODE = 'serialization_failure'; END IF; RETURN NULL; END $$;"
        " CREATE TRIGGER once AFTER INSERT ON booking EXECUTE FUNCTION once()"
    )
    await journal.on_the_writers_connection(lambda it: it.exec_driver_sql(once))
    results = await open_all(journal, bookings)

    assert all(result.is_new for result in results)
    for booking in bookings:
        assert await states_told(journal, booking) == [State.SENDING]


# --- one cut connection -----------------------------------------------------------------------


@pytest.mark.parametrize("cut", Cut)
async def test_a_line_cut_at_the_commit_of_64_openings_costs_none_of_them_anything(
    over_proxy: HookedJournal, proxy: Proxy, cut: Cut
) -> None:
    bookings = [a_booking() for _ in range(GROUP)]
    proxy.arm(bookings[40].request_id.encode(), cut)
    results = await open_all(over_proxy, bookings)

    assert proxy.cuts == 1
    assert all(result.is_new for result in results)
    for booking in bookings:
        assert await over_proxy.find(TENANT, booking_id=booking.booking_id) == booking
        assert await states_told(over_proxy, booking) == [State.SENDING]
    assert over_proxy.is_healthy


@pytest.mark.parametrize("cut", Cut)
async def test_a_line_cut_at_the_commit_of_64_settles_costs_none_of_them_anything(
    over_proxy: HookedJournal, proxy: Proxy, cut: Cut
) -> None:
    changes = [succeeded(await opened(over_proxy)) for _ in range(GROUP)]
    proxy.arm(changes[40].before.booking_id.encode(), cut)
    results = await queued(over_proxy, *(over_proxy.change(change) for change in changes))

    assert proxy.cuts == 1
    assert results == [True] * GROUP
    for change in changes:
        assert await over_proxy.find(TENANT, booking_id=change.after.booking_id) == change.after
        assert await states_told(over_proxy, change.after) == [State.SENDING, State.SUCCEEDED]


@pytest.mark.parametrize("cut", Cut)
async def test_a_booking_that_was_known_before_the_cut_is_met_and_not_taken_for_new(
    over_proxy: HookedJournal, proxy: Proxy, cut: Cut
) -> None:
    known = await opened(over_proxy)
    repeat = a_booking(request_id=known.request_id, outbound_id="o-else")
    proxy.arm(repeat.booking_id.encode(), cut)
    *others, met = await open_all(over_proxy, [*(a_booking() for _ in range(7)), repeat])

    assert proxy.cuts == 1
    assert (met.is_new, met.booking) == (False, known)
    assert all(other.is_new for other in others)


@pytest.mark.parametrize("cut", Cut)
async def test_a_hold_and_its_doubt_are_written_together_or_not_at_all(
    over_proxy: HookedJournal, proxy: Proxy, cut: Cut
) -> None:
    """Several statements: the line is cut at their one COMMIT."""
    bookings = [await opened(over_proxy, account_hash=b"%d" % number) for number in range(8)]
    changes = [
        replace(moved(booking, State.NEEDS_REVIEW), holds_account=True) for booking in bookings
    ]
    proxy.arm(b"COMMIT", cut)
    results = await queued(over_proxy, *(over_proxy.change(change) for change in changes))
    held = [
        (await over_proxy.open(Opening(a_booking(account_hash=b"%d" % number), "caller"))).is_held
        for number in range(8)
    ]

    assert proxy.cuts == 1
    assert results == [True] * 8
    assert held == [True] * 8


async def test_a_hold_that_cannot_be_written_leaves_its_doubt_unwritten_too(
    journal: HookedJournal,
) -> None:
    """Else the account would be free although nobody knows what was booked on it."""
    await journal.on_the_writers_connection(
        lambda it: it.exec_driver_sql("ALTER TABLE account_hold ADD CHECK (root_booking = 'x')")
    )
    booking = await opened(journal)
    change = replace(moved(booking, State.NEEDS_REVIEW), holds_account=True)
    (result,) = await queued(journal, journal.change(change))

    assert isinstance(result, Exception)
    assert await journal.find(TENANT, booking_id=booking.booking_id) == booking


async def test_a_server_that_is_gone_is_an_unavailable_journal_until_it_is_back(
    postgres_dsn: str,
) -> None:
    async with running_proxy(postgres_dsn) as proxy, open_journal(proxy.dsn) as journal:
        upstream, proxy.upstream = proxy.upstream, "postgresql://nobody@127.0.0.1:1/none"
        proxy.arm(b"INSERT INTO booking", Cut.BEFORE)
        booking = a_booking()
        results = await open_all(journal, [booking])
        was_healthy = journal.is_healthy
        proxy.upstream = upstream
        await until(lambda: journal.is_healthy)
        again = await journal.open(Opening(booking, "caller"))

    assert isinstance(results[0], LoyaltyError)
    assert results[0].reason is Reason.JOURNAL_UNAVAILABLE
    assert not was_healthy
    assert again.is_new


async def test_a_connection_that_died_while_nobody_wrote_costs_the_next_caller_nothing(
    journal: HookedJournal, postgres_dsn: str
) -> None:
    """A restart at night: the first of the morning must not hear of it."""
    with psycopg.connect(postgres_dsn, autocommit=True) as observer:
        observer.execute(
            b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            b" WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    booking = await opened(journal)

    assert await journal.find(TENANT, booking_id=booking.booking_id) == booking
    assert journal.is_healthy


@pytest.mark.parametrize("cut", Cut)
async def test_a_damaged_row_that_is_met_after_a_cut_costs_its_neighbours_nothing(
    over_proxy: HookedJournal, proxy: Proxy, cut: Cut
) -> None:
    damaged = await opened(over_proxy)
    await set_directly(over_proxy, damaged, "intent = 'WISH'")
    repeat = a_booking(request_id=damaged.request_id, outbound_id="o-else")
    bookings = [a_booking() for _ in range(6)]
    proxy.arm(bookings[0].request_id.encode(), cut)
    bad, *others = await open_all(over_proxy, [repeat, *bookings])

    assert proxy.cuts == 1
    assert (bad.reason, bad.booking) == (Reason.DATA_LOSS, damaged.name)
    assert others == [Opened(booking, True) for booking in bookings]
    for booking in bookings:
        assert await states_told(over_proxy, booking) == [State.SENDING]
    assert over_proxy.is_healthy


@pytest.mark.parametrize("cut", Cut)
async def test_a_settle_over_a_damaged_row_costs_its_neighbours_nothing_after_a_cut(
    over_proxy: HookedJournal, proxy: Proxy, cut: Cut
) -> None:
    """What nobody can read may still be moved on, and is moved once."""
    changes = [succeeded(await opened(over_proxy)) for _ in range(7)]
    damaged = changes[2].before
    await set_directly(over_proxy, damaged, "order_content = '['")
    proxy.arm(changes[5].before.booking_id.encode(), cut)
    results = await queued(over_proxy, *(over_proxy.change(change) for change in changes))

    assert proxy.cuts == 1
    # Where it stands already, whoever wished it reads the row, and hears of the damage.
    assert results.pop(2) is (cut is Cut.BEFORE)
    assert results == [True] * 6
    for change in changes:
        assert await states_told(over_proxy, change.after) == [State.SENDING, State.SUCCEEDED]


async def test_a_damaged_row_that_is_met_after_two_cuts_is_told_as_such(
    journal: HookedJournal, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = await opened(journal)
    await set_directly(journal, damaged, "intent = 'WISH'")
    write = journal._writer._batches.apply_openings

    def cut(connection: Connection, openings: Sequence[Opening]) -> list[Opened]:
        throw_out(postgres_dsn)
        return write(connection, openings)

    monkeypatch.setattr(journal._writer._batches, "apply_openings", cut)
    repeat = a_booking(request_id=damaged.request_id, outbound_id="o-else")
    error = await failure(journal.open(Opening(repeat, "caller")))

    assert (error.reason, error.booking) == (Reason.DATA_LOSS, damaged.name)
    assert await states_told(journal, damaged) == [State.SENDING]


async def test_a_connection_that_died_before_the_clock_was_read_costs_the_next_caller_nothing(
    journal: HookedJournal, postgres_dsn: str
) -> None:
    """The clock is read again every ten seconds, and then first of all."""
    assert isinstance(journal._store, PostgresStore)
    with psycopg.connect(postgres_dsn, autocommit=True) as observer:
        observer.execute(
            b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            b" WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    journal._store._clock_read_s = -1_000.0

    await opened(journal)
    assert journal.is_healthy


@pytest.mark.parametrize("cut", Cut)
async def test_64_callers_whose_group_was_cut_at_its_commit_have_one_effect_each(
    proxy: Proxy, cut: Cut
) -> None:
    """The whole engine: nothing is sent unjournalled, and nothing is sent twice."""
    vendor = FakeVendor()
    async with open_house(proxy.dsn, vendor, limits=Limits(send_by_s=20)) as house:
        proxy.arm(b"sale-0040", cut)
        async with house.journal.writer_held():
            callers = [house.booking_task(f"sale-{number:04}") for number in range(GROUP)]
            await until(lambda: house.journal.writes_waiting == GROUP)
        answers = await asyncio.gather(*callers)
        again = [await house.book(f"sale-{number:04}") for number in range(GROUP)]

    assert proxy.cuts == 1
    assert len(vendor.effects) == len(vendor.sends) == GROUP
    assert not any(answer.is_replayed for answer in answers)
    assert [answer.body for answer in again] == [answer.body for answer in answers]
