"""PostgreSQL as the journal's database: what it is refused for, and how it finds its rows."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import PendingRollbackError

from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.journal import postgres
from loyalty_gateway.journal.journal import Journal, ListQuery
from loyalty_gateway.journal.line import BoundedConnection
from loyalty_gateway.journal.postgres import PostgresStore
from loyalty_gateway.journal.store import JournalRefused
from loyalty_gateway.journal.writer import Opened, Opening
from tests.booking.house import HookedJournal, failure, until
from tests.journal.rows import CHECK, T0, TENANT, a_booking, moved, open_journal, opened, succeeded
from tests.postgres import PostgresServer, database_of


async def refused(store: PostgresStore) -> str:
    """Why a journal on this store does not start."""
    journal = Journal(store, "boot-1")
    with pytest.raises(JournalRefused) as caught:
        await journal.start(CHECK)
    await journal.stop()
    return str(caught.value)


@pytest.fixture
async def used_dsn(postgres_dsn: str) -> str:
    """A database whose journal was in use already."""
    async with open_journal(postgres_dsn):
        return postgres_dsn


def throw_out(dsn: str) -> None:
    """Ends every other connection to the database, as a restart does."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            b" WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def promote(dsn: str) -> None:
    """Another server answers from now on, whose timeline is a new one."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            b"UPDATE deployment SET value = '00000000'::bytea WHERE name = 'timeline'"
        )
    throw_out(dsn)


# --- durability -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["off", "local", "remote_write"])
async def test_a_database_that_reports_commits_before_they_are_safe_is_refused(
    used_dsn: str, postgres_server: PostgresServer, value: str
) -> None:
    postgres_server.execute(
        f"ALTER DATABASE {database_of(used_dsn)} SET synchronous_commit = {value}"
    )

    assert f"synchronous_commit is {value}" in await refused(PostgresStore(used_dsn))


async def test_a_database_that_is_read_only_is_refused(
    used_dsn: str, postgres_server: PostgresServer
) -> None:
    """As a standby is."""
    postgres_server.execute(
        f"ALTER DATABASE {database_of(used_dsn)} SET default_transaction_read_only = on"
    )

    assert "read-only" in await refused(PostgresStore(used_dsn))


async def test_a_standby_that_was_promised_and_is_not_there_is_missed(used_dsn: str) -> None:
    assert "no synchronous standby" in await refused(PostgresStore(used_dsn, ha="synchronous"))


async def test_durability_is_checked_again_whenever_the_writer_has_to_connect_again(
    used_dsn: str, postgres_server: PostgresServer
) -> None:
    """It may be another server by now."""
    database = database_of(used_dsn)
    async with open_journal(used_dsn) as journal:
        await opened(journal)
        postgres_server.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
        throw_out(used_dsn)
        error = await failure(journal.open(Opening(a_booking(), "caller")))
        was_healthy = journal.is_healthy
        known = (await journal.list(ListQuery(tenant=TENANT))).bookings
        postgres_server.execute(f"ALTER DATABASE {database} RESET synchronous_commit")
        await until(lambda: journal.is_healthy)
        await opened(journal)

    assert error.reason is Reason.JOURNAL_UNAVAILABLE
    assert not was_healthy
    assert len(known) == 1, "what is known is answered all the same"


async def test_a_promoted_database_is_refused_until_a_person_has_accepted_it(
    used_dsn: str,
) -> None:
    """Another timeline: the last commits may have stayed on the old primary."""
    with psycopg.connect(used_dsn) as connection:
        connection.execute(
            b"UPDATE deployment SET value = '00000000'::bytea WHERE name = 'timeline'"
        )
    why = await refused(PostgresStore(used_dsn))
    operator = PostgresStore(used_dsn)
    operator.accept_timeline()
    operator.stop()
    async with open_journal(used_dsn) as journal:
        await opened(journal)

    assert "promoted" in why and "loyalty journal accept" in why


async def test_a_promotion_while_the_journal_is_in_use_stops_its_writes(used_dsn: str) -> None:
    async with open_journal(used_dsn) as journal:
        booking = await opened(journal)
        promote(used_dsn)
        error = await failure(journal.open(Opening(a_booking(), "caller")))
        found = await journal.find(TENANT, booking_id=booking.booking_id)
        operator = PostgresStore(used_dsn)
        operator.accept_timeline()
        operator.stop()
        await until(lambda: journal.is_healthy)

    assert error.reason is Reason.JOURNAL_UNAVAILABLE
    assert found == booking


async def stays_closed(journal: HookedJournal, dsn: str) -> None:
    """Nothing is written until a person has accepted the promotion."""
    booking = a_booking()
    error = await failure(journal.open(Opening(booking, "caller")))
    found = await journal.find(TENANT, booking_id=booking.booking_id)
    operator = PostgresStore(dsn)
    operator.accept_timeline()
    operator.stop()
    await until(lambda: journal.is_healthy)
    await opened(journal)

    assert error.reason is Reason.JOURNAL_UNAVAILABLE
    assert found is None


@pytest.mark.parametrize("is_found", [False, True])
async def test_a_promotion_while_a_lost_commit_is_read_again_stops_the_writes(
    used_dsn: str, monkeypatch: pytest.MonkeyPatch, is_found: bool
) -> None:
    """The line breaks twice: at the commit, and while its rows are read or confirmed."""
    async with open_journal(used_dsn) as journal:
        known = await opened(journal)
        read = journal._writer._batches.found_openings

        def cut(connection: Connection, openings: Sequence[Opening]) -> list[Opened | None]:
            monkeypatch.undo()
            results = read(connection, openings) if is_found else []
            promote(used_dsn)
            return results or read(connection, openings)

        monkeypatch.setattr(journal._writer._batches, "found_openings", cut)
        throw_out(used_dsn)
        repeat = a_booking(request_id=known.request_id, outbound_id="o-else")
        error = await failure(journal.open(Opening(repeat, "caller")))
        await stays_closed(journal, used_dsn)

    assert error.reason is Reason.JOURNAL_UNAVAILABLE


async def test_a_line_that_was_given_up_is_not_made_again_unchecked(used_dsn: str) -> None:
    async with open_journal(used_dsn) as journal:
        with pytest.raises(PendingRollbackError):
            await journal.on_the_writers_connection(lambda it: it.invalidate())
        promote(used_dsn)
        await stays_closed(journal, used_dsn)


async def test_a_database_that_does_not_answer_is_refused_without_a_word_of_its_password() -> None:
    why = await refused(PostgresStore("postgresql://anna:secret-word@127.0.0.1:1/none"))

    assert "cannot be used" in why
    assert "secret-word" not in why


@pytest.fixture
def stranger_dsn(blank_dsn: str, postgres_server: PostgresServer) -> Iterator[str]:
    """The dsn of a user who may connect and do nothing else."""
    name = f"stranger_{database_of(blank_dsn)}"
    postgres_server.execute(f"CREATE ROLE {name} LOGIN")
    yield blank_dsn.replace("postgres:@", f"{name}:@", 1)
    postgres_server.execute(f"DROP ROLE {name}")


async def test_a_user_who_may_not_make_the_tables_is_refused_in_one_sentence(
    stranger_dsn: str,
) -> None:
    assert "may this user connect, create tables and write" in (
        await refused(PostgresStore(stranger_dsn))
    ).replace("\n", " ")


# --- somebody else's locks --------------------------------------------------------------------


async def test_a_lock_of_somebody_else_delays_bookings_and_loses_none(
    postgres_dsn: str,
) -> None:
    """A migration or a careless operator; longer than one statement waits for it."""
    async with (
        open_journal(postgres_dsn) as journal,
        await psycopg.AsyncConnection.connect(postgres_dsn) as other,
    ):
        await other.execute(b"LOCK TABLE booking IN ACCESS EXCLUSIVE MODE")
        bookings = [a_booking() for _ in range(8)]
        opening = asyncio.gather(
            *(journal.open(Opening(booking, "caller")) for booking in bookings)
        )
        done, _ = await asyncio.wait({opening}, timeout=2.5)
        await other.commit()
        results = await opening

    assert not done
    assert all(result.is_new for result in results)


# --- by which index ---------------------------------------------------------------------------


_MANY = text(
    "INSERT INTO booking SELECT r.* FROM booking b, generate_series(1, :count) n,"
    " LATERAL json_populate_record(b, json_build_object("
    " 'booking_id', 'many-' || n, 'request_id', 'many-' || n, 'outbound_id', 'many-' || n,"
    " 'state', 'DECLINED', 'owner', '', 'settle_time', n,"
    " 'next_attempt_time', NULL, 'lease_until', NULL, 'create_time', n)) r"
    " WHERE b.booking_id = :booking_id"
)


async def filled(journal: HookedJournal, count: int = 100_000) -> None:
    """As many settled bookings as a small shop has in a year."""
    template = await opened(journal)
    values = {"count": count, "booking_id": template.booking_id}

    def fill(connection: Connection) -> None:
        line = connection.connection.dbapi_connection
        assert isinstance(line, BoundedConnection)
        silence_max_s, line.silence_max_s = line.silence_max_s, 100.0
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(_MANY, values)
        connection.execute(text("SET statement_timeout = '5s'"))
        line.silence_max_s = silence_max_s

    await journal.on_the_writers_connection(fill)


def read_in_full(connection: Connection) -> int:
    """How many rows this connection has read without an index so far, in the large tables."""
    connection.execute(text("SELECT pg_stat_force_next_flush()"))

    rows = connection.execute(
        text(
            "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_user_tables"
            " WHERE relname IN ('booking', 'history', 'attempt')"
        )
    )
    return int(rows.scalar_one())


async def writes(journal: HookedJournal, rounds: int) -> None:
    """Everything that the writer does, so often that its plans are made once and for all."""
    for _ in range(rounds):
        bookings = [await opened(journal) for _ in range(3)]
        await journal.open(Opening(a_booking(request_id=bookings[0].request_id), "caller"))
        await journal.change(succeeded(bookings[0]))
        await journal.change(moved(bookings[1], State.NEEDS_REVIEW))
        await journal.claim(TENANT, 600, 10)


async def test_plans_made_while_the_tables_were_empty_do_not_read_a_hundred_thousand_rows(
    postgres_dsn: str,
) -> None:
    """PostgreSQL keeps a plan for ever; one made for an empty table reads all of it."""
    async with open_journal(postgres_dsn) as journal:
        await writes(journal, 8)
        await filled(journal)
        before = await journal.on_the_writers_connection(read_in_full)
        await writes(journal, 8)
        after = await journal.on_the_writers_connection(read_in_full)

    # With the planner left to itself it is more than a million.
    assert after - before < 1_000


async def test_every_read_of_a_hundred_thousand_rows_finds_its_rows_by_an_index(
    postgres_dsn: str,
) -> None:
    async with open_journal(postgres_dsn) as journal:
        await filled(journal)
        await journal.on_the_writers_connection(lambda it: it.execute(text("ANALYZE booking")))
        engines = (journal._store.engine, journal._store.background)
        after = (50_000, "many-50000")
        for _ in range(8):
            await journal.find(TENANT, booking_id="many-77")
            await journal.find(TENANT, request_id="many-77")
            await journal.next_due_time(TENANT, T0)
            await journal.unresolved(TENANT)
            await journal.names_of(TENANT, "main", ["many-1", "many-2"])
            await journal.count_tombstones(TENANT, T0)
            await journal.story(TENANT, "many-77")
            await journal.list(ListQuery(tenant=TENANT))
            await journal.list(ListQuery(tenant=TENANT, after=after))
            await journal.list(ListQuery(tenant=TENANT, by_settle_time=True, after=after))

        async def flushed() -> list[Any]:
            """The reader's statistics come with the end of its connections."""
            for engine in engines:
                engine.dispose()
            with psycopg.connect(postgres_dsn, autocommit=True) as connection:
                return connection.execute(
                    b"SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_user_tables"
                    b" WHERE relname = 'booking'"
                ).fetchall()

        before = await journal.on_the_writers_connection(read_in_full)
        ((total,),) = await flushed()

    assert total - before < 100_000, "no read went through the whole table"


# --- names that one process holds ---------------------------------------------------------------


async def test_a_name_is_held_by_one_process_at_a_time_and_is_free_when_that_one_has_died(
    used_dsn: str,
) -> None:
    first, second = PostgresStore(used_dsn), PostgresStore(used_dsn)
    give_back = await asyncio.to_thread(first.try_alone, "one")
    assert give_back is not None
    assert await asyncio.to_thread(second.try_alone, "one") is None
    assert await asyncio.to_thread(first.try_alone, "one") is None
    other = await asyncio.to_thread(second.try_alone, "another")
    assert other is not None

    give_back()
    again = await asyncio.to_thread(second.try_alone, "one")
    assert again is not None
    throw_out(used_dsn)
    last = await asyncio.to_thread(first.try_alone, "one")
    assert last is not None

    for end in (again, other, last):
        end()
    for store in (first, second):
        store.stop()


async def test_who_cannot_ask_the_database_holds_no_name(postgres_dsn: str) -> None:
    async with open_journal(postgres_dsn) as journal:
        entered = False
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(postgres, "_TRY_ALONE", text("SELECT * FROM nowhere WHERE '' = :name"))
            with pytest.raises(LoyaltyError) as caught:
                async with journal.alone("one"):
                    entered = True
        async with journal.alone("one"):
            pass

    assert not entered
    assert caught.value.reason is Reason.JOURNAL_UNAVAILABLE
