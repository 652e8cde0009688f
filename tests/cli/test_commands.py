"""The command line itself: help that is quick and worth reading, failures in one line."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from loyalty_gateway import __version__
from loyalty_gateway.cli import main
from tests.cli.running_sandbox import environment

COMMANDS = (
    (),
    ("sandbox",),
    ("serve",),
    ("migrate",),
    ("config",),
    ("version",),
    ("bookings",),
    ("bookings", "list"),
    ("bookings", "show"),
    ("bookings", "explain"),
    ("bookings", "cancel"),
    ("bookings", "resolve"),
    ("prove",),
    ("doctor",),
    ("journal",),
    ("journal", "accept"),
    ("connections",),
    ("connections", "list"),
    ("connections", "capabilities"),
)

PRODUCTION = """
[keys]
sealing = [{ id = "k1", value = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" }]
outbound_salt = "salt-that-nobody-may-see"
[connections.cashassist]
provider = "cashassist"
base_url = "https://vendor.example/v1"
api_key = "sk_live_nobody_may_see_this"
"""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words) or "loyalty")
def test_the_help_of_every_command_says_what_it_does_with_an_example(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Usage: loyalty {' '.join(command)}".strip() in text
    assert "Example" in text


def test_the_help_names_the_variables_and_the_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    for name in ("LOYALTY_SERVER", "LOYALTY_LISTEN", "LOYALTY_ADMIN_LISTEN", "LOYALTY_CONFIG"):
        assert name in text
    assert "Exit codes" in text
    assert "_serve-sandbox" not in text


def test_the_help_loads_no_library_that_a_server_needs() -> None:
    script = (
        "import sys; from loyalty_gateway.cli import main; main(['--help']);"
        "heavy = {'grpc', 'pydantic', 'sqlalchemy', 'alembic', 'aiohttp', 'google.protobuf'};"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert "LOADED []" in done.stdout


def test_the_version_is_the_packages_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"loyalty-gateway {__version__}\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonsense"], "nonsense"),
        (["bookings", "list", "--state", "lost"], "needs-review"),
        (["bookings", "list", "--limit", "many"], "--limit"),
        (["bookings", "list", "--limit", "0"], "--limit"),
        (["bookings", "list", "--since", "yesterday"], "--since"),
        (["bookings", "show"], "NAME"),
        (["bookings", "show", "till-7-000123", "--timeout", "0"], "--timeout"),
        (["bookings", "show", "till-7-000123", "--server", "nowhere"], "HOST:PORT"),
        (["bookings", "resolve", "till-7-000123"], "--ask-now"),
        (["bookings", "resolve", "till-7-000123", "--ask-now", "--outcome", "executed"], "exactly"),
        (["bookings", "resolve", "till-7-000123", "--outcome", "executed"], "--evidence"),
        (["bookings", "resolve", "till-7-000123", "--ask-now", "--reason", "so"], "--reason"),
        (["bookings", "resolve"], "--from"),
        (["bookings", "resolve", "till-7-000123", "--from", "decisions.csv"], "from the file"),
        (["bookings", "resolve", "--from", "f.csv", "--outcome", "executed"], "from the file"),
        (["bookings", "resolve", "--from", "/nowhere/decisions.csv"], "/nowhere/decisions.csv"),
        (["bookings", "resolve", "till-7-000123", "--ask-now", "--dry-run"], "--dry-run"),
        (["bookings", "list", "--incident", "i" * 121], "--incident"),
        (["journal", "accept", "--config", "/nowhere/loyalty.toml"], "/nowhere/loyalty.toml"),
        (["serve", "--config", "/nowhere/loyalty.toml"], "/nowhere/loyalty.toml"),
        (["config", "--config", "/nowhere/loyalty.toml"], "/nowhere/loyalty.toml"),
        (["sandbox", "--listen", "here"], "server.listen"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("loyalty: ")
    assert output.err.count("\n") == 1
    assert told in output.err


def test_a_server_that_is_not_there_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], free_address: str
) -> None:
    assert main(["bookings", "show", "till-7-000123", "--server", free_address]) == 1
    text = capsys.readouterr().err
    assert f"no server answers at {free_address}" in text
    assert "LOYALTY_SERVER" in text
    assert text.count("\n") == 1


def test_serve_names_every_setting_that_stops_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "loyalty.toml"
    config.write_text("[server]\nlisten = '0.0.0.0:50051'\n[jurnal]\npath = 'x'\n")
    assert main(["serve", "--config", str(config)]) == 2
    assert "jurnal: is not a known setting" in capsys.readouterr().err
    config.write_text("[server]\nlisten = '0.0.0.0:50051'\n")
    assert main(["serve", "--config", str(config)]) == 2
    text = capsys.readouterr().err
    for setting in ("keys.sealing", "keys.outbound_salt_file", "connections", "server.listen"):
        assert f"\n  {setting}: " in text


def test_serve_refuses_the_sandbox_profile(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "loyalty.toml"
    config.write_text(f'profile = "sandbox"\n{PRODUCTION}')
    assert main(["serve", "--config", str(config)]) == 2
    assert "profile" in capsys.readouterr().err


def test_a_sandbox_without_its_extra_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["sandbox", "--data-dir", str(tmp_path / "sandbox")]) == 2
    assert "pip install 'loyalty-gateway[sandbox]'" in capsys.readouterr().err
    assert not (tmp_path / "sandbox").exists()


def test_config_prints_what_is_in_effect_and_no_secret(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "loyalty.toml"
    config.write_text(PRODUCTION)
    monkeypatch.setenv("LOYALTY_LISTEN", "127.0.0.1:6001")
    monkeypatch.setenv("LOYALTY_CONFIG", str(config))
    assert main(["config"]) == 0
    text = capsys.readouterr().out
    assert '"listen": "127.0.0.1:6001"' in text
    assert "https://vendor.example/v1" in text
    for secret in ("MDEyMzQ1", "salt-that-nobody", "sk_live_nobody"):
        assert secret not in text


def test_the_address_for_clients_is_no_setting_of_a_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOYALTY_SERVER", "127.0.0.1:6001")
    assert main(["config"]) == 2
    assert "LOYALTY_SERVER" not in capsys.readouterr().err


def test_a_bug_is_one_line_without_a_trace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(distribution: str) -> str:
        raise RuntimeError("this is a bug")

    monkeypatch.setattr("importlib.metadata.version", fail)
    assert main(["version"]) == 1
    text = capsys.readouterr().err
    assert "a fault of this program" in text
    assert "RuntimeError: this is a bug" in text
    assert text.count("\n") == 1
