"""The cells: each hurts a fleet in one way while callers book, and then lets it be judged."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final, Literal

from loyalty_gateway.failpoints import POINTS
from loyalty_gateway.sandbox.faults import FAULT_BY_NAME, FAULTS
from loyalty_gateway.sandbox.players import PLAYERS
from tests.e2e.house import until
from tests.e2e.wanted import MOVES, UNDOES, BookingRequest
from tests.faults.database import Held, read_held, read_moves
from tests.faults.fleet import CLEAN, KILLED, Replica
from tests.faults.history import percentile
from tests.faults.lane import LEASE_S, Lane
from tests.faults.load import Caller, share_out
from tests.faults.report import Result
from tests.faults.trades import ACCOUNTS, FALSE, FAR_OFF, SPARE_ACCOUNTS, Trade, has_words

TAKEOVER_LIMIT_S: Final = LEASE_S + 5.0
READY_AGAIN_LIMIT_S: Final = 5.0
HELD: Final = 5
POINTS_A_CELL: Final = 4
POINT_TRIES: Final = 3
DEATH_LIMIT_S: Final = 30.0
BUSY_S: Final = 0.4
KILLS_MIN: Final = 3
RANDOM_KILLS_MIN: Final = 10
"""However slow the machine starts a gateway again, where the plan is run as a whole."""
WAITERS: Final = 24
REQUEST_TRIES: Final = 5
HOLD_LIMIT_S: Final = 40.0
HOLD_AGAIN_S: Final = 0.5

# How often a point is passed before it kills. The writer passes its points at every commit, the
# promises' and recovery's own included, so that a low number would fall before any booking.
COUNTS: Final = {"before-commit": (12, 30), "after-commit": (12, 30), "draining": (1, 1)}
FEW: Final = (1, 2)
FIRST_OR_LATER: Final = (1, 7)
DOUBTED: Final = ("lost-after", "lost-before", "500-after", "garbage-before")
AT_START: Final = ("migrating", "adopting")
HELD_METHODS: Final = MOVES | UNDOES
"""What passes a vendor's gate: what moves value."""
ORIGINALS: Final = {
    "ReversePoints": ("RedeemPoints",),
    "VoidGiftTransaction": ("PayWithGiftCard",),
    "AddGiftTip": ("PayWithGiftCard",),
}
"""What a booking needs before it can be asked for."""

Cell = Callable[[Lane], Coroutine[Any, Any, None]]
Turn = tuple[str, list[Trade]]
"""A failpoint, and the vendors that come to it."""


# --- kill -9 at every step ------------------------------------------------------------------


async def points(lane: Lane) -> None:
    """Every failpoint in turn, with all vendors or with each; migrating first, since it is the
    birth of the journal. In a sample some of them share a cell."""
    names = ["migrating", *(name for name in POINTS if name != "migrating")]
    if not lane.is_full:
        # What the other lane leaves out.
        rest = names[1 if lane.fleet.dsn else 2 :: 2]
        names = ["migrating", *rest, *(["adopting"] if "adopting" not in rest else [])]
    if lane.fleet.dsn:
        # In a shared journal nothing is taken over at the start: the lease decides.
        names.remove("adopting")
    for shared in _sharing(lane, names):
        passed = ", ".join(dict.fromkeys(name for name, _ in shared))
        with_whom = f" {shared[0][1][0].connection}" if lane.is_full and len(shared) == 1 else ""
        async with lane.cell(f"kill at {passed}{with_whom}") as result:
            result.is_of_doubts = True
            callers = [
                caller
                for name, trades in shared
                for caller in await _point(lane, name, trades, result)
            ]
            if not lane.only.is_up.is_set():
                await lane.start(lane.only)
            await lane.rest(callers, result)
        await lane.only.kill()


def _sharing(lane: Lane, names: Sequence[str]) -> Iterator[Sequence[Turn]]:
    """The turns that share the time of coming to rest, each with a kill of its own: all vendors
    at one point, unless what one of them has left would come to the next one's point."""
    if not lane.is_full:
        turns = [(name, trades) for name in names for trades in _turns(lane, name)]
        yield from _in_parts(turns, POINTS_A_CELL)
        return
    for name in names:
        # One by one, since what a vendor offers is known only when the first point is over.
        turns = [(name, trades) for trades in _turns(lane, name)]
        is_apart = name.startswith(("recovery-", "undo-"))
        yield from _in_parts(turns, 1 if is_apart else len(turns))


def _in_parts(turns: Sequence[Turn], size: int) -> Iterator[Sequence[Turn]]:
    return (turns[first : first + size] for first in range(0, len(turns), size))


def _turns(lane: Lane, name: str) -> list[list[Trade]]:
    """The vendors that come to this point: all at once, or each in its turn."""
    trades = list(lane.known_trades)
    if name.startswith("undo-"):
        trades = [it for it in trades if it.undoable]
    if name.startswith("recovery-"):
        # Where nothing can be proven, recovery hands over to a person and asks nobody.
        trades = [it for it in trades if it.methods & MOVES - it.by_people]
    return [[it] for it in trades] if lane.is_full and name not in AT_START else [trades]


async def _point(lane: Lane, name: str, trades: Sequence[Trade], result: Result) -> list[Caller]:
    """Kills at the point; who called has yet to learn what became of it. The next start, to be
    killed again or not, is what takes over.

    Whether load comes to a point is chance, so it is given more than once.
    """
    everybody: list[Caller] = []
    for _ in range(1 if name in AT_START else POINT_TRIES):
        callers, has_fired = await _try_point(lane, name, trades, result)
        everybody += callers
        if has_fired:
            result.kills += 1
            lane.report.points_fired.add(name)
            return everybody
    vendors = ", ".join(it.connection for it in trades)
    result.require(False, f"the failpoint {name} did not kill ({vendors})")
    return everybody


async def _try_point(
    lane: Lane, name: str, trades: Sequence[Trade], result: Result
) -> tuple[list[Caller], bool]:
    replica = lane.only
    if replica.is_up.is_set():
        await replica.kill()
    is_doubtful = name.startswith(("recovery-", "undo-"))
    callers = lane.callers(
        HELD,
        name,
        trades=trades,
        faults=DOUBTED if is_doubtful else (),
        fault_share=1.0 if name.startswith("recovery-") else 0.2 if is_doubtful else 0.0,
    )
    if name == "adopting":
        await lane.start(replica)
        await _book_until_killed(replica, callers)
        result.kills += 1
    if name in AT_START:
        has_fired = not await lane.start(replica, f"{name}=kill")
    else:
        counts = FEW if is_doubtful else FIRST_OR_LATER
        count = callers[0].chance.randint(*COUNTS.get(name, counts))
        # A start writes, too: one that has much to write may come to the point before it serves.
        serves = await lane.start(replica, f"{name}=kill@{count}")
        has_fired = serves and await _book_until_dead(lane, callers, name)
    if not has_fired and replica.is_running:
        await replica.kill()
    if name == "migrating":
        await lane.start(replica)
        for caller in callers:
            await caller.book_new()
    return callers, has_fired


async def _book_until_dead(lane: Lane, callers: list[Caller], name: str) -> bool:
    replica = lane.only
    ends_at = time.monotonic() + DEATH_LIMIT_S
    is_undo = name.startswith("undo-")
    live = asyncio.gather(
        *(caller.book_until_gone(replica, ends_at, cancels=is_undo) for caller in callers)
    )
    if name == "draining":
        await asyncio.sleep(BUSY_S)
        replica.terminate()
    code = await replica.child.find_end(DEATH_LIMIT_S)
    replica.is_up.clear()
    await live
    if code not in (None, KILLED, CLEAN):
        lane.fleet.wrong.append(f"{replica.name} ended with {code} on its way to {name}")
    return code == KILLED


async def _book_until_killed(replica: Replica, callers: list[Caller]) -> None:
    ends_at = time.monotonic() + DEATH_LIMIT_S
    live = asyncio.gather(*(caller.book_until_gone(replica, ends_at) for caller in callers))
    await asyncio.sleep(BUSY_S)
    await replica.kill()
    await live


async def gates(lane: Lane) -> None:
    """Killed while the vendor holds the booking: before its effect (K4), after it (K5)."""
    for half, point in enumerate(("before-effect", "after-effect")):
        async with lane.cell(f"kill {point}") as result:
            held: list[Caller] = []
            trades = lane.known_trades if lane.is_full else lane.known_trades[half::2]
            for trade in trades:
                for method in _pick(
                    lane, f"{point} {trade.connection}", trade.methods & HELD_METHODS
                ):
                    held.append(await _kill_at_gate(lane, trade, method, point, result))
            if not lane.only.is_up.is_set():
                await lane.start(lane.only)
            await lane.rest(held, result)


async def _kill_at_gate(
    lane: Lane, trade: Trade, method: str, point: str, result: Result
) -> Caller:
    replica, vendor = lane.only, lane.fleet.vendors[trade.connection]
    if not replica.is_up.is_set():
        await lane.start(replica)
    name = f"{point} {trade.connection} {method}"
    [caller] = lane.callers(1, name, trades=[trade], faults=())
    account = lane.chance(name).choice(ACCOUNTS)
    request = await _a_request(lane, caller, trade, method, account)
    await vendor.hold(point)
    held = asyncio.create_task(vendor.until_held())
    while True:
        call = asyncio.create_task(caller.book(replica, request, timeout_s=10.0))
        await asyncio.wait({call, held}, return_when=asyncio.FIRST_COMPLETED)
        if held.done():
            break
        # Its intent came too late to disk, so that it was not sent: the same once more.
    await held
    await replica.kill()
    await vendor.let_go()
    await call
    result.kills += 1
    return caller


def _pick(lane: Lane, name: str, methods: Iterable[str]) -> list[str]:
    """All of them, or the one that chance picks."""
    known = sorted(methods)
    return known if lane.is_full or not known else [lane.chance(name).choice(known)]


async def _a_request(
    lane: Lane, caller: Caller, trade: Trade, method: str, account: str = ""
) -> BookingRequest:
    """A request of that kind, with the booking that it belongs to already made."""
    for original in ORIGINALS.get(method, ()):
        if original in trade.methods:
            first = await caller.new_request(
                lane.only, trade=trade, method=original, account=account
            )
            assert first is not None
            first.options.Clear()
            await caller.book(lane.only, first, timeout_s=5.0)
            break
    for _ in range(REQUEST_TRIES):
        request = await caller.new_request(lane.only, trade=trade, method=method, account=account)
        if request is not None:
            return request
        # What has to come before it, a code for a sign-up, say, did not come in time.
    raise AssertionError(f"{trade.connection} has nothing for {method}")


# --- what the vendor does -------------------------------------------------------------------


async def vendor_faults(lane: Lane) -> None:
    """Each fault on each kind of booking of each vendor, by header and by the magic accounts."""
    if not lane.only.is_up.is_set():
        await lane.start(lane.only)
    async with lane.cell("vendor faults") as result:
        crowd = asyncio.Semaphore(WAITERS)
        met: list[Caller] = []

        async def meet(trade: Trade, method: str, fault: str, account: str, header: str) -> None:
            async with crowd:
                name = f"{trade.connection} {method} {fault} {header}"
                [caller] = lane.callers(1, name, trades=[trade], faults=())
                met.append(caller)
                request = await _a_request(lane, caller, trade, method, account)
            give_up = time.monotonic() + HOLD_LIMIT_S
            while time.monotonic() < give_up:
                async with crowd:
                    reply = await caller.book(lane.only, request, timeout_s=0.8, fault=header)
                if reply.reason != "ACCOUNT_ON_HOLD":
                    lane.report.matrix[f"{trade.connection} {method}"] += 1
                    return
                # A doubt of before holds the account, until a machine or the operator ends it.
                await asyncio.sleep(HOLD_AGAIN_S)
            result.require(False, f"{name} found its account on hold for {HOLD_LIMIT_S:g} s")

        everybody = asyncio.gather(
            *(
                meet(trade, method, fault, account, header)
                for trade in lane.trades
                for place, (fault, magic) in enumerate(_faults_of(lane, trade))
                for account, header, of in _ways_to(fault, magic, place, trade)
                for method in _pick(lane, f"{trade.connection} {fault} {header}", of)
            )
        )
        await lane.operate_until(everybody)
        mine = [request for caller in met for request in caller.mine]
        await lane.rest(share_out(mine, met[0], WAITERS), result)
        await lane.note_faults()
        for trade in lane.trades:
            for fault, _ in _faults_of(lane, trade):
                has_met = lane.faults_fired[f"{trade.connection} {fault}"] > 0
                result.require(has_met, f"{trade.connection} never met {fault}")


def _faults_of(lane: Lane, trade: Trade) -> list[tuple[str, str]]:
    """Name and magic account of each fault that the vendor can play, that ends in time and that
    leaves a truth to be found."""
    player = PLAYERS[trade.connection]
    known = FAULT_BY_NAME.values() if lane.is_full else FAULTS
    left_out = FAR_OFF | FALSE
    return [(it.name, it.card) for it in known if it.name not in left_out and has_words(player, it)]


def _ways_to(
    fault: str, magic: str, place: int, trade: Trade
) -> list[tuple[str, str, frozenset[str]]]:
    """Account, header and methods with which a booking meets the fault."""
    ways = [(SPARE_ACCOUNTS[place % len(SPARE_ACCOUNTS)], fault, trade.methods)]
    if magic:
        ways.append((magic, "", trade.methods & MOVES - {"AddGiftTip"}))
    return ways


# --- at random, under load ------------------------------------------------------------------


async def under_load(
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
        await lane.start(replica)
    kills_min = RANDOM_KILLS_MIN if lane.is_full else KILLS_MIN
    async with lane.cell("random kills") as result:
        starts = len(replica.ready_s)

        async def harm(ends_at: float) -> None:
            while time.monotonic() < ends_at - 1 or result.kills < kills_min:
                await asyncio.sleep(chance.uniform(0.2, 0.9))
                await replica.kill()
                result.kills += 1
                await lane.start(replica)

        await under_load(lane, result, "random kills", 8, lane.random_s, harm)
        ready_s = tuple(sorted(replica.ready_s[starts:]))
        result.facts["ready_p50_s"] = percentile(ready_s, 0.5)
        result.facts["ready_p95_s"] = percentile(ready_s, 0.95)
        result.require(result.kills >= kills_min, f"only {result.kills} kills")


async def database_restarts(lane: Lane) -> None:
    """The database crashes, or is restarted in good order, under a gateway that lives on."""
    database, replica, chance = lane.database, lane.only, lane.chance("restarts")
    assert database is not None, "SQLite has no server"
    if not replica.is_up.is_set():
        await lane.start(replica)
    modes: list[Literal["immediate", "fast"]] = ["immediate", "fast"]
    async with lane.cell("database restarts") as result:
        ready_again_s: list[float] = []

        async def harm(ends_at: float) -> None:
            while time.monotonic() < ends_at - 1 or len(ready_again_s) < KILLS_MIN:
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                mode = modes[len(ready_again_s) % 2]
                await database.restart(mode)
                result.kills += mode == "immediate"
                result.harms += mode == "fast"
                began = time.monotonic()
                # Whoever is told that it is not ready sends nothing, so it must find out itself.
                await until(replica.is_ready, "ready again", 30.0)
                ready_again_s.append(round(time.monotonic() - began, 2))

        await under_load(lane, result, "restarts", 8, lane.random_s, harm)
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
        await lane.start(replica)
    async with lane.cell("SIGTERM") as result:

        async def harm(ends_at: float) -> None:
            while result.harms < 2:
                await asyncio.sleep(chance.uniform(0.5, 1.0))
                replica.terminate()
                code = await replica.end()
                result.harms += 1
                if code != CLEAN:
                    result.violations.append(f"SIGTERM ended with {code}")
                await lane.start(replica)

        await under_load(lane, result, "sigterm", 6, min(lane.random_s, 5.0), harm)


# --- replicas -------------------------------------------------------------------------------


async def replicas(lane: Lane) -> None:
    """Two on one database; one is killed, or frozen across its lease, every few seconds."""
    chance = lane.chance("replicas")
    await asyncio.gather(*(lane.start(replica) for replica in lane.fleet.replicas))
    held: list[Held] = []
    frozen = 0
    async with lane.cell(f"{len(lane.fleet.replicas)} replicas") as result:

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
                    await lane.start(victim)

        await under_load(lane, result, "replicas", 16, lane.random_s, harm)
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
