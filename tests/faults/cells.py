"""The cells: each hurts a fleet in one way while callers book, and then lets it be judged."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from loyalty_gateway.failpoints import POINTS
from loyalty_gateway.sandbox.faults import FAULTS
from tests.e2e.caller import BOOKINGS
from tests.e2e.checker import OPEN_STATES
from tests.e2e.house import until
from tests.faults.checker import find_violations, journal_of
from tests.faults.database import Database, Held, read_held, read_moves, read_resolved
from tests.faults.fleet import CLEAN, KILLED, Fleet, Replica
from tests.faults.history import History, summarise
from tests.faults.load import Caller, Restless, decide_reviews
from tests.faults.report import Report, Result

LEASE_S: Final = 2.0
TAKEOVER_LIMIT_S: Final = LEASE_S + 5.0
READY_AGAIN_LIMIT_S: Final = 5.0
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
    "SERVER__DRAIN_GRACE_S": "5",
    # Spans of a load that nobody reads.
    "TELEMETRY__SAMPLE_RATIO": "0",
}
HELD: Final = 5
DEATH_LIMIT_S: Final = 15.0
BUSY_S: Final = 0.4
OPERATOR_EVERY_S: Final = 0.5
KILLS_MIN: Final = 3

# How often a point is passed before it kills. The writer passes its points at every commit, the
# promises' and recovery's own included, so that a low number would fall before any booking.
COUNTS: Final = {"before-commit": (12, 30), "after-commit": (12, 30)}
FIRST_OR_LATER: Final = (1, 7)
DOUBTED: Final = ("lost-after", "lost-before", "500-after", "garbage-before")
AT_START: Final = ("migrating", "adopting")

Cell = Callable[["Lane"], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Lane:
    """One fleet, and the cells that follow one another on it."""

    label: str
    fleet: Fleet
    report: Report
    seed: int
    random_s: float
    database: Database | None = None
    say: Callable[[str], None] = print
    history: History = field(default_factory=History)
    _known_wrong: set[str] = field(default_factory=set)

    def chance(self, *names: object) -> random.Random:
        """The same for the same seed, whatever else runs beside it."""
        return random.Random("/".join(map(str, (self.seed, self.label, *names))))

    def callers(self, count: int, cell: str, **options: Any) -> list[Caller]:
        return [
            Caller(self.fleet, self.history, self.chance(cell, number), **options)
            for number in range(count)
        ]

    @property
    def only(self) -> Replica:
        [replica] = self.fleet.replicas
        return replica

    @asynccontextmanager
    async def cell(self, name: str) -> AsyncIterator[Result]:
        """Runs a cell; at its end everything must be as it should be."""
        began, first = time.monotonic(), len(self.history.told)
        result = Result(cell=f"{name} {self.label}", summary=summarise([], {}))
        try:
            yield result
        except Exception as error:
            # What broke is a finding; the other cells may still show more.
            result.violations.append(f"the cell broke: {error!r}")
        resolved_s: dict[str, float] = {}
        try:
            journal = await journal_of(self.fleet)
            resolved_s = await asyncio.to_thread(read_resolved, journal)
            wrong, world = await find_violations(self.fleet, self.history, journal)
        except Exception as error:
            # A gateway that cannot be asked any more is a finding, not the end of the run.
            wrong, world = [f"{result.cell} could not be judged: {error!r}"], None
        result.violations += [line for line in wrong if line not in self._known_wrong]
        self._known_wrong.update(wrong)
        mine = {it.key[0] for it in self.history.told[first:]}
        rows = world.rows if world is not None else ()
        for row in rows:
            result.needs_review += row.state == "NEEDS_REVIEW" and row.request_id in mine
            self.report.states[row.state] += row.request_id in mine
        open_ids = {row.request_id for row in rows if row.state in OPEN_STATES}
        result.summary = summarise(self.history.told[first:], resolved_s, open_ids)
        result.seconds = round(time.monotonic() - began, 1)
        self.report.results.append(result)
        self.say(f"{result.cell}: {result.seconds:.1f} s, {len(result.violations)} violations")

    async def rest(self, callers: list[Caller], result: Result) -> None:
        """Lets every caller hear the end of what it began, with an operator beside them."""
        everybody = asyncio.gather(
            *(caller.come_to_rest() for caller in callers), return_exceptions=True
        )
        while not everybody.done():
            result.needs_review += await decide_reviews(self.fleet)
            await asyncio.wait({everybody}, timeout=OPERATOR_EVERY_S)
        for end in await everybody:
            if isinstance(end, Restless):
                result.violations.append(f"I10: {end}")
            elif isinstance(end, BaseException):
                raise end

    async def close(self) -> None:
        """Ends the fleet in good order."""
        self.report.cancels.update(self.history.cancels)
        for line in await self.fleet.close():
            self.report.results[-1].violations.append(line)

    async def note_faults(self) -> None:
        """Before the vendor's log forgets them."""
        exchanges = await self.fleet.vendor.exchanges()
        self.report.faults_fired |= {
            name: sum(it.fault == name for it in exchanges)
            for name in {it.fault for it in exchanges if it.fault}
        }


# --- kill -9 at every step ------------------------------------------------------------------


async def points(lane: Lane) -> None:
    """Every failpoint in turn; migrating first, since it is the birth of the journal."""
    names = ["migrating", *(name for name in POINTS if name != "migrating")]
    for name in names:
        if name == "adopting" and lane.fleet.dsn:
            # In a shared journal nothing is taken over at the start: the lease decides.
            continue
        async with lane.cell(f"kill at {name}") as result:
            await _point(lane, name, result)
        await lane.only.kill()


async def _point(lane: Lane, name: str, result: Result) -> None:
    chance, replica = lane.chance(name), lane.only
    is_recovery = name.startswith("recovery-")
    callers = lane.callers(
        HELD,
        name,
        faults=DOUBTED if is_recovery else (),
        fault_share=0.7 if is_recovery else 0.0,
    )
    if name == "adopting":
        await replica.start()
        await _book_until_killed(replica, callers)
        result.kills += 1
    if name in AT_START:
        has_fired = not await replica.start(f"{name}=kill")
    else:
        count = chance.randint(*COUNTS.get(name, FIRST_OR_LATER if name != "draining" else (1, 1)))
        assert await replica.start(f"{name}=kill@{count}"), "it serves first"
        has_fired = await _book_until_dead(replica, callers, terminates=name == "draining")
    result.require(has_fired, "the failpoint did not kill")
    if has_fired:
        result.kills += 1
        lane.report.points_fired.add(name)
    elif replica.is_running:
        await replica.kill()
    await replica.start()
    if name == "migrating":
        for caller in callers:
            await caller.book_new()
    await lane.rest(callers, result)


async def _book_until_dead(replica: Replica, callers: list[Caller], *, terminates: bool) -> bool:
    ends_at = time.monotonic() + DEATH_LIMIT_S
    live = asyncio.gather(*(caller.book_until_gone(replica, ends_at) for caller in callers))
    if terminates:
        await asyncio.sleep(BUSY_S)
        replica.terminate()
    code = await replica.child.find_end(DEATH_LIMIT_S)
    replica.is_up.clear()
    await live
    return code == KILLED


async def _book_until_killed(replica: Replica, callers: list[Caller]) -> None:
    ends_at = time.monotonic() + DEATH_LIMIT_S
    live = asyncio.gather(*(caller.book_until_gone(replica, ends_at) for caller in callers))
    await asyncio.sleep(BUSY_S)
    await replica.kill()
    await live


# --- what the vendor does -------------------------------------------------------------------


async def vendor_faults(lane: Lane) -> None:
    """Each fault on each kind of booking, by the header and by the magic account."""
    await lane.only.start()
    async with lane.cell("vendor faults") as result:
        [caller] = lane.callers(1, "faults")

        async def meet(name: str, kind: str, card: str, header: str) -> None:
            request = BOOKINGS[kind](caller.chance.randint(1, 40), card, request_id=caller.new_id())
            caller.mine.append(request)
            await lane.history.book(lane.only, request, timeout_s=0.8, fault=header)

        await asyncio.gather(
            *(
                meet(fault.name, kind, card, header)
                for fault in FAULTS
                for kind in BOOKINGS
                for card, header in ((fault.card, ""), ("10480", fault.name))
            )
        )
        await lane.rest(_shared_out(caller, 11), result)
        await lane.note_faults()


def _shared_out(caller: Caller, count: int) -> list[Caller]:
    """Several callers who wait at the same time for what one began."""
    parts = [Caller(caller.fleet, caller.history, caller.chance) for _ in range(count)]
    for number, request in enumerate(caller.mine):
        parts[number % count].mine.append(request)
    caller.mine = []
    return parts


# --- at random, under load ------------------------------------------------------------------


async def _under_load(
    lane: Lane,
    result: Result,
    name: str,
    count: int,
    length_s: float,
    harm: Callable[[float], Coroutine[Any, Any, None]],
) -> None:
    """Lets callers live as long as `harm` goes on, then come to rest."""
    callers = lane.callers(count, name)
    async with asyncio.TaskGroup() as group:
        harming = group.create_task(harm(time.monotonic() + length_s))
        for caller in callers:
            group.create_task(caller.live(harming.done))
    await lane.note_faults()
    await lane.rest(callers, result)


async def random_kills(lane: Lane) -> None:
    """kill -9 at any moment, and up again."""
    replica, chance = lane.only, lane.chance("random kills")
    if not replica.is_up.is_set():
        await replica.start()
    async with lane.cell("random kills") as result:

        async def harm(ends_at: float) -> None:
            while time.monotonic() < ends_at - 1 or result.kills < KILLS_MIN:
                await asyncio.sleep(chance.uniform(0.3, 1.2))
                await replica.kill()
                result.kills += 1
                await replica.start()

        await _under_load(lane, result, "random kills", 8, lane.random_s, harm)
        result.require(result.kills >= KILLS_MIN, f"only {result.kills} kills")


async def database_restarts(lane: Lane) -> None:
    """The database crashes, or is restarted in good order, under a gateway that lives on."""
    database, replica, chance = lane.database, lane.only, lane.chance("restarts")
    assert database is not None, "SQLite has no server"
    if not replica.is_up.is_set():
        await replica.start()
    modes: list[Literal["immediate", "fast"]] = ["immediate", "fast"]
    async with lane.cell("database restarts") as result:
        ready_again_s: list[float] = []

        async def harm(ends_at: float) -> None:
            while time.monotonic() < ends_at - 1 or result.kills < KILLS_MIN:
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                await database.restart(modes[result.kills % 2])
                result.kills += 1
                began = time.monotonic()
                # Whoever is told that it is not ready sends nothing, so it must find out itself.
                await until(replica.is_ready, "ready again", 30.0)
                ready_again_s.append(round(time.monotonic() - began, 2))

        await _under_load(lane, result, "restarts", 8, lane.random_s, harm)
        result.facts["ready_again_s"] = ready_again_s
        result.violations += [
            f"D1: ready only {seconds} s after the database was back"
            for seconds in ready_again_s
            if seconds > READY_AGAIN_LIMIT_S
        ]
        result.require(replica.is_running, "the gateway did not outlive its database")


async def sigterms(lane: Lane) -> None:
    """SIGTERM in the middle: what was sent is finished, and the process ends in good order."""
    replica, chance = lane.only, lane.chance("sigterm")
    if not replica.is_up.is_set():
        await replica.start()
    async with lane.cell("SIGTERM") as result:

        async def harm(ends_at: float) -> None:
            while result.kills < 2:
                await asyncio.sleep(chance.uniform(0.5, 1.0))
                replica.terminate()
                code = await replica.end()
                result.kills += 1
                if code != CLEAN:
                    result.violations.append(f"SIGTERM ended with {code}")
                await replica.start()

        await _under_load(lane, result, "sigterm", 6, min(lane.random_s, 5.0), harm)


# --- replicas -------------------------------------------------------------------------------


async def replicas(lane: Lane) -> None:
    """Two on one database; one is killed, or frozen across its lease, every few seconds."""
    chance = lane.chance("replicas")
    await asyncio.gather(*(replica.start() for replica in lane.fleet.replicas))
    held: list[Held] = []
    frozen = 0
    async with lane.cell("two replicas") as result:

        async def harm(ends_at: float) -> None:
            nonlocal frozen
            while time.monotonic() < ends_at - 1 or not frozen or result.kills < KILLS_MIN:
                await asyncio.sleep(chance.uniform(0.3, 1.2))
                victim = chance.choice(lane.fleet.replicas)
                if result.kills and (chance.random() < 0.25 or not frozen):
                    victim.freeze()
                    held.extend(await asyncio.to_thread(read_held, lane.fleet.dsn))
                    await asyncio.sleep(LEASE_S + chance.uniform(0.2, 1.2))
                    victim.thaw()
                    frozen += 1
                else:
                    await victim.kill()
                    held.extend(await asyncio.to_thread(read_held, lane.fleet.dsn))
                    result.kills += 1
                    await victim.start()

        await _under_load(lane, result, "replicas", 16, lane.random_s, harm)
        result.facts["frozen"] = frozen
        moves = await asyncio.to_thread(read_moves, lane.fleet.dsn, held)
        for it, moved in zip(held, moves, strict=True):
            if moved is None or moved.after_s > TAKEOVER_LIMIT_S:
                late = "never" if moved is None else f"after {moved.after_s:.1f} s"
                result.violations.append(
                    f"T7: booking {it.booking_id} of a dead replica was taken up {late}"
                )
            elif moved.is_takeover:
                result.takeovers_s.append(round(moved.after_s, 3))
        result.require(result.kills >= KILLS_MIN, f"only {result.kills} kills")
        result.require(frozen >= 1, "no replica was frozen across its lease")
        result.require(bool(result.takeovers_s), "nothing was taken over")
