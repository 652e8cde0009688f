"""`loyalty journal` and `loyalty migrate` on both kinds of database."""

import io
import sys
from pathlib import Path

import psycopg
import pytest

from loyalty_gateway.cli import main
from tests.postgres import database_of

Capture = pytest.CaptureFixture[str]

PRODUCTION = """
[keys]
sealing = [{ id = "k1", value = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" }]
outbound_salt = "salt-that-nobody-may-see"
[connections.cashassist]
provider = "cashassist"
base_url = "https://vendor.example/v1"
api_key = "sk_live_nobody_may_see_this"
"""


class Terminal(io.StringIO):
    """A person at a keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def sqlite_config(tmp_path: Path) -> str:
    path = tmp_path / "sqlite.toml"
    path.write_text(f'{PRODUCTION}\n[journal]\npath = "{tmp_path / "journal.sqlite3"}"\n')
    return str(path)


@pytest.fixture
def postgres_config(tmp_path: Path, blank_dsn: str) -> str:
    (tmp_path / "dsn").write_text(f"{blank_dsn}\n")
    path = tmp_path / "postgres.toml"
    path.write_text(f'{PRODUCTION}\n[journal]\ndsn_file = "{tmp_path / "dsn"}"\n')
    return str(path)


def promote(dsn: str) -> None:
    """Makes the database look as a promotion leaves it: on another timeline than is known."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE deployment SET value = '00000009' WHERE name = 'timeline'")


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_migrate_fits_either_database_and_may_run_again(
    kind: str, request: pytest.FixtureRequest, capsys: Capture
) -> None:
    config: str = request.getfixturevalue(f"{kind}_config")
    for _ in range(2):
        assert main(["migrate", "--config", config]) == 0
        assert "fits this version" in capsys.readouterr().out


def test_migrate_tells_the_place_and_not_the_login(
    capsys: Capture, postgres_config: str, blank_dsn: str
) -> None:
    assert main(["migrate", "--config", postgres_config]) == 0
    text = capsys.readouterr().out
    assert f"/{database_of(blank_dsn)} fits" in text
    assert "@" not in text


def test_a_promoted_journal_is_refused_until_a_person_accepts_it(
    capsys: Capture, postgres_config: str, blank_dsn: str
) -> None:
    assert main(["migrate", "--config", postgres_config]) == 0
    promote(blank_dsn)
    assert main(["migrate", "--config", postgres_config]) == 2
    assert "loyalty journal accept" in capsys.readouterr().err

    assert main(["journal", "accept", "--config", postgres_config, "--yes"]) == 0

    assert "is accepted as it stands" in capsys.readouterr().out
    assert main(["migrate", "--config", postgres_config]) == 0


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_a_person_at_a_terminal_is_asked_before_a_journal_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
    postgres_config: str,
    blank_dsn: str,
    typed: str,
    code: int,
) -> None:
    assert main(["migrate", "--config", postgres_config]) == 0
    promote(blank_dsn)
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert main(["journal", "accept", "--config", postgres_config]) == code
    assert "may have forgotten its last bookings" in terminal.getvalue()
    assert main(["migrate", "--config", postgres_config]) == (2 if code else 0)


def test_no_script_accepts_a_journal_without_saying_so(
    capsys: Capture, postgres_config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(["journal", "accept", "--config", postgres_config]) == 2
    assert "--yes" in capsys.readouterr().err


def test_a_file_has_no_promotion_to_accept(capsys: Capture, sqlite_config: str) -> None:
    assert main(["journal", "accept", "--config", sqlite_config, "--yes"]) == 2
    assert "SQLite" in capsys.readouterr().err


def test_a_database_that_is_away_is_one_line_without_its_login(
    capsys: Capture, tmp_path: Path, free_address: str
) -> None:
    config = tmp_path / "away.toml"
    dsn = f"postgresql://loyalty:nobody-may-see-this@{free_address}/journal"
    config.write_text(f'{PRODUCTION}\n[journal]\ndsn = "{dsn}"\n')
    assert main(["migrate", "--config", str(config)]) == 2
    assert main(["journal", "accept", "--config", str(config), "--yes"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 2
    assert "nobody-may-see-this" not in output.err
    assert main(["config", "--config", str(config)]) == 0
    assert "nobody-may-see-this" not in capsys.readouterr().out
