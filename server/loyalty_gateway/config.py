"""Reads the TOML file and the LOYALTY_* variables; never guesses, and never shows a secret.

The settings themselves, with their defaults and limits, are in settings.py.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from loyalty_gateway.settings import Profile, Settings, is_loopback, masked_mapping

__all__ = ["ConfigError", "Settings", "load_settings", "masked"]

ENVIRONMENT_PREFIX: Final = "LOYALTY_"
SHORTCUTS: Final[Mapping[str, tuple[str, str]]] = {
    "LOYALTY_LISTEN": ("server", "listen"),
    "LOYALTY_ADMIN_LISTEN": ("server", "admin_listen"),
    "LOYALTY_METRICS_LISTEN": ("server", "metrics_listen"),
}
"""Short names of the addresses, which people change most often."""

NOT_SETTINGS: Final = re.compile(r"LOYALTY_(CONFIG|SERVER|FAILPOINTS|TEST_[A-Z0-9_]+)")
"""Variables that start like a setting and are none: the file's path, the server that a command
asks, and the tests' own."""


class ConfigError(Exception):
    """The configuration cannot be used. Each problem names its setting and holds no secret."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class _Environment(Settings, BaseSettings):
    """Tells pydantic-settings how variables are spelt; nothing is ever built from it."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid"
    )


def load_settings(
    path: Path | None,
    overrides: Mapping[str, Any],
    *,
    required_profile: Profile | None = None,
) -> Settings:
    """The settings from the file, the LOYALTY_* variables and `overrides`, each over the former.

    `overrides` is nested like the file. `required_profile` is for a command that works in one
    profile only: `loyalty serve` demands production.

    Raises:
        ConfigError: something is unknown, missing, out of range or unsafe for the profile.
    """
    merged: dict[str, Any] = {}
    if path is not None:
        _merge(merged, _read_file(path))
    _merge(merged, _read_environment())
    _merge(merged, overrides)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_problems(error)) from None
    problems = [*_conflicts(settings), *_unsafe(settings, required_profile)]
    if problems:
        raise ConfigError(tuple(problems))
    return settings


def masked(settings: Settings) -> dict[str, Any]:
    """The effective settings, nested like the file and ready for JSON, every secret masked."""
    shown: dict[str, Any] = settings.model_dump(mode="json")
    for name, connection in settings.connections.items():
        shown["connections"][name].update(masked_mapping(connection.adapter_settings))
    return shown


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError((f"cannot read {path}: {error.strerror}",)) from None
    except UnicodeDecodeError:
        raise ConfigError((f"{path}: is not UTF-8 text",)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError((f"{path}: {error}",)) from None


def _read_environment() -> dict[str, Any]:
    """What the LOYALTY_* variables set, nested like the file.

    Raises:
        ConfigError: a variable names no setting, or cannot be read.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    try:
        source = EnvSettingsSource(_Environment)
        source.env_vars = {
            name: value
            for name, value in source.env_vars.items()
            if not NOT_SETTINGS.fullmatch(name.upper())
        }
        values = source()
    except SettingsError as error:
        # The text of this error names the field only; its cause would show the value.
        fields = re.findall(r'field "(\w+)"', str(error))
        name = ENVIRONMENT_PREFIX + (fields[0].upper() if fields else "*")
        problems.append(f"{name}: this variable, or one that begins with it, is not valid JSON")
    else:
        # The source leaves out what it does not know, so that a misspelling would go unseen.
        problems.extend(
            f"{name}: this variable names no setting"
            for name in sorted(os.environ)
            if name.startswith(ENVIRONMENT_PREFIX)
            and name not in SHORTCUTS
            and not NOT_SETTINGS.fullmatch(name)
            and not _was_read(values, name)
        )
    connections = values.get("connections")
    if isinstance(connections, dict):
        # A shell's variable cannot hold the hyphen of a connection's id, and no id has a "_".
        values["connections"] = {id.replace("_", "-"): of for id, of in connections.items()}
    for name, (section, setting) in SHORTCUTS.items():
        if name not in os.environ:
            continue
        long_name = f"{ENVIRONMENT_PREFIX}{section.upper()}__{setting.upper()}"
        if long_name in os.environ:
            problems.append(f"{name}: {long_name} is set as well; keep one of the two")
        _merge(values, {section: {setting: os.environ[name]}})
    if problems:
        raise ConfigError(tuple(problems))
    return values


def _was_read(values: Mapping[str, Any], variable: str) -> bool:
    place: Any = values
    for step in variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"):
        if not isinstance(place, Mapping) or step not in place:
            return False
        place = place[step]
    return True


def _merge(target: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lays `over` on `target`: tables are merged, everything else is replaced."""
    for name, value in over.items():
        below = target.get(name)
        if isinstance(value, Mapping) and isinstance(below, dict):
            _merge(below, value)
        elif isinstance(value, Mapping):
            target[name] = {}
            _merge(target[name], value)
        else:
            target[name] = value


def _problems(error: ValidationError) -> tuple[str, ...]:
    """One line per mistake. pydantic's own input and context are left out: they may be secret."""
    lines: list[str] = []
    for mistake in error.errors(include_url=False, include_context=False, include_input=False):
        # "[key]" marks a key that is wrong itself; it says nothing to an operator.
        place = ".".join(str(step) for step in mistake["loc"] if step != "[key]")
        text = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            text = "is not a known setting"
        elif mistake["type"] == "missing":
            text = "is missing"
        variable = ENVIRONMENT_PREFIX + place.upper().replace(".", "__").replace("-", "_")
        if variable in os.environ:
            text = f"{text} (set by {variable})"
        lines.append(f"{place}: {text}" if place else text)
    return tuple(lines)


def _conflicts(settings: Settings) -> Iterator[str]:
    """What cannot hold together although each value is allowed by itself."""
    provider, engine = settings.provider, settings.engine
    if engine.lease_s < provider.attempt_total_s + engine.send_by_s:
        yield (
            "engine.lease_s: must not be less than provider.attempt_total_s + engine.send_by_s "
            f"({provider.attempt_total_s + engine.send_by_s:g}), or a second owner could book again"
        )
    if settings.server.drain_grace_s < provider.attempt_total_s:
        yield (
            "server.drain_grace_s: must not be less than provider.attempt_total_s "
            f"({provider.attempt_total_s:g}), or a stop would cut off sent bookings"
        )
    if settings.recovery.then_every_s < settings.recovery.schedule_s[-1]:
        yield (
            "recovery.then_every_s: must not be less than the last of recovery.schedule_s "
            f"({settings.recovery.schedule_s[-1]:g})"
        )


def _unsafe(settings: Settings, required_profile: Profile | None) -> Iterator[str]:
    """What must not run: production without its keys, or open to callers nobody has checked."""
    if required_profile is not None and settings.profile != required_profile:
        yield f"profile: is {settings.profile}; this command needs {required_profile}"
        return
    if settings.profile != "production":
        return
    if not settings.keys.sealing:
        yield (
            "keys.sealing: production needs a sealing key; make one with "
            "`openssl rand -base64 32` and name its file"
        )
    if settings.keys.outbound_salt is None:
        yield (
            "keys.outbound_salt_file: production needs an outbound salt; make one with "
            "`openssl rand -base64 32` and name its file"
        )
    if not settings.connections:
        yield "connections: production needs at least one, as a table [connections.NAME]"
    if settings.server.auth == "loopback-only":
        for setting in ("listen", "admin_listen", "metrics_listen"):
            address = getattr(settings.server, setting)
            if not is_loopback(address):
                yield (
                    f"server.{setting}: {address} can be reached from other machines, and callers "
                    "are not authenticated yet; use a loopback address, or set server.auth = "
                    '"none-behind-trusted-proxy" when only a proxy that you trust can reach it'
                )
    if os.environ.get("LOYALTY_FAILPOINTS"):
        yield "LOYALTY_FAILPOINTS: is for tests; production refuses it"
