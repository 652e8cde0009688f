"""Whether a new booking may start now; nothing durable is asked here."""

import asyncio

from loyalty_gateway.booking.calls import BookingCall
from loyalty_gateway.booking.connections import Link, at
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason


def refusal_to_start(
    call: BookingCall, link: Link, limits: Limits, *, in_flight: int, is_draining: bool
) -> LoyaltyError | None:
    """Why no new booking may start now; duplicates of known ones are answered all the same."""
    where = at(link)
    # The journal is asked before this is raised, so that the absence is the truth so far.
    nothing = Fate.NOT_EXECUTED
    if is_draining:
        return LoyaltyError(
            Reason.DRAINING,
            "This server is stopping; repeat the same request_id, another one will take it.",
            fate=nothing,
            request_id=call.request_id,
            retry_after_s=1,
            **where,
        )
    if link.is_paused:
        return LoyaltyError(
            Reason.CONNECTION_PAUSED,
            "An operator has paused this connection.",
            fate=nothing,
            request_id=call.request_id,
            **where,
        )
    if link.unresolved_count >= limits.unresolved_max:
        return LoyaltyError(
            Reason.PROVIDER_UNREACHABLE,
            "Too many bookings of this connection are in doubt, so no new one is sent until"
            " some are resolved.",
            fate=nothing,
            request_id=call.request_id,
            retry_after_s=30,
            **where,
        )
    if in_flight >= limits.in_flight_max or link.in_flight >= limits.in_flight_per_connection_max:
        return LoyaltyError(
            Reason.OVERLOADED,
            "Too many bookings are in flight; repeat the same request_id in a moment.",
            fate=nothing,
            request_id=call.request_id,
            retry_after_s=1,
            **where,
        )
    if call.deadline - asyncio.get_running_loop().time() < limits.deadline_min_s:
        return LoyaltyError(
            Reason.DEADLINE_TOO_SHORT,
            f"A booking needs at least {limits.deadline_min_s} s; nothing was sent.",
            fate=nothing,
            request_id=call.request_id,
            **where,
        )
    return None
