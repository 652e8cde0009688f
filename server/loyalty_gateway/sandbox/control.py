"""The control surface under `/_sandbox`: look behind a player and steer it; no vendor has it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from loyalty_gateway.sandbox.bookings import knows
from loyalty_gateway.sandbox.faults import FAULT_BY_NAME, FAULT_HEADER, Answer
from loyalty_gateway.sandbox.stage import as_json

if TYPE_CHECKING:
    from loyalty_gateway.sandbox.player import Player

PREFIX = "/_sandbox"
WAIT_S_MAX = 60


@dataclass(frozen=True, slots=True)
class Control:
    """One route of the control surface."""

    method: str
    path: str
    does: str
    run: Callable[[Player, Mapping[str, str], Any], Awaitable[Any]]


async def answer(
    player: Player, method: str, path: str, query: tuple[tuple[str, str], ...], body: bytes | None
) -> Answer:
    """Answer one request to the control surface, always as JSON."""
    route = _ROUTES.get((method, path.removeprefix(PREFIX).rstrip("/")))
    if route is None:
        return _json(404, {"error": "no such control", "controls": _index()})
    try:
        wish = json.loads(body) if body else {}
        return _json(200, await route.run(player, dict(query), wish))
    except ValueError as error:
        return _json(400, {"error": str(error)})


async def _show_index(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    return {"player": player.name, "base_url": player.base_url, "controls": _index()}


async def _show_cards(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    return {"cards": player.shown_cards()}


async def _show_faults(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    return {
        "header": FAULT_HEADER,
        "faults": [
            {
                "name": fault.name,
                "card": fault.card or None,
                "has_effect": fault.has_effect,
                "happens": fault.happens,
            }
            for fault in FAULT_BY_NAME.values()
            if knows(player, fault)
        ],
    }


async def _show_ledger(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    card_id, key = query.get("card"), query.get("idempotency_key")
    effects = player.ledger.effects(
        card_id=card_id, idempotency_key=key, with_seed=query.get("history") == "true"
    )
    # A key narrows the cards to those that its bookings concern.
    concerned = {effect.card_id for effect in effects} if key is not None else None
    return {
        "currency": player.currency,
        "cards": [
            {
                "card": card.card_id,
                "balance_minor": card.balance_minor,
                "points": card.points,
                "is_blocked": card.is_blocked,
                "detail": card.detail,
            }
            for card in player.ledger.cards()
            if card_id in (None, card.card_id) and (concerned is None or card.card_id in concerned)
        ],
        "effects": [
            {
                "number": effect.number,
                "idempotency_key": effect.idempotency_key,
                "card": effect.card_id,
                "type": effect.kind,
                "amount_minor": effect.amount_minor,
                "points": effect.points,
                "reference": effect.reference,
                "reverses": effect.reverses,
                "detail": effect.detail,
                "time": _time_text(effect.booked_at_ms),
            }
            for effect in reversed(effects)
        ],
    }


async def _show_things(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    return {
        "things": [
            {"kind": kind, "key": key, "value": value}
            for kind, key, value in player.ledger.things(query.get("kind"))
        ]
    }


async def _show_audit(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    return {"problems": player.ledger.audit()}


async def _show_requests(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    after, key = int(query.get("after", "0")), query.get("idempotency_key")
    chosen = [
        exchange
        for exchange in player.stage.exchanges
        if exchange.number > after and key in (None, exchange.idempotency_key)
    ]
    return {"requests": as_json(chosen)}


async def _show_violations(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    after = int(query.get("after", "0"))
    chosen = [violation for violation in player.stage.violations if violation.number > after]
    return {"violations": as_json(chosen)}


async def _show_settings(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    return asdict(player.stage.settings)


async def _change_settings(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    player.stage.settings = player.stage.settings.changed(wish)
    return asdict(player.stage.settings)


async def _reset(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    await player.reset()
    return {"cards": player.shown_cards()}


async def _show_gate(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    wait_s = min(float(query.get("wait_s", "0")), WAIT_S_MAX)
    if wait_s > 0:
        await player.stage.gate.reached(wait_s)
    return player.stage.gate.state()


async def _arm_gate(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    if not isinstance(wish, dict) or set(wish) - {"point", "idempotency_key"}:
        raise ValueError("the body is a JSON object with point and, if wanted, idempotency_key")
    player.stage.gate.arm(str(wish.get("point")), wish.get("idempotency_key"))
    return player.stage.gate.state()


async def _release_gate(player: Player, query: Mapping[str, str], wish: Any) -> Any:
    player.stage.gate.release()
    return player.stage.gate.state()


CONTROLS: tuple[Control, ...] = (
    Control("GET", "", "this list", _show_index),
    Control("GET", "/cards", "the cards to play with", _show_cards),
    Control("GET", "/faults", "the faults and their magic cards", _show_faults),
    Control(
        "GET",
        "/ledger",
        "balances and bookings, oldest first, in minor units, signed as the card sees them;"
        " ?card= ?idempotency_key= and ?history=true for the bookings from before",
        _show_ledger,
    ),
    Control("GET", "/things", "the vendor's other records; ?kind=", _show_things),
    Control("GET", "/audit", "what double entry finds wrong", _show_audit),
    Control(
        "GET", "/requests", "the last requests; ?after=NUMBER ?idempotency_key=", _show_requests
    ),
    Control(
        "GET",
        "/violations",
        "requests that do not fit the vendor's OpenAPI document; ?after=NUMBER",
        _show_violations,
    ),
    Control("GET", "/settings", "the settings", _show_settings),
    Control("POST", "/settings", "change some of them, as a JSON object", _change_settings),
    Control("POST", "/reset", "back to the seeded cards, empty logs, first settings", _reset),
    Control(
        "GET", "/gate", "what is armed and who waits; ?wait_s= waits until one does", _show_gate
    ),
    Control(
        "POST",
        "/gate",
        'hold the next new booking at {"point": "before-effect" or "after-effect"}, or only the'
        ' one with {"idempotency_key"}',
        _arm_gate,
    ),
    Control("POST", "/gate/release", "let the held booking go on, and disarm", _release_gate),
)
_ROUTES = {(control.method, control.path): control for control in CONTROLS}


def _index() -> list[dict[str, str]]:
    return [
        {"method": control.method, "path": PREFIX + control.path, "does": control.does}
        for control in CONTROLS
    ]


def _time_text(at_ms: int) -> str:
    seconds, rest_ms = divmod(at_ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC) + timedelta(milliseconds=rest_ms)
    return moment.isoformat(timespec="milliseconds")


def _json(status: int, value: Any) -> Answer:
    return Answer(status, json.dumps(value, ensure_ascii=False, indent=1).encode())
