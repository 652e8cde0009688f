"""The players as a process of their own: how it says where it is, how it ends, what it keeps."""

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from loyalty_gateway.sandbox import PlayersProcess
from loyalty_gateway.sandbox.players import PLAYERS
from loyalty_gateway.sandbox.process import PlayersNotStarted

SUPERVISOR = """
import sys
from loyalty_gateway.sandbox import PlayersProcess
players = PlayersProcess(sys.argv[1])
players.start()
print(players.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' path for modules is also that of the processes they start."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


@pytest.fixture
def players(tmp_path: Path, environment: None) -> Iterator[PlayersProcess]:
    players = PlayersProcess(tmp_path / "data", ["--ready-file", str(tmp_path / "ready.json")])
    players.start()
    yield players
    players.stop()


def refill(players: PlayersProcess, key: str) -> tuple[int, bytes]:
    base = urlsplit(players.base_urls["cashassist"])
    assert base.hostname is not None
    connection = http.client.HTTPConnection(base.hostname, base.port, timeout=10)
    connection.request(
        "POST",
        f"{base.path}/cashassist/loyalty-cards/refill",
        body=b'{"id":"10472","amount":1.00}',
        headers={
            "x-api-key": "sk_test_demo",
            "Idempotency-Key": key,
            "Content-Type": "application/json",
        },
    )
    answer = connection.getresponse()
    status, body = answer.status, answer.read()
    connection.close()
    return status, body


def test_the_ready_file_names_every_player(players: PlayersProcess, tmp_path: Path) -> None:
    ready = json.loads((tmp_path / "ready.json").read_text())
    assert ready["pid"] == players.pid
    assert set(ready["players"]) == set(PLAYERS)
    assert ready["players"]["cashassist"]["base_url"] == players.base_urls["cashassist"]
    assert players.base_urls["cashassist"].endswith("/v1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_takes_the_ready_file_away(
    players: PlayersProcess, tmp_path: Path, number: signal.Signals
) -> None:
    os.kill(players.pid, number)
    assert players.stop() == 0
    assert not (tmp_path / "ready.json").exists()
    assert (tmp_path / "data" / "players.log").read_text() == ""


def test_what_was_booked_survives_a_power_cut(players: PlayersProcess) -> None:
    first = refill(players, "power-cut-1")
    players.kill()
    players.start()
    assert first[0] == 200
    assert refill(players, "power-cut-1") == first


def test_it_does_not_outlive_its_supervisor(tmp_path: Path, environment: None) -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    ended = os.pidfd_open(pid)
    supervisor.kill()
    supervisor.communicate()
    assert select.select([ended], [], [], 15)[0], "the players live on without their supervisor"
    os.close(ended)


def test_a_taken_port_is_said_in_words(tmp_path: Path, environment: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        players = PlayersProcess(tmp_path, ["--cashassist-port", str(port)])
        with pytest.raises(PlayersNotStarted, match=f"127.0.0.1:{port} cannot be listened on"):
            players.start()


def test_a_ledger_in_use_is_said_in_words(players: PlayersProcess, tmp_path: Path) -> None:
    with pytest.raises(PlayersNotStarted, match="in use by another player"):
        PlayersProcess(tmp_path / "data").start()


def test_a_wrong_setting_is_said_in_words(tmp_path: Path, environment: None) -> None:
    with pytest.raises(PlayersNotStarted, match="slow_s is a number"):
        PlayersProcess(tmp_path, ["--slow-s", "-1"]).start()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("cashassist.repeat=maybe", "repeat is replays or refuses or books_again"),
        ("cashassist.slow=1", "unknown settings"),
        ("nobody.slow_s=1", "--set takes VENDOR.SETTING=VALUE"),
        ("slow_s=1", "--set takes VENDOR.SETTING=VALUE"),
        ("cashassist.slow_s", "--set takes VENDOR.SETTING=VALUE"),
    ],
)
def test_a_wrong_setting_of_one_vendor_is_said_in_words(
    tmp_path: Path, environment: None, option: str, words: str
) -> None:
    with pytest.raises(PlayersNotStarted, match=words):
        PlayersProcess(tmp_path, ["--set", option]).start()


def test_one_vendor_can_be_set_apart(tmp_path: Path, environment: None) -> None:
    options = ["--slow-s", "3", "--set", "cashassist.repeat=books_again"]
    players = PlayersProcess(tmp_path, [*options, "--set", 'cashassist.chaos={"seed":1,"ratio":0}'])
    players.start()
    try:
        assert refill(players, "again-and-again")[0] == 200
        assert refill(players, "again-and-again")[0] == 200
        with urlopen(f"{players.control_urls['cashassist']}/ledger", timeout=10) as answer:
            assert len(json.load(answer)["effects"]) == 2
        with urlopen(f"{players.control_urls['cashassist']}/settings", timeout=10) as answer:
            settings = json.load(answer)
        assert (settings["slow_s"], settings["chaos"]["seed"]) == (3, 1)
    finally:
        players.stop()


def test_importing_the_room_loads_no_server(environment: None) -> None:
    command = (
        "import sys, loyalty_gateway.sandbox;"
        "print(sorted({'aiohttp', 'jsonschema', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
