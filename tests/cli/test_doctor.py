"""`loyalty doctor`: beside a server, without one, and on a configuration that is wrong."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.rpc import code_pb2

from loyalty.v1 import providers_pb2 as providers
from loyalty_gateway.cli import main
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.sandbox import CashassistPlayer
from tests.cli.fake_gateway import FakeGateway, refusal
from tests.postgres import database_of

Capture = pytest.CaptureFixture[str]

SALT = "salt-that-nobody-may-see"
AWAY = "http://127.0.0.1:9/v1"


def write_config(tmp_path: Path, *, base_url: str = AWAY, more: str = "", journal: str = "") -> str:
    path = tmp_path / "loyalty.toml"
    journal = journal or f'path = "{tmp_path / "journal.sqlite3"}"'
    path.write_text(
        f"""
[server]
listen = "127.0.0.1:9"
[journal]
{journal}
[keys]
sealing = [{{ id = "k1", value = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" }}]
outbound_salt = "{SALT}"
[connections.cashassist]
provider = "cashassist"
base_url = "{base_url}"
api_key = "sk_test_demo"
{more}
"""
    )
    return str(path)


@contextmanager
def played(folder: Path) -> Iterator[str]:
    """A CashAssist played in a loop of its own; gives its base url."""
    folder.mkdir()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(30)  # type: ignore[arg-type]

    player = CashassistPlayer(folder)
    try:
        run(player.start())
        yield player.base_url
        run(player.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def doctor(*words: str) -> int:
    return main(["doctor", "--timeout", "10", *words])


def lines_of(capsys: Capture) -> dict[str, tuple[str, str]]:
    """Verdict and text of each part, as they stand on the screen."""
    found = {}
    for line in capsys.readouterr().out.splitlines():
        verdict, part, text = re.split(" {2,}", line, maxsplit=2)
        found[part] = (verdict, text)
    return found


def serves(gateway: FakeGateway, *checks: providers.CheckConnectionResponse) -> None:
    """The fake has as many connections as checks are given."""
    names = ["cashassist", "loyalife", "cardsapi"][: len(checks)]
    gateway.answers["ListConnections"] = providers.ListConnectionsResponse(
        connections=[
            providers.Connection(name=f"connections/{name}", state=providers.CONNECTION_STATE_OK)
            for name in names
        ]
    )
    gateway.answers["CheckConnection"] = list(checks)


def a_check(*, skew_s: int = 0) -> providers.CheckConnectionResponse:
    check = providers.CheckConnectionResponse(reachable=True, credentials_accepted=True)
    check.latency.FromMilliseconds(12)
    check.clock_skew.FromSeconds(skew_s)
    return check


# --- without a server -------------------------------------------------------------------------


def test_without_a_server_every_part_is_looked_at_from_here(
    tmp_path: Path, capsys: Capture
) -> None:
    with played(tmp_path / "vendor") as base_url:
        config = write_config(tmp_path, base_url=base_url)
        assert main(["migrate", "--config", config]) == 0
        capsys.readouterr()
        assert doctor("--config", config) == 0
    found = lines_of(capsys)

    assert list(found) == ["config", "server", "journal", "clock", "connection cashassist"]
    assert found["config"][0] == "ok"
    assert "complete, for production, 1 connection" in found["config"][1]
    assert found["server"] == (
        "warn",
        "none answers at 127.0.0.1:9, so its parts are looked at from here",
    )
    assert found["journal"][0] == "ok" and "durable" in found["journal"][1]
    assert found["clock"] == ("ok", "agrees with cashassist")
    assert found["connection cashassist"][0] == "ok"
    assert "credentials accepted" in found["connection cashassist"][1]


def test_a_vendor_that_is_away_fails(tmp_path: Path, capsys: Capture) -> None:
    assert doctor("--config", write_config(tmp_path)) == 1
    found = lines_of(capsys)

    assert found["connection cashassist"] == ("fail", "cannot be reached: PROVIDER_UNREACHABLE")
    assert found["journal"][0] == "ok" and "not made yet" in found["journal"][1]
    assert not (tmp_path / "journal.sqlite3").exists()


def test_rejected_credentials_fail(tmp_path: Path, capsys: Capture) -> None:
    with played(tmp_path / "vendor") as base_url:
        config = write_config(tmp_path, base_url=base_url)
        wrong = Path(config).read_text().replace("sk_test_demo", "sk_live_wrong")
        Path(config).write_text(wrong)
        assert doctor("--config", config) == 1
    verdict, text = lines_of(capsys)["connection cashassist"]

    assert verdict == "fail"
    assert "refuses our credentials" in text
    assert "invalid_api_key" in text


def test_the_journal_of_a_running_server_is_in_use_and_well(
    tmp_path: Path, capsys: Capture
) -> None:
    config = write_config(tmp_path)
    store = SqliteStore(tmp_path / "journal.sqlite3")
    store.start(b"of a running server")
    try:
        doctor("--config", config)
    finally:
        store.stop()
    verdict, text = lines_of(capsys)["journal"]

    assert verdict == "ok"
    assert "in use by a running server" in text


def test_a_postgres_journal_and_its_clock_are_looked_at(
    tmp_path: Path, capsys: Capture, blank_dsn: str
) -> None:
    (tmp_path / "dsn").write_text(blank_dsn)
    config = write_config(tmp_path, journal=f'dsn_file = "{tmp_path / "dsn"}"')
    assert main(["migrate", "--config", config]) == 0
    capsys.readouterr()
    doctor("--config", config)
    found = lines_of(capsys)

    assert found["journal"][0] == "ok"
    assert database_of(blank_dsn) in found["journal"][1]
    assert "@" not in found["journal"][1]
    assert found["clock"] == ("ok", "agrees with the journal's database")


# --- the configuration ------------------------------------------------------------------------


def test_a_wrong_configuration_fails_and_names_the_setting(tmp_path: Path, capsys: Capture) -> None:
    config = write_config(tmp_path, more="\n[limits]\nin_flight_max = 0")
    assert doctor("--config", config, "--server", "127.0.0.1:9") == 1
    verdict, text = lines_of(capsys)["config"]

    assert verdict == "fail"
    assert "limits.in_flight_max" in text


def test_a_connection_that_cannot_be_opened_fails_and_names_the_setting(
    tmp_path: Path, capsys: Capture
) -> None:
    config = write_config(tmp_path, more='proof_crad = "1"')
    assert doctor("--config", config) == 1
    verdict, text = lines_of(capsys)["connections"]

    assert verdict == "fail"
    assert "connections.cashassist.proof_crad" in text


def test_without_a_configuration_a_running_server_is_asked_alone(
    gateway: FakeGateway, capsys: Capture
) -> None:
    serves(gateway, a_check())
    assert doctor() == 0
    found = lines_of(capsys)

    assert list(found) == ["config", "server", "clock", "connection cashassist"]
    assert found["config"][0] == "warn"


def test_with_neither_a_configuration_nor_a_server_there_is_nothing_to_look_at(
    free_address: str, capsys: Capture
) -> None:
    assert doctor("--server", free_address) == 1
    assert lines_of(capsys)["server"][0] == "fail"


# --- with a server ----------------------------------------------------------------------------


def test_a_running_server_is_asked_how_it_meets_its_vendors(
    gateway: FakeGateway, capsys: Capture
) -> None:
    rejected = providers.CheckConnectionResponse(reachable=True, credentials_accepted=False)
    rejected.error.CopyFrom(
        refusal(
            "PROVIDER_CREDENTIALS_REJECTED",
            "The vendor does not accept the gateway's credentials.",
            code=code_pb2.INTERNAL,
            provider_code="401",
        )
    )
    serves(gateway, a_check(skew_s=-9), a_check(), rejected)
    assert doctor() == 1
    found = lines_of(capsys)

    assert found["server"] == ("ok", f"answers at {gateway.address}, with 3 connections")
    assert sorted(verdict for verdict, _ in found.values()).count("fail") == 1
    (failed,) = [text for verdict, text in found.values() if verdict == "fail"]
    assert failed == "the vendor refuses our credentials: PROVIDER_CREDENTIALS_REJECTED (401)"
    assert found["clock"][0] == "warn"
    assert "9 s behind" in found["clock"][1]


def test_a_connection_that_the_server_does_not_have_is_told(
    gateway: FakeGateway, tmp_path: Path, capsys: Capture
) -> None:
    serves(gateway, a_check())
    config = write_config(
        tmp_path,
        more='[connections.new]\nprovider = "cashassist"\nbase_url = "https://x"\napi_key = "k"',
    )
    assert doctor("--config", config) == 0
    verdict, text = lines_of(capsys)["server"]

    assert verdict == "warn"
    assert "it does not have new" in text


def test_a_paused_connection_is_worth_a_look(gateway: FakeGateway, capsys: Capture) -> None:
    serves(gateway, a_check())
    listed = gateway.answers["ListConnections"]
    assert isinstance(listed, providers.ListConnectionsResponse)
    listed.connections[0].state = providers.CONNECTION_STATE_PAUSED
    assert doctor() == 0
    assert lines_of(capsys)["connection cashassist"][0] == "warn"


def test_a_server_in_trouble_fails_and_its_parts_are_looked_at(
    gateway: FakeGateway, tmp_path: Path, capsys: Capture
) -> None:
    gateway.answers["ListConnections"] = refusal(
        "JOURNAL_UNAVAILABLE", "The journal cannot be read.", code=code_pb2.UNAVAILABLE
    )
    assert doctor("--config", write_config(tmp_path)) == 1
    found = lines_of(capsys)

    assert found["server"][0] == "fail"
    assert "JOURNAL_UNAVAILABLE" in found["server"][1]
    assert "connection cashassist" in found


def test_a_check_that_the_server_refuses_is_told_of_that_connection(
    gateway: FakeGateway, capsys: Capture
) -> None:
    serves(gateway, a_check())
    gateway.answers["CheckConnection"] = refusal("INTERNAL", "a bug", code=code_pb2.INTERNAL)
    assert doctor() == 1
    assert lines_of(capsys)["connection cashassist"][0] == "fail"


# --- for programs, and without secrets --------------------------------------------------------


def test_a_program_gets_one_document(gateway: FakeGateway, capsys: Capture) -> None:
    serves(gateway, a_check())
    assert doctor("--json") == 0
    document = json.loads(capsys.readouterr().out)

    assert document["ok"] is True
    assert document["findings"][-1] == {
        "part": "connection cashassist",
        "verdict": "ok",
        "text": "reachable in 12 ms, credentials accepted, its clock agrees",
    }


def test_no_secret_stands_on_the_screen(tmp_path: Path, capsys: Capture) -> None:
    doctor("--config", write_config(tmp_path))
    captured = capsys.readouterr()

    for secret in (SALT, "sk_test_demo", "MDEyMzQ1"):
        assert secret not in captured.out + captured.err


@pytest.mark.parametrize("words", [("--timeout", "0"), ("--server", "nowhere")])
def test_what_makes_no_sense_is_wrong_usage(words: tuple[str, str], capsys: Capture) -> None:
    assert main(["doctor", *words]) == 2
    assert words[0] in capsys.readouterr().err
