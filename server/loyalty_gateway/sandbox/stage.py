"""What every player shares while it plays: settings, gate, logs; it must never touch a ledger."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from loyalty_gateway.sandbox.faults import Delivery

EXCHANGES_MAX = 10_000
VIOLATIONS_MAX = 1_000
SLOW_S_MAX = 600

GatePoint = Literal["before-effect", "after-effect"]
_GATE_POINTS: dict[str, GatePoint] = {point: point for point in get_args(GatePoint)}


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be turned while a player runs.

    `rate_limit_per_minute` None means no limit. `key_lifetime_s` is how long an idempotency key
    is remembered; 0 plays a vendor that forgets it at once. `hang_up` is how a lost answer
    looks on the socket: an orderly close or a reset.
    """

    slow_s: float = 20.0
    rate_limit_per_minute: int | None = None
    key_lifetime_s: int = 24 * 3600
    hang_up: Literal["fin", "reset"] = "fin"

    def __post_init__(self) -> None:
        _require(0 <= self.slow_s <= SLOW_S_MAX, f"slow_s is a number from 0 to {SLOW_S_MAX}")
        _require(
            self.rate_limit_per_minute is None or self.rate_limit_per_minute >= 1,
            "rate_limit_per_minute is null or a whole number from 1 up",
        )
        _require(self.key_lifetime_s >= 0, "key_lifetime_s is a whole number from 0 up")
        _require(self.hang_up in ("fin", "reset"), "hang_up is fin or reset")

    def changed(self, wish: object) -> "Settings":
        """The settings with the fields of a JSON object put in.

        Raises: ValueError naming the field that is unknown or has the wrong type.
        """
        names = [field.name for field in fields(self)]
        _require(isinstance(wish, dict), "the body is a JSON object")
        assert isinstance(wish, dict)
        unknown = sorted(set(wish) - set(names))
        _require(not unknown, f"unknown settings: {unknown}; known: {names}")
        for name, kinds in _SETTING_TYPES.items():
            value = wish.get(name, getattr(self, name))
            is_right = isinstance(value, kinds) and not isinstance(value, bool)
            _require(is_right, f"{name} has the wrong type")
        return replace(self, **wish)


_SETTING_TYPES: dict[str, tuple[type, ...]] = {
    "slow_s": (int, float),
    "rate_limit_per_minute": (int, type(None)),
    "key_lifetime_s": (int,),
    "hang_up": (str,),
}


@dataclass(slots=True)
class Exchange:
    """One request and what became of it; `status` is None as long as no answer was sent."""

    number: int
    at: str
    method: str
    path: str
    card: str | None = None
    idempotency_key: str | None = None
    status: int | None = None
    delivery: Delivery | Literal["pending"] = "pending"
    fault: str | None = None
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Violation:
    """One departure of a request from the vendor's OpenAPI document."""

    number: int
    at: str
    method: str
    path: str
    where: str
    problem: str


class Gate:
    """Holds the next new booking at a point until it is released.

    Armed, it catches one booking and is then spent; it stays shut for that one until release.
    """

    def __init__(self) -> None:
        self._armed: tuple[GatePoint, str | None] | None = None
        self._waiting: tuple[GatePoint, str] | None = None
        self._reached = asyncio.Event()
        self._released = asyncio.Event()

    def arm(self, point: str, idempotency_key: str | None = None) -> None:
        """Catch the next booking at `point`, or the next with that key.

        Raises: ValueError for an unknown point, or while a booking is still being held.
        """
        known_point = _GATE_POINTS.get(point)
        if known_point is None:
            raise ValueError(f"point is one of {', '.join(_GATE_POINTS)}")
        _require(self._waiting is None, "a booking is being held; release the gate first")
        self._armed = known_point, idempotency_key
        self._reached.clear()
        self._released.clear()

    def release(self) -> None:
        """Let go whatever is held, and disarm."""
        self._armed = self._waiting = None
        self._reached.clear()
        self._released.set()

    async def come_to(self, point: GatePoint, idempotency_key: str) -> None:
        """Called by a player at each point of each new booking; waits there while it is held."""
        if self._armed is None or self._armed[0] != point:
            return
        if self._armed[1] not in (None, idempotency_key):
            return
        self._armed = None
        self._waiting = (point, idempotency_key)
        self._reached.set()
        await self._released.wait()

    async def reached(self, timeout_s: float) -> bool:
        """Wait until a booking is being held; False when the time ran out first."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._reached.wait()
        except TimeoutError:
            return False
        return True

    def state(self) -> dict[str, Any]:
        """Whether it is armed and whom it holds, as JSON."""

        def shown(point: tuple[GatePoint, str | None] | None) -> dict[str, str | None] | None:
            return {"point": point[0], "idempotency_key": point[1]} if point else None

        return {"armed": shown(self._armed), "waiting": shown(self._waiting)}


class RateLimit:
    """A fixed window of one minute for each API key."""

    WINDOW_S = 60

    def __init__(self) -> None:
        self._windows: dict[str, tuple[int, int]] = {}

    def count(self, api_key: str, now_s: float, limit: int) -> tuple[bool, int, int]:
        """Count one request: whether it is allowed, how many are left, when the window ends."""
        window = int(now_s) // self.WINDOW_S
        counted_window, used = self._windows.get(api_key, (window, 0))
        used = used + 1 if counted_window == window else 1
        self._windows[api_key] = (window, used)
        return used <= limit, max(limit - used, 0), (window + 1) * self.WINDOW_S


class Stage:
    """The shared state of one player; all of it lives on the event loop and dies with it."""

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        self.settings = settings
        self.now = now
        self.gate = Gate()
        self.rate_limit = RateLimit()
        # Fingerprints of bookings that have begun and are not yet in the ledger, by their key.
        self.running: dict[str, str] = {}
        self.exchanges: deque[Exchange] = deque(maxlen=EXCHANGES_MAX)
        self.violations: deque[Violation] = deque(maxlen=VIOLATIONS_MAX)
        self._exchange_count = 0
        self._violation_count = 0
        self._first_settings = settings
        self._is_closing = asyncio.Event()

    def reset(self) -> None:
        """Forget what was logged, let go what is held, and go back to the first settings.

        The numbers of log rows go on counting, so that a reader of `after=` misses nothing.
        """
        self.gate.release()
        self.settings = self._first_settings
        self.rate_limit = RateLimit()
        self.exchanges.clear()
        self.violations.clear()

    def close(self) -> None:
        """End every wait, so that a stopping player is not held up by its own faults."""
        self._is_closing.set()
        self.gate.release()

    async def pause(self, seconds: float) -> bool:
        """Wait as a slow vendor does; False when the player stopped before the time was over."""
        try:
            async with asyncio.timeout(seconds):
                await self._is_closing.wait()
        except TimeoutError:
            return True
        return False

    def log(self, method: str, path: str) -> Exchange:
        """Open the log line of a request; its fields are filled in as they become known."""
        self._exchange_count += 1
        exchange = Exchange(self._exchange_count, self._at(), method, path)
        self.exchanges.append(exchange)
        return exchange

    def report(self, exchange: Exchange, problems: Iterable[tuple[str, str]]) -> None:
        """Record how a request departs from the document, as (where, problem)."""
        for where, problem in problems:
            self._violation_count += 1
            self.violations.append(
                Violation(
                    self._violation_count,
                    self._at(),
                    exchange.method,
                    exchange.path,
                    where,
                    problem,
                )
            )

    def _at(self) -> str:
        return datetime.fromtimestamp(self.now(), UTC).isoformat(timespec="milliseconds")


def as_json(rows: Iterable[Exchange | Violation]) -> list[dict[str, Any]]:
    """Log rows as JSON objects."""
    return [asdict(row) for row in rows]


def _require(is_right: bool, text: str) -> None:
    if not is_right:
        raise ValueError(text)
