"""Reads the settings for a command and says in words what is wrong; it must never show a secret."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loyalty_gateway.cli.failure import UsageFailed
from loyalty_gateway.config import ConfigError, Settings, load_settings
from loyalty_gateway.settings import Profile


def read_settings(
    path: Path | None, overrides: Mapping[str, Any], *, required_profile: Profile | None = None
) -> Settings:
    """The settings from file, LOYALTY_* variables and `overrides`.

    Raises: UsageFailed naming every setting that is wrong.
    """
    # This variable tells the commands that are clients where their server is; to the settings it
    # would look like the whole [server] table.
    os.environ.pop("LOYALTY_SERVER", None)
    try:
        return load_settings(path, overrides, required_profile=required_profile)
    except ConfigError as error:
        where = str(path) if path else "LOYALTY_* variables"
        if len(error.problems) == 1:
            raise UsageFailed(
                f"the configuration ({where}) is wrong: {error.problems[0]}"
            ) from None
        lines = "".join(f"\n  {problem}" for problem in error.problems)
        raise UsageFailed(f"the configuration ({where}) is wrong:{lines}") from None


def journal_place(settings: Settings) -> str:
    """Where the journal is, without the login to it."""
    if settings.journal.dsn is None:
        return str(settings.journal.path)
    address = urlsplit(settings.journal.dsn.get_secret_value())
    return f"postgresql://{address.netloc.rpartition('@')[2]}{address.path}"


def server_addresses(
    listen: str | None, admin_listen: str | None, metrics_listen: str | None
) -> dict[str, Any]:
    """The addresses that a command line gave, nested like the file."""
    given = {"listen": listen, "admin_listen": admin_listen, "metrics_listen": metrics_listen}
    addresses = {name: address for name, address in given.items() if address is not None}
    return {"server": addresses} if addresses else {}
