"""Fills the tables of docs/sandbox.md from what the players themselves say; decides nothing."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from inspect import getdoc
from pathlib import Path
from typing import Any

from loyalty_gateway.sandbox.bookings import knows
from loyalty_gateway.sandbox.control import CONTROLS, PREFIX
from loyalty_gateway.sandbox.faults import FAULT_BY_NAME, Fault
from loyalty_gateway.sandbox.player import Player
from loyalty_gateway.sandbox.players import PLAYERS
from loyalty_gateway.sandbox.settings import Settings, allowed

PAGE = Path(__file__).with_name("sandbox.md")
MARKS = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
ACCOUNT_FIELDS = ("card", "holder", "balance_minor", "points", "purpose")
# A player is made only to ask it; it opens nothing until it is started.
NOWHERE = Path("never-opened")


def sandbox_page() -> str:
    """The page with its tables made anew; what stands around them is kept."""
    return MARKS.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], PAGE.read_text())


def _players() -> Iterator[Player]:
    for make in PLAYERS.values():
        yield make(NOWHERE)


def _accounts() -> str:
    rows = []
    for player in _players():
        for card in player.shown_cards():
            if card["fault"]:
                continue
            more = "; ".join(_shown(name, value) for name, value in _more(card))
            shown = [str(card[name]) for name in ACCOUNT_FIELDS]
            rows.append([player.name, *shown, more])
    return _table(["vendor", "account", "holder", "balance", "points", "what for", "more"], rows)


def _more(card: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in card.items():
        if name not in (*ACCOUNT_FIELDS, "fault") and value:
            yield name, value


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{name} " + " and ".join(
            " / ".join(map(str, item.values())) if isinstance(item, dict) else str(item)
            for item in value
        )
    return f"{name} {value}"


def _faults() -> str:
    rows = [
        [f"`{fault.name}`", fault.card, _books(fault), fault.happens, _where(fault)]
        for fault in FAULT_BY_NAME.values()
    ]
    return _table(["fault", "account", "books", "what happens", "vendors"], rows)


def _books(fault: Fault) -> str:
    return {"after": "yes", "later": "later", "never": "no"}.get(
        fault.when, "yes, late" if fault.kind == "slow" else "no"
    )


def _where(fault: Fault) -> str:
    """The vendors that play it, where not all of them do."""
    able = [player.name for player in _players() if knows(player, fault)]
    return "all" if len(able) == len(PLAYERS) else ", ".join(able) or "none yet"


def _controls() -> str:
    rows = [[f"`{c.method} {PREFIX}{c.path}`", c.does] for c in CONTROLS]
    return _table(["request", "what it does"], rows)


def _settings() -> str:
    parts = ["Common to all:\n", _prose(Settings), _settings_table(Settings, None)]
    for name, make in PLAYERS.items():
        own = make.settings_type
        if own is not Settings:
            parts += [f"Of {name}:\n", _prose(own), _settings_table(own, Settings)]
    return "\n".join(parts)


def _prose(settings: type[Settings]) -> str:
    return (getdoc(settings) or "").strip() + "\n"


def _settings_table(settings: type[Settings], base: type[Settings] | None) -> str:
    """The settings; beside a base only those which it has not, or has with another default."""
    known = {field.name: field.default for field in fields(base)} if base is not None else {}
    rows = [
        [f"`{field.name}`", f"`{_json(field.default)}`", allowed(settings)[field.name]]
        for field in fields(settings)
        if base is None or field.name not in known or known[field.name] != field.default
    ]
    return _table(["setting", "default", "takes"], rows)


def _json(value: object) -> str:
    """A default as it stands in the JSON of the control surface."""
    return value if isinstance(value, str) else json.dumps(value)


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    text = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n".join(text) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "accounts": _accounts,
    "faults": _faults,
    "controls": _controls,
    "settings": _settings,
}
