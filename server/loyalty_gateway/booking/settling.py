"""What the journal is told of an attempt's end, and with which bytes it is answered."""

import logging
from dataclasses import dataclass, replace
from datetime import datetime

from loyalty_gateway.booking import findings, judge
from loyalty_gateway.booking.answers import adapters_words, refusal_of
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.judge import Means, Policy, Verdict
from loyalty_gateway.booking.moves import Moves, is_same_attempt
from loyalty_gateway.booking.sealed import Sealed
from loyalty_gateway.booking.story import pause_words
from loyalty_gateway.booking.undo import (
    is_reversible,
    stands,
    undoes,
)
from loyalty_gateway.domain.booking import AnswerCodec, Attempt, AttemptKind, Booking, State
from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import Receipt
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.providers.port import Finding, StatusRow
from loyalty_gateway.telemetry.redaction import redact
from loyalty_gateway.telemetry.spans import SpanHandle

log = logging.getLogger(__name__)

_TOGETHER_MAX = 8

NO_END = "the attempt has no recorded end"
"""The rule shown for an attempt whose process was gone before it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt came to its end: who made it, of which kind, and in which span."""

    link: Link
    actor: str
    kind: AttemptKind
    span: SpanHandle
    undoes_doubt: bool = False
    """Whether the booking undoes one that may never have been executed."""


class Settling:
    """What flights, recovery and operators share: judgement, and the answers' bytes."""

    def __init__(
        self,
        journal: Journal,
        connections: Connections,
        codec: AnswerCodec,
        sealed: Sealed,
        moves: Moves,
        policy: Policy,
    ) -> None:
        self._journal = journal
        self._connections = connections
        self._codec = codec
        self._sealed = sealed
        self._moves = moves
        self._policy = policy

    # --- the end of an attempt ----------------------------------------------------------------

    async def settle(self, before: Booking, verdict: Verdict, ending: Ending) -> Booking:
        """Write 2: judges the attempt and stores its end, with the bytes that answer it.

        Returns what the journal holds afterwards; `before` itself where it could not be
        written, which the lease then brings back.
        """
        for _ in range(_TOGETHER_MAX):
            settled = await self._settle_once(before, verdict, ending)
            if settled is before or not is_same_attempt(before, settled):
                break
            # Somebody noted a wish about it meanwhile, a cancellation, say: judged once more.
            before = settled
        span = ending.span
        span.event("booking.settled", {"loyalty.state": settled.state.value})
        span.set({"loyalty.state": settled.state.value, "loyalty.outcome": settled.outcome.value})
        if settled.reason is not None:
            span.set({"loyalty.reason": settled.reason.value})
        if settled.outcome is Fate.UNKNOWN:
            span.fail(settled.reason.value if settled.reason else "UNKNOWN")
        return settled

    async def _settle_once(self, before: Booking, verdict: Verdict, ending: Ending) -> Booking:
        now = self._journal.now()
        means = replace(ending.link.means(before), undoes_doubt=ending.undoes_doubt)
        receipt = verdict.receipt
        try:
            after = judge.after_attempt(before, verdict, now, means, self._policy)
            words = adapters_words(verdict.status.reason, verdict.message)
            after = self.with_bytes(after, receipt, words)
        except Exception:
            # Whatever is wrong with us, the vendor may have booked: doubt, never "failed".
            log.exception("Booking %s could not be judged", before.name)
            verdict = replace(verdict, status=StatusRow(Reason.INTERNAL), receipt=None)
            after = judge.after_attempt(before, verdict, now, means, self._policy)
        attempt = _ended(before, ending.kind, verdict, now)
        try:
            note = pause_words(after)
            settled = await self._moves.move(
                self._moves.change(before, after, means, ending.actor, attempt, note)
            )
        except Exception:
            # The row was refused, so something in it came from outside and cannot be stored.
            log.exception("The end of booking %s could not be stored", before.name)
            verdict = Verdict(StatusRow(Reason.INTERNAL), "the answer could not be stored")
            after = judge.after_attempt(before, verdict, now, means, self._policy)
            attempt = _ended(before, ending.kind, verdict, now)
            settled = await self._moves.move(
                self._moves.change(before, after, means, ending.actor, attempt)
            )
        is_late = settled.state in (State.IN_DOUBT, State.NEEDS_REVIEW)
        if receipt is not None and is_late and not is_same_attempt(before, settled):
            settled = await self._hear_late(settled, after, receipt, attempt, means)
        return settled

    async def _hear_late(
        self,
        found: Booking,
        after: Booking,
        receipt: Receipt,
        attempt: Attempt,
        means: Means,
    ) -> Booking:
        """The vendor confirmed what somebody else, meanwhile, had to take for a doubt."""
        is_confirmed = after.state in (State.SUCCEEDED, State.REVERSING)
        if not is_confirmed or found.epoch < after.epoch or found.reason is CONTRADICTED:
            return found
        ended = replace(
            found,
            epoch=found.epoch + 1,
            owner="",
            attempt_open=False,
            lease_until=None,
            next_attempt_time=None,
            provider_code=after.provider_code,
        )
        known = judge.executed(ended, receipt, self._journal.now(), means)
        known = self.with_bytes(known, receipt)
        note = "the vendor's answer came after the lease had ended"
        return await self._moves.move(
            self._moves.change(found, known, means, "caller", attempt, note)
        )

    def with_bytes(
        self, after: Booking, receipt: Receipt | None = None, words: str = ""
    ) -> Booking:
        """The booking with what answers it from now on; what was told once is never made anew."""
        if after.state is State.DECLINED:
            return replace(after, status_bytes=self._codec.encode_error(refusal_of(after, words)))
        if after.state not in (State.SUCCEEDED, State.REVERSING) or after.answer_bytes is not None:
            return after
        card = receipt.card if receipt is not None else None
        if card is not None and card.account_id and not after.account_hash:
            after = replace(after, created=self._sealed.created(after, card.account_id))
        # What is being undone is kept as the answer of the day that it stands after all.
        told = replace(stands(after, self._journal.now()), epoch=after.epoch)
        link = self._connections.find(after.connection)
        told = replace(told, is_reversible=is_reversible(told, link))
        answer = self._codec.encode_answer(told, receipt)
        private = b"" if receipt is None else self._codec.encode_private(told, receipt)
        return replace(
            after,
            answer_bytes=answer,
            answer_sealed=self._sealed.seal_answer(after, private),
        )

    # --- the answer to a question ---------------------------------------------------------------

    async def settle_finding(
        self, before: Booking, found: Finding | Verdict, began: datetime, link: Link
    ) -> Booking:
        """What a question brought, stored as an attempt that has no effect of its own."""
        now = self._journal.now()
        means = link.means(before)
        if isinstance(found, Verdict):
            after = judge.after_no_answer(before, found, now, means, self._policy)
            receipt = None
        else:
            references = [
                it.receipt.references[0] for it in found.candidates if it.receipt.references
            ]
            taken = await self._journal.taken_by_others(before, references)
            after = findings.after_finding(
                before, found, began, now, means, self._policy, taken=taken
            )
            receipt = next(
                (
                    it.receipt
                    for it in found.candidates
                    if after.references and it.receipt.references == after.references
                ),
                found.candidates[0].receipt if len(found.candidates) == 1 else None,
            )
        after = self.with_bytes(replace(after, attempt_count=before.attempt_count + 1), receipt)
        attempt = _asked(after, found, began, now)
        return await self._moves.move(self._moves.change(before, after, means, "recovery", attempt))

    async def abandon(self, booking: Booking, why: str) -> Booking:
        """SENDING without an owner: the attempt has no end, so it proves nothing."""
        now = self._journal.now()
        verdict = Verdict(StatusRow(Reason.INTERNAL), NO_END)
        means = self._moves.means_of(booking)
        after = judge.after_attempt(booking, verdict, now, means, self._policy)
        attempt = Attempt(
            number=booking.attempt_count,
            kind=AttemptKind.SEND,
            start_time=booking.sent_time or booking.create_time,
            reason=verdict.status.reason,
            rule=verdict.rule,
        )
        return await self._moves.move(
            self._moves.change(booking, after, means, "recovery", attempt, why)
        )

    # --- as it is shown -------------------------------------------------------------------------

    async def shown(self, bookings: tuple[Booking, ...]) -> tuple[Booking, ...]:
        """The bookings with what stands elsewhere: their undos, and whether one is possible."""
        names: dict[str, list[str]] = {}
        for booking in bookings:
            names.setdefault(booking.tenant, []).append(booking.name)
        undos: dict[str, list[str]] = {}
        for tenant, originals in names.items():
            for following in await self._journal.following(tenant, originals):
                if undoes(following):
                    undos.setdefault(following.original_booking, []).append(following.name)
        return tuple(
            replace(
                booking,
                undo_bookings=tuple(undos.get(booking.name, ())),
                is_reversible=is_reversible(booking, self._connections.find(booking.connection)),
            )
            for booking in bookings
        )


CONTRADICTED = Reason.PROVIDER_KEY_CONFLICT
"""The reason of what another booking's reference contradicts."""


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
        reason=None if status.fate is Fate.EXECUTED else status.reason,
        http_status=verdict.http_status,
        provider_code=verdict.provider_code,
        rule=verdict.rule,
        request_text=verdict.request_text,
        answer_text=verdict.answer_text,
    )


_ASKED: dict[State, Fate] = {
    State.SUCCEEDED: Fate.EXECUTED,
    State.REVERSING: Fate.EXECUTED,
    State.DECLINED: Fate.NOT_EXECUTED,
    State.NOT_EXECUTED: Fate.NOT_EXECUTED,
    State.RESERVED: Fate.NOT_EXECUTED,
}
"""What a question showed, by where it brought the booking; everything else proves nothing."""


def _asked(after: Booking, found: Finding | Verdict, began: datetime, now: datetime) -> Attempt:
    """A question, as it is kept for people."""
    kept = Attempt(
        number=after.attempt_count,
        kind=AttemptKind.ASK,
        start_time=began,
        end_time=now,
        http_status=found.http_status,
        rule=found.rule or _rule_of(found),
        request_text=redact(found.request_text),
        answer_text=redact(found.answer_text),
    )
    if isinstance(found, Verdict):
        return replace(kept, reason=found.status.reason, provider_code=found.provider_code)
    fate = _ASKED.get(after.state, Fate.UNKNOWN)
    is_shown = fate is not Fate.UNKNOWN
    return replace(kept, fate=fate, proves=Proves.WHOLE_BOOKING if is_shown else kept.proves)


def _rule_of(found: Finding | Verdict) -> str:
    if isinstance(found, Verdict):
        return "no answer"
    if found.is_pending:
        return "the vendor still works on it"
    if found.is_refused:
        return "the vendor did not execute it"
    return f"{len(found.candidates)} found" if found.candidates else "not found"
