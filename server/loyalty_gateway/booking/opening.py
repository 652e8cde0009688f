"""Everything before the first byte: prepare, mark what is undone, and write 1."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta

from loyalty_gateway import failpoints
from loyalty_gateway.booking.answers import adapters_words, on_hold
from loyalty_gateway.booking.attempts import Attempts
from loyalty_gateway.booking.calls import BookingCall
from loyalty_gateway.booking.drafts import Draft, Drafts
from loyalty_gateway.booking.holds import is_alone
from loyalty_gateway.booking.judge import Verdict
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.moves import Moves
from loyalty_gateway.booking.reads import RETRY_S, RETRY_USEFUL, failed
from loyalty_gateway.booking.sealed import Sealed
from loyalty_gateway.booking.undo import is_live
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import Order
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.writer import Change, Opening

_HOLD_POLL_S = 0.2


@dataclass(slots=True)
class Flight:
    """A booking on its way, by (tenant, request_id). `waiting` counts the callers who wait.

    `is_given_up` once its caller relies on the undo and the journal could not be told so: then its
    own end tells it, or is undone.
    """

    fingerprint: bytes
    task: "asyncio.Task[Landed] | None" = None
    waiting: int = 0
    is_opened: bool = False
    is_given_up: bool = False


@dataclass(frozen=True, slots=True)
class Landed:
    """Where a flight ended; `is_replayed` when the journal knew the request_id before it."""

    booking: Booking
    is_replayed: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """A booking whose intent is on disk, and the order to be sent before `send_by` (loop time)."""

    booking: Booking
    order: Order
    send_by: float


class Openings:
    """Brings a draft to where it may be sent, or finds out why it may not be."""

    def __init__(
        self,
        journal: Journal,
        drafts: Drafts,
        sealed: Sealed,
        attempts: Attempts,
        moves: Moves,
        limits: Limits,
    ) -> None:
        self._journal = journal
        self._drafts = drafts
        self._sealed = sealed
        self._attempts = attempts
        self._moves = moves
        self._limits = limits

    async def open_new(self, flight: Flight, call: BookingCall, draft: Draft) -> Ready | Booking:
        """Everything before the first byte of a new booking; the known one where it is not new."""
        loop = asyncio.get_running_loop()
        if draft.offer.prepare is not None:
            draft = await self._prepared(draft, call)
        # send_by counts from before the first write was asked for: a slow disk is no excuse.
        send_by = loop.time() + self._limits.send_by_s
        if draft.is_undo:
            refusal = await self._moves.begin_undo(draft.original, draft.booking)
            if refusal is not None:
                known = await self._journal.find(call.tenant, request_id=call.request_id)
                if known is None:
                    raise refused(refusal, call, None)
                return known
        failpoints.hit("before-open")
        while True:
            holds = is_alone(draft.booking)
            opened = await self._journal.open(Opening(draft.booking, "caller", holds_account=holds))
            left_s = call.deadline - loop.time() - self._limits.deadline_min_s
            if not opened.is_held:
                break
            if left_s <= 0 or flight.waiting == 0:
                raise on_hold(draft.booking)
            # Another booking holds the account: it may end within the caller's time.
            await asyncio.sleep(min(_HOLD_POLL_S, left_s))
            draft = self._drafts.again(draft)
            send_by = loop.time() + self._limits.send_by_s
        flight.is_opened = True
        failpoints.hit("after-open")
        if opened.is_new:
            return Ready(draft.booking, draft.order, send_by)
        if draft.is_undo:
            # Its request_id was taken meanwhile, so the undo that was begun is not to be.
            await self._moves.end_undo(draft.original, "its undo was not opened")
        known = opened.booking
        if known.state is State.RESERVED and known.fingerprint == draft.booking.fingerprint:
            return await self.open_again(draft, known)
        return known

    async def _prepared(self, draft: Draft, call: BookingCall) -> Draft:
        """The draft with what the adapter had to read first. Raises LoyaltyError: nothing was
        sent, and nothing is journalled."""
        prepared = await self._attempts.prepare(draft.link, draft.offer, draft.order)
        if isinstance(prepared, Verdict):
            reason = prepared.status.reason
            error = failed(
                reason,
                draft.link,
                provider_code=prepared.provider_code,
                # What was refused for what it asks is refused the next time, too.
                retry_after_s=prepared.retry_after_s
                or (RETRY_S if reason in RETRY_USEFUL else None),
            )
            error.message = adapters_words(reason, prepared.message) or error.message
            raise refused(error, call, None)
        return self._drafts.again(replace(draft, order=replace(draft.order, prepared=prepared)))

    async def open_again(self, draft: Draft, known: Booking) -> Ready | Booking:
        """RESERVED -> SENDING for a caller who repeats; the booking where another was faster, or
        where the vendor asked for a pause that is not over."""
        if known.fingerprint != draft.booking.fingerprint:
            return known
        if known.not_before is not None and known.not_before > self._journal.now():
            return known
        assert known.doubtful_attempts == 0, "RESERVED means that nothing was booked"
        link = draft.link
        send_by = asyncio.get_running_loop().time() + self._limits.send_by_s
        try:
            # As it was journalled: every attempt says the same.
            order = await self._sealed.order_of(known)
        except LookupError as error:
            raise _unopenable(known) from error
        if draft.is_undo:
            refusal = await self._moves.begin_undo(draft.original, known)
            if refusal is not None:
                raise refusal_of_known(refusal, known)
        now = self._journal.now()
        lease_until = now + timedelta(seconds=self._limits.lease_s)
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
            not_before=None,
            target_hash=link.target_hash,
            recovery_mode=self._drafts.mode_of(link, draft.offer, order),
            # Nothing was booked so far, so the vendor's memory of the key starts anew.
            first_sent_time=now,
            sent_time=now,
        )
        change = Change(
            known,
            again,
            actor="caller",
            note="the caller repeated the request",
            holds_account=True if is_alone(again) else None,
            waits_for_account=bool(again.account_hash) and not draft.is_undo,
        )
        if await self._journal.change(change):
            return Ready(again, order, send_by)
        now_known = await self._journal.find(known.tenant, booking_id=known.booking_id)
        assert now_known is not None, "bookings are not deleted"
        if now_known.epoch == known.epoch:
            raise refusal_of_known(on_hold(known), known)
        if draft.is_undo and not is_live(now_known):
            await self._moves.end_undo(draft.original, "its undo was not repeated")
        return now_known


def refused(error: LoyaltyError, call: BookingCall, known: Booking | None) -> LoyaltyError:
    """A refusal before write 1: nothing was sent, so far as the journal knows."""
    if known is not None:
        return refusal_of_known(error, known)
    error.fate, error.is_final = Fate.NOT_EXECUTED, False
    error.request_id = call.request_id
    return error


def refusal_of_known(error: LoyaltyError, known: Booking) -> LoyaltyError:
    """A refusal to send a known booking again."""
    error.fate, error.is_final = known.outcome, known.is_final
    error.request_id, error.booking = known.request_id, known.name
    return error


def _unopenable(known: Booking) -> LoyaltyError:
    return refusal_of_known(
        LoyaltyError(
            Reason.INTERNAL,
            "What this booking keeps sealed cannot be opened with the keys of this deployment;"
            " nothing was sent. Use a new request_id.",
            connection=known.connection,
            provider=known.provider,
        ),
        known,
    )
