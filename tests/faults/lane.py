"""One fleet with its callers and its operator: what every cell plays on, and how it is judged."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from loyalty_gateway.settings import Recovery
from tests.e2e.checker import OPEN_STATES
from tests.faults.checker import find_violations, look, tell_stories
from tests.faults.database import Database, read_resolved
from tests.faults.fleet import Fleet, Replica
from tests.faults.history import History, summarise
from tests.faults.load import Caller, Restless
from tests.faults.offers import find_trade
from tests.faults.operator import CONFLICTS, Operator, Review
from tests.faults.report import Report, Result
from tests.faults.trades import TRADES, Trade
from tests.journal.proxy import Proxy

LEASE_S: Final = 2.0
SLOW_S: Final = "1.5"
SETTINGS: Final = {
    # As ever, only sooner; the vendor is slower than an attempt may be, and that ends well
    # before the lease does.
    "ENGINE__LEASE_S": str(LEASE_S),
    "ENGINE__SEND_BY_S": "0.5",
    "ENGINE__SETTLE_S": "3",
    "PROVIDER__CONNECT_S": "0.5",
    "PROVIDER__ATTEMPT_TOTAL_S": "1.0",
    "RECOVERY__SCHEDULE_S": "[0.3, 0.5, 1, 1, 2]",
    "RECOVERY__THEN_EVERY_S": "2",
    "RECOVERY__PARALLEL_MAX": "32",
    "SERVER__DRAIN_GRACE_S": "5",
    "LIMITS__UNRESOLVED_MAX": "100000",
    "LIMITS__TOMBSTONES_PER_HOUR_MAX": "100000",
    # Spans of a load that nobody reads.
    "TELEMETRY__SAMPLE_RATIO": "0",
    **(
        {"RECOVERY__NOT_FOUND_WAITS_S": "[0.5, 0.5]"}
        if "not_found_waits_s" in Recovery.model_fields
        else {}
    ),
}
PLAYER_OPTIONS: Final = ("--slow-s", SLOW_S)
PATIENCE_S: Final = float(SLOW_S) + 2.5
"""What an operator waits before the vendor's books are believed: late effects are in them."""
OPERATOR_EVERY_S: Final = 0.5
QUIESCE_S: Final = 40.0
SAID_MAX: Final = 5
CALLERS_MAX: Final = 8_000


@dataclass(slots=True)
class Lane:
    """One fleet, and the cells that follow one another on it."""

    label: str
    fleet: Fleet
    report: Report
    seed: int
    random_s: float
    database: Database | None = None
    proxy: Proxy | None = None
    """The line between the gateways and their database, where it can be cut."""
    say: Callable[[str], None] = print
    is_full: bool = False
    """Whether every combination has its turn, or one that chance picks."""
    history: History = field(default_factory=History)
    vendors: tuple[str, ...] = tuple(TRADES)
    """Whom the callers book with."""
    trades: tuple[Trade, ...] = ()
    """The same, once it is known what they offer."""
    operator: Operator = field(init=False)
    at_end: list[Callable[[], None]] = field(default_factory=list)
    """What has to be ended after the gateways."""
    _known_wrong: set[str] = field(default_factory=set)
    faults_fired: Counter[str] = field(default_factory=Counter)
    """By vendor and fault, on this lane."""
    _noted: set[tuple[str, int]] = field(default_factory=set)
    _made: int = 0

    def __post_init__(self) -> None:
        self.operator = Operator(self._look, self._ask, PATIENCE_S)

    def chance(self, *names: object) -> random.Random:
        """The same for the same seed, whatever else runs beside it."""
        return random.Random("/".join(map(str, (self.seed, self.label, *names))))

    def callers(self, count: int, cell: str, **options: Any) -> list[Caller]:
        options.setdefault("trades", self.known_trades)
        made = []
        for _ in range(count):
            # Sizes tell requests apart, over all cells of the lane.
            self._made += 1
            assert self._made < CALLERS_MAX, "more callers than sizes can tell apart"
            # No two callers of a lane draw the same, for they would draw the same request_ids.
            chance = self.chance(cell, self._made)
            made.append(
                Caller(self.fleet, self.history, chance, self._made, CALLERS_MAX, **options)
            )
        return made

    @property
    def known_trades(self) -> tuple[Trade, ...]:
        """What may be asked for, as far as it is known yet."""
        return self.trades or tuple(TRADES[name] for name in self.vendors)

    @property
    def only(self) -> Replica:
        [replica] = self.fleet.replicas
        return replica

    async def start(self, replica: Replica, failpoints: str = "") -> bool:
        """Starts a gateway; the first one tells what its vendors offer."""
        serves = await replica.start(failpoints)
        if serves and not self.trades and not failpoints:
            self.trades = tuple(
                [await find_trade(replica.caller, trade) for trade in self.known_trades]
            )
            self.report.offered |= {
                f"{trade.connection} {method}" for trade in self.trades for method in trade.methods
            }
        return serves

    @asynccontextmanager
    async def cell(self, name: str) -> AsyncIterator[Result]:
        """Runs a cell; at its end everything must be as it should be."""
        began, first = time.monotonic(), len(self.history.told)
        reviews = self.operator.reviews.copy()
        result = Result(cell=f"{name} {self.label}", summary=summarise([], {}))
        try:
            yield result
        except Exception as error:
            # What broke is a finding; the other cells may still show more.
            result.violations.append(f"the cell broke: {error!r}")
        resolved_s: dict[str, float] = {}
        rows: list[Any] = []
        try:
            journal = await self.fleet.journal()
            resolved_s = await asyncio.to_thread(read_resolved, journal)
            wrong, world = await find_violations(self.fleet, self.history, self.operator.helped)
            new = [it for it in wrong if str(it) not in self._known_wrong]
            result.violations += map(str, new)
            self._known_wrong.update(map(str, wrong))
            if new:
                self.report.stories += await tell_stories(self.fleet, new, world)
            rows = list(world.rows)
        except Exception as error:
            # A gateway that cannot be asked any more is a finding, not the end of the run.
            result.violations.append(f"{result.cell} could not be judged: {error!r}")
        mine = {it.key[0] for it in self.history.told[first:]}
        for row in rows:
            self.report.states[row.state] += row.request_id in mine
            if row.request_id in mine and row.method and row.state in ("SUCCEEDED", "REVERSED"):
                self.report.methods[f"{row.connection} {row.method}"] += 1
        result.summary = summarise(
            self.history.told[first:],
            resolved_s,
            open_ids={row.request_id for row in rows if row.state in OPEN_STATES},
            helped_ids=self.operator.helped,
            known_ids={row.request_id for row in rows},
        )
        for replica in self.fleet.replicas:
            replica.note_an_end()
        result.violations += [*self.fleet.wrong, *self.operator.problems]
        self.fleet.wrong.clear()
        self.operator.problems.clear()
        new_reviews = self.operator.reviews - reviews
        result.needs_review = new_reviews.total()
        self.report.reviews += new_reviews
        result.violations += [
            f"I10: a person was asked {count} times without need: {it}"
            for it, count in new_reviews.items()
            if not (it.is_allowed and self._is_a_persons(it))
        ]
        result.seconds = round(time.monotonic() - began, 1)
        self.report.results.append(result)
        self.say(f"{result.cell}: {result.seconds:.1f} s, {len(result.violations)} violations")
        for line in result.violations[:SAID_MAX]:
            self.say(f"  {line}")

    def _is_a_persons(self, review: Review) -> bool:
        """Whether the connection said from the start that doubts of this kind are a person's, or
        what was found contradicts itself: that no way is open any more is no reason by itself."""
        if review.reason in CONFLICTS:
            return True
        trade = next((it for it in self.trades if it.connection == review.connection), None)
        return trade is None or review.method in trade.by_people

    async def rest(self, callers: list[Caller], result: Result) -> None:
        """Lets every caller hear the end of what it began, with an operator beside them."""
        everybody = asyncio.gather(
            *(caller.come_to_rest() for caller in callers), return_exceptions=True
        )
        await self.operate_until(everybody)
        for end in await everybody:
            if isinstance(end, Restless):
                result.violations.append(f"I10: {end}")
            elif isinstance(end, BaseException):
                raise end
        await self._end_what_nobody_waits_for()

    async def operate_until(self, everybody: "asyncio.Future[Any]") -> None:
        """The operator decides what waits for a person until all of it is done."""
        while not everybody.done():
            await self.operator.decide()
            await asyncio.wait({everybody}, timeout=OPERATOR_EVERY_S)

    async def _end_what_nobody_waits_for(self) -> None:
        """Recovery's part and the operator's, of what its callers have left."""
        give_up = time.monotonic() + QUIESCE_S
        caller = next(it.caller for it in self.fleet.replicas if it.is_running)
        while time.monotonic() < give_up and await caller.open_bookings():
            await self.operator.decide()
            await asyncio.sleep(OPERATOR_EVERY_S)

    async def close(self) -> None:
        """Ends the fleet in good order."""
        self.report.cancels.update(self.history.cancels)
        for line in await self.fleet.close():
            self.report.results[-1].violations.append(line)
        for end in self.at_end:
            await asyncio.to_thread(end)

    async def note_faults(self) -> None:
        """Before the vendors' logs forget them."""
        for name, vendor in self.fleet.vendors.items():
            for it in await vendor.exchanges():
                if it.fault and (name, it.number) not in self._noted:
                    self._noted.add((name, it.number))
                    self.report.faults_fired[f"{name} {it.fault}"] += 1
                    self.faults_fired[f"{name} {it.fault}"] += 1

    async def _look(self) -> Any:
        return await look(self.fleet, self.history)

    async def _ask(self, request: Any) -> Any:
        running = [it for it in self.fleet.replicas if it.is_running and it.is_up.is_set()]
        return await (running or self.fleet.replicas)[0].caller.call(request, timeout_s=5.0)
