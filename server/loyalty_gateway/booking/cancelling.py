"""What the wish to be rid of a booking does to it; pure."""

from dataclasses import replace
from datetime import datetime

from loyalty_gateway.booking.connections import Link
from loyalty_gateway.booking.holds import is_alone
from loyalty_gateway.domain.booking import Booking, Intent, State


def cancelled(known: Booking, link: Link | None, now: datetime) -> Booking | None:
    """The booking with the wish to be rid of it; itself where it is noted already, None where it
    cannot be kept."""
    moved = replace(known, epoch=known.epoch + 1, intent=Intent.CANCEL)
    at_once = replace(moved, owner="", lease_until=None, next_attempt_time=now)
    if known.state is State.RESERVED and not known.is_own_undo:
        return replace(
            moved,
            state=State.NOT_EXECUTED,
            intent=known.intent,
            next_attempt_time=None,
            settle_time=now,
        )
    if known.state is State.REVERSING:
        return moved
    if link is None or link.find_undo(known) is None or known.is_matched:
        return None
    match known.state:
        case State.SENDING | State.IN_DOUBT if known.cancel_requested:
            return known
        case State.SENDING | State.IN_DOUBT if not is_alone(known):
            # While an attempt runs its end finds the wish; else recovery goes on from here.
            return moved if known.attempt_open else at_once
        case State.SUCCEEDED if not known.cancel_requested:
            return replace(at_once, state=State.REVERSING, recovery_tries=0)
    # A person's to decide; or the vendor has refused to undo it before; or it may turn out to be
    # a line that only account, amount and time tell, which no machine undoes.
    return None
