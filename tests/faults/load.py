"""Callers as shops have them, each with its own chance from the run's seed: they book, repeat,
mistake a request_id, leave early, cancel, and in the end learn what became of everything."""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc

from loyalty.v1 import bookings_pb2, types_pb2
from loyalty_gateway.sandbox.faults import FAULTS
from tests.e2e.caller import BOOKINGS, BookingRequest, top_up
from tests.faults.fleet import Fleet, Replica
from tests.faults.history import History

THINKING_S_MAX: Final = 0.06
FAULT_SHARE: Final = 0.2
DOWN_CALLED_SHARE: Final = 0.1
REST_LIMIT_S: Final = 40.0
NOBODY: Final = "cashassist-down"
GONE_SHARE: Final = 0.25
WATCHED_SHARE: Final = 0.6
POLL_S: Final = 0.1
AMOUNT_MAX: Final = 40
# The second is empty and the third blocked: refusals belong to a day like any other.
CARDS: Final = ("10480", "10491", "10490", "10472")
CARD_WEIGHTS: Final = (66, 5, 5, 24)


class Restless(Exception):
    """A caller did not hear the end of something that it began."""


@dataclass(slots=True)
class Caller:
    """One caller of a fleet."""

    fleet: Fleet
    history: History
    chance: random.Random
    faults: Sequence[str] = tuple(fault.name for fault in FAULTS)
    fault_share: float = FAULT_SHARE
    mine: list[BookingRequest] = field(default_factory=list)
    _faults_met: int = 0

    # --- life -----------------------------------------------------------------------------

    async def live(self, is_over: Callable[[], bool]) -> None:
        """Acts at random until it is over."""
        acts: dict[Callable[[], Awaitable[object]], int] = {
            self.book_new: 62,
            self.repeat_old: 14,
            self.reuse_a_request_id: 5,
            self.leave_early: 7,
            self.cancel_old: 4,
            self.cancel_before: 3,
            self.book_where_nobody_answers: 2,
            self.book_twice_at_once: 6,
        }
        while not is_over():
            [act] = self.chance.choices(list(acts), list(acts.values()))
            await act()
            # Customers take a moment; without it the callers would measure themselves.
            await asyncio.sleep(self.chance.uniform(0.0, THINKING_S_MAX))

    async def book_until_gone(self, replica: Replica, ends_at: float) -> None:
        """Books one after another until the process that is called has ended."""
        while replica.is_running and time.monotonic() < ends_at:
            request = self.new_request()
            reply = await self.history.book(replica, request, timeout_s=3.0, fault=self.fault())
            if reply.code is grpc.StatusCode.UNAVAILABLE and not reply.reason:
                return
            if not reply.is_ok:
                await asyncio.sleep(self.chance.uniform(0.0, THINKING_S_MAX))

    # --- what it does ---------------------------------------------------------------------

    def new_request(self, card: str = "") -> BookingRequest:
        make = self.chance.choice(list(BOOKINGS.values()))
        [any_card] = self.chance.choices(CARDS, CARD_WEIGHTS)
        request: BookingRequest = make(
            self.chance.randint(1, AMOUNT_MAX), card or any_card, request_id=self.new_id()
        )
        self.mine.append(request)
        return request

    def new_id(self) -> str:
        return str(uuid.UUID(int=self.chance.getrandbits(128), version=4))

    def fault(self) -> str:
        """None mostly, else the next of the list, so that each has its turn."""
        if not self.faults or self.chance.random() > self.fault_share:
            return ""
        self._faults_met += 1
        return self.faults[(self.chance.randrange(2) + self._faults_met) % len(self.faults)]

    async def replica(self) -> Replica:
        """One that runs as far as anybody knows; seldom one that is down, as it happens."""
        replica = self.chance.choice(self.fleet.replicas)
        if self.chance.random() < DOWN_CALLED_SHARE and hasattr(replica, "caller"):
            return replica
        ups = [it for it in self.fleet.replicas if it.is_up.is_set()]
        if replica not in ups:
            replica = self.chance.choice(ups or self.fleet.replicas)
        await replica.is_up.wait()
        return replica

    async def book_new(self) -> None:
        request, fault = self.new_request(), self.fault()
        timeout_s = self.chance.choice([3.0, 3.0, 3.0, 0.4])
        reply = await self.history.book(
            await self.replica(), request, timeout_s=timeout_s, fault=fault
        )
        if not reply.is_final and self.chance.random() < 0.5:
            await self.history.book(await self.replica(), request, timeout_s=3.0)

    async def repeat_old(self) -> None:
        if self.mine:
            request = self.chance.choice(self.mine)
            await self.history.book(await self.replica(), request, timeout_s=3.0)

    async def reuse_a_request_id(self) -> None:
        """Another content under a request_id that was used, or whose first call never arrived."""
        if self.mine:
            old = self.chance.choice(self.mine)
            other = top_up(self.chance.randint(AMOUNT_MAX + 1, 90), request_id=self.new_id())
            other.request_id = old.request_id
            self.mine.append(other)
            await self.history.book(await self.replica(), other, timeout_s=3.0)

    async def book_twice_at_once(self) -> None:
        """The same request by two ways at the same moment, as impatient proxies do it."""
        request, fault = self.new_request(), self.fault()
        first, second = await self.replica(), await self.replica()
        await asyncio.gather(
            self.history.book(first, request, timeout_s=3.0, fault=fault),
            self.history.book(second, request, timeout_s=3.0),
        )

    async def leave_early(self) -> None:
        request, replica = self.new_request(), await self.replica()
        call = asyncio.create_task(self.history.book(replica, request, fault=self.fault()))
        done, _ = await asyncio.wait({call}, timeout=self.chance.uniform(0.0, 0.03))
        if not done:
            call.cancel()
            await asyncio.wait({call})

    async def cancel_old(self) -> None:
        if self.mine:
            request = self.chance.choice(self.mine)
            await self.history.cancel(await self.replica(), request.request_id)

    async def cancel_before(self) -> None:
        request = self.new_request()
        await self.history.cancel(await self.replica(), request.request_id)
        await self.history.book(await self.replica(), request, timeout_s=3.0)

    async def book_where_nobody_answers(self) -> None:
        request = top_up(
            self.chance.randint(1, AMOUNT_MAX),
            connection=NOBODY,
            request_id=self.new_id(),
        )
        self.mine.append(request)
        await self.history.book(await self.replica(), request, timeout_s=3.0)

    # --- the end --------------------------------------------------------------------------

    async def come_to_rest(self) -> None:
        """Hears the end of everything that it began; then hears some of it once more.

        Some it never asks for again, as customers who have gone: recovery alone must end it.

        Raises:
            Restless: something had no end in time.
        """
        mine, self.mine = self.mine, []
        for request in mine:
            way = self.chance.random()
            if way < GONE_SHARE and await self._is_over(request.request_id):
                continue
            if way < WATCHED_SHARE:
                await self._is_over(request.request_id)
            await self._learn(request)
            if self.chance.random() < 0.3:
                await self.history.book(self._any(), request)

    async def _learn(self, request: BookingRequest) -> None:
        give_up = time.monotonic() + REST_LIMIT_S
        while True:
            reply = await self.history.book(self._any(), request)
            if reply.is_final or reply.reason == "REQUEST_ID_REUSED":
                return
            if reply.reason == "PROVIDER_UNREACHABLE":
                await self.history.cancel(self._any(), request.request_id)
            if time.monotonic() > give_up:
                raise Restless(f"{request.request_id} had no end in {REST_LIMIT_S:g} s: {reply}")
            await asyncio.sleep(POLL_S)

    async def _is_over(self, request_id: str) -> bool:
        """Leaves recovery to itself; False where the booking waits for its caller.

        Of a call that never arrived the journal knows nothing, and that is an end too.
        """
        give_up = time.monotonic() + REST_LIMIT_S
        while True:
            asked = bookings_pb2.GetBookingRequest(request_id=request_id)
            reply = await self._any().caller.call(asked)
            if reply.is_ok and reply.booking.outcome != types_pb2.OUTCOME_UNKNOWN:
                return bool(reply.booking.final)
            if reply.reason == "NOT_FOUND":
                return True
            if time.monotonic() > give_up:
                raise Restless(f"recovery did not end {request_id} in {REST_LIMIT_S:g} s: {reply}")
            await asyncio.sleep(POLL_S)

    def _any(self) -> Replica:
        return self.chance.choice(self.fleet.replicas)


async def decide_reviews(fleet: Fleet) -> int:
    """What an operator does: whatever was to be booked where nobody listens was not booked.

    Nothing can be proven of that vendor, so its lost bookings are a person's, and hold their
    account until the person has decided. Those of the other vendor are a machine's: left alone.
    """
    caller = fleet.replicas[0].caller
    asked = bookings_pb2.ListBookingsRequest(
        states=[types_pb2.BOOKING_STATE_NEEDS_REVIEW], connection=NOBODY
    )
    found = await caller.call(asked)
    decided = 0
    for booking in found.response.bookings if found.is_ok else ():
        decision = bookings_pb2.Decision(
            outcome=types_pb2.OUTCOME_NOT_EXECUTED,
            evidence="nobody listens at its address",
            reason="decided by the operator of the fault tests",
        )
        resolve = bookings_pb2.ResolveBookingRequest(name=booking.name, decision=decision)
        decided += (await caller.call(resolve)).is_ok
    return decided
