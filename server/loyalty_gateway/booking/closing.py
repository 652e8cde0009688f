"""Ends a booking by somebody's wish: the caller's cancellation, or an operator's finding."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from loyalty_gateway.booking import judge
from loyalty_gateway.booking.calls import BookingKey, Decision
from loyalty_gateway.booking.cancelling import cancelled
from loyalty_gateway.booking.connections import Connections
from loyalty_gateway.booking.drafts import uuid7
from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.moves import Moves
from loyalty_gateway.booking.settling import Settling
from loyalty_gateway.booking.watching import Watchers
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import OPERATOR_EVIDENCE, RecoveryMode, Reference
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.writer import Opening
from loyalty_gateway.telemetry.redaction import redact

_TRIES = 8
_WITHOUT_EFFECT = frozenset({State.NOT_EXECUTED, State.DECLINED, State.REVERSED})
_FINDS_OUT = frozenset(
    {RecoveryMode.SAFE_RESEND, RecoveryMode.STATUS_QUERY, RecoveryMode.STATEMENT_MATCH}
)


class Closing:
    """Cancel and resolve, and the look-ups they begin with."""

    def __init__(
        self,
        journal: Journal,
        connections: Connections,
        moves: Moves,
        settling: Settling,
        watchers: Watchers,
        limits: Limits,
        policy: Policy,
    ) -> None:
        self._journal = journal
        self._connections = connections
        self._moves = moves
        self._settling = settling
        self._watchers = watchers
        self._limits = limits
        self._policy = policy
        self._moving: set[asyncio.Task[Booking]] = set()

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
        """Closes a request_id: nothing will stay booked for it, or the truth is told.

        What was sent, or may have been, is undone where the vendor can; the answer comes as soon
        as that wish is on disk, and GetBooking tells its end.

        Raises:
            LoyaltyError: CANCEL_NOT_POSSIBLE with the true outcome where something was or may
                have been sent and no machine can undo it; NOT_FOUND for an unknown name;
                TENANT_LIMITED for too many cancellations of unknown request_ids.
        """
        known = await self.find(tenant, key)
        if known is None:
            if not key.request_id:
                return await self.get(tenant, key)
            known = await self._entomb(tenant, key.request_id)
        for _ in range(_TRIES):
            if known.state in _WITHOUT_EFFECT or (
                known.state is State.REVERSING and known.cancel_requested
            ):
                return known
            after = cancelled(known, self._connections.find(known.connection), self._journal.now())
            if after is None:
                raise _not_cancellable(known)
            if after is known:
                return known
            # Whatever stands then is looked at anew: another's move to the same state and epoch
            # does not carry this wish.
            known = await self._moves.move(
                self._moves.wish(known, after, "caller", "CancelBooking")
            )
        raise _not_cancellable(known)

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
            booking_id=uuid7(now),
            request_id=request_id,
            state=State.NOT_EXECUTED,
            create_time=now,
            reason=Reason.CANCELLED_BEFORE_ARRIVAL,
            settle_time=now,
        )
        opened = await self._journal.open(
            Opening(tombstone, actor="caller", note="CancelBooking before the original")
        )
        assert not opened.is_held, "a tombstone has no account to wait for"
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
        # Here, or in another replica, whose claim stands in the row.
        is_claimed = known.lease_until is not None and known.lease_until > self._journal.now()
        is_busy = is_claimed or self._watchers.is_busy(booking_id)
        if known.state not in (State.IN_DOUBT, State.NEEDS_REVIEW) or is_busy:
            raise _not_resolvable(
                known,
                "a step of recovery runs at this moment; repeat in a few seconds"
                if is_busy
                else f"it stands at {known.state}",
            )
        note = redact(f"{decision.reason} (evidence: {decision.evidence})")
        after = await self._resolved(known, decision)
        wish = self._moves.wish(known, after, f"operator {actor}", note)
        # Whole, however soon the operator's time is over: what an undo belongs to follows it.
        moving = asyncio.create_task(self._moves.move(wish))
        self._moving.add(moving)
        moving.add_done_callback(self._moving.discard)
        settled = await asyncio.shield(moving)
        if settled.epoch != after.epoch or settled.state is not after.state:
            raise _not_resolvable(settled, f"it has moved to {settled.state} meanwhile")
        return settled

    async def _resolved(self, known: Booking, decision: Decision) -> Booking:
        """The booking as a person's finding leaves it."""
        now = self._journal.now()
        ended = replace(
            known,
            epoch=known.epoch + 1,
            owner="",
            attempt_open=False,
            lease_until=None,
            next_attempt_time=None,
        )
        if decision.outcome is not Fate.EXECUTED:
            return replace(_untold(ended), state=State.NOT_EXECUTED, settle_time=now)
        order = known.order
        assert order is not None, "a tombstone is final"
        evidence = Reference(OPERATOR_EVIDENCE, redact(decision.evidence)[:200])
        applied = known.applied or (None if order.may_take_part else order.asked)
        booked = replace(ended, reason=None, applied=applied)
        if await self._journal.taken_by_others(known, known.references[:1]):
            # What the vendor told of it is another booking's, which alone may be undone by it.
            booked = replace(
                _untold(booked),
                applied=None if order.may_take_part else order.asked,
                references=(),
                balances_after=(),
                receipt_lines=(),
                created=None,
            )
        booked = replace(booked, references=(*booked.references, evidence))
        if known.cancel_requested and await self._may_undo(known):
            # Its caller gave it up, so it must not stand.
            undone = replace(booked, state=State.REVERSING, recovery_tries=0, next_attempt_time=now)
            return self._settling.with_bytes(undone)
        return self._settling.with_bytes(replace(booked, state=State.SUCCEEDED, settle_time=now))

    async def _may_undo(self, booking: Booking) -> bool:
        """Whether a machine can undo it, and has not tried in vain before."""
        link = self._connections.find(booking.connection)
        if link is None or link.find_undo(booking) is None or booking.is_matched:
            return False
        following = await self._journal.following(booking.tenant, [booking.name])
        return not any(it.is_own_undo for it in following)

    async def _ask_now(self, known: Booking, actor: str, deadline: float) -> Booking:
        if known.is_final:
            return known
        if known.state is State.NEEDS_REVIEW:
            link = self._connections.find(known.connection)
            now = self._journal.now()
            mode = RecoveryMode.MANUAL
            if link is not None and known.answer_bytes is None:
                mode = judge.mode_now(known, link.means(known), now, self._policy)
            if mode not in _FINDS_OUT:
                raise _not_resolvable(
                    known, "no machine can find out: no way is open to it (any more)"
                )
            again = replace(
                known,
                state=State.IN_DOUBT,
                epoch=known.epoch + 1,
                recovery_mode=mode,
                next_attempt_time=now,
            )
            note = "asked for one more try"
            known = await self._moves.move(
                self._moves.wish(known, again, f"operator {actor}", note)
            )
        if known.state is State.IN_DOUBT:
            return await self._watchers.watch(known, deadline, is_kicked=True)
        return known


def _untold(booking: Booking) -> Booking:
    """The booking without an answer that was kept for its success and never told: it is none."""
    if booking.is_answered:
        return booking
    return replace(booking, answer_bytes=None, answer_sealed=None)


def _not_cancellable(known: Booking) -> LoyaltyError:
    return LoyaltyError(
        Reason.CANCEL_NOT_POSSIBLE,
        "This booking was sent, or may have been, and no machine can undo it. Its outcome is"
        f" {known.outcome}; while that is not final, GetBooking tells when it is known.",
        fate=known.outcome,
        is_final=known.is_final,
        booking=known.name,
        request_id=known.request_id,
        connection=known.connection,
        provider=known.provider,
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
