"""The one write path: look up, open, send, settle, answer; and nothing is ever sent unjournalled.

A booking flies in a task that no RPC owns, so a caller who leaves cancels nothing that was
sent. What a caller hears is always what the journal holds.
"""

import asyncio
import contextlib
import logging
import os
import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol, TypedDict

from loyalty_gateway import failpoints
from loyalty_gateway.booking import judge
from loyalty_gateway.booking.answers import error_for, in_progress, on_hold, refusal_of
from loyalty_gateway.booking.calls import BookingCall, BookingKey, Decision
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.judge import Policy, Verdict
from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import (
    Answer,
    AnswerCodec,
    Attempt,
    AttemptKind,
    Booking,
    State,
)
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason, Violation
from loyalty_gateway.domain.operations import InDoubtPolicy, Order, RecoveryMode, Reference
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.journal.writer import Change, Opened, Opening, unavailable
from loyalty_gateway.providers.port import (
    Book,
    Offer,
    ProviderError,
    Send,
    StatusRow,
)
from loyalty_gateway.telemetry import metrics
from loyalty_gateway.telemetry.redaction import redact
from loyalty_gateway.telemetry.spans import SpanHandle, booking_span

log = logging.getLogger(__name__)

_SETTLE_RETRY_EVERY_S = 0.25
_HOLD_POLL_S = 0.2
_OTHERS_POLL_S = 0.2

NO_END = "the attempt has no recorded end"
"""The rule shown for an attempt whose process was gone before it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every limit of the engine; the values are the configuration's."""

    deadline_min_s: float = 0.25
    in_flight_max: int = 512
    in_flight_per_connection_max: int = 128
    tombstones_per_hour_max: int = 1000
    unresolved_max: int = 1000
    attempt_total_s: float = 15.0
    lease_s: float = 30.0
    send_by_s: float = 2.0
    settle_retry_s: float = 10.0
    challenge_life_s: float = 600.0
    proof_life_s: float = 1800.0


_UNSETTLED = frozenset({State.SENDING, State.IN_DOUBT, State.REVERSING})
"""States that a machine will end."""


class Kick(Protocol):
    """Recovery, as the engine needs it."""

    def kick(self, booking: Booking) -> None:
        """Takes the booking's next step now, at most once a second."""
        ...

    def is_busy(self, booking_id: str) -> bool:
        """Whether a step of this booking runs at the moment."""
        ...

    def wake(self, due: datetime | None = None) -> None:
        """Tells that a booking became due at this time, or now."""
        ...


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
        keyring: Keyring,
        connections: Connections,
        codec: AnswerCodec,
        limits: Limits,
        policy: Policy,
    ) -> None:
        self._journal = journal
        self._keyring = keyring
        self._connections = connections
        self._codec = codec
        self._limits = limits
        self._policy = policy
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._tasks: set[asyncio.Task[_Landed]] = set()
        self._sending: set[str] = set()
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._is_draining = False
        self._recovery: Kick | None = None

    def attach(self, recovery: Kick) -> None:
        """Joins the engine and its recovery, which need each other."""
        self._recovery = recovery

    # --- booking --------------------------------------------------------------------------

    async def book(self, call: BookingCall) -> Answer:
        """Books once for a request_id, or answers what became of it.

        Raises:
            LoyaltyError: every reason of docs/errors.md that a booking can meet. `fate` is set
                once the journal was asked; without it nothing is said of earlier calls.
        """
        link = self._connections.get(call.account.connection)
        account_id = self._open_account(call)
        offer = self._connections.offer(link, call.operation)
        self._check(call, link, offer)
        order = Order(
            operation=call.operation,
            account_id=account_id,
            asked=call.asked,
            allow_partial=call.allow_partial,
            money_value=call.money_value,
            redemption_kind=call.redemption_kind,
            sale=call.sale,
            in_doubt_policy=call.in_doubt_policy,
        )
        booking = self._born(call, link, offer, order)
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
        if landed.booking.state in _UNSETTLED:
            settled = await self._watch(landed.booking, call.deadline, is_kicked=landed.is_replayed)
            landed = replace(landed, booking=settled)
        return self._answer(landed, is_replayed=landed.is_replayed or not is_mine)

    def _open_account(self, call: BookingCall) -> str:
        if call.account.plain_id:
            return call.account.plain_id
        try:
            return self._keyring.open_token(
                call.tenant, call.account.connection, call.account.token
            )
        except LookupError as error:
            raise LoyaltyError(
                Reason.REQUEST_INVALID,
                "account.token is not a token of this connection.",
                violations=(Violation("account.token", "is not a token of this connection"),),
            ) from error

    def _check(self, call: BookingCall, link: Link, offer: Offer) -> None:
        """The request itself, against what the connection can do; nothing durable is asked."""
        where = _at(link)
        if call.in_doubt_policy is InDoubtPolicy.AUTO_REVERSE and offer.undo is None:
            raise LoyaltyError(
                Reason.CAPABILITY_NOT_SUPPORTED,
                f"{call.operation} has no undo at this vendor, so AUTO_REVERSE cannot be kept;"
                " use RESOLVE.",
                field="options.in_doubt_policy",
                **where,
            )
        for amount in (call.asked, call.money_value):
            if isinstance(amount, Money) and amount.currency != link.adapter.currency:
                raise LoyaltyError(
                    Reason.CURRENCY_NOT_ACCEPTED,
                    f"This connection books in {link.adapter.currency} only.",
                    field="amount" if amount is call.asked else "money_value",
                    **where,
                )
        missing = [name for name in offer.needed_fields if name not in call.filled_fields]
        if missing:
            raise LoyaltyError(
                Reason.FIELD_REQUIRED_BY_PROVIDER,
                f"This vendor needs {', '.join(missing)}.",
                violations=tuple(
                    Violation(name, "is required by this connection's vendor") for name in missing
                ),
                **where,
            )

    def _born(self, call: BookingCall, link: Link, offer: Offer, order: Order) -> Booking:
        """The booking as write 1 will store it, if nobody has its request_id."""
        now = self._journal.now()
        booking_id = _uuid7(now)
        lease_until = now + timedelta(seconds=self._limits.lease_s)
        account_hash = self._keyring.account_hash(call.tenant, link.connection, order.account_id)
        return Booking(
            tenant=call.tenant,
            booking_id=booking_id,
            request_id=call.request_id,
            state=State.SENDING,
            create_time=now,
            operation=call.operation,
            connection=link.connection,
            provider=link.adapter.provider,
            account_hash=account_hash,
            account_sealed=self._keyring.seal(order.account_id, f"{call.tenant}/{booking_id}"),
            account_token=self._keyring.token(call.tenant, link.connection, order.account_id),
            masked_id=mask_account_id(order.account_id),
            fingerprint=self._fingerprint(call, order, account_hash),
            order=replace(order, account_id=""),
            outbound_id=self._keyring.outbound_id(call.tenant, call.request_id),
            target_hash=link.target_hash,
            recovery_mode=link.mode(offer),
            owner=self._journal.boot_id,
            lease_until=lease_until,
            # At birth, so that a dead owner's booking is always found.
            next_attempt_time=lease_until,
            attempt_count=1,
            doubtful_attempts=1,
            attempt_open=True,
            first_sent_time=now,
            sent_time=now,
        )

    def _fingerprint(self, call: BookingCall, order: Order, account_hash: bytes) -> bytes:
        """Version 1: the business fields that make two calls the same request."""
        return self._keyring.fingerprint(
            [
                call.operation,
                call.account.connection,
                account_hash,
                str(order.asked or ""),
                str(order.money_value or ""),
                order.redemption_kind,
                str(order.allow_partial),
                "",  # original, for undo and tips
                order.in_doubt_policy,
                order.sale.order_id,
                order.sale.ticket_number,
            ]
        )

    def _admission(self, call: BookingCall, link: Link) -> LoyaltyError | None:
        """Why no new booking may start now; duplicates of known ones are answered all the same."""
        limits = self._limits
        where = _at(link)
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
                    verdict = await self.attempt(link, send, span)
                failpoints.hit("after-answer")
                settled = await self.settle(
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

    async def attempt(self, link: Link, send: Send, span: SpanHandle) -> Verdict:
        """One try at the vendor, under one total time limit. Never raises but for a stop."""
        offer = self._connections.offer(link, send.order.operation)
        book: Book = offer.call  # type: ignore[assignment]
        span.event("booking.sending", {"loyalty.attempt": send.attempt_number})
        try:
            async with asyncio.timeout(self._limits.attempt_total_s):
                executed = await book(send)
        except ProviderError as error:
            verdict = Verdict(
                error.status,
                error.rule,
                http_status=error.http_status,
                provider_code=error.provider_code,
                retry_after_s=error.retry_after_s,
                request_text=redact(error.request_text),
                answer_text=redact(error.answer_text),
            )
        except TimeoutError:
            verdict = Verdict(StatusRow(Reason.PROVIDER_INTERNAL), "attempt total time limit")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled this attempt: it came from inside, and proves nothing.
            log.exception("The adapter of %s cancelled itself", link.adapter.provider)
            verdict = Verdict(StatusRow(Reason.INTERNAL), "the adapter cancelled itself")
        except Exception:
            # A bug of an adapter after the intent was journalled: it proves nothing.
            log.exception("The adapter of %s failed", link.adapter.provider)
            verdict = Verdict(StatusRow(Reason.INTERNAL), "the adapter failed")
        else:
            verdict = Verdict(
                StatusRow(Reason.INTERNAL, Fate.EXECUTED),
                executed.rule,
                receipt=executed.receipt,
                http_status=executed.http_status,
                request_text=redact(executed.request_text),
                answer_text=redact(executed.answer_text),
            )
        link.saw(None if verdict.receipt else verdict.status.reason)
        return verdict

    async def settle(
        self,
        before: Booking,
        verdict: Verdict,
        link: Link,
        *,
        actor: str,
        kind: AttemptKind,
        span: SpanHandle,
    ) -> Booking:
        """Write 2: judges the attempt and stores its end, with the bytes that answer it.

        Returns what the journal holds afterwards; `before` itself where it could not be
        written, which the lease then brings back.
        """
        now = self._journal.now()
        try:
            after = judge.after_attempt(before, verdict, now, link.means(before), self._policy)
            after = self._with_bytes(after)
        except Exception:
            # Whatever is wrong with us, the vendor may have booked: doubt, never "failed".
            log.exception("Booking %s could not be judged", before.name)
            verdict = replace(verdict, status=StatusRow(Reason.INTERNAL), receipt=None)
            after = judge.after_attempt(before, verdict, now, link.means(before), self._policy)
        attempt = _ended(before, kind, verdict, now)
        try:
            settled = await self.move(self._end(before, after, link, actor, attempt))
        except Exception:
            # The row was refused, so something in it came from outside and cannot be stored.
            log.exception("The end of booking %s could not be stored", before.name)
            verdict = Verdict(StatusRow(Reason.INTERNAL), "the answer could not be stored")
            after = judge.after_attempt(before, verdict, now, link.means(before), self._policy)
            attempt = _ended(before, kind, verdict, now)
            settled = await self.move(self._end(before, after, link, actor, attempt))
        if verdict.receipt is not None and settled.state in (State.IN_DOUBT, State.NEEDS_REVIEW):
            settled = await self._hear_late(settled, after, attempt)
        span.event("booking.settled", {"loyalty.state": settled.state.value})
        span.set({"loyalty.state": settled.state.value, "loyalty.outcome": settled.outcome.value})
        if settled.reason is not None:
            span.set({"loyalty.reason": settled.reason.value})
        if settled.outcome is Fate.UNKNOWN:
            span.fail(settled.reason.value if settled.reason else "UNKNOWN")
        return settled

    def _end(
        self, before: Booking, after: Booking, link: Link, actor: str, attempt: Attempt
    ) -> Change:
        holds = after.state is State.NEEDS_REVIEW and link.means(before).mode is RecoveryMode.MANUAL
        return Change(
            before,
            after,
            actor,
            attempt=attempt,
            # Nobody can find out, so another booking on the account would hide the truth.
            holds_account=True if holds else self._releases(before, after),
        )

    @staticmethod
    def _releases(before: Booking, after: Booking) -> bool | None:
        was_held = before.state is State.NEEDS_REVIEW
        return False if was_held and after.state is not State.NEEDS_REVIEW else None

    async def _hear_late(self, found: Booking, after: Booking, attempt: Attempt) -> Booking:
        """The vendor confirmed what somebody else, meanwhile, had to take for a doubt."""
        if after.state is not State.SUCCEEDED or found.epoch < after.epoch:
            return found
        known = replace(
            after,
            epoch=found.epoch + 1,
            attempt_count=found.attempt_count,
            doubtful_attempts=found.doubtful_attempts,
            recovery_tries=found.recovery_tries,
            incident=found.incident,
        )
        return await self.move(
            Change(
                found,
                known,
                "caller",
                "the vendor's answer came after the lease had ended",
                attempt=attempt,
                holds_account=self._releases(found, known),
            )
        )

    def _with_bytes(self, after: Booking) -> Booking:
        if after.state is State.SUCCEEDED:
            return replace(after, answer_bytes=self._codec.encode_answer(after))
        if after.state is State.DECLINED:
            return replace(after, status_bytes=self._codec.encode_error(refusal_of(after)))
        return after

    async def move(self, change: Change) -> Booking:
        """Writes a change, for as long as that may help, and tells everybody who waits."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._limits.settle_retry_s
        is_repeated = False
        while True:
            try:
                has_landed = await self._journal.change(change)
                break
            except LoyaltyError as error:
                if error.reason is not Reason.JOURNAL_UNAVAILABLE or loop.time() > give_up:
                    log.error(
                        "Booking %s could not be moved to %s: %s",
                        change.before.name,
                        change.after.state,
                        error.message,
                    )
                    return change.before
                is_repeated = True
                await asyncio.sleep(_SETTLE_RETRY_EVERY_S)
        after = change.after
        if not has_landed:
            try:
                found = await self._journal.find(after.tenant, booking_id=after.booking_id)
            except LoyaltyError as error:
                log.error("Booking %s could not be read again: %s", after.name, error.message)
                return change.before
            assert found is not None, "bookings are not deleted"
            # A commit whose answer was lost has landed all the same.
            is_ours = is_repeated and (found.epoch, found.state) == (after.epoch, after.state)
            if not is_ours:
                log.error(
                    "Booking %s was moved to %s by somebody else while %s was to be written",
                    found.name,
                    found.state,
                    after.state,
                )
            after = found
        self._count(change.before, after)
        metrics.booking_settled(
            after.connection, after.operation.value if after.operation else "", after.state.value
        )
        if after.state is State.NEEDS_REVIEW:
            log.error(
                "Booking %s needs review: %s", after.name, after.reason or "no machine can find out"
            )
        self._tell(after.booking_id)
        if self._recovery is not None and after.next_attempt_time is not None:
            self._recovery.wake(after.next_attempt_time)
        return after

    def _count(self, before: Booking, after: Booking) -> None:
        link = self._connections.find(after.connection)
        if link is not None:
            stands = (State.IN_DOUBT, State.NEEDS_REVIEW)
            link.unresolved_count += (after.state in stands) - (before.state in stands)

    # --- waiting for a doubt to end ---------------------------------------------------------

    def _tell(self, booking_id: str) -> None:
        for event in self._watchers.get(booking_id, ()):
            event.set()

    async def _watch(self, booking: Booking, deadline: float, *, is_kicked: bool) -> Booking:
        """Waits until the booking is settled or a person's, at most until the deadline.

        What moves in this process is told at once; what another replica moves is asked for.
        """
        event = asyncio.Event()
        watchers = self._watchers.setdefault(booking.booking_id, set())
        watchers.add(event)
        poll_s = _OTHERS_POLL_S if self._journal.is_shared else None
        loop = asyncio.get_running_loop()
        try:
            while True:
                # Read only now: what was told before this was registered is not told again.
                found = await self._journal.find(booking.tenant, booking_id=booking.booking_id)
                assert found is not None, "bookings are not deleted"
                booking = found
                if booking.state not in _UNSETTLED or loop.time() >= deadline:
                    break
                if is_kicked and self._recovery is not None and booking.state is State.IN_DOUBT:
                    self._recovery.kick(booking)
                    is_kicked = False
                until = deadline if poll_s is None else min(deadline, loop.time() + poll_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await event.wait()
                event.clear()
        except LoyaltyError as error:
            # It was sent, so "the journal cannot be asked" is no answer: still in doubt.
            if error.reason is not Reason.JOURNAL_UNAVAILABLE:
                raise
            log.warning("Booking %s could not be watched: %s", booking.name, error.message)
        finally:
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(booking.booking_id, None)
        return booking

    async def _answer_known(self, known: Booking, asked: Booking, call: BookingCall) -> Answer:
        """Answers a repeat while new bookings are refused; a doubt may still end meanwhile."""
        self._same_request(known, asked)
        if known.state in _UNSETTLED:
            known = await self._watch(known, call.deadline, is_kicked=True)
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

    # --- cancel and resolve -----------------------------------------------------------------

    async def find(self, tenant: str, key: BookingKey) -> Booking | None:
        """The booking with this id or request_id, or None."""
        return await self._journal.find(
            tenant, booking_id=key.booking_id, request_id=key.request_id
        )

    async def get(self, tenant: str, key: BookingKey) -> Booking:
        """Raises LoyaltyError NOT_FOUND, which proves nothing about the vendor."""
        found = await self.find(tenant, key)
        if found is None:
            raise LoyaltyError(
                Reason.NOT_FOUND,
                "There is no such booking (yet): its call may still arrive. CancelBooking with"
                " the request_id closes it for good.",
                request_id=key.request_id,
                booking=f"bookings/{key.booking_id}" if key.booking_id else "",
            )
        return found

    async def cancel(self, tenant: str, key: BookingKey, deadline: float) -> Booking:
        """Closes a request_id: nothing will be booked for it, or the truth is told.

        Raises:
            LoyaltyError: CANCEL_NOT_POSSIBLE with the true outcome where something was or may
                have been sent and the vendor has no undo; NOT_FOUND for an unknown name;
                TENANT_LIMITED for too many cancellations of unknown request_ids.
        """
        known = await self.find(tenant, key)
        if known is None:
            if not key.request_id:
                return await self.get(tenant, key)
            known = await self._entomb(tenant, key.request_id)
        for _ in range(8):
            if known.state is not State.RESERVED:
                break
            now = self._journal.now()
            closed = replace(
                known,
                state=State.NOT_EXECUTED,
                epoch=known.epoch + 1,
                next_attempt_time=None,
                settle_time=now,
            )
            change = Change(known, closed, actor="caller", note="CancelBooking")
            if await self._journal.change(change):
                self._tell(known.booking_id)
                return closed
            known = await self.get(tenant, BookingKey(booking_id=known.booking_id))
        if known.state in (State.NOT_EXECUTED, State.DECLINED, State.REVERSED, State.REVERSING):
            return known
        raise LoyaltyError(
            Reason.CANCEL_NOT_POSSIBLE,
            "This booking was sent, or may have been, and its vendor has no undo. Its outcome is"
            f" {known.outcome}; while that is not final, GetBooking tells when it is known.",
            fate=known.outcome,
            is_final=known.is_final,
            booking=known.name,
            request_id=known.request_id,
            connection=known.connection,
            provider=known.provider,
        )

    async def _entomb(self, tenant: str, request_id: str) -> Booking:
        """Takes an unknown request_id, so that its original finds it closed."""
        now = self._journal.now()
        count = await self._journal.count_tombstones(tenant, now - timedelta(hours=1))
        if count >= self._limits.tombstones_per_hour_max:
            raise LoyaltyError(
                Reason.TENANT_LIMITED,
                "Too many unknown request_ids were cancelled within an hour.",
                request_id=request_id,
                retry_after_s=60,
            )
        tombstone = Booking(
            tenant=tenant,
            booking_id=_uuid7(now),
            request_id=request_id,
            state=State.NOT_EXECUTED,
            create_time=now,
            reason=Reason.CANCELLED_BEFORE_ARRIVAL,
            settle_time=now,
        )
        opened = await self._journal.open(
            Opening(tombstone, actor="caller", note="CancelBooking before the original")
        )
        return opened.booking

    async def resolve(
        self,
        tenant: str,
        booking_id: str,
        decision: Decision | None,
        actor: str,
        deadline: float,
    ) -> Booking:
        """Records what a person found out, or (None) lets the machine ask once more now.

        Raises:
            LoyaltyError: RESOLUTION_NOT_POSSIBLE where the booking is not in doubt, where a
                step of recovery runs just now, or where no machine can ask.
        """
        known = await self.get(tenant, BookingKey(booking_id=booking_id))
        if decision is None:
            return await self._ask_now(known, actor, deadline)
        assert decision.outcome is not Fate.UNKNOWN, "the contract asks for one of two"
        if known.is_final and known.outcome is decision.outcome:
            return known
        is_busy = self._recovery is not None and self._recovery.is_busy(booking_id)
        if known.state not in (State.IN_DOUBT, State.NEEDS_REVIEW) or is_busy:
            raise _not_resolvable(
                known,
                "a step of recovery runs at this moment; repeat in a few seconds"
                if is_busy
                else f"it stands at {known.state}",
            )
        now = self._journal.now()
        note = redact(f"{decision.reason} (evidence: {decision.evidence})")
        after = replace(
            known,
            epoch=known.epoch + 1,
            owner="",
            lease_until=None,
            next_attempt_time=None,
            settle_time=now,
            state=State.SUCCEEDED if decision.outcome is Fate.EXECUTED else State.NOT_EXECUTED,
        )
        if after.state is State.SUCCEEDED:
            order = known.order
            assert order is not None, "a tombstone is final"
            evidence = Reference("operator-evidence", redact(decision.evidence)[:200])
            after = self._with_bytes(
                replace(
                    after,
                    reason=None,
                    applied=None if order.allow_partial else order.asked,
                    references=(*known.references, evidence),
                )
            )
        settled = await self.move(
            Change(
                known,
                after,
                actor=f"operator {actor}",
                note=note,
                holds_account=self._releases(known, after),
            )
        )
        if settled.epoch != after.epoch or settled.state is not after.state:
            raise _not_resolvable(settled, f"it has moved to {settled.state} meanwhile")
        return settled

    async def _ask_now(self, known: Booking, actor: str, deadline: float) -> Booking:
        if known.is_final:
            return known
        if known.state is State.NEEDS_REVIEW:
            link = self._connections.find(known.connection)
            now = self._journal.now()
            if link is None or not judge.may_resend(link.means(known), now):
                raise _not_resolvable(
                    known, "no machine can find out: resending is not allowed (any more)"
                )
            again = replace(
                known,
                state=State.IN_DOUBT,
                epoch=known.epoch + 1,
                recovery_mode=RecoveryMode.SAFE_RESEND,
                next_attempt_time=now,
            )
            known = await self.move(
                Change(
                    known,
                    again,
                    actor=f"operator {actor}",
                    note="asked for one more try",
                    holds_account=False,
                )
            )
        if known.state is State.IN_DOUBT:
            return await self._watch(known, deadline, is_kicked=True)
        return known

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
                    moved = await self.abandon(booking, "the process that sent it is gone")
                else:
                    freed = replace(
                        booking,
                        epoch=booking.epoch + 1,
                        owner="",
                        lease_until=None,
                        next_attempt_time=self._journal.now(),
                    )
                    moved = await self.move(
                        Change(booking, freed, "recovery", "the process that held it is gone")
                    )
                if moved.epoch == booking.epoch:
                    raise unavailable(RuntimeError("an orphaned booking could not be moved"))
            count += len(left)
        return count

    async def abandon(self, booking: Booking, why: str) -> Booking:
        """SENDING without an owner: the attempt has no end, so it proves nothing."""
        link = self._connections.find(booking.connection)
        now = self._journal.now()
        verdict = Verdict(StatusRow(Reason.INTERNAL), NO_END)
        means = link.means(booking) if link else judge.Means(RecoveryMode.MANUAL)
        after = judge.after_attempt(booking, verdict, now, means, self._policy)
        attempt = Attempt(
            number=booking.attempt_count,
            kind=AttemptKind.SEND,
            start_time=booking.sent_time or booking.create_time,
            reason=verdict.status.reason,
            rule=verdict.rule,
        )
        holds = after.state is State.NEEDS_REVIEW and means.mode is RecoveryMode.MANUAL
        return await self.move(
            Change(
                booking,
                after,
                "recovery",
                note=why,
                attempt=attempt,
                holds_account=True if holds else None,
            )
        )

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


class _Where(TypedDict):
    connection: str
    provider: str


def _at(link: Link) -> _Where:
    return {"connection": link.connection, "provider": link.adapter.provider}


def _not_sent(reason: Reason, rule: str) -> Verdict:
    return Verdict(StatusRow(reason, Fate.NOT_EXECUTED), rule, retry_after_s=1)


def _ended(before: Booking, kind: AttemptKind, verdict: Verdict, now: datetime) -> Attempt:
    """The attempt that was running, as it is kept for people."""
    status = verdict.status
    return Attempt(
        number=before.attempt_count,
        kind=kind,
        start_time=before.sent_time or now,
        end_time=now,
        fate=status.fate,
        proves=status.proves,
        reason=None if verdict.receipt else status.reason,
        http_status=verdict.http_status,
        provider_code=verdict.provider_code,
        rule=verdict.rule,
        request_text=verdict.request_text,
        answer_text=verdict.answer_text,
    )


def _not_resolvable(booking: Booking, why: str) -> LoyaltyError:
    return LoyaltyError(
        Reason.RESOLUTION_NOT_POSSIBLE,
        f"This booking cannot be resolved now: {why}.",
        fate=booking.outcome,
        is_final=booking.is_final,
        booking=booking.name,
        request_id=booking.request_id,
        connection=booking.connection,
        provider=booking.provider,
    )


def _uuid7(now: datetime) -> str:
    """A UUID version 7: sorts by the time it was made (RFC 9562)."""
    milliseconds = int(now.timestamp()) * 1000 + now.microsecond // 1000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))
