"""The one write path: look up, open, send, settle, answer; and nothing is ever sent unjournalled.

A booking flies in a task that no RPC owns, so a caller who leaves cancels nothing that was
sent. What a caller hears is always what the journal holds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from loyalty_gateway import failpoints
from loyalty_gateway.booking.admission import refusal_to_start
from loyalty_gateway.booking.answers import error_for, in_progress
from loyalty_gateway.booking.attempts import Attempts
from loyalty_gateway.booking.calls import BookingCall
from loyalty_gateway.booking.drafts import Draft, Drafts
from loyalty_gateway.booking.judge import Verdict
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.moves import Moves
from loyalty_gateway.booking.opening import Flight, Landed, Openings, refused
from loyalty_gateway.booking.sealed import Sealed
from loyalty_gateway.booking.settling import Ending, Settling
from loyalty_gateway.booking.watching import UNSETTLED, Watchers, last_look
from loyalty_gateway.domain.booking import (
    Answer,
    AnswerCodec,
    AttemptKind,
    Booking,
    Intent,
    State,
)
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import InDoubtPolicy
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.writer import unavailable
from loyalty_gateway.providers.port import Send, StatusRow
from loyalty_gateway.telemetry import metrics
from loyalty_gateway.telemetry.spans import booking_span

log = logging.getLogger(__name__)

T = TypeVar("T")

_WISH_S = 0.5
_WISH_SHARE = 0.2


class Flights:
    """Bookings of this process. Reads stand in reads.py, stories in story.py."""

    def __init__(
        self,
        journal: Journal,
        codec: AnswerCodec,
        drafts: Drafts,
        sealed: Sealed,
        attempts: Attempts,
        openings: Openings,
        moves: Moves,
        settling: Settling,
        watchers: Watchers,
        limits: Limits,
    ) -> None:
        self._journal = journal
        self._codec = codec
        self._drafts = drafts
        self._sealed = sealed
        self._attempts = attempts
        self._openings = openings
        self._moves = moves
        self._settling = settling
        self._watchers = watchers
        self._limits = limits
        self._flights: dict[tuple[str, str], Flight] = {}
        self._tasks: set[asyncio.Task[Landed]] = set()
        self._wishes: set[asyncio.Task[None]] = set()
        self._sending: set[str] = set()
        self._is_draining = False

    # --- booking --------------------------------------------------------------------------

    async def book(self, call: BookingCall) -> Answer:
        """Books once for a request_id, or answers what became of it.

        Raises:
            LoyaltyError: every reason of docs/errors.md that a booking can meet. `fate` is set
                once the journal was asked; without it nothing is said of earlier calls.
        """
        try:
            draft = await _in_time(call, self._drafts.draft(call))
        except LoyaltyError as error:
            if error.reason is not Reason.ORIGINAL_NOT_FOUND:
                raise
            return await self._without_original(call, error)
        if call.validate_only or call.in_doubt_policy is not InDoubtPolicy.AUTO_REVERSE:
            return await self._book(call, draft)
        try:
            return await self._book(call, draft)
        except LoyaltyError as error:
            if error.fate is Fate.UNKNOWN:
                # Before the caller hears of the doubt, since it relies on the undo from then on.
                known = await self._give_up(draft.booking)
                if known is not None and known.is_answered:
                    return self._answer(Landed(known, is_replayed=True), is_replayed=True)
            raise
        except asyncio.CancelledError:
            flight = self._flights.get((call.tenant, call.request_id))
            others = flight.waiting if flight else 0
            if not others:
                self._give_up_later(draft.booking, "the caller has gone")
            raise

    async def _give_up(self, asked: Booking) -> Booking | None:
        """Notes that the caller relies on the undo, at once or as soon as the journal can be
        written; the caller's own error stays what it is. No time limit: who is told of a doubt
        before its wish is written may be told so of what has just been booked, and stands."""
        try:
            known = await self._moves.give_up(asked, "AUTO_REVERSE")
            flight = self._flight_of(asked)
            # Another caller of the same flight relies on the undo, which may come in a moment.
            return None if flight is not None and flight.is_given_up else known
        except LoyaltyError as error:
            log.warning("The undo of a doubt could not be noted yet: %s", error.message)
            self._give_up_later(asked, "AUTO_REVERSE")
            return None
        except asyncio.CancelledError:
            self._give_up_later(asked, "AUTO_REVERSE")
            raise

    def _flight_of(self, asked: Booking) -> Flight | None:
        flight = self._flights.get((asked.tenant, asked.request_id))
        return flight if flight and flight.fingerprint == asked.fingerprint else None

    def _give_up_later(self, asked: Booking, why: str) -> None:
        flight = self._flight_of(asked)
        if flight is not None:
            flight.is_given_up = True
        self._keep(self._moves.keep_giving_up(asked, why))

    async def _book(self, call: BookingCall, draft: Draft) -> Answer:
        booking = draft.booking
        key = (call.tenant, call.request_id)
        flight = self._flights.get(key)
        is_mine = flight is None or flight.fingerprint != booking.fingerprint
        if call.validate_only or flight is None or is_mine:
            refusal = refusal_to_start(
                call,
                draft.link,
                self._limits,
                in_flight=len(self._tasks),
                is_draining=self._is_draining,
            )
            known: Booking | None = None
            is_refused = refusal is not None or draft.refusal is not None
            if is_refused or call.validate_only or draft.offer.prepare or draft.is_undo:
                # Something is about to be refused, or to be done before write 1 looks it up.
                known = await self._find(call)
            if call.validate_only:
                return self._validated(booking, known, refusal or draft.refusal)
            if known is not None and (refusal is not None or known.state is not State.RESERVED):
                return await self._answer_known(known, booking, call)
            if refusal is not None:
                metrics.admission_rejected(refusal.reason.value)
            refusal = refusal or draft.refusal
            if refusal is not None:
                if known is not None:
                    self._same_request(known, booking)
                raise refused(refusal, call, known)
            flight = self._launch(key, call, draft, known)
        deadline = _heard_by(call)
        landed = await self._wait(flight, booking, deadline)
        self._same_request(landed.booking, booking)
        if landed.booking.state in UNSETTLED and not landed.booking.is_answered:
            settled = await self._watchers.watch(
                landed.booking, deadline, is_kicked=landed.is_replayed
            )
            landed = replace(landed, booking=settled)
        return self._answer(landed, is_replayed=landed.is_replayed or not is_mine)

    async def _without_original(self, call: BookingCall, error: LoyaltyError) -> Answer:
        """The original of an undo is not known; the request_id may be, and then it means something
        else, or was cancelled."""
        known = await self._find(call)
        if known is None:
            raise refused(error, call, None)
        if known.is_tombstone:
            return self._answer(Landed(known, is_replayed=True), is_replayed=True)
        raise _reused(known, call.account.connection or known.connection)

    async def _find(self, call: BookingCall) -> Booking | None:
        return await _in_time(call, self._journal.find(call.tenant, request_id=call.request_id))

    def _validated(
        self, booking: Booking, known: Booking | None, refusal: LoyaltyError | None
    ) -> Answer:
        """What validate_only answers: the booking that would be, without name or state."""
        if known is not None:
            self._same_request(known, booking)
        if refusal is not None:
            # What a validation is refused for says nothing of the booking itself.
            refusal.fate = known.outcome if known else Fate.NOT_EXECUTED
            refusal.is_final = known is not None and known.is_final
            refusal.booking = known.name if known else ""
            raise refusal
        preview = replace(booking, booking_id="", attempt_count=0, outbound_id="")
        return Answer(self._codec.encode_answer(preview), "", is_replayed=False)

    def _same_request(self, known: Booking, asked: Booking) -> None:
        """Raises LoyaltyError REQUEST_ID_REUSED where the request_id means something else."""
        if not known.is_tombstone and known.fingerprint != asked.fingerprint:
            raise _reused(known, asked.connection, asked.provider)

    # --- the flight -----------------------------------------------------------------------

    def _launch(
        self, key: tuple[str, str], call: BookingCall, draft: Draft, known: Booking | None
    ) -> Flight:
        link = draft.link
        flight = Flight(draft.booking.fingerprint)
        task = asyncio.create_task(self._fly(flight, call, draft, known))
        flight.task = task
        self._tasks.add(task)
        link.in_flight += 1
        metrics.in_flight(len(self._tasks))
        # A flight of another fingerprint may hold the key: the journal decides between them.
        self._flights.setdefault(key, flight)

        def landed(done: asyncio.Task[Landed]) -> None:
            self._tasks.discard(done)
            link.in_flight -= 1
            metrics.in_flight(len(self._tasks))
            if self._flights.get(key) is flight:
                del self._flights[key]
            if not done.cancelled():
                done.exception()  # Every waiter has it already; nobody may be left to ask.

        task.add_done_callback(landed)
        return flight

    async def _wait(self, flight: Flight, asked: Booking, deadline: float) -> Landed:
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
        self, flight: Flight, call: BookingCall, draft: Draft, known: Booking | None
    ) -> Landed:
        link = draft.link
        attributes = {
            "loyalty.booking": draft.booking.name,
            "loyalty.operation": call.operation.value,
            "loyalty.connection": link.connection,
            "loyalty.provider": link.adapter.provider,
            "loyalty.request_id": call.request_id,
        }
        with booking_span("booking", attributes) as span:
            draft = replace(draft, booking=replace(draft.booking, trace_parent=span.trace_parent))
            # Before it is on disk, so that recovery never takes it for an orphan.
            flying = (known or draft.booking).booking_id
            self._sending.add(flying)
            try:
                ready = await (
                    self._openings.open_new(flight, call, draft)
                    if known is None
                    else self._openings.open_again(draft, known)
                )
                if isinstance(ready, Booking):
                    span.event("booking.known", {"loyalty.state": ready.state.value})
                    span.set({"loyalty.booking": ready.name, "loyalty.state": ready.state.value})
                    return Landed(ready, is_replayed=True)
                flight.is_opened = True
                booking = ready.booking
                span.event("booking.opened", {"loyalty.attempt": booking.attempt_count})
                if flight.waiting == 0:
                    verdict = _not_sent(Reason.DEADLINE_TOO_SHORT, "the caller had left before")
                elif asyncio.get_running_loop().time() > ready.send_by:
                    verdict = _not_sent(Reason.JOURNAL_UNAVAILABLE, "write 1 took too long")
                else:
                    fault = call.fault if booking.attempt_count == 1 else ""
                    send = Send(ready.order, booking.outbound_id, booking.attempt_count, fault)
                    verdict = await self._attempts.attempt(link, send, span)
                failpoints.hit("after-answer")
                if flight.is_given_up:
                    booking = replace(booking, intent=Intent.CANCEL)
                ending = Ending(link=link, actor="caller", kind=AttemptKind.SEND, span=span)
                settled = await self._settling.settle(booking, verdict, ending)
                if flight.is_given_up:
                    settled = await self._moves.take_back(settled)
                failpoints.hit("after-settle")
            finally:
                self._sending.discard(flying)
        return Landed(settled, is_replayed=False)

    async def _answer_known(self, known: Booking, asked: Booking, call: BookingCall) -> Answer:
        """Answers a repeat while new bookings are refused; a doubt may still end meanwhile."""
        self._same_request(known, asked)
        if known.state in UNSETTLED and not known.is_answered:
            known = await self._watchers.watch(known, _heard_by(call), is_kicked=True)
        return self._answer(Landed(known, is_replayed=True), is_replayed=True)

    def _answer(self, landed: Landed, *, is_replayed: bool) -> Answer:
        """The stored answer, or the error that the state stands for."""
        booking = landed.booking
        if booking.is_answered:
            return Answer(self._sealed.answer_of(booking), booking.name, is_replayed)
        raise error_for(booking, now=self._journal.now(), is_replayed=is_replayed)

    def _keep(self, wish: Coroutine[Any, Any, object]) -> None:
        """Sees to it that a caller's wish is written down, although the caller has gone."""
        task = asyncio.create_task(_logged(wish))
        self._wishes.add(task)
        task.add_done_callback(self._wishes.discard)

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
        if self._wishes:
            await asyncio.wait(set(self._wishes), timeout=timeout_s)
        left = [*self._tasks, *self._wishes]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)


def _not_sent(reason: Reason, rule: str) -> Verdict:
    return Verdict(StatusRow(reason, Fate.NOT_EXECUTED), rule)


async def _in_time(call: BookingCall, reading: Awaitable[T]) -> T:
    """What is read before anything is sent; a journal that is silent until the deadline says
    nothing."""
    try:
        async with asyncio.timeout_at(last_look(call.deadline)):
            return await reading
    except TimeoutError as error:
        raise unavailable(error) from error


def _heard_by(call: BookingCall) -> float:
    """Until when a doubt may still end; AUTO_REVERSE keeps the time in which it is noted."""
    if call.in_doubt_policy is not InDoubtPolicy.AUTO_REVERSE:
        return call.deadline
    left_s = call.deadline - asyncio.get_running_loop().time()
    return call.deadline - min(_WISH_S, max(0.0, left_s) * _WISH_SHARE)


async def _logged(wish: Coroutine[Any, Any, object]) -> None:
    try:
        await wish
    except LoyaltyError as error:
        log.warning("A caller's wish could not be written down: %s", error.message)


def _reused(known: Booking, connection: str, provider: str = "") -> LoyaltyError:
    return LoyaltyError(
        Reason.REQUEST_ID_REUSED,
        "This request_id was used for another request; nothing was done for this one. Use"
        " a new request_id for a new booking.",
        request_id=known.request_id,
        booking=known.name,
        connection=connection,
        provider=provider,
        field="request_id",
    )
