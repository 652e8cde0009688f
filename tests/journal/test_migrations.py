"""The schema's history: one line of migrations that ends in exactly what the program writes."""

import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, func, select, text

from loyalty_gateway.journal import migrations, schema
from loyalty_gateway.journal.postgres import PostgresStore
from loyalty_gateway.journal.rows import booking_row
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.journal.store import JournalRefused, Store
from tests.journal.rows import CHECK, a_booking, open_journal, opened
from tests.postgres import Place, store_at


@pytest.fixture
def blank(store_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """A place where no journal was ever made."""
    if store_kind == "sqlite":
        return tmp_path / "journal"
    dsn: str = request.getfixturevalue("blank_dsn")
    return dsn


@pytest.fixture
def started(blank: Place) -> Iterator[Store]:
    """A store that has just made its journal."""
    store = store_at(blank)
    store.start(CHECK)
    yield store
    store.stop()


def migrate_file(path: Path) -> None:
    store = SqliteStore(path)
    try:
        store.start(CHECK)
    finally:
        store.stop()


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", "loyalty_gateway.journal:migrations")
    return ScriptDirectory.from_config(config)


def test_the_migrations_have_one_head_and_the_program_stands_at_it() -> None:
    assert scripts().get_heads() == [schema.REVISION]


def test_no_migration_goes_back() -> None:
    """Forward only: a downgrade would forget what bookings need."""
    for script in scripts().walk_revisions():
        assert not hasattr(script.module, "downgrade"), script.revision


def test_the_migrations_lead_from_nothing_to_the_schema_that_the_program_writes(
    started: Store,
) -> None:
    with started.engine.connect() as connection:
        differences = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), schema.metadata
        )

    assert differences == []


def test_constraints_and_partial_indexes_of_a_file_are_those_of_the_schema_too(
    tmp_path: Path,
) -> None:
    """What autogenerate does not compare: checks, and the conditions of partial indexes."""
    migrate_file(tmp_path / "migrated")
    made = create_engine(f"sqlite:///{tmp_path / 'made'}")
    schema.metadata.create_all(made)
    made.dispose()

    def words(path: Path, kind: str) -> dict[str, list[str]]:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = ? AND sql IS NOT NULL", (kind,)
            ).fetchall()
        # Columns and constraints may stand in another order; each one is compared. Those that a
        # later migration added stand behind, in the same line.
        separator = re.compile(r",\s*(?![^()]*\))")
        return {
            name: sorted(part.strip() for part in separator.split(sql[sql.index("(") + 1 : -1]))
            for name, sql in rows
            if name != "alembic_version"
        }

    assert words(tmp_path / "migrated", "index") == words(tmp_path / "made", "index")
    assert words(tmp_path / "migrated", "table") == words(tmp_path / "made", "table")


def test_constraints_and_partial_indexes_of_a_database_are_those_of_the_schema_too(
    postgres_dsn: str, blank_dsn: str
) -> None:
    migrated, made = PostgresStore(postgres_dsn), PostgresStore(blank_dsn)
    with made.engine.connect() as connection:
        schema.metadata.create_all(connection)

    def words(store: PostgresStore) -> list[tuple[str, str]]:
        with store.engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
                    " UNION ALL SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
                    " WHERE connamespace = 'public'::regnamespace"
                )
            )
            return sorted(
                (row[0], row[1]) for row in rows if not row[0].startswith("alembic_version")
            )

    try:
        assert words(migrated) == words(made)
        assert len(words(made)) > 20
    finally:
        migrated.stop()
        made.stop()


def test_a_blank_place_stands_nowhere_and_a_started_journal_at_the_head(
    tmp_path: Path, started: Store
) -> None:
    blank = create_engine(f"sqlite:///{tmp_path / 'blank'}")
    with blank.connect() as connection:
        assert migrations.current_revision(connection) == ""
    blank.dispose()
    with started.engine.connect() as connection:
        assert migrations.current_revision(connection) == schema.REVISION


def test_replicas_that_start_at_one_moment_make_one_journal(blank_dsn: str) -> None:
    """A rolling start: all of them find nothing, one of them makes it, nobody fails."""
    replicas = 4
    together = Barrier(replicas)

    def start() -> str:
        store = PostgresStore(blank_dsn)
        try:
            together.wait(30)
            store.start(CHECK)
            with store.engine.connect() as connection:
                return migrations.current_revision(connection)
        finally:
            store.stop()

    with ThreadPoolExecutor(replicas) as threads:
        revisions = [thread.result(60) for thread in [threads.submit(start) for _ in range(4)]]
    one = PostgresStore(blank_dsn)
    with one.engine.connect() as connection:
        checks = connection.execute(select(func.count()).select_from(schema.deployment))
        count = checks.scalar_one()
    one.stop()

    assert revisions == [schema.REVISION] * replicas
    assert count == 2, "the check of the salt and the timeline, once each"


def test_of_two_deployments_that_start_at_one_moment_one_is_refused(blank_dsn: str) -> None:
    together = Barrier(2)

    def start(check: bytes) -> str:
        store = PostgresStore(blank_dsn)
        try:
            together.wait(30)
            store.start(check)
        except JournalRefused as refusal:
            return str(refusal)
        finally:
            store.stop()
        return ""

    with ThreadPoolExecutor(2) as threads:
        ends = sorted(threads.map(start, [b"c" * 16, b"d" * 16]))

    assert ends[0] == ""
    assert "keys.outbound_salt" in ends[1]


def test_migrating_twice_is_migrating_once(tmp_path: Path) -> None:
    migrate_file(tmp_path / "journal")
    content = (tmp_path / "journal").read_bytes()
    migrate_file(tmp_path / "journal")

    assert (tmp_path / "journal").read_bytes() == content


async def test_a_journal_of_a_newer_program_is_refused_and_left_as_it_is(place: Place) -> None:
    newer = "UPDATE alembic_version SET version_num = '9999'"
    async with open_journal(place) as journal:
        await journal.on_the_writers_connection(lambda it: it.execute(text(newer)))
    with pytest.raises(JournalRefused, match="does not know"):
        async with open_journal(place):
            pass
    if isinstance(place, Path):
        engine = create_engine(f"sqlite:///{place}")
    else:
        engine = store_at(place).engine
    with engine.connect() as connection:
        assert migrations.current_revision(connection) == "9999"
    engine.dispose()


async def test_a_file_in_use_is_not_migrated(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "journal"):
        with pytest.raises(JournalRefused, match="in use"):
            migrate_file(tmp_path / "journal")


async def test_a_journal_of_the_first_schema_goes_on_with_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "loyalty_gateway.journal:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        booking = a_booking()
        row = dict(booking_row(booking))
        for name in ("private_sealed", "answer_sealed"):
            del row[name]
        row["order_content"] = (
            '{"allow_partial":true,"money_value":null,"redemption_kind":"","sale":{},'
            '"in_doubt_policy":"RESOLVE"}'
        )
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        connection.execute(text(f"INSERT INTO booking ({names}) VALUES ({values})"), row)
    engine.dispose()

    async with open_journal(path) as journal:
        found = await journal.find(booking.tenant, booking_id=booking.booking_id)

    assert booking.order is not None
    assert found == replace(booking, order=replace(booking.order, allow_partial=True))


async def test_migrating_keeps_what_was_written(place: Place) -> None:
    async with open_journal(place) as journal:
        booking = await opened(journal)
    again = store_at(place)
    again.start(CHECK)
    again.stop()
    async with open_journal(place) as journal:
        assert await journal.find(booking.tenant, booking_id=booking.booking_id) == booking
