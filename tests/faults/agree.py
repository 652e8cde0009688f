"""Thousands of calls at random against one vendor that behaves in one way; then its ledger and our
journal have to say the same."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loyalty_gateway.sandbox.faults import FAULT_BY_NAME
from loyalty_gateway.sandbox.player import Player
from loyalty_gateway.supervisor import PROOF_CARD
from tests.e2e.checker import Violation, World
from tests.faults.checker import find_violations, look, tell_stories
from tests.faults.history import History
from tests.faults.inside import PLAYER, Inside, open_inside
from tests.faults.load import Caller, Restless
from tests.faults.offers import find_trade
from tests.faults.operator import Operator, Review
from tests.faults.trades import FALSE, FAR_OFF, Trade, has_words

CALLERS: Final = 24
FAULT_SHARE: Final = 0.15
CHAOS_RATIO: Final = 0.1
# What the vendor still carries out by itself is over by then, with time to spare.
PATIENCE_S: Final = float(PLAYER["slow_s"]) + 0.7
LOOK_EVERY_S: Final = 0.5


@dataclass(slots=True)
class Agreement:
    """What a run did, and what was found wrong in the end."""

    calls: int = 0
    keys: int = 0
    acked: int = 0
    seconds: float = 0.0
    replays: int = 0
    conflicts: int = 0
    cancels: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    """Bookings that succeeded, by method."""
    faults: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    reviews: Counter[Review] = field(default_factory=Counter)
    effects: int = 0
    doubts: int = 0
    resolved_by_machine: int = 0
    wrong: list[Violation] = field(default_factory=list)
    stories: list[str] = field(default_factory=list)
    offered: frozenset[str] = frozenset()

    @property
    def missed(self) -> list[str]:
        """What did not happen often enough for the run to have proven anything."""
        missed = []
        if self.acked < 0.3 * self.keys:
            missed.append(f"{self.acked} of {self.keys} keys acked")
        for what, count in (
            ("conflicts", self.conflicts),
            ("replays", self.replays),
            ("cancels", self.cancels.total()),
        ):
            if count < self.keys / 100:
                missed.append(f"{count} {what} in {self.keys} keys")
        missed += [f"no {method} succeeded" for method in self.offered - set(self.methods)]
        if not self.effects:
            missed.append("the vendor's ledger is empty")
        if len(self.faults) < 10 or not self.doubts:
            missed.append(f"only {len(self.faults)} kinds of faults, {self.doubts} doubts")
        return missed

    def words(self) -> str:
        """Everything that somebody who looks into a failure wants to know first."""
        reviews = {
            f"{it.connection} {it.method} {it.mode} {it.reason}": count
            for it, count in self.reviews.items()
        }
        return "\n".join(
            [
                f"{self.calls} calls, {self.keys} keys, {self.acked} acked, "
                f"{self.effects} effects, {self.doubts} doubts, {self.seconds:.1f} s",
                f"states {dict(self.states)}",
                f"succeeded {dict(self.methods)}",
                f"reasons {dict(self.reasons)}",
                f"cancels {dict(self.cancels)}",
                f"reviews {reviews}",
                f"faults {dict(self.faults)}",
                *map(str, self.wrong),
                *self.stories,
            ]
        )


async def agree(
    folder: Path,
    trade: Trade,
    player_type: type[Player],
    behaviour: Mapping[str, Any],
    *,
    seed: int,
    calls: int,
) -> Agreement:
    """Makes so many calls, lets everything come to rest, and compares."""
    began = time.monotonic()
    async with open_inside(folder, trade, player_type, behaviour) as inside:
        trade = await find_trade(inside.caller, trade)
        run = Agreement(offered=trade.methods)
        history = History()
        operator = Operator(lambda: look(inside, history), inside.caller.call, PATIENCE_S)
        chaos = [it for it in _faults(inside) if it not in FAR_OFF]
        await inside.change(chaos={"seed": seed, "ratio": CHAOS_RATIO, "faults": chaos})
        await _live(inside, trade, history, operator, seed, calls)
        run.calls = len(history.asked)
        await _judge(inside, history, operator, run)
    run.seconds = time.monotonic() - began
    return run


async def _live(
    inside: Inside, trade: Trade, history: History, operator: Operator, seed: int, calls: int
) -> None:
    callers = [
        Caller(
            inside,
            history,
            random.Random(f"{seed}/{trade.connection}/{number}"),
            number,
            CALLERS,
            trades=[trade],
            faults=_faults(inside),
            fault_share=FAULT_SHARE,
            thinking_s_max=0.0,
            down="",
        )
        for number in range(CALLERS)
    ]
    is_over = asyncio.Event()
    watching = asyncio.create_task(operator.work(is_over.is_set, every_s=LOOK_EVERY_S))
    try:
        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(caller.live(lambda: len(history.asked) >= calls))
        await inside.change(chaos=None)
        for end in await asyncio.gather(
            *(caller.come_to_rest() for caller in callers), return_exceptions=True
        ):
            if isinstance(end, Restless):
                operator.problems.append(f"I10: {end}")
            elif isinstance(end, BaseException):
                raise end
        # What its caller has left for good may still wait for a person.
        give_up = time.monotonic() + 20
        while await _waits_for_a_person(inside) and time.monotonic() < give_up:
            await asyncio.sleep(LOOK_EVERY_S / 2)
    finally:
        is_over.set()
        await watching
    await inside.player.stage.finish()


def _faults(inside: Inside) -> list[str]:
    player = type(inside.player)
    known = (it for it in FAULT_BY_NAME.values() if has_words(player, it))
    return [it.name for it in known if it.name not in FALSE]


async def _waits_for_a_person(inside: Inside) -> bool:
    return bool(await inside.caller.open_bookings())


async def _judge(inside: Inside, history: History, operator: Operator, run: Agreement) -> None:
    wrong, world = await find_violations(inside, history, operator.helped)
    run.wrong = [
        *wrong,
        *(Violation("I10", text) for text in operator.problems),
        *(
            Violation(
                "I10",
                f"a person was asked {operator.reviews[review]} times without need: {review}",
                request_id,
            )
            for review, request_id in operator.needless.items()
        ),
    ]
    run.reviews = operator.reviews
    run.cancels = history.cancels
    _count(world, history, run)
    run.faults = Counter(
        it.fault for it in await inside.vendors[inside.player.name].exchanges() if it.fault
    )
    if run.wrong:
        run.stories = await tell_stories(inside, run.wrong, world)


def _count(world: World, history: History, run: Agreement) -> None:
    run.keys = len({it.key[0] for it in history.told})
    run.acked = len({it.key[0] for it in history.told if it.heard.reply.is_ok})
    run.replays = sum(it.heard.reply.is_replayed for it in history.told)
    reasons = Counter(it.heard.reply.reason for it in history.told)
    run.reasons, run.conflicts = reasons, reasons["REQUEST_ID_REUSED"]
    run.states = Counter(row.state for row in world.rows)
    run.methods = Counter(
        row.method for row in world.rows if row.state in ("SUCCEEDED", "REVERSED")
    )
    run.effects = sum(it.card != PROOF_CARD for it in world.effects)
    doubted = {move.booking_id for move in world.moves if move.after == "IN_DOUBT"}
    doubted |= {move.booking_id for move in world.moves if move.after == "NEEDS_REVIEW"}
    run.doubts = len(doubted)
