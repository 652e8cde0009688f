"""What an error of a database says about the rows, and what a server's settings say about it."""

from dataclasses import dataclass, replace
from pathlib import Path
from sqlite3 import OperationalError as FileError

import psycopg
import pytest
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from loyalty_gateway.journal.postgres import PostgresStore, durability_problems
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.journal.store import Trouble


def an_error(state: str) -> DBAPIError:
    """As the server raises it."""
    return DBAPIError("INSERT", {}, psycopg.errors.lookup(state)())


@pytest.fixture
def postgres() -> PostgresStore:
    """Never connected."""
    return PostgresStore("postgresql://nobody@127.0.0.1:1/none")


@pytest.mark.parametrize(
    ("state", "trouble"),
    [
        ("23505", Trouble.ROW),  # a key that is taken
        ("22021", Trouble.ROW),  # a text that cannot be stored
        ("40001", Trouble.RETRY),  # serialization
        ("40P01", Trouble.RETRY),  # deadlock
        ("55P03", Trouble.RETRY),  # a lock that did not come in time
        ("57P01", Trouble.LOST),  # shut down by an administrator
        ("57P03", Trouble.LOST),  # it is starting up
        ("08006", Trouble.LOST),  # the connection failed
        ("25006", Trouble.LOST),  # read-only: a standby by now
        ("53100", Trouble.REFUSED),  # disk full
        ("53300", Trouble.REFUSED),  # too many connections
        ("57014", Trouble.REFUSED),  # the statement took too long
        ("42501", Trouble.REFUSED),  # this user may not
    ],
)
def test_each_state_of_postgresql_says_what_became_of_the_rows(
    postgres: PostgresStore, state: str, trouble: Trouble
) -> None:
    assert postgres.trouble(an_error(state)) is trouble


def test_a_line_that_broke_leaves_open_what_was_written(postgres: PostgresStore) -> None:
    stateless = OperationalError("COMMIT", {}, psycopg.OperationalError("the line was given up"))
    known_state = IntegrityError(
        "INSERT", {}, psycopg.errors.UniqueViolation(), connection_invalidated=True
    )

    assert postgres.trouble(stateless) is Trouble.LOST
    assert postgres.trouble(known_state) is Trouble.LOST


def test_a_value_that_never_came_to_the_server_is_its_rows_fault(
    postgres: PostgresStore, tmp_path: Path
) -> None:
    for store in (postgres, SqliteStore(tmp_path / "journal")):
        assert store.trouble(ValueError("half a surrogate pair")) is Trouble.ROW


def test_a_connection_that_did_not_become_free_says_nothing_was_written(
    postgres: PostgresStore, tmp_path: Path
) -> None:
    for store in (postgres, SqliteStore(tmp_path / "journal")):
        assert store.trouble(PoolTimeout("none was free")) is Trouble.REFUSED


def test_a_files_errors_are_about_the_row_or_about_the_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "journal")
    full = OperationalError("INSERT", {}, FileError("database or disk is full"))

    assert store.trouble(full) is Trouble.LOST
    assert store.trouble(DataError("INSERT", {}, FileError())) is Trouble.ROW
    broken = DataError("INSERT", {}, FileError(), connection_invalidated=True)
    assert store.trouble(broken) is Trouble.LOST


@dataclass(frozen=True, slots=True)
class Row:
    """A server's settings as it tells them."""

    version: int = 140_000
    is_standby: bool = False
    read_only: str = "off"
    fsync: str = "on"
    full_page_writes: str = "on"
    synchronous_commit: str = "on"
    standbys: str = ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 139_999}, "older than PostgreSQL 14"),
        ({"is_standby": True}, "a standby"),
        ({"read_only": "on"}, "read-only"),
        ({"fsync": "off"}, "fsync"),
        ({"full_page_writes": "off"}, "full_page_writes"),
        ({"synchronous_commit": "local"}, "synchronous_commit is local"),
    ],
)
def test_a_server_that_could_lose_a_commit_is_told_by_its_settings(
    changes: dict[str, object], said: str
) -> None:
    (problem,) = durability_problems(replace(Row(), **changes), ha="none")  # type: ignore[arg-type]

    assert said in problem


def test_a_server_that_keeps_its_commits_has_no_problem() -> None:
    assert durability_problems(Row(), ha="none") == []
    assert durability_problems(Row(synchronous_commit="remote_apply"), ha="none") == []
    assert durability_problems(Row(standbys="*"), ha="synchronous") == []
    assert len(durability_problems(Row(), ha="synchronous")) == 1
