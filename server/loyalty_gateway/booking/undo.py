"""What becomes of a booking that is being undone, by what became of its undo; pure."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from loyalty_gateway.booking.connections import Link
from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.domain.operations import UNDO_OPERATIONS

_WHILE_REVIEWED = timedelta(hours=6)

MAY_HAVE_EFFECT = frozenset({State.SENDING, State.IN_DOUBT, State.NEEDS_REVIEW})
"""Where an undo may have an effect that nobody knows of yet."""


def undoes(booking: Booking) -> bool:
    """Whether a booking undoes another one."""
    return booking.operation in UNDO_OPERATIONS and bool(booking.original_booking)


def is_live(undo: Booking) -> bool:
    """Whether what is being undone has to wait for this undo."""
    is_own_and_goes_on = undo.is_own_undo and undo.state is State.RESERVED
    return undo.state in MAY_HAVE_EFFECT or is_own_and_goes_on


def is_reversible(booking: Booking, link: Link | None) -> bool:
    """Whether an undo of this booking could be asked for today."""
    return (
        booking.state is State.SUCCEEDED
        and link is not None
        and link.find_undo(booking) is not None
    )


def refusal_to_undo(original: Booking) -> LoyaltyError | None:
    """Why this booking cannot be undone, or None."""
    if original.state is State.REVERSED:
        return _refused(
            original, Reason.ALREADY_REVERSED, "This booking was undone before; nothing was done."
        )
    if original.state is State.REVERSING:
        return _refused(
            original,
            Reason.ORIGINAL_NOT_REVERSIBLE,
            "Another undo of this booking is under way; nothing was done. GetBooking tells how it"
            " ends.",
        )
    if original.state is not State.SUCCEEDED:
        return _refused(
            original,
            Reason.ORIGINAL_NOT_REVERSIBLE,
            f"The original stands at {original.state}, and only what was executed can be undone"
            " or added to; nothing was done.",
        )
    return None


def _refused(original: Booking, reason: Reason, message: str) -> LoyaltyError:
    return LoyaltyError(
        reason,
        message,
        connection=original.connection,
        provider=original.provider,
        field="original",
    )


def begun(original: Booking, owner: str, lease_until: datetime) -> Booking:
    """SUCCEEDED -> REVERSING, written before its undo is opened: so it is undone once."""
    assert original.state is State.SUCCEEDED, "only what was executed is undone"
    return replace(
        original,
        state=State.REVERSING,
        epoch=original.epoch + 1,
        owner=owner,
        lease_until=lease_until,
        next_attempt_time=lease_until,
        recovery_tries=0,
    )


def not_undone(original: Booking, now: datetime) -> Booking:
    """The original of an undo that was begun and came to nothing before it was sent."""
    if original.cancel_requested:
        # The wish to be rid of it was answered meanwhile, and outlives this undo.
        return replace(_freed(original), next_attempt_time=now)
    return stands(original, now)


def followed(
    original: Booking, undo: Booking, now: datetime, policy: Policy
) -> tuple[Booking, str] | None:
    """The original after its undo has ended, and why; None while it has to wait."""
    if original.state is not State.REVERSING or is_live(undo):
        return None
    after = _freed(original)
    if undo.state is State.SUCCEEDED:
        return _reversed(after, now), f"{undo.name} undid it"
    if undo.state is State.DECLINED and undo.reason is Reason.ALREADY_REVERSED:
        return _reversed(after, now), f"{undo.name} found it undone already"
    is_known = original.answer_bytes is not None
    is_counted = len(undo.not_found_times) > len(policy.not_found_waits_s)
    if undo.state is State.DECLINED and is_counted and not is_known:
        return _reversed(after, now), f"{undo.name} found nothing to undo"
    if undo.state is not State.DECLINED and original.cancel_requested and not undo.is_own_undo:
        # The caller's own undo came to nothing, and the wish to be rid of it is still there.
        return replace(after, next_attempt_time=now), f"{undo.name} was not executed"
    is_left = undo.state is State.NOT_EXECUTED and undo.is_own_undo and not undo.doubtful_attempts
    if is_known and not (is_left and original.cancel_requested):
        return stands(original, now), f"{undo.name} was not executed"
    # Nobody knows what is to be undone; or it is, and the machine has given up undoing it, while
    # neither the vendor nor a person has said that it is to stand.
    return replace(after, state=State.NEEDS_REVIEW), f"{undo.name} was not executed"


def decided(
    original: Booking, undos: Sequence[Booking], now: datetime, policy: Policy
) -> tuple[Booking, str] | None:
    """The next step of a booking in REVERSING that nobody works on; None to open its undo now.

    `undos` are all that were ever opened for it, oldest first.
    """
    assert original.state is State.REVERSING, "it is being undone"
    for undo in undos:
        if is_live(undo):
            due = undo.next_attempt_time
            wait = timedelta(seconds=policy.wait_s(original.recovery_tries, original.booking_id))
            if undo.state is State.NEEDS_REVIEW:
                # A person's word about it is followed at once; this is for a crash in between.
                wait = max(wait, _WHILE_REVIEWED)
            waiting = replace(
                _freed(original),
                recovery_tries=original.recovery_tries + 1,
                next_attempt_time=max(now + wait, due) if due else now + wait,
            )
            return waiting, f"waits for {undo.name}"
    for undo in undos:
        if undo.state is State.SUCCEEDED:
            return followed(original, undo, now, policy)
    own = [undo for undo in undos if undo.is_own_undo]
    last = undos[-1] if undos else None
    if own and last is not None and last is not own[-1]:
        # It stood by somebody's word after its own undo had ended, and was to be undone anew.
        if last.state is State.DECLINED:
            return followed(original, last, now, policy)
        return stands(original, now), "its undo was not executed"
    if own:
        return followed(original, own[-1], now, policy)
    if original.cancel_requested and (last is None or last.state is not State.DECLINED):
        return None
    if last is not None:
        return followed(original, last, now, policy)
    return stands(original, now), "its undo was never opened"


def stands(original: Booking, now: datetime) -> Booking:
    """REVERSING -> SUCCEEDED: what was to be undone stands, with the answer that was kept."""
    settle_time = original.settle_time or now
    return replace(_freed(original), state=State.SUCCEEDED, settle_time=settle_time, reason=None)


def _freed(original: Booking) -> Booking:
    return replace(
        original,
        epoch=original.epoch + 1,
        owner="",
        lease_until=None,
        next_attempt_time=None,
    )


def _reversed(after: Booking, now: datetime) -> Booking:
    # An answer that was never told is none: what was undone has no OK.
    answer = after.answer_bytes if after.is_answered else None
    return replace(
        after,
        state=State.REVERSED,
        settle_time=now,
        answer_bytes=answer,
        answer_sealed=after.answer_sealed if answer is not None else None,
        reason=None,
    )
