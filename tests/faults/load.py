"""Callers as shops have them, each with its own chance from the run's seed: they book, repeat,
mistake a request_id, undo, tip, leave early, cancel, and in the end learn what became of it all."""

import asyncio
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc

from loyalty.v1 import balance_pb2, bookings_pb2, cards_pb2, points_pb2, types_pb2
from loyalty_gateway.sandbox.faults import FAULTS
from tests.e2e import caller as wire
from tests.e2e.caller import top_up
from tests.e2e.wanted import MOVES, BookingRequest
from tests.faults.history import History
from tests.faults.trades import ACCOUNTS, TRADES, Desk, Trade

THINKING_S_MAX: Final = 0.06
FAULT_SHARE: Final = 0.2
DOWN_CALLED_SHARE: Final = 0.1
REST_LIMIT_S: Final = 40.0
NOBODY: Final = "cashassist-down"
GONE_SHARE: Final = 0.25
WATCHED_SHARE: Final = 0.6
POLL_S: Final = 0.1
ODD_ACCOUNT_SHARE: Final = 0.08
AUTO_REVERSE_SHARE: Final = 0.15
PATIENCE_S: Final = 3.0
CANCEL_SHARE: Final = 0.4
RETRY_S_MAX: Final = 5.0
"""Longer than this nobody at a till waits: the request_id is given up."""
OVERSIZE: Final = 50_000_000
"""More than any request asks for: what a mistaken request_id is used for is told apart by it."""

HOPELESS: Final = frozenset({"PROVIDER_UNREACHABLE"})
"""Reasons for which a caller who has nothing better to do gives a request_id up."""

REFUSED_AT_THE_DOOR: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""These say that repeating is of no use; without an outcome the request itself was not taken."""


class Restless(Exception):
    """A caller did not hear the end of something that it began."""


class Town(Protocol):
    """All gateways that a caller may ask; any of them answers for all."""

    @property
    def replicas(self) -> Sequence[Any]: ...


@dataclass(slots=True)
class Caller:
    """One caller of a fleet, the `number`th of `count`."""

    fleet: Town
    history: History
    chance: random.Random
    number: int = 0
    count: int = 1
    trades: Sequence[Trade] = tuple(TRADES.values())
    faults: Sequence[str] = tuple(fault.name for fault in FAULTS)
    fault_share: float = FAULT_SHARE
    thinking_s_max: float = THINKING_S_MAX
    patience_s: float = PATIENCE_S
    down: str = NOBODY
    """A connection behind which nobody answers, if there is one."""
    mine: list[BookingRequest] = field(default_factory=list)
    calls: int = 0
    """How many bookings it began."""
    _faults_met: int = 0
    _sizes: int = 0
    _originals: dict[str, dict[str, list[BookingRequest]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

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
            self.book_twice_at_once: 6,
            self.read_something: 4,
        }
        if self.down:
            acts[self.book_where_nobody_answers] = 2
        while not is_over():
            [act] = self.chance.choices(list(acts), list(acts.values()))
            await act()
            # Customers take a moment; without it the callers would measure themselves.
            await asyncio.sleep(self.chance.uniform(0.0, self.thinking_s_max))

    async def book_until_gone(self, replica: Any, ends_at: float, *, cancels: bool = False) -> None:
        """Books one after another until the process that is called has ended."""
        while replica.is_running and time.monotonic() < ends_at:
            if cancels and self.mine and self.chance.random() < CANCEL_SHARE:
                old = self.chance.choice(self.mine)
                await self.history.cancel(replica, old.request_id)
            request = await self.new_request(replica)
            if request is None:
                continue
            reply = await self.book(replica, request, timeout_s=3.0, fault=self.fault())
            if not reply.is_ok:
                await asyncio.sleep(self.chance.uniform(0.0, THINKING_S_MAX))

    # --- what it asks for -----------------------------------------------------------------

    async def new_request(
        self, place: Any, *, trade: Trade | None = None, method: str = "", account: str = ""
    ) -> BookingRequest | None:
        """Another booking that was never asked for; None where there is nothing to undo yet."""
        trade = trade or self.chance.choice(self.trades)
        if not method:
            weights = [weight for weight, _ in trade.makers.values()]
            [method] = self.chance.choices(list(trade.makers), weights)
        is_odd = method in MOVES and self.chance.random() < ODD_ACCOUNT_SHARE
        accounts = trade.odd_accounts if is_odd and trade.odd_accounts else ACCOUNTS
        desk = self._desk(place.caller, trade, account or self.chance.choice(accounts))
        if method == "ActivateGiftCard":
            desk.sleeper = self._next_sleeper(trade)
        _, make = trade.makers[method]
        request = await make(desk)
        if request is None:
            return None
        if method in trade.undoable and self.chance.random() < AUTO_REVERSE_SHARE:
            request.options.in_doubt_policy = types_pb2.IN_DOUBT_POLICY_AUTO_REVERSE
        self.mine.append(request)
        self._originals[trade.connection][method].append(request)
        return request

    def _desk(self, caller: wire.Caller, trade: Trade, account: str) -> Desk:
        return Desk(
            caller,
            trade,
            self.chance,
            self.new_id(),
            self._next_size(),
            account,
            self._originals[trade.connection],
        )

    def _next_size(self) -> int:
        self._sizes += 1
        return self._sizes * self.count + self.number

    def _next_sleeper(self, trade: Trade) -> str:
        place = self.history.sleepers_used
        self.history.sleepers_used += 1
        return trade.sleepers[place] if place < len(trade.sleepers) else ""

    def new_id(self) -> str:
        return str(uuid.UUID(int=self.chance.getrandbits(128), version=4))

    def fault(self) -> str:
        """None mostly, else the next of the list, so that each has its turn."""
        if not self.faults or self.chance.random() > self.fault_share:
            return ""
        self._faults_met += 1
        return self.faults[(self.chance.randrange(2) + self._faults_met) % len(self.faults)]

    async def replica(self) -> Any:
        """One that runs as far as anybody knows; seldom one that is down, as it happens."""
        replica = self.chance.choice(self.fleet.replicas)
        if self.chance.random() < DOWN_CALLED_SHARE and hasattr(replica, "caller"):
            return replica
        ups = [it for it in self.fleet.replicas if it.is_up.is_set()]
        if replica not in ups:
            replica = self.chance.choice(ups or self.fleet.replicas)
        await replica.is_up.wait()
        return replica

    async def book(
        self, place: Any, request: BookingRequest, *, timeout_s: float = 10.0, fault: str = ""
    ) -> wire.Reply:
        self.calls += 1
        return await self.history.book(place, request, timeout_s=timeout_s, fault=fault)

    # --- what it does ---------------------------------------------------------------------

    async def book_new(self) -> None:
        place = await self.replica()
        request, fault = await self.new_request(place), self.fault()
        if request is None:
            return
        timeout_s = self.chance.choice([self.patience_s] * 3 + [0.4])
        reply = await self.book(place, request, timeout_s=timeout_s, fault=fault)
        if not reply.is_final and self.chance.random() < 0.5:
            await self.book(await self.replica(), request, timeout_s=self.patience_s)

    async def repeat_old(self) -> None:
        if self.mine:
            request = self.chance.choice(self.mine)
            await self.book(await self.replica(), request, timeout_s=self.patience_s)

    async def reuse_a_request_id(self) -> None:
        """Another content under a request_id that was used, or whose first call never arrived."""
        if not self.mine:
            return
        old, place = self.chance.choice(self.mine), await self.replica()
        trade = self.chance.choice(self.trades)
        method = self.chance.choice(sorted(trade.methods & MOVES - {"AddGiftTip"}))
        desk = self._desk(place.caller, trade, self.chance.choice(ACCOUNTS))
        desk.size += OVERSIZE
        other = await trade.makers[method][1](desk)
        if other is not None:
            other.request_id = old.request_id
            self.mine.append(other)
            await self.book(place, other, timeout_s=self.patience_s)

    async def book_twice_at_once(self) -> None:
        """The same request by two ways at the same moment, as impatient proxies do it."""
        first, second = await self.replica(), await self.replica()
        request, fault = await self.new_request(first), self.fault()
        if request is None:
            return
        await asyncio.gather(
            self.book(first, request, timeout_s=self.patience_s, fault=fault),
            self.book(second, request, timeout_s=self.patience_s),
        )

    async def leave_early(self) -> None:
        place = await self.replica()
        request = await self.new_request(place)
        if request is None:
            return
        call = asyncio.create_task(self.book(place, request, fault=self.fault()))
        done, _ = await asyncio.wait({call}, timeout=self.chance.uniform(0.0, 0.03))
        if not done:
            call.cancel()
            await asyncio.wait({call})

    async def cancel_old(self) -> None:
        if self.mine:
            request = self.chance.choice(self.mine)
            await self.history.cancel(await self.replica(), request.request_id)

    async def cancel_before(self) -> None:
        place = await self.replica()
        request = await self.new_request(place)
        if request is None:
            return
        await self.history.cancel(place, request.request_id)
        await self.book(await self.replica(), request, timeout_s=self.patience_s)

    async def read_something(self) -> None:
        """Reads have no effect, so they are not remembered; a fault may meet them as well."""
        trade, place = self.chance.choice(self.trades), await self.replica()
        account = types_pb2.AccountRef(connection=trade.connection, id=self.chance.choice(ACCOUNTS))
        reads: list[Any] = [
            balance_pb2.GetBalanceRequest(account=account),
            cards_pb2.GetCardRequest(account=account),
            cards_pb2.ListTransactionsRequest(account=account),
            points_pb2.ListExpiringPointsRequest(account=account, year=2026),
        ]
        read = self.chance.choice(reads)
        reply = await place.caller.call(read, timeout_s=2.0, fault=self.fault())
        self.history.words.append(("", reply))

    async def book_where_nobody_answers(self) -> None:
        request = top_up(self._next_size(), "10480", connection=self.down, request_id=self.new_id())
        self.mine.append(request)
        await self.book(await self.replica(), request, timeout_s=self.patience_s)

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
            is_at_the_door = not reply.outcome and reply.code in REFUSED_AT_THE_DOOR
            if reply.is_final or is_at_the_door or reply.reason == "REQUEST_ID_REUSED":
                return
            is_far = (reply.retry_delay_s or 0.0) > RETRY_S_MAX
            is_hopeless = reply.reason in HOPELESS or reply.code in REFUSED_AT_THE_DOOR
            is_long = time.monotonic() > give_up - REST_LIMIT_S + RETRY_S_MAX
            if reply.outcome == "NOT_EXECUTED" and (is_far or is_hopeless or is_long):
                await self.history.cancel(self._any(), request.request_id)
            if time.monotonic() > give_up:
                raise Restless(f"{request.request_id} had no end in {REST_LIMIT_S:g} s: {reply}")
            # A pause that its vendor asked for is waited for; a doubt may end at any moment.
            is_paused = reply.reason == "PROVIDER_RATE_LIMITED" and not is_far
            await asyncio.sleep(max(POLL_S, (reply.retry_delay_s or 0.0) if is_paused else 0.0))

    async def _is_over(self, request_id: str) -> bool:
        """Leaves recovery to itself; False where the booking waits for its caller.

        Of a call that never arrived the journal knows nothing, and that is an end too.
        """
        give_up = time.monotonic() + REST_LIMIT_S
        while True:
            asked = bookings_pb2.GetBookingRequest(request_id=request_id)
            reply = await self._any().caller.call(asked)
            self.history.words.append((request_id, reply))
            if reply.is_ok and reply.booking.outcome != types_pb2.OUTCOME_UNKNOWN:
                return bool(reply.booking.final)
            if reply.reason == "NOT_FOUND":
                return True
            if time.monotonic() > give_up:
                raise Restless(f"recovery did not end {request_id} in {REST_LIMIT_S:g} s: {reply}")
            await asyncio.sleep(POLL_S)

    def _any(self) -> Any:
        return self.chance.choice(self.fleet.replicas)


def share_out(requests: Iterable[BookingRequest], of: Caller, count: int) -> list[Caller]:
    """Several callers who wait at the same time for what one began."""
    parts = [
        Caller(of.fleet, of.history, random.Random(number), trades=of.trades)
        for number in range(count)
    ]
    for number, request in enumerate(requests):
        parts[number % count].mine.append(request)
    return parts
