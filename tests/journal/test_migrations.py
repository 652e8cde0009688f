"""The schema's history: one line of migrations that ends in exactly what the program writes."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from loyalty_gateway.journal import schema
from loyalty_gateway.journal.journal import (
    JournalRefused,
    current_revision,
    lock_file,
    make_engine,
    migrate_file,
)
from tests.journal.rows import open_journal, opened


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
    tmp_path: Path,
) -> None:
    migrate_file(tmp_path / "journal")
    engine = make_engine(tmp_path / "journal")
    with engine.connect() as connection:
        differences = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), schema.metadata
        )
    engine.dispose()

    assert differences == []


def test_constraints_and_partial_indexes_are_those_of_the_schema_too(tmp_path: Path) -> None:
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
        # Columns and constraints may stand in another order; each one is compared.
        return {
            name: sorted(part.strip() for part in sql[sql.index("(") + 1 : -1].split(", \n\t"))
            for name, sql in rows
            if name != "alembic_version"
        }

    assert words(tmp_path / "migrated", "index") == words(tmp_path / "made", "index")
    assert words(tmp_path / "migrated", "table") == words(tmp_path / "made", "table")


def test_a_new_file_stands_nowhere_and_a_migrated_one_at_the_head(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "journal")
    before = current_revision(engine)
    engine.dispose()
    migrate_file(tmp_path / "journal")
    engine = make_engine(tmp_path / "journal")
    after = current_revision(engine)
    engine.dispose()

    assert (before, after) == ("", schema.REVISION)


def test_migrating_twice_is_migrating_once(tmp_path: Path) -> None:
    migrate_file(tmp_path / "journal")
    content = (tmp_path / "journal").read_bytes()
    migrate_file(tmp_path / "journal")

    assert (tmp_path / "journal").read_bytes() == content


async def test_a_journal_of_a_newer_program_is_refused_and_left_as_it_is(
    tmp_path: Path,
) -> None:
    migrate_file(tmp_path / "journal")
    with closing(sqlite3.connect(tmp_path / "journal")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(JournalRefused, match="does not know"):
        migrate_file(tmp_path / "journal")
    with pytest.raises(JournalRefused, match="does not know"):
        async with open_journal(tmp_path / "journal"):
            pass
    with closing(sqlite3.connect(tmp_path / "journal")) as connection:
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()

    assert rows == [("9999",)]


def test_a_journal_in_use_is_not_migrated(tmp_path: Path) -> None:
    held = lock_file(tmp_path / "journal")
    with pytest.raises(JournalRefused, match="in use"):
        migrate_file(tmp_path / "journal")
    os.close(held)


async def test_migrating_keeps_what_was_written(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "journal") as journal:
        booking = await opened(journal)
    migrate_file(tmp_path / "journal")
    async with open_journal(tmp_path / "journal") as journal:
        assert await journal.find(booking.tenant, booking_id=booking.booking_id) == booking
