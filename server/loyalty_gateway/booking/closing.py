"""Ends a booking by somebody's wish: the caller's cancellation, or an operator's finding."""

from dataclasses import replace
from datetime import timedelta

from loyalty_gateway.booking import judge
from loyalty_gateway.booking.calls import BookingKey, Decision
from loyalty_gateway.booking.connections import Connections
from loyalty_gateway.booking.drafts import uuid7
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.settling import Settling, releases
from loyalty_gateway.booking.watching import Watchers
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import RecoveryMode, Reference
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.writer import Change, Opening
from loyalty_gateway.telemetry.redaction import redact


class Closing:
    """Cancel and resolve, and the look-ups they begin with."""

    def __init__(
        self,
        journal: Journal,
        connections: Connections,
        settling: Settling,
        watchers: Watchers,
        limits: Limits,
    ) -> None:
        self._journal = journal
        self._connections = connections
        self._settling = settling
        self._watchers = watchers
        self._limits = limits

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
                self._watchers.tell(known.booking_id)
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
        is_busy = self._watchers.is_busy(booking_id)
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
            after = self._settling.with_bytes(
                replace(
                    after,
                    reason=None,
                    applied=None if order.allow_partial else order.asked,
                    references=(*known.references, evidence),
                )
            )
        settled = await self._settling.move(
            Change(
                known,
                after,
                actor=f"operator {actor}",
                note=note,
                holds_account=releases(known, after),
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
            known = await self._settling.move(
                Change(
                    known,
                    again,
                    actor=f"operator {actor}",
                    note="asked for one more try",
                    holds_account=False,
                )
            )
        if known.state is State.IN_DOUBT:
            return await self._watchers.watch(known, deadline, is_kicked=True)
        return known


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
