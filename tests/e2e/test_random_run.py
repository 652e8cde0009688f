"""Half a minute of callers, faults, cancellations and kills at random; then nothing is wrong."""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from loyalty.v1 import bookings_pb2, types_pb2
from loyalty_gateway.sandbox.faults import FAULTS
from loyalty_gateway.supervisor import PROOF_CARD
from tests.e2e.caller import BOOKINGS, Reply, top_up
from tests.e2e.checker import OPEN_STATES, Heard, World, violations
from tests.e2e.conftest import open_house
from tests.e2e.house import House, until
from tests.e2e.journal import Move, Row, read_journal
from tests.e2e.vendor import Effect, Exchange
from tests.e2e.wanted import BookingRequest, wanted_of

SEED = int(os.environ.get("LOYALTY_TEST_SEED", "20261121"))
RUN_S = float(os.environ.get("LOYALTY_TEST_RANDOM_RUN_S", "30"))
CALLERS = 8
KILLS = 3
THINKING_S_MAX = 0.08
QUIESCE_S = 45.0
STORIES_MAX = 5
DOWN = "cashassist-down"
SETTINGS = {
    "RECOVERY__SCHEDULE_S": "[0.5, 0.5, 1, 1, 2]",
    "RECOVERY__THEN_EVERY_S": "2",
    "PROVIDER__ATTEMPT_TOTAL_S": "1.2",
    "PROVIDER__CONNECT_S": "0.5",
    # So long after a doubt a refusal is believed to speak of the first attempt too.
    "ENGINE__SETTLE_S": "3",
}
SLOW_S = "1.5"
# The second is empty and the third blocked: refusals belong to a day like any other.
CARDS = ("10480", "10491", "10490", "10472", *(fault.card for fault in FAULTS))
CARD_WEIGHTS = (60, 4, 4, 20, *(2 for _ in FAULTS))


@dataclass(slots=True)
class Run:
    """What all callers share: the house, whether it is open, and what was heard in it."""

    house: House
    ends_at: float
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    heard: list[Heard] = field(default_factory=list)
    cancels: Counter[str] = field(default_factory=Counter)
    exchanges: dict[int, Exchange] = field(default_factory=dict)
    leavers: int = 0
    kills: int = 0

    async def book(
        self, request: BookingRequest, *, timeout_s: float = 10.0, fault: str = ""
    ) -> Reply:
        reply = await self.house.caller.call(request, timeout_s=timeout_s, fault=fault)
        self.heard.append(Heard(request, reply))
        return reply

    async def cancel(self, request_id: str) -> Reply:
        reply = await self.house.caller.cancel(request_id)
        self.cancels[reply.reason or reply.code.name] += 1
        return reply

    async def kill_now_and_then(self) -> None:
        """Ends the server without a word, at equal distances, and starts it again."""
        for number in range(1, KILLS + 1):
            kill_at = self.ends_at - RUN_S * (1 - number / (KILLS + 1))
            await asyncio.sleep(max(0.0, kill_at - time.monotonic()))
            await self.look_at_the_vendor()
            self.is_open.clear()
            shut_at = time.monotonic()
            await self.house.kill_server()
            await self.house.start_server()
            self.kills += 1
            # A machine that is slow to start a server takes nothing from the time with one.
            self.ends_at += time.monotonic() - shut_at
            self.is_open.set()

    async def look_at_the_vendor(self) -> None:
        """Keeps the vendor's log, of which it forgets the oldest lines."""
        self.exchanges |= {it.number: it for it in await self.house.vendor.exchanges()}


@dataclass(slots=True)
class Till:
    """One caller: it books, repeats, mistakes, gives up and leaves, as its own chance says."""

    run: Run
    number: int
    chance: random.Random
    mine: list[BookingRequest] = field(default_factory=list)
    faults_met: int = 0

    async def live(self) -> None:
        acts: dict[Callable[[], Awaitable[object]], int] = {
            self.book_new: 60,
            self.repeat_old: 14,
            self.reuse_a_request_id: 6,
            self.leave_early: 8,
            self.cancel_old: 5,
            self.cancel_before: 3,
            self.book_where_nobody_answers: 4,
        }
        while time.monotonic() < self.run.ends_at:
            await self.run.is_open.wait()
            [act] = self.chance.choices(list(acts), list(acts.values()))
            await act()
            # Customers take a moment; without it the callers would measure themselves.
            await asyncio.sleep(self.chance.uniform(0.0, THINKING_S_MAX))

    def new_request(self) -> BookingRequest:
        make = self.chance.choice(list(BOOKINGS.values()))
        [card] = self.chance.choices(CARDS, CARD_WEIGHTS)
        request: BookingRequest = make(self.chance.randint(1, 40), card)
        self.mine.append(request)
        return request

    def fault(self) -> str:
        """None mostly, else the next of the table, so that each has its turn."""
        if self.chance.random() > 0.3:
            return ""
        self.faults_met += 1
        return FAULTS[(self.number + self.faults_met) % len(FAULTS)].name

    async def book_new(self) -> None:
        request = self.new_request()
        timeout_s = self.chance.choice([10.0, 10.0, 0.4])
        reply = await self.run.book(request, timeout_s=timeout_s, fault=self.fault())
        if not reply.is_final and self.chance.random() < 0.5:
            await self.run.is_open.wait()
            await self.run.book(request)

    async def repeat_old(self) -> None:
        if self.mine:
            await self.run.book(self.chance.choice(self.mine), timeout_s=3.0)

    async def reuse_a_request_id(self) -> None:
        """Another content under a request_id that was used, or whose first call never arrived."""
        if not self.mine:
            return
        old = self.chance.choice(self.mine)
        other = BOOKINGS["TopUpBalance"](self.chance.randint(41, 90), "10480")
        other.request_id = old.request_id
        self.mine.append(other)
        await self.run.book(other, timeout_s=3.0)

    async def leave_early(self) -> None:
        call = asyncio.create_task(self.run.book(self.new_request(), fault=self.fault()))
        done, _ = await asyncio.wait({call}, timeout=self.chance.uniform(0.0, 0.03))
        if not done:
            call.cancel()
            await asyncio.wait({call})
            self.run.leavers += 1

    async def cancel_old(self) -> None:
        if self.mine:
            await self.run.cancel(self.chance.choice(self.mine).request_id)

    async def cancel_before(self) -> None:
        request = self.new_request()
        await self.run.cancel(request.request_id)
        await self.run.is_open.wait()
        await self.run.book(request, timeout_s=3.0)

    async def book_where_nobody_answers(self) -> None:
        request = top_up(self.chance.randint(1, 40), connection=DOWN)
        self.mine.append(request)
        await self.run.book(request, timeout_s=5.0)

    async def come_to_rest(self) -> None:
        """Hears the end of everything that it began, or closes what cannot begin."""
        for request in self.mine:

            async def is_over(request: BookingRequest = request) -> bool:
                reply = await self.run.book(request)
                if reply.reason == "PROVIDER_UNREACHABLE":
                    await self.run.cancel(request.request_id)
                if reply.reason == "BOOKING_NEEDS_REVIEW":
                    await self.decide(request, reply)
                return reply.is_final or reply.reason == "REQUEST_ID_REUSED"

            await until(is_over, f"the end of {request.request_id}", 2 * QUIESCE_S)

    async def decide(self, request: BookingRequest, reply: Reply) -> None:
        """What a kill left half done where nothing was ever proven is a person's, as promised."""
        assert wanted_of(request).connection == DOWN, "a machine could have found out"
        decision = bookings_pb2.Decision(
            outcome=types_pb2.OUTCOME_NOT_EXECUTED, evidence="statement", reason="not on it"
        )
        name = reply.info.metadata["booking"]
        wish = bookings_pb2.ResolveBookingRequest(name=name, decision=decision)
        resolved = await self.run.house.caller.call(wish)
        assert resolved.is_ok, str(resolved)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    options = ["--slow-s", SLOW_S]
    async with open_house(tmp_path / "house", settings=SETTINGS, player_options=options) as house:
        yield house


@pytest.mark.timeout(240)
async def test_nothing_is_lost_doubled_or_contradicted(house: House) -> None:
    run = Run(house, time.monotonic() + RUN_S)
    run.is_open.set()
    tills = [Till(run, number, random.Random(SEED * 100 + number)) for number in range(CALLERS)]

    async with asyncio.timeout(RUN_S + 60):
        await asyncio.gather(run.kill_now_and_then(), *(till.live() for till in tills))
    is_at_rest = True
    try:
        async with asyncio.timeout(QUIESCE_S):
            await asyncio.gather(*(till.come_to_rest() for till in tills))
    except TimeoutError:
        # What is wrong with the bookings says more than that they take too long.
        is_at_rest = False
    await run.look_at_the_vendor()

    rows, moves = read_journal(house.home.journal)
    effects = [it for it in await house.vendor.effects() if it.card != PROOF_CARD]
    wrong = [str(it) for it in violations(World(run.heard, effects, rows, moves))]
    for row in [row for row in rows if row.state in OPEN_STATES][:STORIES_MAX]:
        story = await house.caller.explain(row.request_id)
        wrong += [f"  {row.request_id}: {step.text}" for step in story.steps]
    assert not wrong, f"seed {SEED}:\n" + "\n".join(wrong)
    assert is_at_rest, f"seed {SEED}: some callers did not hear the end within {QUIESCE_S:g} s"
    assert_not_vacuous(run, effects, rows, moves)


def assert_not_vacuous(run: Run, effects: list[Effect], rows: list[Row], moves: list[Move]) -> None:
    """A run in which little happened has proven nothing."""
    keys = {heard.request.request_id for heard in run.heard}
    acked = {heard.request.request_id for heard in run.heard if heard.reply.is_ok}
    reasons = Counter(heard.reply.reason for heard in run.heard)
    states = Counter(row.state for row in rows)
    fired = Counter(it.fault for it in run.exchanges.values() if it.fault)
    resent = sum(move.before == "IN_DOUBT" and move.after == "SUCCEEDED" for move in moves)
    facts = f"{len(keys)} keys, {len(acked)} acked, {reasons}, {states}, {fired}, {run.cancels}"

    assert run.kills == KILLS
    assert len(keys) >= 100 and len(effects) >= 50, facts
    assert len(acked) >= 0.3 * len(keys), facts
    assert set(fired) == {fault.name for fault in FAULTS}, facts
    assert reasons["REQUEST_ID_REUSED"] >= 1, facts
    assert reasons["BOOKING_IN_DOUBT"] + reasons["BOOKING_IN_PROGRESS"] >= 1, facts
    assert reasons["CANCELLED_BEFORE_ARRIVAL"] >= 1, facts
    assert reasons["PROVIDER_UNREACHABLE"] >= 1, facts
    assert sum(heard.reply.is_replayed for heard in run.heard) >= 1, facts
    assert run.cancels["OK"] >= 1 and run.cancels["CANCEL_NOT_POSSIBLE"] >= 1, facts
    assert {"SUCCEEDED", "DECLINED", "NOT_EXECUTED"} <= set(states), facts
    assert run.leavers >= 1 and resent >= 1, facts
    # Cut off by a kill: told nothing at all, which is what unknown looks like.
    assert any(heard.reply.code is grpc.StatusCode.UNAVAILABLE for heard in run.heard), facts
