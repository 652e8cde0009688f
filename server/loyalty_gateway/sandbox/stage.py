"""What every player shares while it plays: settings, gate, logs; it must never touch a ledger."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from loyalty_gateway.sandbox.faults import Delivery
from loyalty_gateway.sandbox.settings import Settings

logger = logging.getLogger(__name__)

EXCHANGES_MAX = 10_000
VIOLATIONS_MAX = 1_000

GatePoint = Literal["before-effect", "after-effect"]
_GATE_POINTS: dict[str, GatePoint] = {point: point for point in get_args(GatePoint)}


@dataclass(slots=True)
class Exchange:
    """One request and what became of it; `status` is None as long as no answer was sent.

    `card` is the account it concerns, `idempotency_key` the caller's own id of the booking,
    whatever the vendor calls it; a booking without one has the key that the player made up.
    """

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
        # How often each booking and read was asked for, which is what chaos is drawn from.
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.exchanges: deque[Exchange] = deque(maxlen=EXCHANGES_MAX)
        self.violations: deque[Violation] = deque(maxlen=VIOLATIONS_MAX)
        self._exchange_count = 0
        self._violation_count = 0
        self._first_settings = settings
        self._is_closing = asyncio.Event()
        self._later: set[asyncio.Task[None]] = set()

    def reset(self) -> None:
        """Forget what was logged, let go what is held, and go back to the first settings.

        The numbers of log rows go on counting, so that a reader of `after=` misses nothing.
        """
        self.gate.release()
        self.settings = self._first_settings
        self.rate_limit = RateLimit()
        self.attempts.clear()
        self.exchanges.clear()
        self.violations.clear()

    def close(self) -> None:
        """End every wait, so that a stopping player is not held up by its own faults."""
        self._is_closing.set()
        self.gate.release()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something happen after the answer has gone; it waits with `pause`, if it waits."""
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._done)

    async def finish(self, *, is_forgotten: bool = False) -> None:
        """Wait for what was to happen later, or see to it that it never does.

        After `close` none of it waits any more.
        """
        while self._later:
            if is_forgotten:
                for task in self._later:
                    task.cancel()
            await asyncio.wait(self._later)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._later.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("what was to happen later failed", exc_info=task.exception())

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
