"""What the journal is told of an attempt's end; the only way to move a booking's state."""

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from loyalty_gateway import failpoints
from loyalty_gateway.booking import findings, judge
from loyalty_gateway.booking.answers import adapters_words, refusal_of
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.holds import hold_after
from loyalty_gateway.booking.judge import Means, Policy, Verdict
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.sealed import Sealed
from loyalty_gateway.booking.undo import (
    begun,
    followed,
    is_live,
    is_reversible,
    refusal_to_undo,
    stands,
    undoes,
)
from loyalty_gateway.booking.watching import Watchers
from loyalty_gateway.domain.booking import AnswerCodec, Attempt, AttemptKind, Booking, Intent, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Proves, Reason
from loyalty_gateway.domain.operations import Receipt, Reference
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.writer import Change
from loyalty_gateway.providers.port import Finding, StatusRow
from loyalty_gateway.telemetry import metrics
from loyalty_gateway.telemetry.redaction import redact
from loyalty_gateway.telemetry.spans import SpanHandle

log = logging.getLogger(__name__)

_SETTLE_RETRY_EVERY_S = 0.25
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
    """What flights, recovery and operators share: judgement, and moves."""

    def __init__(
        self,
        journal: Journal,
        connections: Connections,
        codec: AnswerCodec,
        sealed: Sealed,
        watchers: Watchers,
        limits: Limits,
        policy: Policy,
    ) -> None:
        self._journal = journal
        self._connections = connections
        self._codec = codec
        self._sealed = sealed
        self._watchers = watchers
        self._limits = limits
        self._policy = policy

    # --- the end of an attempt ----------------------------------------------------------------

    async def settle(self, before: Booking, verdict: Verdict, ending: Ending) -> Booking:
        """Write 2: judges the attempt and stores its end, with the bytes that answer it.

        Returns what the journal holds afterwards; `before` itself where it could not be
        written, which the lease then brings back.
        """
        for _ in range(_TOGETHER_MAX):
            settled = await self._settle_once(before, verdict, ending)
            if settled is before or not _is_same_attempt(before, settled):
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
            settled = await self.move(self._change(before, after, means, ending.actor, attempt))
        except Exception:
            # The row was refused, so something in it came from outside and cannot be stored.
            log.exception("The end of booking %s could not be stored", before.name)
            verdict = Verdict(StatusRow(Reason.INTERNAL), "the answer could not be stored")
            after = judge.after_attempt(before, verdict, now, means, self._policy)
            attempt = _ended(before, ending.kind, verdict, now)
            settled = await self.move(self._change(before, after, means, ending.actor, attempt))
        if receipt is not None and settled.state in (State.IN_DOUBT, State.NEEDS_REVIEW):
            settled = await self._hear_late(settled, after, receipt, attempt, means)
        return settled

    def _change(
        self,
        before: Booking,
        after: Booking,
        means: Means,
        actor: str,
        attempt: Attempt | None,
        note: str = "",
    ) -> Change:
        """A move with what belongs to it: the hold on the account, the claim of the reference."""
        return Change(
            before,
            after,
            actor,
            note,
            attempt=attempt,
            holds_account=hold_after(before, after, means),
            claims=_claim(before, after),
        )

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
        return await self.move(self._change(found, known, means, "caller", attempt, note))

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
        return await self.move(self._change(before, after, means, "recovery", attempt))

    # --- moves ----------------------------------------------------------------------------------

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
            if not is_ours and _is_same_attempt(change.before, found):
                return found
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
        if undoes(after) and is_live(change.before) and not is_live(after):
            # First, so that whoever hears of an undo finds its original where it belongs.
            await self._follow(after)
        self._watchers.tell(after.booking_id)
        if after.next_attempt_time is not None:
            self._watchers.due(after.next_attempt_time)
        return after

    async def _follow(self, undo: Booking) -> None:
        """An undo has ended, and with it what it was to undo; else recovery finds it later."""
        failpoints.hit("undo-settled")
        try:
            for _ in range(_TOGETHER_MAX):
                original = await self._sealed.find_original(undo)
                assert original is not None, "an undo is opened for what is in the journal"
                ended = followed(original, undo, self._journal.now(), self._policy)
                if ended is None:
                    return
                after, note = ended
                means = self._means_of(original)
                moved = await self.move(
                    self._change(original, after, means, "undo", attempt=None, note=note)
                )
                if moved.epoch == after.epoch and moved.state is after.state:
                    failpoints.hit("undo-followed")
                    return
        except LoyaltyError as error:
            log.warning("The original of %s has to wait: %s", undo.name, error.message)

    # --- undo and giving up ---------------------------------------------------------------------

    async def begin_undo(self, original: Booking | None, undo: Booking) -> LoyaltyError | None:
        """SUCCEEDED -> REVERSING, on disk before the undo itself is; or why it may not be.

        Whoever moves it so is the only one to open an undo, until this one has ended.
        """
        assert original is not None, "an undo has an original"
        failpoints.hit("undo-beginning")
        while True:
            refusal = refusal_to_undo(original)
            if refusal is not None:
                return refusal
            lease_until = self._journal.now() + timedelta(seconds=self._limits.lease_s)
            after = begun(original, self._journal.boot_id, lease_until)
            note = f"by {undo.name}, for the caller"
            if await self._journal.change(Change(original, after, "caller", note)):
                self._count(original, after)
                self._watchers.tell(original.booking_id)
                failpoints.hit("undo-begun")
                return None
            original = await self._read(original)

    async def end_undo(self, original: Booking | None, why: str) -> None:
        """Takes back what begin_undo did, where no undo came of it."""
        assert original is not None, "an undo has an original"
        found = await self._read(original)
        if found.state is State.REVERSING and found.owner == self._journal.boot_id:
            after = stands(found, self._journal.now())
            await self.move(self._change(found, after, self._means_of(found), "caller", None, why))

    async def give_up(self, tenant: str, request_id: str, why: str) -> Booking | None:
        """Notes that the caller relies on the undo of a doubt; what the journal holds then."""
        found = await self._journal.find(tenant, request_id=request_id)
        while found is not None and found.state in (State.SENDING, State.IN_DOUBT):
            if found.cancel_requested:
                return found
            found = await self.wish_away(found, "caller", why)
        return found

    async def wish_away(self, booking: Booking, actor: str, why: str) -> Booking:
        """Notes the intent CANCEL of what may have been sent; what the journal holds then."""
        after = replace(booking, intent=Intent.CANCEL, epoch=booking.epoch + 1)
        if not booking.attempt_open:
            # Nobody is at the vendor with it, so recovery may go on from here at once.
            after = replace(
                after, owner="", lease_until=None, next_attempt_time=self._journal.now()
            )
        if await self._journal.change(Change(booking, after, actor, why)):
            self._watchers.tell(after.booking_id)
            if not after.attempt_open and after.next_attempt_time is not None:
                self._watchers.due(after.next_attempt_time)
            return after
        return await self._read(booking)

    async def _read(self, booking: Booking) -> Booking:
        found = await self._journal.find(booking.tenant, booking_id=booking.booking_id)
        assert found is not None, "bookings are not deleted"
        return found

    async def decide(self, original: Booking, after: Booking, note: str) -> Booking:
        """Moves what is being undone on, as recovery has decided."""
        means = self._means_of(original)
        return await self.move(
            self._change(original, after, means, "recovery", attempt=None, note=note)
        )

    async def park(
        self, booking: Booking, actor: str, why: str, attempt: Attempt | None = None
    ) -> Booking:
        """Hands a booking to a person."""
        after = replace(
            booking,
            state=State.NEEDS_REVIEW,
            epoch=booking.epoch + 1,
            owner="",
            lease_until=None,
            next_attempt_time=None,
        )
        # Nobody can find out, so another booking on the account would hide the truth.
        holds = bool(after.account_hash) and not undoes(after)
        return await self.move(
            Change(booking, after, actor, why, attempt, holds_account=holds or None)
        )

    def _means_of(self, booking: Booking) -> Means:
        link = self._connections.find(booking.connection)
        return link.means(booking) if link else Means()

    def change(self, before: Booking, after: Booking, actor: str, note: str) -> Change:
        """An operator's or a caller's move; their word claims no reference of the vendor's."""
        change = self._change(before, after, self._means_of(before), actor, None, note)
        return replace(change, claims=None)

    def _count(self, before: Booking, after: Booking) -> None:
        link = self._connections.find(after.connection)
        if link is not None:
            stands = (State.IN_DOUBT, State.NEEDS_REVIEW, State.REVERSING)
            link.unresolved_count += (after.state in stands) - (before.state in stands)

    async def abandon(self, booking: Booking, why: str) -> Booking:
        """SENDING without an owner: the attempt has no end, so it proves nothing."""
        now = self._journal.now()
        verdict = Verdict(StatusRow(Reason.INTERNAL), NO_END)
        means = self._means_of(booking)
        after = judge.after_attempt(booking, verdict, now, means, self._policy)
        attempt = Attempt(
            number=booking.attempt_count,
            kind=AttemptKind.SEND,
            start_time=booking.sent_time or booking.create_time,
            reason=verdict.status.reason,
            rule=verdict.rule,
        )
        return await self.move(self._change(booking, after, means, "recovery", attempt, why))

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


def _claim(before: Booking, after: Booking) -> Reference | None:
    """The vendor's reference that becomes this booking's with the move, if any."""
    known = (State.SUCCEEDED, State.REVERSING)
    is_new = after.state in known and before.state not in known
    return after.references[0] if is_new and after.references else None


def _is_same_attempt(before: Booking, found: Booking) -> bool:
    """Whether the attempt that was running still runs, though somebody changed the row."""
    return (
        found.attempt_open
        and found.epoch > before.epoch
        and (found.state, found.attempt_count, found.owner)
        == (before.state, before.attempt_count, before.owner)
    )


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
