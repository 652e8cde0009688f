"""Finds out what became of bookings in doubt; never makes a first send for an absent caller.

One loop per process; what it does with a booking stands in steps.py.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import datetime

from loyalty_gateway.booking.connections import Connections
from loyalty_gateway.booking.flights import Flights
from loyalty_gateway.booking.steps import Steps
from loyalty_gateway.booking.watching import Watchers
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import LoyaltyError
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.telemetry import metrics

log = logging.getLogger(__name__)

_LOOK_AT_LEAST_EVERY_S = 5.0
_REST_MIN_S = 0.05
_AFTER_FAILURE_S = 1.0
_KICK_EVERY_S = 1.0
_PRUNE_EVERY_S = 60.0
_PRUNED_MAX = 500


class Recovery:
    """The loop, its steps, and the callers' right to have a step taken now."""

    def __init__(
        self,
        flights: Flights,
        steps: Steps,
        watchers: Watchers,
        journal: Journal,
        connections: Connections,
        *,
        tenant: str,
        lease_s: float,
        parallel_max: int,
    ) -> None:
        self._flights = flights
        self._steps = steps
        self._journal = journal
        self._connections = connections
        self._tenant = tenant
        self._lease_s = lease_s
        self._parallel_max = parallel_max
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._kicked: dict[str, float] = {}
        self._is_claiming = False
        self._put_off: dict[str, Booking] = {}
        self._wake = asyncio.Event()
        self._due: datetime | None = None
        self._pruned_s = 0.0
        self._task: asyncio.Task[None] | None = None
        watchers.attach(self)

    def start(self) -> None:
        self._pruned_s = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._run())

    async def stop(self, timeout_s: float) -> None:
        """Ends the loop and waits for the steps that run."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        steps = set(self._busy.values())
        if steps:
            _, left = await asyncio.wait(steps, timeout=timeout_s)
            for step in left:
                step.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    # --- what the flights need -----------------------------------------------------------------

    def is_busy(self, booking_id: str) -> bool:
        return booking_id in self._busy

    def wake(self, due: datetime | None = None) -> None:
        if due is None or self._due is None or due < self._due:
            self._due = due
            self._wake.set()

    def kick(self, booking: Booking) -> None:
        now_s = asyncio.get_running_loop().time()
        last_s = self._kicked.get(booking.booking_id)
        if booking.booking_id in self._busy or (
            last_s is not None and now_s - last_s < _KICK_EVERY_S
        ):
            return
        now = self._journal.now()
        if booking.lease_until is not None and booking.lease_until > now:
            return  # A step of it runs already, here or on another replica.
        if booking.not_before is not None and booking.not_before > now:
            return  # The vendor has asked for a pause.
        self._kicked[booking.booking_id] = now_s
        if len(self._kicked) > 10_000:
            self._kicked = {
                key: at for key, at in self._kicked.items() if now_s - at < _KICK_EVERY_S
            }
        if self._is_claiming:
            # The claim may take this very booking: a step begun now would find it moved, and
            # the claimed one would lie until its lease ends.
            self._put_off[booking.booking_id] = booking
        elif len(self._busy) < self._parallel_max:
            self._launch(booking)

    # --- the loop -----------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            # From here on every wake() is heard: this round may miss what it tells of.
            self._due = None
            try:
                looked_at = await self._look()
                await self._count()
                await self._prune()
                await self._rest(looked_at)
            except LoyaltyError as error:
                log.warning("Recovery could not read the journal: %s", error.message)
                await asyncio.sleep(_AFTER_FAILURE_S)
            except Exception:
                # A task's root: the loop must outlive whatever one round met.
                log.exception("A round of recovery failed")
                await asyncio.sleep(_AFTER_FAILURE_S)

    async def _rest(self, looked_at: datetime) -> None:
        """Sleeps until the next booking is due, something new comes, or a while has passed."""
        wait_s = _LOOK_AT_LEAST_EVERY_S
        # What was due already is being worked on, waits for room, or cannot be read; the end of
        # a step wakes this loop, which must not turn hot meanwhile.
        due = await self._journal.next_due_time(self._tenant, looked_at)
        if due is not None:
            self._due = due
            due_s = (due - self._journal.now()).total_seconds()
            wait_s = min(wait_s, max(_REST_MIN_S, due_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        self._wake.clear()

    async def _look(self) -> datetime:
        """Starts a step of what is due, as far as there is room. Returns when it looked."""
        now = self._journal.now()
        room = self._parallel_max - len(self._busy)
        if room <= 0:
            return now
        # Claimed for a lease: no other replica takes them meanwhile, and after a crash here
        # another one does. What flies or is looked at in this process has an owner already.
        flying = self._flights.sending() | self._busy.keys()
        claimed: Sequence[Booking] = ()
        self._is_claiming = True
        try:
            claimed = await self._journal.claim(
                self._tenant, self._lease_s, room, flying, self._paused()
            )
        finally:
            self._is_claiming = False
            # What was claimed comes first: it has a newer epoch than what a kick had read.
            for booking in claimed:
                self._launch(booking)
            kicked, self._put_off = self._put_off, {}
            for booking in kicked.values():
                if booking.booking_id not in self._busy and len(self._busy) < self._parallel_max:
                    self._launch(booking)
        return now

    async def _prune(self) -> None:
        """Nobody asks for an expired challenge but by its request_id, so they would stay."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._pruned_s < _PRUNE_EVERY_S:
            return
        if not await self._journal.prune_challenges(self._tenant, _PRUNED_MAX):
            self._pruned_s = now_s

    def _paused(self) -> list[str]:
        return [link.connection for link in self._connections if link.is_paused]

    def _launch(self, booking: Booking) -> None:
        task = asyncio.create_task(self._try_step(booking))
        self._busy[booking.booking_id] = task

        def ended(_: asyncio.Task[None]) -> None:
            self._busy.pop(booking.booking_id, None)
            self._wake.set()

        task.add_done_callback(ended)

    async def _try_step(self, booking: Booking) -> None:
        try:
            await self._steps.take(booking)
        except LoyaltyError as error:
            log.warning("Recovery of %s has to wait: %s", booking.name, error.message)
            await self._after_failure(booking)
        except Exception:
            # A task's root.
            log.exception("Recovery of %s failed", booking.name)
            await self._after_failure(booking)

    async def _after_failure(self, booking: Booking) -> None:
        """The booking stays busy for a while, since it is as due as before; then it is free."""
        await asyncio.sleep(_AFTER_FAILURE_S)
        if booking.lease_until is None:
            return
        try:
            # Only as it was claimed: what the step has written itself is not undone here.
            await self._steps.release(booking)
        except LoyaltyError as error:
            log.warning("The claim of %s stays until its lease ends: %s", booking.name, error)

    async def _count(self) -> None:
        now = self._journal.now()
        doubts = reviews = 0
        oldest_s = 0.0
        unresolved: dict[str, int] = {}
        for row in await self._journal.unresolved(self._tenant):
            if row.state is not State.SENDING:
                unresolved[row.connection] = unresolved.get(row.connection, 0) + row.count
            if row.state is State.NEEDS_REVIEW:
                reviews += row.count
            elif row.state is State.IN_DOUBT:
                doubts += row.count
                oldest_s = max(oldest_s, (now - row.oldest).total_seconds())
        for link in self._connections:
            link.unresolved_count = unresolved.get(link.connection, 0)
        metrics.in_doubt(doubts, oldest_s)
        metrics.needs_review(reviews)
