"""The one write path: look up, open, send, settle, answer; and nothing is ever sent unjournalled.

A booking flies in a task that no RPC owns, so a caller who leaves cancels nothing that was
sent. What a caller hears is always what the journal holds.
"""

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import timedelta

from loyalty_gateway import failpoints
from loyalty_gateway.booking.answers import error_for, in_progress, on_hold
from loyalty_gateway.booking.calls import BookingCall
from loyalty_gateway.booking.connections import Connections, Link, at
from loyalty_gateway.booking.drafts import Drafts
from loyalty_gateway.booking.judge import Verdict
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.settling import Settling
from loyalty_gateway.booking.watching import UNSETTLED, Watchers
from loyalty_gateway.domain.booking import Answer, AnswerCodec, AttemptKind, Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import Order
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.writer import Change, Opened, Opening, unavailable
from loyalty_gateway.providers.port import Send, StatusRow
from loyalty_gateway.telemetry import metrics
from loyalty_gateway.telemetry.spans import booking_span

log = logging.getLogger(__name__)

_HOLD_POLL_S = 0.2


@dataclass(slots=True)
class _Flight:
    """A booking on its way, by (tenant, request_id). `waiting` counts the callers who wait."""

    fingerprint: bytes
    task: "asyncio.Task[_Landed] | None" = None
    waiting: int = 0
    is_opened: bool = False


@dataclass(frozen=True, slots=True)
class _Landed:
    """Where a flight ended; `is_replayed` when the journal knew the request_id before it."""

    booking: Booking
    is_replayed: bool
    retry_after_s: float | None = None


class Flights:
    """Bookings of this process. Reads stand in reads.py, stories in story.py."""

    def __init__(
        self,
        journal: Journal,
        connections: Connections,
        codec: AnswerCodec,
        drafts: Drafts,
        settling: Settling,
        watchers: Watchers,
        limits: Limits,
    ) -> None:
        self._journal = journal
        self._connections = connections
        self._codec = codec
        self._drafts = drafts
        self._settling = settling
        self._watchers = watchers
        self._limits = limits
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._tasks: set[asyncio.Task[_Landed]] = set()
        self._sending: set[str] = set()
        self._is_draining = False

    # --- booking --------------------------------------------------------------------------

    async def book(self, call: BookingCall) -> Answer:
        """Books once for a request_id, or answers what became of it.

        Raises:
            LoyaltyError: every reason of docs/errors.md that a booking can meet. `fate` is set
                once the journal was asked; without it nothing is said of earlier calls.
        """
        draft = self._drafts.draft(call)
        link, order, booking = draft.link, draft.order, draft.booking
        key = (call.tenant, call.request_id)
        flight = self._flights.get(key)
        if call.validate_only or flight is None or flight.fingerprint != booking.fingerprint:
            refusal = self._admission(call, link)
            if refusal is not None or call.validate_only:
                known = await self._journal.find(call.tenant, request_id=call.request_id)
                if known is not None and not call.validate_only:
                    return await self._answer_known(known, booking, call)
                if known is not None:
                    self._same_request(known, booking)
                if refusal is not None:
                    if known is not None:
                        # What a validation is refused for says nothing of the booking itself.
                        refusal.fate, refusal.is_final = known.outcome, known.is_final
                        refusal.booking = known.name
                    metrics.admission_rejected(refusal.reason.value)
                    raise refusal
                return self._preview(booking)
            flight = self._launch(key, call, link, order, booking)
            is_mine = True
        else:
            is_mine = False
        landed = await self._wait(flight, booking, call.deadline)
        self._same_request(landed.booking, booking)
        if landed.booking.state in UNSETTLED:
            settled = await self._watchers.watch(
                landed.booking, call.deadline, is_kicked=landed.is_replayed
            )
            landed = replace(landed, booking=settled)
        return self._answer(landed, is_replayed=landed.is_replayed or not is_mine)

    def _admission(self, call: BookingCall, link: Link) -> LoyaltyError | None:
        """Why no new booking may start now; duplicates of known ones are answered all the same."""
        limits = self._limits
        where = at(link)
        # The journal is asked before this is raised, so that the absence is the truth so far.
        nothing = Fate.NOT_EXECUTED
        if self._is_draining:
            return LoyaltyError(
                Reason.DRAINING,
                "This server is stopping; repeat the same request_id, another one will take it.",
                fate=nothing,
                request_id=call.request_id,
                retry_after_s=1,
                **where,
            )
        if link.is_paused:
            return LoyaltyError(
                Reason.CONNECTION_PAUSED,
                "An operator has paused this connection.",
                fate=nothing,
                request_id=call.request_id,
                **where,
            )
        if link.unresolved_count >= limits.unresolved_max:
            return LoyaltyError(
                Reason.PROVIDER_UNREACHABLE,
                "Too many bookings of this connection are in doubt, so no new one is sent until"
                " some are resolved.",
                fate=nothing,
                request_id=call.request_id,
                retry_after_s=30,
                **where,
            )
        if (
            len(self._tasks) >= limits.in_flight_max
            or link.in_flight >= limits.in_flight_per_connection_max
        ):
            return LoyaltyError(
                Reason.OVERLOADED,
                "Too many bookings are in flight; repeat the same request_id in a moment.",
                fate=nothing,
                request_id=call.request_id,
                retry_after_s=1,
                **where,
            )
        if call.deadline - asyncio.get_running_loop().time() < limits.deadline_min_s:
            return LoyaltyError(
                Reason.DEADLINE_TOO_SHORT,
                f"A booking needs at least {limits.deadline_min_s} s; nothing was sent.",
                fate=nothing,
                request_id=call.request_id,
                **where,
            )
        return None

    def _preview(self, booking: Booking) -> Answer:
        """What validate_only answers: the booking that would be, without name or state."""
        preview = replace(booking, booking_id="", attempt_count=0, outbound_id="")
        return Answer(self._codec.encode_answer(preview), "", is_replayed=False)

    def _same_request(self, known: Booking, asked: Booking) -> None:
        """Raises LoyaltyError REQUEST_ID_REUSED where the request_id means something else."""
        if known.is_tombstone or known.fingerprint == asked.fingerprint:
            return
        raise LoyaltyError(
            Reason.REQUEST_ID_REUSED,
            "This request_id was used for another request; nothing was done for this one. Use"
            " a new request_id for a new booking.",
            request_id=known.request_id,
            booking=known.name,
            connection=asked.connection,
            provider=asked.provider,
            field="request_id",
        )

    # --- the flight -----------------------------------------------------------------------

    def _launch(
        self, key: tuple[str, str], call: BookingCall, link: Link, order: Order, booking: Booking
    ) -> _Flight:
        flight = _Flight(booking.fingerprint)
        task = asyncio.create_task(self._fly(flight, call, link, order, booking))
        flight.task = task
        self._tasks.add(task)
        link.in_flight += 1
        metrics.in_flight(len(self._tasks))
        # A flight of another fingerprint may hold the key: the journal decides between them.
        self._flights.setdefault(key, flight)

        def landed(done: asyncio.Task[_Landed]) -> None:
            self._tasks.discard(done)
            link.in_flight -= 1
            metrics.in_flight(len(self._tasks))
            if self._flights.get(key) is flight:
                del self._flights[key]
            if not done.cancelled():
                done.exception()  # Every waiter has it already; nobody may be left to ask.

        task.add_done_callback(landed)
        return flight

    async def _wait(self, flight: _Flight, asked: Booking, deadline: float) -> _Landed:
        """Waits for a flight, but not beyond the caller's deadline."""
        assert flight.task is not None
        flight.waiting += 1
        try:
            timeout_s = max(0.0, deadline - asyncio.get_running_loop().time())
            done, _ = await asyncio.wait({flight.task}, timeout=timeout_s)
        finally:
            flight.waiting -= 1
        if not done or flight.task.cancelled():
            # Only a stop cancels a flight; a cancellation of its own would hang the caller.
            raise in_progress(asked, is_opened=flight.is_opened)
        bug = flight.task.exception()
        if bug is None or isinstance(bug, LoyaltyError) or not flight.is_opened:
            return flight.task.result()
        # Something of ours broke after the intent was journalled: the row says what is known.
        log.error("Booking of %s broke", asked.request_id, exc_info=bug)
        raise in_progress(asked, is_opened=True)

    async def _fly(
        self, flight: _Flight, call: BookingCall, link: Link, order: Order, booking: Booking
    ) -> _Landed:
        loop = asyncio.get_running_loop()
        attributes = {
            "loyalty.booking": booking.name,
            "loyalty.operation": call.operation.value,
            "loyalty.connection": link.connection,
            "loyalty.provider": link.adapter.provider,
            "loyalty.request_id": call.request_id,
        }
        with booking_span("booking", attributes) as span:
            # send_by counts from before the write was asked for: a slow disk is no excuse.
            send_by = loop.time() + self._limits.send_by_s
            booking = replace(booking, trace_parent=span.trace_parent)
            failpoints.hit("before-open")
            opened = await self._open(flight, booking, call)
            if opened.is_held:
                raise on_hold(booking)
            flight.is_opened = True
            failpoints.hit("after-open")
            if not opened.is_new:
                known = opened.booking
                span.event("booking.known", {"loyalty.state": known.state.value})
                span.set({"loyalty.booking": known.name, "loyalty.state": known.state.value})
                if known.state is not State.RESERVED or known.fingerprint != booking.fingerprint:
                    return _Landed(known, is_replayed=True)
                send_by = loop.time() + self._limits.send_by_s
                reopened = await self._reopen(known, link, call)
                if reopened is None:
                    now_known = await self._journal.find(call.tenant, request_id=call.request_id)
                    assert now_known is not None, "bookings are not deleted"
                    return _Landed(now_known, is_replayed=True)
                booking = reopened
            span.event("booking.opened", {"loyalty.attempt": booking.attempt_count})
            self._sending.add(booking.booking_id)
            try:
                if flight.waiting == 0:
                    verdict = _not_sent(Reason.DEADLINE_TOO_SHORT, "the caller had left before")
                elif loop.time() > send_by:
                    verdict = _not_sent(Reason.JOURNAL_UNAVAILABLE, "write 1 took too long")
                else:
                    fault = call.fault if booking.attempt_count == 1 else ""
                    send = Send(order, booking.outbound_id, booking.attempt_count, fault)
                    verdict = await self._settling.attempt(link, send, span)
                failpoints.hit("after-answer")
                settled = await self._settling.settle(
                    booking, verdict, link, actor="caller", kind=AttemptKind.SEND, span=span
                )
                failpoints.hit("after-settle")
            finally:
                self._sending.discard(booking.booking_id)
        return _Landed(settled, is_replayed=False, retry_after_s=verdict.retry_after_s)

    async def _open(self, flight: _Flight, booking: Booking, call: BookingCall) -> Opened:
        """Write 1; while another booking holds the account it waits for the caller's time."""
        loop = asyncio.get_running_loop()
        while True:
            opened = await self._journal.open(Opening(booking, actor="caller"))
            left_s = call.deadline - loop.time() - self._limits.deadline_min_s
            if not opened.is_held or left_s <= 0 or flight.waiting == 0:
                return opened
            await asyncio.sleep(min(_HOLD_POLL_S, left_s))

    async def _reopen(self, known: Booking, link: Link, call: BookingCall) -> Booking | None:
        """RESERVED -> SENDING for a caller who repeats; None when another one was faster."""
        assert known.doubtful_attempts == 0, "RESERVED means that nothing was booked"
        now = self._journal.now()
        lease_until = now + timedelta(seconds=self._limits.lease_s)
        offer = self._connections.offer(link, call.operation)
        again = replace(
            known,
            state=State.SENDING,
            epoch=known.epoch + 1,
            owner=self._journal.boot_id,
            lease_until=lease_until,
            next_attempt_time=lease_until,
            attempt_count=known.attempt_count + 1,
            doubtful_attempts=1,
            attempt_open=True,
            target_hash=link.target_hash,
            recovery_mode=link.mode(offer),
            # Nothing was booked so far, so the vendor's memory of the key starts anew.
            first_sent_time=now,
            sent_time=now,
        )
        change = Change(known, again, actor="caller", note="the caller repeated the request")
        return again if await self._journal.change(change) else None

    async def _answer_known(self, known: Booking, asked: Booking, call: BookingCall) -> Answer:
        """Answers a repeat while new bookings are refused; a doubt may still end meanwhile."""
        self._same_request(known, asked)
        if known.state in UNSETTLED:
            known = await self._watchers.watch(known, call.deadline, is_kicked=True)
        return self._answer(_Landed(known, is_replayed=True), is_replayed=True)

    def _answer(self, landed: _Landed, *, is_replayed: bool) -> Answer:
        """The stored answer, or the error that the state stands for."""
        booking = landed.booking
        if booking.answer_bytes is not None:
            return Answer(booking.answer_bytes, booking.name, is_replayed)
        raise error_for(
            booking,
            now=self._journal.now(),
            retry_after_s=landed.retry_after_s,
            is_replayed=is_replayed,
        )

    # --- start and stop -----------------------------------------------------------------------

    async def adopt(self, tenant: str) -> int:
        """Takes over what an earlier process left, where no other process can be its owner.

        In a shared journal the lease decides instead: nobody knows whether the owner is dead.
        """
        if self._journal.is_shared:
            return 0
        count = 0
        failpoints.hit("adopting")
        while left := await self._journal.orphans(tenant, limit=200):
            for booking in left:
                if booking.state is State.SENDING:
                    moved = await self._settling.abandon(
                        booking, "the process that sent it is gone"
                    )
                else:
                    freed = replace(
                        booking,
                        epoch=booking.epoch + 1,
                        owner="",
                        lease_until=None,
                        next_attempt_time=self._journal.now(),
                    )
                    moved = await self._settling.move(
                        Change(booking, freed, "recovery", "the process that held it is gone")
                    )
                if moved.epoch == booking.epoch:
                    raise unavailable(RuntimeError("an orphaned booking could not be moved"))
            count += len(left)
        return count

    def drain(self) -> None:
        """From now on no new booking starts; known ones are still answered."""
        self._is_draining = True

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    def sending(self) -> frozenset[str]:
        """The ids of the bookings whose own attempt runs in this process."""
        return frozenset(self._sending)

    async def finish(self, timeout_s: float) -> int:
        """Waits for the bookings in flight; returns how many had to be left to recovery."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)


def _not_sent(reason: Reason, rule: str) -> Verdict:
    return Verdict(StatusRow(reason, Fate.NOT_EXECUTED), rule, retry_after_s=1)
