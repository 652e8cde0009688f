"""Which bookings keep others off their account, from when to when; pure.

A doubt that only time and silence can end must not be covered by the next booking.
"""

from loyalty_gateway.booking.judge import Means
from loyalty_gateway.booking.undo import undoes
from loyalty_gateway.domain.booking import FINAL, Booking, State
from loyalty_gateway.domain.operations import RecoveryMode

_DOUBTED = frozenset({State.IN_DOUBT, State.NEEDS_REVIEW, State.REVERSING})


def is_alone(booking: Booking) -> bool:
    """Whether only account, amount and time could tell this booking in the vendor's history: then
    it has its account for itself from the first moment on."""
    order = booking.order
    return (
        bool(booking.account_hash)
        and order is not None
        and not order.carries_tag
        and booking.recovery_mode is RecoveryMode.STATEMENT_MATCH
    )


def hold_after(before: Booking, after: Booking, means: Means) -> bool | None:
    """What a move does to the hold on the account: True writes, False ends, None leaves it."""
    if not after.account_hash or undoes(after):
        return None
    match after.state:
        case State.NEEDS_REVIEW:
            # Nobody can find out, so another booking on the account would hide the truth.
            return True if means.is_held_in_doubt or not means.ways else None
        case State.IN_DOUBT:
            if before.state is State.NEEDS_REVIEW and not means.is_held_in_doubt:
                return False if not is_alone(before) else None
            return True if means.is_held_in_doubt else None
        case State.RESERVED:
            return False if is_alone(before) else None
        case state if state in FINAL:
            # Whatever held it when the doubt began may hold no more by today's promises.
            return False if before.state in _DOUBTED or is_alone(before) else None
    return None
