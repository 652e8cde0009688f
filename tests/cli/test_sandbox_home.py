"""The sandbox's folder: made once, held by one, and nothing in it is touched that is not ours."""

import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from loyalty_gateway.cli import sandbox_home
from loyalty_gateway.cli.failure import CommandFailed, UsageFailed
from loyalty_gateway.cli.sandbox_home import SandboxHome, open_home
from loyalty_gateway.config import load_settings
from loyalty_gateway.providers import PROVIDERS
from loyalty_gateway.sandbox.cashassist.cards import CARDS
from loyalty_gateway.supervisor import PROOF_CARD

BASE_URLS = {
    "cashassist": "http://127.0.0.1:41000/v1",
    "cardsapi": "http://127.0.0.1:41001",
    "openloyaltypay": "http://127.0.0.1:41003",
}


@pytest.fixture
def home(tmp_path: Path) -> SandboxHome:
    return open_home(tmp_path / "sandbox")


def leave(home: SandboxHome) -> None:
    os.close(home.lock_file)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_and_its_secrets_are_the_owners_alone(home: SandboxHome) -> None:
    assert permissions(home.folder) == 0o700
    for secret in (home.sealing_key, home.outbound_salt):
        assert permissions(secret) == 0o600
        assert permissions(secret.parent) == 0o700


def test_the_secrets_stay_the_same(home: SandboxHome) -> None:
    before = home.sealing_key.read_text(), home.outbound_salt.read_text()
    leave(home)
    again = open_home(home.folder)
    assert (again.sealing_key.read_text(), again.outbound_salt.read_text()) == before
    assert before[0] != before[1]


def test_the_written_configuration_is_a_whole_sandbox(home: SandboxHome) -> None:
    home.write_config(BASE_URLS, proof_card=PROOF_CARD)
    settings = load_settings(home.config, {}, required_profile="sandbox")
    assert settings.server.tenant == "sandbox"
    assert settings.server.reflection
    assert settings.journal.path == home.journal
    assert set(settings.connections) == {*BASE_URLS, "cashassist-down"}
    vendor = settings.connections["cashassist"].adapter_settings
    assert vendor["base_url"] == BASE_URLS["cashassist"]
    assert vendor["proof_card"] == PROOF_CARD
    assert settings.connections["cashassist"].promises["keys_survive_rotation"].value is True
    for name in BASE_URLS:
        section = settings.connections[name]
        adapter = PROVIDERS[section.provider](name, section.adapter_settings, "sandbox")
        assert adapter.currency == section.adapter_settings["currency"]


def test_a_path_with_quotes_and_spaces_is_written_right(tmp_path: Path) -> None:
    home = open_home(tmp_path / 'a "quoted" \\ Größe')
    home.write_config(BASE_URLS, proof_card=PROOF_CARD)
    assert load_settings(home.config, {}).journal.path == home.journal


def test_promises_are_proved_on_a_card_that_the_screen_hides() -> None:
    assert [card.card_id for card in CARDS if card.is_hidden] == [PROOF_CARD]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("dear")
    with pytest.raises(UsageFailed, match="not a sandbox"):
        open_home(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageFailed, match="not a sandbox"):
        open_home(file)


def test_an_empty_folder_becomes_one(tmp_path: Path) -> None:
    assert open_home(tmp_path).config.parent == tmp_path


def test_reset_forgets_the_bookings_and_nothing_else(home: SandboxHome) -> None:
    outside = home.folder.parent / "outside"
    outside.write_text("precious")
    forgotten = [
        home.journal,
        home.journal.with_name("loyalty.sqlite3-wal"),
        home.players / "cashassist.sqlite3",
        home.players / "cashassist.sqlite3-shm",
    ]
    kept = [home.folder / "notes.txt", home.journal.parent / "notes.txt", home.sealing_key]
    for path in forgotten + kept[:2]:
        path.write_text("x")
    link = home.players / "linked.sqlite3"
    link.symlink_to(outside)
    home.remember_players_ports({"cashassist": 41000})
    home.reset()
    assert not any(path.exists() for path in forgotten)
    assert all(path.exists() for path in [*kept, outside, link])
    assert home.players_ports() == {"cashassist": 41000}


def test_the_players_ports_are_remembered(home: SandboxHome) -> None:
    assert home.players_ports() == {}
    home.remember_players_ports({"cashassist": 41000, "another": 41001})
    leave(home)
    assert open_home(home.folder).players_ports() == {"cashassist": 41000, "another": 41001}


@pytest.mark.parametrize("port", [-1, 65_536, "41000", None])
def test_a_port_that_is_none_is_not_believed(home: SandboxHome, port: object) -> None:
    marker = home.folder / "sandbox.json"
    marker.write_text(json.dumps({"made_by": "loyalty sandbox", "players_ports": {"x": port}}))
    assert home.players_ports() == {}


def test_a_second_sandbox_is_told_who_holds_the_folder(home: SandboxHome) -> None:
    with pytest.raises(CommandFailed, match=rf"process {os.getpid()}\)"):
        open_home(home.folder)


def test_what_a_killed_sandbox_left_running_is_waited_for(
    home: SandboxHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock outlives its owner as long as a child holds it, and no longer."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=(home.lock_file,),
    )
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    (home.folder / "sandbox.lock").write_bytes(gone.stdout)
    leave(home)
    monkeypatch.setattr(sandbox_home, "LEFT_OVER_WAIT_S", 0.2)
    with pytest.raises(CommandFailed, match="an earlier sandbox still holds"):
        open_home(home.folder)
    monkeypatch.setattr(sandbox_home, "LEFT_OVER_WAIT_S", 20.0)
    waits = []

    def end_child(seconds: float) -> None:
        waits.append(seconds)
        child.communicate(b"")

    monkeypatch.setattr("time.sleep", end_child)
    assert open_home(home.folder).lock_file >= 0
    assert len(waits) == 1


def test_the_lock_goes_to_children_only_where_it_is_handed_on(home: SandboxHome) -> None:
    assert fcntl.fcntl(home.lock_file, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_a_journal_without_its_keys_stops_the_start(home: SandboxHome) -> None:
    home.journal.write_text("x")
    home.outbound_salt.unlink()
    leave(home)
    with pytest.raises(UsageFailed, match="outbound-salt is missing"):
        open_home(home.folder)


def test_a_long_log_is_put_aside(home: SandboxHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_home, "LOG_BYTES_MAX", 10)
    home.log("server").write_text("x" * 11)
    home.log("players").write_text("x" * 10)
    home.rotate_logs()
    assert not home.log("server").exists()
    assert home.log("server").with_suffix(".log.1").exists()
    assert home.log("players").exists()


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageFailed, match="--data-dir"):
        open_home(file / "below")
