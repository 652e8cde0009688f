"""The parts of the supervisor that need no server: addresses, announcements, how children end."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from loyalty_gateway import supervisor
from loyalty_gateway.cli.failure import CommandFailed, UsageFailed
from loyalty_gateway.cli.sandbox_home import open_home
from loyalty_gateway.supervisor import (
    Child,
    Supervisor,
    choose_addresses,
    describe_end,
    find_players,
    is_serving,
    read_server_settings,
)

ANYWHERE = "127.0.0.1:0"


def test_a_free_port_is_chosen_where_none_is_given() -> None:
    settings = read_server_settings(ANYWHERE, ANYWHERE, ANYWHERE)
    addresses = choose_addresses(settings)
    ports = {
        address.rpartition(":")[2]
        for address in (addresses.listen, addresses.admin_listen, addresses.metrics_listen)
    }
    assert len(ports) == 3
    assert "0" not in ports


@pytest.mark.parametrize(
    ("setting", "variable"),
    [
        ("listen", "LOYALTY_LISTEN"),
        ("admin_listen", "LOYALTY_ADMIN_LISTEN"),
        ("metrics_listen", "LOYALTY_METRICS_LISTEN"),
    ],
)
def test_a_taken_port_is_named_with_the_way_to_move_it(setting: str, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        wanted = {"listen": ANYWHERE, "admin_listen": ANYWHERE, "metrics_listen": ANYWHERE}
        settings = read_server_settings(**(wanted | {setting: address}))
        with pytest.raises(UsageFailed) as failure:
            choose_addresses(settings)
    assert f"{address} is taken" in failure.value.text
    assert variable in failure.value.text
    assert f"--{setting.replace('_', '-')}" in failure.value.text


def test_an_address_of_another_machine_is_refused_in_words() -> None:
    settings = read_server_settings("192.0.2.1:6001", ANYWHERE, ANYWHERE)
    with pytest.raises(UsageFailed, match=r"192\.0\.2\.1:6001 cannot be used"):
        choose_addresses(settings)


def test_metrics_follow_a_health_address_that_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_server_settings(None, None, None).metrics_listen == "127.0.0.1:50053"
    assert read_server_settings(None, "127.0.0.1:6002", None).metrics_listen == "127.0.0.1:6003"
    assert read_server_settings(None, "[::1]:6002", None).metrics_listen == "[::1]:6003"
    monkeypatch.setenv("LOYALTY_METRICS_LISTEN", "127.0.0.1:7000")
    assert read_server_settings(None, "127.0.0.1:6002", None).metrics_listen == "127.0.0.1:7000"


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOYALTY_LISTN", "127.0.0.1:6001")
    with pytest.raises(UsageFailed, match="LOYALTY_LISTN"):
        read_server_settings(None, None, None)


def test_only_the_announcement_of_this_very_process_counts(tmp_path: Path) -> None:
    ready_file = tmp_path / "players.json"
    assert find_players(ready_file, 7) is None
    ready_file.write_text("{")
    assert find_players(ready_file, 7) is None
    urls = {"base_url": "http://127.0.0.1:1/v1", "control_url": "http://127.0.0.1:1/_sandbox"}
    ready_file.write_text(json.dumps({"pid": 6, "players": {"cashassist": urls}}))
    assert find_players(ready_file, 7) is None
    ready_file.write_text(json.dumps({"pid": 7, "players": {"cashassist": urls}}))
    found = find_players(ready_file, 7)
    assert found is not None
    assert found.base_urls == {"cashassist": "http://127.0.0.1:1/v1"}
    assert found.control_urls == {"cashassist": "http://127.0.0.1:1/_sandbox"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, "ended with exit code 2"),
        (-9, "was ended by SIGKILL"),
        (-15, "was ended by SIGTERM"),
        (-99, "was ended by signal 99"),
    ],
)
def test_the_end_of_a_process_is_told_in_words(code: int, words: str) -> None:
    assert describe_end(code) == words


def a_child(tmp_path: Path, script: str) -> Child:
    return Child("helper", [sys.executable, "-u", "-c", script], tmp_path / "helper.log")


async def nothing() -> None:
    return None


async def test_a_child_that_ends_before_it_is_ready_is_reported_with_its_last_words(
    tmp_path: Path,
) -> None:
    (tmp_path / "helper.log").write_text("words of an earlier run\n")
    child = a_child(tmp_path, "print('the disk is full'); raise SystemExit(3)")
    await child.start()
    with pytest.raises(CommandFailed) as failure:
        await child.until_ready(nothing)
    assert "the helper ended with exit code 3" in failure.value.text
    assert "the disk is full" in failure.value.text
    assert "earlier run" not in failure.value.text
    assert str(tmp_path / "helper.log") in failure.value.text


async def test_a_child_that_is_never_ready_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "READY_LIMIT_S", 0.2)
    child = a_child(tmp_path, "import sys; sys.stdin.read()")
    await child.start()
    with pytest.raises(CommandFailed, match="was not ready"):
        await child.until_ready(nothing)
    await child.stop(5, asyncio.Event())


async def test_a_child_that_will_not_stop_is_killed_when_time_is_up(tmp_path: Path) -> None:
    child = a_child(tmp_path, STUBBORN)
    await child.start()
    await child.until_ready(words_in(child, "deaf"))
    await child.stop(0.2, asyncio.Event())
    assert child.exit_code == -signal.SIGKILL


async def test_a_hurry_kills_at_once(tmp_path: Path) -> None:
    child = a_child(tmp_path, STUBBORN)
    await child.start()
    await child.until_ready(words_in(child, "deaf"))
    hurry = asyncio.Event()
    stopping = asyncio.create_task(child.stop(60, hurry))
    hurry.set()
    await asyncio.wait_for(stopping, 10)
    assert child.exit_code == -signal.SIGKILL


async def test_a_child_that_stops_is_not_killed(tmp_path: Path) -> None:
    child = a_child(
        tmp_path,
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));"
        "print('ready'); sys.stdin.read()",
    )
    await child.start()
    await child.until_ready(words_in(child, "ready"))
    await child.stop(30, asyncio.Event())
    assert child.exit_code == 0


async def test_a_child_that_dies_again_and_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RESTART_DELAYS_S", (0.0, 0.0))
    told: list[str] = []
    home = open_home(tmp_path / "sandbox")
    settings = read_server_settings(ANYWHERE, ANYWHERE, ANYWHERE)
    sandbox = Supervisor(home, settings, told.append, lambda addresses, vendors: None)
    child = a_child(tmp_path, "import sys; print('again'); sys.stdin.readline(); sys.exit(4)")
    await child.start()
    child.let_go()
    with pytest.raises(CommandFailed, match="ended with exit code 4, 3 times in a row"):
        await sandbox._keep(child, nothing)
    assert len(told) == 2
    assert all("Nothing is lost" in line for line in told)


async def test_nobody_at_the_address_is_not_serving() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    assert await is_serving(address) is False


STUBBORN = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('deaf'); sys.stdin.read()"
)


def words_in(child: Child, words: str) -> Callable[[], Awaitable[bool | None]]:
    """Finds words in what a child has printed."""

    async def find() -> bool | None:
        return words in child.log.read_text() or None

    return find
