"""The folder that a sandbox lives in; it must never delete or overwrite what it did not make."""

import base64
import fcntl
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loyalty_gateway.cli.failure import CommandFailed, UsageFailed

MARKER: Final = "sandbox.json"
MADE_BY: Final = "loyalty sandbox"
LOCK: Final = "sandbox.lock"
JOURNAL: Final = "loyalty.sqlite3"
LOG_BYTES_MAX: Final = 5_000_000
# What a killed sandbox has sent may take its server this long to settle.
LEFT_OVER_WAIT_S: Final = 45.0
LOCK_POLL_S: Final = 0.1
UNREACHABLE_URL: Final = "http://127.0.0.1:9/v1"
"""Nobody listens on the discard port: the vendor that cannot be reached."""


@dataclass(frozen=True, slots=True)
class VendorSection:
    """The connection of one played vendor: TOML lines, in which {base_url} and {proof_card} are
    filled in."""

    display_name: str
    settings: tuple[str, ...]


# A new vendor is a row here and one among the players; its connection has the vendor's name.
VENDOR_SECTIONS: Final[Mapping[str, VendorSection]] = {
    "cashassist": VendorSection(
        "CashAssist (played on this machine)",
        (
            'api_key = "sk_test_demo"',
            'currency = "CHF"',
            "proof_card = {proof_card}",
            # The vendor's memory is the ledger in this folder, so a new port is the same vendor.
            "promises.keys_survive_rotation = {{ value = true, proven_on = 2026-11-21, "
            'evidence = "the played vendor is its ledger in this folder, whatever its port" }}',
        ),
    ),
    "loyalife": VendorSection(
        "Loyalife (played on this machine)",
        (
            'client_id = "demo_client"',
            'client_secret = "demo_secret"',
            "program_id = 19",
            'currency = "EUR"',
            'time_zone = "Asia/Kolkata"',
            'merchant_name = "Corner Shop"',
            'redemption_kind = "gift-card"',
            "proof_member = {proof_card}",
            'proof_product = "RETAIL001"',
            "promises.keys_survive_rotation = {{ value = true, proven_on = 2026-11-26, "
            'evidence = "the played vendor is its ledger in this folder, whatever its port" }}',
        ),
    ),
    "cardsapi": VendorSection(
        "CISS CardAPI (played on this machine)",
        (
            # The player gives the tokens too, at the same address.
            "auth_url = {base_url}",
            'client_id = "demo-partner"',
            'access_token = "at_test_demo"',
            'currency = "EUR"',
            "group_id = 1",
            "proof_card = {proof_card}",
            "proof_point_of_sale_id = 65",
            "promises.keys_survive_rotation = {{ value = true, proven_on = 2026-11-21, "
            'evidence = "the played vendor is its ledger in this folder, whatever its port" }}',
        ),
    ),
    "openloyaltypay": VendorSection(
        "PayWizard openLoyaltyPay (played on this machine)",
        (
            'client_id = "825429536610058240"',
            'client_secret = "sandbox-secret"',
            'jwt_token = "SANDBOX0TOKEN0000000000000000001"',
            'loyalty_channel = "FACTOR4"',
            'currency = "USD"',
            "proof_card = {proof_card}",
            "promises.keys_survive_rotation = {{ value = true, proven_on = 2026-11-26, "
            'evidence = "the played vendor is its ledger in this folder, whatever its port" }}',
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class SandboxHome:
    """Where the parts of one sandbox stand; `lock_file` holds the lock while it is open."""

    folder: Path
    lock_file: int

    @property
    def journal(self) -> Path:
        return self.folder / "journal" / JOURNAL

    @property
    def players(self) -> Path:
        return self.folder / "players"

    @property
    def config(self) -> Path:
        return self.folder / "loyalty.toml"

    @property
    def sealing_key(self) -> Path:
        return self.folder / "keys" / "sealing"

    @property
    def outbound_salt(self) -> Path:
        return self.folder / "keys" / "outbound-salt"

    @property
    def ready_file(self) -> Path:
        return self.folder / "players.json"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def players_ports(self) -> dict[str, int]:
        """The ports at which the journal's bookings met their vendors, by vendor."""
        ports = _read_marker(self.folder).get("players_ports", {})
        if not isinstance(ports, dict):
            return {}
        return {
            name: port
            for name, port in ports.items()
            if isinstance(port, int) and 0 < port < 65_536
        }

    def remember_players_ports(self, ports: Mapping[str, int]) -> None:
        marker = {"made_by": MADE_BY, "players_ports": dict(ports)}
        _write(self.folder / MARKER, json.dumps(marker) + "\n")

    def reset(self) -> None:
        """Forget what was booked: the journal and the vendors' ledgers; keys and settings stay."""
        for folder, pattern in ((self.journal.parent, f"{JOURNAL}*"), (self.players, "*.sqlite3*")):
            for path in folder.glob(pattern):
                if path.is_file() and not path.is_symlink():
                    path.unlink()

    def rotate_logs(self) -> None:
        """Put a log that has grown long aside; one old one is kept."""
        for log in self.log("any").parent.glob("*.log"):
            if log.stat().st_size > LOG_BYTES_MAX:
                log.replace(log.with_suffix(".log.1"))

    def write_config(self, base_urls: Mapping[str, str], *, proof_card: str) -> None:
        """The server's settings for this folder and these vendors, written anew at every start."""
        sections = [
            _section_text(name, VENDOR_SECTIONS[name], base_url, proof_card)
            for name, base_url in base_urls.items()
            if name in VENDOR_SECTIONS
        ]
        _write(self.config, "\n".join([self._server_text(), *sections, _DOWN_TEXT]))

    def _server_text(self) -> str:
        return f"""\
# Written by `loyalty sandbox` at every start: changes here are lost. To change a setting, set its
# LOYALTY_* variable; docs/configuration.md lists them all.
profile = "sandbox"

[server]
tenant = "sandbox"
reflection = true
endpoint_delay_s = 0

[journal]
path = {_quote(self.journal)}

[keys]
sealing = [{{ id = "sandbox", file = {_quote(self.sealing_key)} }}]
outbound_salt_file = {_quote(self.outbound_salt)}

[telemetry]
trace_file = {_quote(self.log("traces"))}
log_format = "text"
"""


# A connection that cannot be reached, to see what that looks like.
_DOWN_TEXT: Final = f"""\
[connections.cashassist-down]
provider = "cashassist"
display_name = "CashAssist (cannot be reached)"
base_url = "{UNREACHABLE_URL}"
api_key = "sk_test_demo"
currency = "CHF"
"""


def _section_text(name: str, section: VendorSection, base_url: str, proof_card: str) -> str:
    lines = [
        f"[connections.{name}]",
        f"provider = {_quote(name)}",
        f"display_name = {_quote(section.display_name)}",
        f"base_url = {_quote(base_url)}",
        *(
            line.format(base_url=_quote(base_url), proof_card=_quote(proof_card))
            for line in section.settings
        ),
    ]
    return "\n".join(lines) + "\n"


def open_home(folder: Path) -> SandboxHome:
    """Makes the folder or goes on in it, and holds it until the process ends.

    Raises:
        UsageFailed: the folder is something else's, or its keys are gone.
        CommandFailed: another sandbox runs in it.
    """
    folder = folder.absolute()
    try:
        _make(folder)
        home = SandboxHome(folder, _lock(folder))
        _make_parts(home)
    except OSError as error:
        raise UsageFailed(
            f"the sandbox's folder {folder} cannot be used: {error.strerror}. "
            "Name another with --data-dir."
        ) from error
    return home


def _make(folder: Path) -> None:
    is_marked = _read_marker(folder).get("made_by") == MADE_BY
    if is_marked:
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageFailed(
            f"{folder} is not a sandbox and is not empty, so it is left alone. "
            "Name another folder with --data-dir."
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(folder / MARKER, json.dumps({"made_by": MADE_BY}) + "\n")


def _lock(folder: Path) -> int:
    """One sandbox at a time. The children inherit the lock, so it ends with the last of them."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up = time.monotonic() + LEFT_OVER_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            if _is_alive(owner):
                raise CommandFailed(
                    f"a sandbox is running in {folder} already (process {owner}). "
                    "Use it, stop it, or name another folder with --data-dir."
                ) from None
            if time.monotonic() > give_up:
                raise CommandFailed(
                    f"a process of an earlier sandbox still holds {folder}; "
                    "end it, or name another folder with --data-dir."
                ) from None
            time.sleep(LOCK_POLL_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _is_alive(process_id: str) -> bool:
    if not process_id.isdigit():
        # The other one has the lock and has not written its number yet.
        return True
    try:
        os.kill(int(process_id), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _make_parts(home: SandboxHome) -> None:
    for part in (home.journal, home.sealing_key, home.log("server"), home.players / "any"):
        part.parent.mkdir(mode=0o700, exist_ok=True)
    for secret in (home.sealing_key, home.outbound_salt):
        if secret.exists():
            continue
        if home.journal.exists():
            raise UsageFailed(
                f"{secret} is missing, and without it the journal in {home.folder} cannot be "
                "read. Put it back, or delete the folder and start afresh."
            )
        _write(secret, base64.b64encode(secrets.token_bytes(32)).decode() + "\n")


def _read_marker(folder: Path) -> dict[str, Any]:
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _write(path: Path, text: str) -> None:
    """The whole text or the old file, readable by its owner alone."""
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _quote(value: Path | str) -> str:
    """A TOML basic string; JSON's escapes are a part of TOML's."""
    return json.dumps(str(value), ensure_ascii=False)
