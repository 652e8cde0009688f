"""One step of recovery: the next thing that may be done for a booking nobody works on.

It sends again only what the vendor's own rules make the same booking, asks where it may ask,
undoes what was given up, and hands the rest to a person.
"""

import logging
from dataclasses import replace
from datetime import datetime, timedelta

from loyalty_gateway import failpoints
from loyalty_gateway.booking import judge
from loyalty_gateway.booking.attempts import Attempts
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.drafts import Drafts
from loyalty_gateway.booking.judge import Policy, Verdict
from loyalty_gateway.booking.moves import Moves
from loyalty_gateway.booking.sealed import Sealed
from loyalty_gateway.booking.settling import NO_END, Ending, Settling
from loyalty_gateway.booking.undo import decided, undoes
from loyalty_gateway.domain.booking import Attempt, AttemptKind, Booking, Intent, State
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import Order, RecoveryMode
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.writer import Change, Opening, unavailable
from loyalty_gateway.providers.port import Question, Send
from loyalty_gateway.telemetry import metrics
from loyalty_gateway.telemetry.spans import booking_span

log = logging.getLogger(__name__)

_WHILE_PAUSED_S = 60.0
_ELSEWHERE = "it was sent to another target, and whether there is anything to undo is not told here"


class Steps:
    """What recovery does with a booking, by its state."""

    def __init__(
        self,
        journal: Journal,
        connections: Connections,
        drafts: Drafts,
        sealed: Sealed,
        attempts: Attempts,
        moves: Moves,
        settling: Settling,
        policy: Policy,
        lease_s: float,
    ) -> None:
        self._journal = journal
        self._connections = connections
        self._drafts = drafts
        self._sealed = sealed
        self._attempts = attempts
        self._moves = moves
        self._settling = settling
        self._policy = policy
        self._lease_s = lease_s

    async def take(self, booking: Booking) -> None:
        """The next step of a booking that is due, or that somebody waits for."""
        match booking.state:
            case State.RESERVED if booking.is_own_undo:
                await self._send_own_undo(booking)
            case State.RESERVED:
                await self._close(booking, "nobody repeated it, and nothing was booked")
            case State.SENDING:
                await self._settling.abandon(booking, "its lease ran out without an end")
            case State.IN_DOUBT:
                await self._find_out(booking)
            case State.REVERSING:
                await self._undo(booking)
            case state:
                raise AssertionError(f"{state} has no step of recovery")

    async def adopt(self, tenant: str) -> int:
        """Takes over what an earlier process left, where no other process can be its owner.

        In a shared journal the lease decides instead: nobody knows whether the owner is dead.
        """
        if self._journal.is_shared:
            return 0
        count, after = 0, ""
        failpoints.hit("adopting")
        while True:
            left, after = await self._journal.orphans(tenant, 200, after)
            for booking in left:
                if booking.state is State.SENDING:
                    why = "the process that sent it is gone"
                    moved = await self._settling.abandon(booking, why)
                else:
                    freed = self._freed(booking, self._journal.now())
                    moved = await self._moves.move(
                        Change(booking, freed, "recovery", "the process that held it is gone")
                    )
                if moved.epoch == booking.epoch:
                    raise unavailable(RuntimeError("an orphaned booking could not be moved"))
            count += len(left)
            if not after:
                return count

    async def release(self, booking: Booking) -> None:
        """Gives back a claim whose step failed, so that it need not wait for the lease's end."""
        wait = timedelta(seconds=self._policy.wait_s(booking.recovery_tries, booking.booking_id))
        freed = self._freed(booking, self._journal.now() + wait)
        await self._journal.change(Change(booking, freed, "recovery", "its step failed"))

    @staticmethod
    def _freed(booking: Booking, due: datetime) -> Booking:
        return replace(
            booking,
            epoch=booking.epoch + 1,
            owner="",
            lease_until=None,
            next_attempt_time=due,
        )

    async def _close(self, booking: Booking, why: str) -> None:
        now = self._journal.now()
        closed = replace(
            booking,
            state=State.NOT_EXECUTED,
            epoch=booking.epoch + 1,
            owner="",
            lease_until=None,
            next_attempt_time=None,
            settle_time=now,
        )
        await self._moves.move(Change(booking, closed, "recovery", why))

    # --- a doubt ------------------------------------------------------------------------------

    async def _find_out(self, booking: Booking) -> None:
        link = self._connections.find(booking.connection)
        now = self._journal.now()
        unended: Attempt | None = None
        if booking.attempt_open:
            # Whoever sent it is gone: that resend has no end, and may still have its effect.
            unended = Attempt(
                number=booking.attempt_count,
                kind=AttemptKind.RESEND,
                start_time=booking.sent_time or now,
                reason=Reason.INTERNAL,
                rule=NO_END,
            )
            booking = replace(booking, attempt_open=False, doubt_time=now)
        if link is None:
            why = "its connection is not configured any more"
            await self._give_up(booking, why, unended)
            return
        if link.is_paused:
            later = self._freed(booking, now + timedelta(seconds=_WHILE_PAUSED_S))
            await self._moves.move(
                Change(booking, later, "recovery", "connection is paused", unended)
            )
            return
        match judge.mode_now(booking, link.means(booking), now, self._policy):
            case RecoveryMode.SAFE_RESEND:
                await self._resend(booking, link, now, unended)
            case RecoveryMode.STATUS_QUERY | RecoveryMode.STATEMENT_MATCH as mode:
                await self._ask(booking, link, mode, now, unended)
            case RecoveryMode.REVERSE:
                await self._reverse(booking, link, now, unended)
            case RecoveryMode.MANUAL:
                await self._give_up(booking, "no way to find out is open (any more)", unended)

    async def _resend(
        self, booking: Booking, link: Link, now: datetime, unended: Attempt | None
    ) -> None:
        order = await self._open_order(booking, unended)
        if order is None:
            return
        undoes_doubt = await self._undoes_doubt(booking)
        claimed = self._claimed(booking, now)
        change = Change(booking, claimed, "recovery", "sends it again under the same id", unended)
        failpoints.hit("recovery-claimed")
        if await self._journal.change(change):
            await self._send(claimed, order, link, AttemptKind.RESEND, undoes_doubt=undoes_doubt)

    async def _undoes_doubt(self, booking: Booking) -> bool:
        """Whether it is an undo of what may never have been booked."""
        if not undoes(booking):
            return False
        original = await self._sealed.find_original(booking)
        return original is not None and original.answer_bytes is None

    def _claimed(self, booking: Booking, now: datetime) -> Booking:
        """The booking with one more attempt that is about to begin."""
        lease_until = now + timedelta(seconds=self._lease_s)
        return replace(
            booking,
            epoch=booking.epoch + 1,
            owner=self._journal.boot_id,
            lease_until=lease_until,
            next_attempt_time=lease_until,
            attempt_count=booking.attempt_count + 1,
            # Counted before it is sent: a crash from here on leaves one more doubt, not less.
            doubtful_attempts=booking.doubtful_attempts + 1,
            attempt_open=True,
            sent_time=now,
            # What was not found before may be there from now on; an undo that found nothing to
            # undo is another matter.
            not_found_times=booking.not_found_times if undoes(booking) else (),
        )

    async def _send(
        self,
        claimed: Booking,
        order: Order,
        link: Link,
        kind: AttemptKind,
        *,
        undoes_doubt: bool = False,
    ) -> Booking:
        attributes: dict[str, str | int | bool] = {
            "loyalty.booking": claimed.name,
            "loyalty.connection": claimed.connection,
            "loyalty.provider": claimed.provider,
            "loyalty.attempt": claimed.attempt_count,
        }
        with booking_span("booking.recovery", attributes, link_to=claimed.trace_parent) as span:
            send = Send(order, claimed.outbound_id, claimed.attempt_count)
            verdict = await self._attempts.attempt(link, send, span)
            failpoints.hit("recovery-answered")
            if judge.shows_earlier(claimed, verdict.status):
                verdict = await self._with_details(claimed, order, link, verdict)
            ending = Ending(
                link=link, actor="recovery", kind=kind, span=span, undoes_doubt=undoes_doubt
            )
            settled = await self._settling.settle(claimed, verdict, ending)
        metrics.recovery_finished(claimed.connection, settled.state.value)
        return settled

    async def _with_details(
        self, booking: Booking, order: Order, link: Link, verdict: Verdict
    ) -> Verdict:
        """A duplicate shows that the booking was executed; what it is called is asked for."""
        offer = link.find_offer(booking)
        if offer is None or offer.ask is None or booking.first_sent_time is None:
            return verdict
        question = Question(order, booking.outbound_id, booking.first_sent_time)
        finding = await self._attempts.ask(link, offer, question)
        if isinstance(finding, Verdict):
            return verdict
        certain = [it.receipt for it in finding.candidates if it.is_certain]
        fits = len(certain) == 1 and judge.echo_fits(booking, certain[0], link.means(booking))
        return replace(verdict, receipt=certain[0]) if fits else verdict

    async def _ask(
        self,
        booking: Booking,
        link: Link,
        mode: RecoveryMode,
        now: datetime,
        unended: Attempt | None,
    ) -> None:
        order = await self._open_order(booking, unended)
        if order is None:
            return
        if unended is not None:
            # On disk before the question: what it brings is an attempt of its own.
            noted = replace(booking, epoch=booking.epoch + 1)
            change = Change(booking, noted, "recovery", "its attempt was cut short", unended)
            if not await self._journal.change(change):
                return
            booking = noted
        offer = link.find_offer(booking)
        assert offer is not None and booking.first_sent_time is not None, "it was sent once"
        attributes: dict[str, str | int | bool] = {
            "loyalty.booking": booking.name,
            "loyalty.connection": booking.connection,
            "loyalty.provider": booking.provider,
            "loyalty.recovery_mode": mode.value,
        }
        with booking_span("booking.recovery", attributes, link_to=booking.trace_parent) as span:
            began = self._journal.now()
            question = Question(order, booking.outbound_id, booking.first_sent_time)
            finding = await self._attempts.ask(link, offer, question)
            failpoints.hit("recovery-answered")
            settled = await self._settling.settle_finding(booking, finding, began, link)
            span.set({"loyalty.state": settled.state.value})
        metrics.recovery_finished(booking.connection, settled.state.value)

    async def _reverse(
        self, booking: Booking, link: Link, now: datetime, unended: Attempt | None
    ) -> None:
        """The doubt is not found out but undone, once nothing of it can still be carried out."""
        settled = judge.settled_time(booking, link.means(booking), self._policy)
        if settled is not None and now < settled:
            is_claimed = booking.lease_until is not None
            if is_claimed or unended is not None or booking.next_attempt_time != settled:
                later = self._freed(booking, settled)
                why = "waits until it can be undone"
                await self._moves.move(Change(booking, later, "recovery", why, unended))
            return
        undone = replace(
            self._freed(booking, now),
            state=State.REVERSING,
            intent=Intent.CANCEL,
            recovery_mode=RecoveryMode.REVERSE,
            recovery_tries=0,
        )
        await self._moves.move(
            Change(booking, undone, "recovery", "undone by its own number", unended)
        )

    async def _open_order(self, booking: Booking, unended: Attempt | None) -> Order | None:
        try:
            return await self._sealed.order_of(booking)
        except LookupError as error:
            await self._give_up(booking, f"it cannot be opened any more: {error}", unended)
            return None

    async def _give_up(self, booking: Booking, why: str, unended: Attempt | None = None) -> None:
        await self._moves.park(booking, "recovery", why, unended)
        metrics.recovery_finished(booking.connection, State.NEEDS_REVIEW.value)

    # --- an undo --------------------------------------------------------------------------------

    async def _undo(self, original: Booking) -> None:
        """The next step of what is being undone: wait for its undo, follow it, or open one."""
        following = await self._journal.following(original.tenant, [original.name])
        undos = [it for it in following if undoes(it)]
        step = decided(original, undos, self._journal.now(), self._policy)
        if step is not None:
            await self._moves.decide(original, *step)
            return
        link = self._connections.find(original.connection)
        if link is not None and link.is_paused:
            later = self._freed(original, self._journal.now() + timedelta(seconds=_WHILE_PAUSED_S))
            await self._moves.decide(original, later, "connection is paused")
            return
        if link is not None and _is_elsewhere(original, link):
            await self._give_up(original, _ELSEWHERE)
            return
        try:
            draft = await self._drafts.undo_of(original)
        except LookupError as error:
            await self._give_up(original, f"it cannot be undone: {error}")
            return
        if draft.offer.prepare is not None:
            prepared = await self._attempts.prepare(draft.link, draft.offer, draft.order)
            if isinstance(prepared, Verdict):
                await self.release(original)
                return
            draft = replace(draft, order=replace(draft.order, prepared=prepared))
        draft = self._drafts.again(draft)
        failpoints.hit("undo-begun")
        opened = await self._journal.open(Opening(draft.booking, "recovery", "undoes it"))
        failpoints.hit("after-open")
        if opened.is_new:
            is_known = original.answer_bytes is not None
            await self._send(
                draft.booking, draft.order, draft.link, AttemptKind.SEND, undoes_doubt=not is_known
            )
        # It has ended, and what it undoes with it, or that has to wait for it from now on.
        now_known = await self._journal.find(original.tenant, booking_id=original.booking_id)
        if now_known is not None and now_known.epoch == original.epoch:
            await self._moves.decide(
                original, self._freed(original, self._journal.now()), "its undo was opened"
            )

    async def _send_own_undo(self, undo: Booking) -> None:
        """Sends an undo that no caller would repeat, and that provably did nothing so far."""
        now = self._journal.now()
        original = await self._sealed.find_original(undo)
        link = self._connections.find(undo.connection)
        is_late = now > undo.create_time + timedelta(seconds=self._policy.give_up_s)
        if original is None or link is None or is_late:
            await self._close(undo, "it could not be sent for too long")
            return
        if link.is_paused:
            later = self._freed(undo, now + timedelta(seconds=_WHILE_PAUSED_S))
            await self._moves.move(Change(undo, later, "recovery", "connection is paused"))
            return
        if _is_elsewhere(original, link):
            await self._close(undo, _ELSEWHERE)
            return
        try:
            order = await self._sealed.order_of(undo)
        except LookupError as error:
            await self._close(undo, f"it cannot be opened any more: {error}")
            return
        claimed = replace(
            self._claimed(undo, now),
            state=State.SENDING,
            target_hash=link.target_hash,
            first_sent_time=now,
        )
        failpoints.hit("recovery-claimed")
        if await self._journal.change(Change(undo, claimed, "recovery", "undoes it")):
            await self._send(
                claimed,
                order,
                link,
                AttemptKind.SEND,
                undoes_doubt=original.answer_bytes is None,
            )


def _is_elsewhere(original: Booking, link: Link) -> bool:
    """Whether a doubt cannot be undone here: "nothing to undo" would prove nothing."""
    return original.answer_bytes is None and not link.is_target_of(original)
