"""One try at the vendor, and what the journal is told of its end; the only way a state is moved."""

import asyncio
import logging
from dataclasses import replace
from datetime import datetime

from loyalty_gateway.booking import judge
from loyalty_gateway.booking.answers import refusal_of
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.judge import Policy, Verdict
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.watching import Watchers
from loyalty_gateway.domain.booking import AnswerCodec, Attempt, AttemptKind, Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import RecoveryMode
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.writer import Change
from loyalty_gateway.providers.port import Book, ProviderError, Send, StatusRow
from loyalty_gateway.telemetry import metrics
from loyalty_gateway.telemetry.redaction import redact
from loyalty_gateway.telemetry.spans import SpanHandle

log = logging.getLogger(__name__)

_SETTLE_RETRY_EVERY_S = 0.25

NO_END = "the attempt has no recorded end"
"""The rule shown for an attempt whose process was gone before it ended."""


class Settling:
    """What flights, recovery and operators share: attempts, their judgement, and moves."""

    def __init__(
        self,
        journal: Journal,
        connections: Connections,
        codec: AnswerCodec,
        watchers: Watchers,
        limits: Limits,
        policy: Policy,
    ) -> None:
        self._journal = journal
        self._connections = connections
        self._codec = codec
        self._watchers = watchers
        self._limits = limits
        self._policy = policy

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
            after = self.with_bytes(after)
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
            holds_account=True if holds else releases(before, after),
        )

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
                holds_account=releases(found, known),
            )
        )

    def with_bytes(self, after: Booking) -> Booking:
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
        self._watchers.tell(after.booking_id)
        if after.next_attempt_time is not None:
            self._watchers.due(after.next_attempt_time)
        return after

    def _count(self, before: Booking, after: Booking) -> None:
        link = self._connections.find(after.connection)
        if link is not None:
            stands = (State.IN_DOUBT, State.NEEDS_REVIEW)
            link.unresolved_count += (after.state in stands) - (before.state in stands)

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


def releases(before: Booking, after: Booking) -> bool | None:
    """What a move does to a hold that came with a review: it goes with it."""
    was_held = before.state is State.NEEDS_REVIEW
    return False if was_held and after.state is not State.NEEDS_REVIEW else None


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
