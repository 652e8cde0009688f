"""Bad settings are named, secrets stay secret, and production never starts half-configured."""

import base64
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from loyalty_gateway.config import SHORTCUTS, ConfigError, load_settings, masked
from loyalty_gateway.settings import Settings, is_loopback, split_address

ROOT = Path(__file__).resolve().parents[1]
SEALING = base64.b64encode(b"canary-sealing-key-of-32-bytes!!").decode()
SALT = "canary-salt-of-more-than-16-bytes"
API_KEY = "canary-api-key"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration that production accepts, plus what a test adds."""
    (tmp_path / "sealing").write_text(SEALING + "\n")
    (tmp_path / "salt").write_text(SALT + "\n")

    def to_file(more: str = "", *, keys: str | None = None, connections: bool = True) -> Path:
        usual = (
            f'sealing = [{{ id = "k1", file = "{tmp_path}/sealing" }}]\n'
            f'outbound_salt_file = "{tmp_path}/salt"'
        )
        parts = [more, "[keys]", usual if keys is None else keys]
        if connections:
            parts += [
                "[connections.cashassist]",
                'provider = "cashassist"',
                f'api_key = "{API_KEY}"',
                'base_url = "https://login:canary-login@api.example/v1"',
                "[connections.cashassist.promises.resend_is_safe]",
                'value = true\nproven_on = "2026-01-31"\nevidence = "seen"',
            ]
        path = tmp_path / "loyalty.toml"
        path.write_text("\n".join(parts))
        return path

    return to_file


def problems_of(path: Path | None, overrides: dict[str, Any] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, overrides or {})
    return caught.value.problems


def test_a_complete_file_is_read_with_every_default(write: Write) -> None:
    settings = load_settings(write(), {}, required_profile="production")

    assert settings.server.listen == "127.0.0.1:50051"
    assert settings.server.admin_listen == "127.0.0.1:50052"
    assert settings.server.metrics_listen == "127.0.0.1:50053"
    assert settings.recovery.schedule_s == (1, 5, 15, 60, 300)
    assert settings.keys.sealing[0].secret_bytes == b"canary-sealing-key-of-32-bytes!!"
    assert settings.keys.outbound_salt_bytes == SALT.encode()
    connection = settings.connections["cashassist"]
    assert connection.provider == "cashassist"
    assert dict(connection.adapter_settings)["api_key"] == API_KEY
    assert connection.promises["resend_is_safe"].value is True


def test_a_variable_goes_over_the_file_and_an_override_over_both(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("[server]\ntenant = 'from-file'\nreflection = true")
    monkeypatch.setenv("LOYALTY_SERVER__TENANT", "from-variable")
    monkeypatch.setenv("LOYALTY_RECOVERY__SCHEDULE_S", "[2, 3]")
    monkeypatch.setenv("LOYALTY_CONNECTIONS__CASHASSIST_DOWN__PROVIDER", "cashassist")

    settings = load_settings(path, {"server": {"drain_grace_s": 25}})

    assert settings.server.tenant == "from-variable"
    assert settings.server.reflection is True
    assert settings.server.drain_grace_s == 25
    assert settings.recovery.schedule_s == (2, 3)
    assert settings.connections["cashassist-down"].provider == "cashassist"
    assert load_settings(path, {"server": {"tenant": "over"}}).server.tenant == "over"


@pytest.mark.parametrize(("variable", "place"), SHORTCUTS.items())
def test_the_short_names_set_the_addresses(
    write: Write, monkeypatch: pytest.MonkeyPatch, variable: str, place: tuple[str, str]
) -> None:
    monkeypatch.setenv(variable, "127.0.0.1:6001")
    settings = load_settings(write(), {})
    assert getattr(getattr(settings, place[0]), place[1]) == "127.0.0.1:6001"


def test_a_short_name_and_its_long_name_together_are_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOYALTY_LISTEN", "127.0.0.1:6001")
    monkeypatch.setenv("LOYALTY_SERVER__LISTEN", "127.0.0.1:6002")
    assert problems_of(write()) == (
        "LOYALTY_LISTEN: LOYALTY_SERVER__LISTEN is set as well; keep one of the two",
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nlisten = 'nonsense'", "server.listen: must be host:port"),
        ("[server]\nlisten = '::1:50051'", "server.listen: an IPv6 address needs brackets"),
        ("[server]\nlisten = '127.0.0.1:65536'", "server.listen: the port must be"),
        ("[server]\nlisten = '127.0.0.1:50052'", "server: listen, admin_listen and"),
        ("[server]\nauth = 'none'", "server.auth: Input should be 'loopback-only' or"),
        ("[server]\ntypo = 1", "server.typo: is not a known setting"),
        ("[typo]\nlisten = 1", "typo: is not a known setting"),
        ("typo = 1", "typo: is not a known setting"),
        ("profile = 'test'", "profile: Input should be 'production' or 'sandbox'"),
        ("[limits]\nin_flight_max = 0", "limits.in_flight_max: Input should be greater"),
        ("[limits]\nin_flight_max = 100", "limits: in_flight_per_connection_max must not exceed"),
        ("[limits]\ndeadline_default_s = 61", "limits: deadline_min_s, deadline_default_s"),
        ("[provider]\nconnect_s = 15", "provider: connect_s must be less than"),
        ("[provider]\nconnect_s = nan", "provider.connect_s: Input should be a finite number"),
        ("[engine]\nlease_s = 16.9", "engine.lease_s: must not be less than provider.attempt"),
        ("[server]\ndrain_grace_s = 14", "server.drain_grace_s: must not be less than"),
        ("[recovery]\nschedule_s = []", "recovery.schedule_s: Tuple should have at least 1"),
        ("[recovery]\nschedule_s = [5, 1]", "recovery: schedule_s must not decrease"),
        ("[recovery]\nthen_every_s = 299", "recovery.then_every_s: must not be less than"),
        ("[telemetry]\nsample_ratio = 1.1", "telemetry.sample_ratio: Input should be less"),
        ("[telemetry]\notlp_endpoint = 'http://a:b@c:1'", "telemetry.otlp_endpoint: must be"),
        ("[connections.UPPER]\nprovider = 'x'", "connections.UPPER: String should match"),
        ("[connections.other]\npaused = true", "connections.other.provider: is missing"),
        (
            "[connections.x]\nprovider = 'x'\npromises.y = { value = true }",
            "connections.x.promises.y.proven_on: is missing",
        ),
    ],
)
def test_a_bad_setting_is_named(write: Write, text: str, named: str) -> None:
    problems = problems_of(write(text))
    assert len([problem for problem in problems if problem.startswith(named)]) == 1, problems


def test_all_mistakes_are_told_at_once(write: Write) -> None:
    problems = problems_of(write("[server]\nlisten = 'x'\ntypo = 1\n[limits]\nin_flight_max = 0"))
    assert [problem.partition(":")[0] for problem in problems] == [
        "server.listen",
        "server.typo",
        "limits.in_flight_max",
    ]


@pytest.mark.parametrize(
    "variable",
    [
        "LOYALTY_TYPO",
        "LOYALTY_TYPO__X",
        "LOYALTY_PROFILE__X",
    ],
)
def test_a_variable_that_names_no_setting_is_named(
    write: Write, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    assert problems_of(write()) == (f"{variable}: this variable names no setting",)


def test_a_bad_value_says_which_variable_set_it(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOYALTY_SERVER__TYPO", "1")
    monkeypatch.setenv("LOYALTY_LIMITS__IN_FLIGHT_MAX", "many")
    server, limits = problems_of(write())
    assert server == "server.typo: is not a known setting (set by LOYALTY_SERVER__TYPO)"
    assert limits.endswith("(set by LOYALTY_LIMITS__IN_FLIGHT_MAX)")


def test_variables_that_are_no_settings_are_let_be(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOYALTY_CONFIG", "somewhere.toml")
    monkeypatch.setenv("LOYALTY_SERVER", "127.0.0.1:50051")
    monkeypatch.setenv("LOYALTY_TEST_PG_DSN", "anything")
    assert load_settings(write(), {}).profile == "production"


def test_production_demands_its_keys_and_a_connection() -> None:
    problems = problems_of(None)
    assert [problem.partition(":")[0] for problem in problems] == [
        "keys.sealing",
        "keys.outbound_salt_file",
        "connections",
    ]


def test_the_sandbox_needs_no_file() -> None:
    settings = load_settings(None, {"profile": "sandbox", "server": {"tenant": "sandbox"}})
    assert settings.server.tenant == "sandbox"


def test_a_command_for_production_refuses_the_sandbox_profile(write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write("profile = 'sandbox'"), {}, required_profile="production")
    assert caught.value.problems == ("profile: is sandbox; this command needs production",)


@pytest.mark.parametrize("setting", ["listen", "admin_listen", "metrics_listen"])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "gateway.example"])
def test_production_listens_on_loopback_only(write: Write, setting: str, host: str) -> None:
    text = f"[server]\n{setting} = '{host}:7001'"

    (problem,) = problems_of(write(text))

    assert problem.startswith(f"server.{setting}: {host}:7001 can be reached from other machines")
    trusted = load_settings(write(f"{text}\nauth = 'none-behind-trusted-proxy'"), {})
    assert getattr(trusted.server, setting) == f"{host}:7001"


def test_production_refuses_failpoints(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOYALTY_FAILPOINTS", "after-open=kill")
    assert problems_of(write()) == ("LOYALTY_FAILPOINTS: is for tests; production refuses it",)
    assert load_settings(None, {"profile": "sandbox"}).profile == "sandbox"


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ('sealing = [{ id = "k1" }]', "keys.sealing.0: needs `file` or `value`"),
        ('sealing = [{ id = "K1", value = "x" }]', "keys.sealing.0.id: String should match"),
        ('sealing = [{ id = "k1", value = "canary!" }]', "keys.sealing.0: is not base64"),
        ('sealing = [{ id = "k1", value = "Y2FuYXJ5" }]', "keys.sealing.0: must be 32 bytes"),
        (
            'sealing = [{ id = "k1", value = "canary", file = "canary" }]',
            "keys.sealing.0: give `file` or `value`, not both",
        ),
        ('sealing = [{ id = "k1", file = "nowhere" }]', "keys.sealing.0: file: cannot read"),
        (
            f'sealing = [{{ id = "k1", value = "{SEALING}" }}, '
            f'{{ id = "k1", value = "{SEALING}" }}]',
            "keys: two sealing keys are called k1",
        ),
        ('outbound_salt = "canary"', "keys: the outbound salt must have at least 16 bytes"),
        ('outbound_salt_file = "nowhere"', "keys: outbound_salt_file: cannot read nowhere"),
        ('outbound_salt = "canary"\noutbound_salt_file = "nowhere"', "keys: give `outbound_salt_"),
    ],
)
def test_a_bad_key_is_named_without_its_value(write: Write, keys: str, named: str) -> None:
    problems = problems_of(write(keys=keys))
    assert [problem for problem in problems if problem.startswith(named)], problems
    assert not any("canary" in problem or SEALING in problem for problem in problems)


def test_the_first_sealing_key_may_be_followed_by_older_ones(write: Write, tmp_path: Path) -> None:
    older = base64.b64encode(bytes(32)).decode()
    keys = (
        f'sealing = [{{ id = "k2", file = "{tmp_path}/sealing" }}, '
        f'{{ id = "k1", value = "{older}" }}]\noutbound_salt = "{SALT}"'
    )
    settings = load_settings(write(keys=keys), {})
    assert [key.id for key in settings.keys.sealing] == ["k2", "k1"]


def test_a_secret_file_that_is_no_text_or_too_large_is_refused(
    write: Write, tmp_path: Path
) -> None:
    path = write()
    (tmp_path / "salt").write_bytes(b"\xff" * 32)
    assert problems_of(path)[0].endswith("does not hold text")
    (tmp_path / "salt").write_bytes(b"x" * 70_000)
    assert problems_of(path)[0].endswith("is larger than 65536 bytes")


def test_no_secret_is_printed(write: Write) -> None:
    settings = load_settings(write(), {})
    shown = json.dumps(masked(settings)) + repr(settings) + str(settings.keys)
    for secret in (SEALING, SALT, API_KEY, "canary"):
        assert secret not in shown


def test_masking_keeps_what_helps() -> None:
    own = {"api_key": "x", "api_key_file": "/run/key", "currency": "CHF", "key_lifetime_s": 1}
    connection = {"provider": "cashassist", "nested": {"client_secret": "x"}, **own}
    settings = load_settings(None, {"profile": "sandbox", "connections": {"c": connection}})

    shown = masked(settings)["connections"]["c"]

    assert shown["api_key"] == "**********"
    assert shown["api_key_file"] == "/run/key"
    assert shown["currency"] == "CHF"
    assert shown["key_lifetime_s"] == 1
    assert shown["nested"] == {"client_secret": "**********"}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"[server\n", "Expected"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a = 1\na = 2", "Cannot overwrite a value"),
    ],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "loyalty.toml"
    path.write_bytes(content)
    (problem,) = problems_of(path)
    assert problem.startswith(f"{path}: {named}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "nothing.toml")
    assert problem == f"cannot read {tmp_path}/nothing.toml: No such file or directory"


def test_settings_cannot_be_changed() -> None:
    settings = load_settings(None, {"profile": "sandbox"})
    with pytest.raises(ValueError, match="frozen"):
        settings.server.tenant = "other"


def test_every_setting_has_a_description() -> None:
    def missing(model: Any, above: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            if hasattr(inner, "model_fields"):
                found += missing(inner, f"{above}{name}.")
            elif not field.exclude and name != "connections" and not field.description:
                found.append(f"{above}{name}")
        return found

    assert missing(Settings, "") == []


def test_addresses_are_split_and_judged() -> None:
    assert split_address("[::1]:0") == ("::1", 0)
    assert split_address("localhost:50051") == ("localhost", 50051)
    assert is_loopback("127.8.9.1:1")
    assert is_loopback("[::1]:1")
    assert not is_loopback("10.0.0.1:1")
    assert not is_loopback("[::ffff:10.0.0.1]:1")


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """The script that writes the generated pages, loaded from its file."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_fresh(pages: ModuleType) -> None:
    assert list(pages._stale()) == []


def test_a_stale_page_is_found(
    pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in pages.PAGES:
        (tmp_path / name).write_text((ROOT / "docs" / name).read_text())
    (tmp_path / "configuration.md").write_text("planted")
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    assert list(pages._stale()) == ["configuration.md"]


def test_the_example_file_is_accepted_once_its_secrets_exist(
    pages: ModuleType, tmp_path: Path
) -> None:
    text = pages.example_file().replace("/run/secrets", str(tmp_path))
    (tmp_path / "sealing").write_text(SEALING)
    (tmp_path / "outbound-salt").write_text(SALT)
    path = tmp_path / "example.toml"
    path.write_text(text)
    settings = load_settings(path, {}, required_profile="production")
    assert list(settings.connections) == ["cashassist", "cardsapi", "loyalife", "openloyaltypay"]


def test_the_defaults_shown_in_the_example_are_the_true_ones(pages: ModuleType) -> None:
    text = pages.example_file()
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line else line for line in text.splitlines()
    ).partition("[connections.")[0]
    shown = tomllib.loads(uncommented)
    del shown["keys"]
    settings = load_settings(None, {**shown, "profile": "sandbox"})
    assert settings == load_settings(None, {"profile": "sandbox"})


def test_reading_the_settings_loads_nothing_heavy() -> None:
    heavy = ("grpc", "sqlalchemy", "httpx", "opentelemetry", "aiohttp", "alembic")
    script = (
        "import sys, loyalty_gateway.config; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": f"{ROOT / 'server'}:{ROOT / 'generated'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == "[]"
