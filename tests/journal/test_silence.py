"""A line to PostgreSQL that is open and says nothing: every wait on it ends by itself."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from time import monotonic

import psycopg
import pytest

from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.postgres import PostgresStore
from loyalty_gateway.journal.store import JournalRefused
from loyalty_gateway.journal.writer import Opening, Writer
from tests.booking.house import HookedJournal, an_undo, failure, open_house, until
from tests.booking.stages import doubt
from tests.booking.undoing import SETTLED, a_house, a_vendor
from tests.booking.vendor import FakeVendor, Gate, books, loses_the_answer, loses_the_request
from tests.journal.proxy import Cut, Proxy, running_proxy
from tests.journal.rows import CHECK, TENANT, a_booking, moved, open_journal, opened, succeeded
from tests.journal.test_group import open_all, states_told
from tests.journal.test_writer import queued
from tests.postgres import running_server

SILENCE_S = 2.0
LIMIT_S = 20.0
"""Far more than the silence that is allowed and a connection that is tried in vain."""


@pytest.fixture
async def proxy(postgres_dsn: str) -> AsyncIterator[Proxy]:
    async with running_proxy(postgres_dsn) as proxy:
        yield proxy


def patient_store(proxy: Proxy) -> PostgresStore:
    """As in production: a line may be silent for longer than callers wait."""
    return PostgresStore(proxy.dsn, silence_max_s=7)


def store_behind(proxy: Proxy) -> PostgresStore:
    return PostgresStore(proxy.dsn, silence_max_s=SILENCE_S)


@pytest.fixture
async def journal(proxy: Proxy) -> AsyncIterator[HookedJournal]:
    async with open_journal("", store=store_behind(proxy)) as journal:
        yield journal


# --- one statement without an answer ----------------------------------------------------------


@pytest.mark.parametrize("cut", Cut)
async def test_openings_whose_commit_has_no_answer_are_found_or_written_once(
    journal: HookedJournal, proxy: Proxy, cut: Cut
) -> None:
    bookings = [a_booking() for _ in range(8)]
    proxy.arm(bookings[3].request_id.encode(), cut, stays_open=True)
    results = await open_all(journal, bookings)

    assert proxy.cuts == 1
    assert all(result.is_new for result in results)
    for booking in bookings:
        assert await journal.find(TENANT, booking_id=booking.booking_id) == booking
        assert await states_told(journal, booking) == [State.SENDING]
    assert journal.is_healthy


@pytest.mark.parametrize("cut", Cut)
async def test_settles_whose_commit_has_no_answer_are_found_or_written_once(
    journal: HookedJournal, proxy: Proxy, cut: Cut
) -> None:
    changes = [succeeded(await opened(journal)) for _ in range(8)]
    proxy.arm(changes[3].before.booking_id.encode(), cut, stays_open=True)
    results = await queued(journal, *(journal.change(change) for change in changes))

    assert proxy.cuts == 1
    assert results == [True] * 8
    for change in changes:
        assert await journal.find(TENANT, booking_id=change.after.booking_id) == change.after
        assert await states_told(journal, change.after) == [State.SENDING, State.SUCCEEDED]


@pytest.mark.parametrize("cut", Cut)
async def test_the_one_commit_of_several_statements_may_be_the_one_without_an_answer(
    journal: HookedJournal, proxy: Proxy, cut: Cut
) -> None:
    booking = await opened(journal)
    change = replace(moved(booking, State.NEEDS_REVIEW), holds_account=True)
    proxy.arm(b"COMMIT", cut, stays_open=True)
    has_landed = await journal.change(change)

    assert proxy.cuts == 1
    assert has_landed
    assert await states_told(journal, change.after) == [State.SENDING, State.NEEDS_REVIEW]
    assert (await journal.open(Opening(a_booking(), "caller"))).is_held


@pytest.mark.parametrize("cut", Cut)
async def test_a_read_without_an_answer_is_asked_again_on_another_line(
    journal: HookedJournal, proxy: Proxy, cut: Cut
) -> None:
    booking = await opened(journal)
    proxy.arm(booking.booking_id.encode(), cut, stays_open=True)

    assert await journal.find(TENANT, booking_id=booking.booking_id) == booking
    assert proxy.cuts == 1


async def test_an_answer_that_takes_long_but_comes_is_waited_for(journal: HookedJournal) -> None:
    """The limit is for one answer and not for the life of a line."""
    for _ in range(5):
        await journal.on_the_writers_connection(
            lambda it: it.exec_driver_sql(f"SELECT pg_sleep({SILENCE_S / 3})")
        )

    assert journal.is_healthy


# --- all lines are silent ---------------------------------------------------------------------


async def test_a_silent_journal_is_unavailable_to_writes_and_reads_until_it_speaks_again(
    journal: HookedJournal, proxy: Proxy
) -> None:
    known = await opened(journal)
    booking = a_booking()
    proxy.is_dark = True
    async with asyncio.timeout(LIMIT_S):
        written, read, due = await asyncio.gather(
            failure(journal.open(Opening(booking, "caller"))),
            failure(journal.find(TENANT, booking_id=known.booking_id)),
            failure(journal.unresolved(TENANT)),
        )
    was_healthy = journal.is_healthy
    proxy.is_dark = False
    await until(lambda: journal.is_healthy)

    assert {error.reason for error in (written, read, due)} == {Reason.JOURNAL_UNAVAILABLE}
    assert not was_healthy, "probes are told"
    assert (await journal.open(Opening(booking, "caller"))).booking == booking
    assert await states_told(journal, booking) == [State.SENDING]


async def test_a_name_is_not_taken_in_a_silent_journal(
    journal: HookedJournal, proxy: Proxy
) -> None:
    proxy.is_dark = True
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(LoyaltyError) as caught:
            async with journal.alone("a promise"):
                pytest.fail("nobody knows who has it")

    assert caught.value.reason is Reason.JOURNAL_UNAVAILABLE


async def test_those_who_wait_for_a_silent_journal_do_not_each_wait_for_a_new_line(
    journal: HookedJournal, proxy: Proxy
) -> None:
    """A line that is tried in vain takes seconds, and rare writes have a commit each."""
    proxy.is_dark = True
    # Fewer lines than this are tried in the time: it would be two seconds for each.
    waiting = [journal.on_the_writers_connection(lambda _: None) for _ in range(40)]
    began_s = monotonic()
    results = await asyncio.gather(
        journal.open(Opening(a_booking(), "caller")), *waiting, return_exceptions=True
    )

    assert all(isinstance(result, Exception) for result in results)
    assert monotonic() - began_s < LIMIT_S


async def test_a_journal_that_has_fallen_silent_can_be_closed(proxy: Proxy) -> None:
    journal = HookedJournal(store_behind(proxy), "boot-1")
    await journal.start(CHECK)
    proxy.is_dark = True
    opening = asyncio.ensure_future(failure(journal.open(Opening(a_booking(), "caller"))))
    reading = asyncio.ensure_future(failure(journal.unresolved(TENANT)))
    await asyncio.sleep(0)
    async with asyncio.timeout(LIMIT_S):
        await journal.stop()

    assert (await opening).reason is Reason.JOURNAL_UNAVAILABLE
    assert (await reading).reason is Reason.JOURNAL_UNAVAILABLE


# --- at the start -----------------------------------------------------------------------------


@pytest.mark.parametrize("marker", [b"alembic_version", b"salt_check", b"pg_is_in_recovery"])
async def test_a_journal_that_falls_silent_while_it_is_opened_is_refused(
    postgres_dsn: str, marker: bytes
) -> None:
    async with open_journal(postgres_dsn):
        pass
    async with running_proxy(postgres_dsn) as proxy, asyncio.timeout(LIMIT_S):
        proxy.arm(marker, Cut.AFTER, stays_open=True)
        journal = Journal(store_behind(proxy), "boot-1")
        with pytest.raises(JournalRefused, match="cannot be used"):
            await journal.start(CHECK)
        await journal.stop()

    assert proxy.cuts == 1


async def test_a_journal_that_is_silent_from_the_first_is_refused(proxy: Proxy) -> None:
    proxy.is_dark = True
    async with asyncio.timeout(LIMIT_S):
        journal = Journal(store_behind(proxy), "boot-1")
        with pytest.raises(JournalRefused, match="cannot be used"):
            await journal.start(CHECK)
        await journal.stop()


async def test_a_journal_that_is_slow_at_the_first_is_waited_for(proxy: Proxy) -> None:
    proxy.is_dark = True
    journal = Journal(store_behind(proxy), "boot-1")
    async with asyncio.timeout(LIMIT_S):
        starting = asyncio.create_task(journal.start(CHECK))
        await asyncio.sleep(2.5)
        is_waiting = not starting.done()  # One try lasts 2 s.
        proxy.is_dark = False
        await starting
        await journal.stop()

    assert is_waiting


async def test_a_journal_that_falls_silent_once_it_was_checked_is_refused(proxy: Proxy) -> None:
    store = store_behind(proxy)
    await asyncio.to_thread(store.start, CHECK)
    proxy.is_dark = True
    writer = Writer(store)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(JournalRefused, match="went away"):
            await writer.start()
        await writer.stop()
    store.stop()


# --- what callers are told --------------------------------------------------------------------


async def test_nothing_is_sent_while_the_journal_is_silent(proxy: Proxy) -> None:
    async with open_house("", store=store_behind(proxy)) as house:
        proxy.is_dark = True
        error = await house.fails()
        sends = list(house.vendor.sends)
        proxy.is_dark = False
        await until(lambda: house.journal.is_healthy)
        # The intent of the first may still have landed: what was held back comes late.
        answer = await house.book("sale-0002")

    assert error.reason is Reason.JOURNAL_UNAVAILABLE
    assert sends == []
    assert not answer.is_replayed


async def test_an_undo_hears_in_time_that_the_journal_is_silent(proxy: Proxy) -> None:
    """Its original is read before anything else."""
    async with a_house("", a_vendor(), store=patient_store(proxy)) as house:
        await house.book()
        proxy.is_dark = True
        began_s = monotonic()
        error = await failure(house.engine.book(an_undo("undo-0001", "sale-0001", within_s=0.5)))
        took_s = monotonic() - began_s
        proxy.is_dark = False

    assert (error.reason, error.fate) == (Reason.JOURNAL_UNAVAILABLE, None)
    assert took_s < 1.5


async def test_a_doubt_is_told_in_time_though_the_journal_is_silent(proxy: Proxy) -> None:
    gate = Gate(loses_the_answer)
    async with a_house("", a_vendor(gate), SETTLED, store=patient_store(proxy)) as house:
        began_s = monotonic()
        caller = asyncio.create_task(house.fails(within_s=2))
        await gate.arrived.wait()
        proxy.is_dark = True
        gate.go.set()
        error = await caller
        took_s = monotonic() - began_s
        proxy.is_dark = False
        await house.becomes(State.SUCCEEDED)

    assert error.fate is Fate.UNKNOWN
    assert took_s < 3.5


async def test_who_waits_for_a_doubt_hears_in_time_though_the_journal_is_silent(
    proxy: Proxy,
) -> None:
    vendor = FakeVendor(otherwise=loses_the_request)
    async with open_house("", vendor, store=patient_store(proxy)) as house:
        await doubt(house)
        waiting = asyncio.create_task(house.fails(within_s=2))
        await until(lambda: bool(house.engine._closing._watchers._watchers))
        proxy.is_dark = True
        began_s = monotonic()
        error = await waiting
        took_s = monotonic() - began_s
        proxy.is_dark = False

    assert error.fate is Fate.UNKNOWN
    assert took_s < 3.5


async def test_what_was_sent_before_the_journal_fell_silent_is_open_and_then_settled(
    proxy: Proxy,
) -> None:
    gate = Gate(books)
    async with open_house("", FakeVendor(gate), store=store_behind(proxy)) as house:
        caller = asyncio.create_task(house.fails(within_s=4))
        await gate.arrived.wait()
        proxy.is_dark = True
        gate.go.set()
        error = await caller
        proxy.is_dark = False
        await house.becomes(State.SUCCEEDED)
        answer = await house.book()

    assert error.fate is Fate.UNKNOWN, "it may have been booked, and was"
    assert not error.is_final
    assert answer.is_replayed
    assert len(house.vendor.effects) == 1


# --- a standby that does not follow -----------------------------------------------------------


async def test_a_commit_that_waits_for_its_standby_is_not_joined_by_ever_more_of_them() -> None:
    """Its server's process waits on after we have gone; a hundred of them, and none gets in."""
    with running_server() as server:
        dsn = server.create_database()
        async with open_journal("", store=PostgresStore(dsn, silence_max_s=SILENCE_S)) as journal:
            await opened(journal)
            server.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            server.execute("SELECT pg_reload_conf()")
            booking, error = await first_that_is_refused(journal)
            await failure(journal.open(Opening(a_booking(), "caller")))
            waiting = commits_that_wait(dsn)
            was_healthy = journal.is_healthy
            server.execute("ALTER SYSTEM RESET synchronous_standby_names")
            server.execute("SELECT pg_reload_conf()")
            await until(lambda: journal.is_healthy)
            after = await journal.open(Opening(booking, "caller"))

    assert error.reason is Reason.JOURNAL_UNAVAILABLE
    assert waiting == 1
    assert not was_healthy
    assert after.booking == booking


async def first_that_is_refused(journal: Journal) -> tuple[Booking, LoyaltyError]:
    """Until the server has read its settings again, bookings are still opened."""
    while True:
        booking = a_booking()
        try:
            await journal.open(Opening(booking, "caller"))
        except LoyaltyError as error:
            return booking, error


def commits_that_wait(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            b"SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        ).fetchone()
    assert row is not None
    return int(row[0])
