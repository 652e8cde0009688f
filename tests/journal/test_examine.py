"""Looking at a journal: everything that would stop a start is seen, and nothing is changed."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from loyalty_gateway.journal import schema
from loyalty_gateway.journal.store import Examination, JournalRefused
from tests.journal.rows import CHECK
from tests.postgres import Place, PostgresServer, database_of, store_at


@pytest.fixture
def blank(store_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """A place where no journal was ever made."""
    if store_kind == "sqlite":
        return tmp_path / "journal"
    dsn: str = request.getfixturevalue("blank_dsn")
    return dsn


def make(place: Place) -> None:
    store = store_at(place)
    store.start(CHECK)
    store.stop()


def examine(place: Place, check: bytes = CHECK) -> Examination:
    store = store_at(place)
    try:
        return store.examine(check)
    finally:
        store.stop()


def refused(place: Place, check: bytes = CHECK) -> str:
    with pytest.raises(JournalRefused) as caught:
        examine(place, check)
    return str(caught.value)


def run(place: Place, statement: str) -> None:
    if isinstance(place, Path):
        with closing(sqlite3.connect(place)) as connection, connection:
            connection.execute(statement)
    else:
        with psycopg.connect(place, autocommit=True) as database:
            database.execute(statement.encode())


def tables_of(place: Place) -> list[str]:
    if isinstance(place, Path):
        with closing(sqlite3.connect(place)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return [row[0] for row in rows]
    with psycopg.connect(place) as database:
        found = database.execute(
            b"SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        return [row[0] for row in found]


def test_a_journal_that_is_not_made_yet_is_told_and_not_made(blank: Place) -> None:
    found = examine(blank)

    assert (found.revision, found.is_in_use) == ("", False)
    if isinstance(blank, Path):
        assert list(blank.parent.iterdir()) == []
    else:
        assert tables_of(blank) == []


def test_a_journal_of_this_version_fits(blank: Place) -> None:
    make(blank)
    found = examine(blank)

    assert found.revision == schema.REVISION
    assert not found.is_in_use


def test_an_older_journal_is_told_and_not_migrated(blank: Place) -> None:
    make(blank)
    run(blank, "UPDATE alembic_version SET version_num = '0001'")

    assert examine(blank).revision == "0001"
    assert examine(blank).revision == "0001"


def test_a_newer_journal_is_refused(blank: Place) -> None:
    make(blank)
    run(blank, "UPDATE alembic_version SET version_num = '9999'")

    assert "9999" in refused(blank)


def test_a_journal_of_another_salt_is_refused(blank: Place) -> None:
    make(blank)

    assert "outbound salt" in refused(blank, b"another")


# --- SQLite -----------------------------------------------------------------------------------


def test_a_file_that_a_server_has_is_in_use_and_left_alone(tmp_path: Path) -> None:
    store = store_at(tmp_path / "journal")
    store.start(CHECK)
    try:
        found = examine(tmp_path / "journal")
    finally:
        store.stop()

    assert found.is_in_use
    assert found.free_bytes is not None and found.free_bytes > 0
    assert not examine(tmp_path / "journal").is_in_use


def test_looking_at_a_file_does_not_keep_a_server_from_starting(tmp_path: Path) -> None:
    make(tmp_path / "journal")
    looking = store_at(tmp_path / "journal")
    looking.examine(CHECK)
    make(tmp_path / "journal")
    looking.stop()


def test_a_folder_that_is_yet_to_be_made_is_no_trouble(tmp_path: Path) -> None:
    assert examine(tmp_path / "not" / "there" / "journal").revision == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"something else, and quite long at that" * 100)

    assert "cannot be read" in refused(tmp_path / "journal")


# --- PostgreSQL -------------------------------------------------------------------------------


def test_the_databases_clock_is_compared_with_this_machines(postgres_dsn: str) -> None:
    skew_s = examine(postgres_dsn).clock_skew_s

    assert skew_s is not None and abs(skew_s) < 1


def test_a_database_that_is_not_durable_is_refused(
    postgres_dsn: str, postgres_server: PostgresServer
) -> None:
    postgres_server.execute(
        f"ALTER DATABASE {database_of(postgres_dsn)} SET synchronous_commit = off"
    )

    assert "synchronous_commit is off" in refused(postgres_dsn)


def test_a_promoted_database_is_refused(blank_dsn: str) -> None:
    make(blank_dsn)
    run(blank_dsn, "UPDATE deployment SET value = '00000009' WHERE name = 'timeline'")

    assert "loyalty journal accept" in refused(blank_dsn)


def test_looking_at_a_database_keeps_no_timeline(blank_dsn: str) -> None:
    make(blank_dsn)
    run(blank_dsn, "DELETE FROM deployment WHERE name = 'timeline'")
    examine(blank_dsn)
    with psycopg.connect(blank_dsn) as connection:
        kept = connection.execute(b"SELECT count(*) FROM deployment WHERE name = 'timeline'")
        assert kept.fetchone() == (0,)


def test_a_database_that_is_away_is_refused() -> None:
    text = refused("postgresql://nobody:secret@127.0.0.1:9/journal")

    assert "cannot be used" in text
    assert "secret" not in text


def test_a_folder_that_may_not_be_written_to_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with every right has no such folder, so the system's answer is played."""
    monkeypatch.setattr("os.access", lambda *_: False)

    assert "cannot be written to" in refused(tmp_path / "journal")
