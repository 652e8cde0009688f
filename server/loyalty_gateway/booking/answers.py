"""What the caller is told of a booking that has no stored answer: one table, by state."""

import math
from dataclasses import dataclass
from datetime import datetime

from loyalty_gateway.booking.judge import PAUSE_S_MAX
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.telemetry.redaction import redact

_RETRY_DEFAULT_S = 1.0

MESSAGES: dict[Reason, str] = {
    Reason.INSUFFICIENT_BALANCE: "The account does not hold what was asked for; nothing was"
    " booked.",
    Reason.ACCOUNT_NOT_FOUND: "The vendor does not know this account; nothing was booked.",
    Reason.ACCOUNT_NOT_ACTIVE: "The account is blocked or not active; nothing was booked.",
    Reason.ACCOUNT_ALREADY_EXISTS: "The account exists already; nothing was booked.",
    Reason.PROVIDER_DECLINED: "The vendor refused the booking; nothing was booked.",
    Reason.PROVIDER_REJECTED_ARGUMENT: "The vendor refused the content of the request; nothing"
    " was booked.",
    Reason.PROVIDER_UNREACHABLE: "The vendor could not be reached; nothing was sent. Repeat the"
    " same request_id.",
    Reason.PROVIDER_RATE_LIMITED: "The vendor's rate limit is spent; nothing was booked. Repeat"
    " the same request_id later.",
    Reason.PROVIDER_CREDENTIALS_REJECTED: "The vendor does not accept the gateway's credentials;"
    " nothing was booked. An operator must mend this; the caller cannot.",
    Reason.PROVIDER_ACCESS_DENIED: "The gateway's credentials may not do this at the vendor;"
    " nothing was booked. An operator must mend this; the caller cannot.",
    Reason.ADAPTER_ROUTE_INVALID: "The vendor does not know the path that was called; nothing"
    " was booked. An operator must look at the connection's base_url.",
    Reason.DEADLINE_TOO_SHORT: "The caller's time had run out before anything was sent. Repeat"
    " the same request_id.",
    Reason.JOURNAL_UNAVAILABLE: "The journal was too slow, so nothing was sent. Repeat the same"
    " request_id.",
    Reason.ALREADY_REVERSED: "The vendor says that the booking was undone before; nothing was"
    " done.",
    Reason.ORIGINAL_NOT_FOUND: "The vendor does not know the booking that was to be undone or"
    " added to; nothing was done.",
    Reason.ORIGINAL_NOT_REVERSIBLE: "The vendor does not undo this booking (any more); nothing"
    " was done.",
    Reason.CODE_INVALID: "The code is wrong; nothing was booked.",
    Reason.CODE_EXPIRED: "The code has expired; nothing was booked.",
}
"""Our words for what a vendor refused; the vendor's own text never reaches a caller."""

_RETRY_USEFUL = frozenset(
    {
        Reason.PROVIDER_UNREACHABLE,
        Reason.PROVIDER_RATE_LIMITED,
        Reason.JOURNAL_UNAVAILABLE,
        Reason.DEADLINE_TOO_SHORT,
    }
)


_TOLD_BY_ADAPTER = frozenset(
    {
        Reason.REQUEST_INVALID,
        Reason.FIELD_REQUIRED_BY_PROVIDER,
        Reason.CAPABILITY_NOT_SUPPORTED,
        Reason.CURRENCY_NOT_ACCEPTED,
    }
)
"""What the caller must mend, only the adapter can say: its words are ours, and are handed on."""


def adapters_words(reason: Reason, message: str) -> str:
    """What an adapter says of a request that its vendor cannot take; empty for other reasons."""
    if reason not in _TOLD_BY_ADAPTER or not message:
        return ""
    words = redact(message).rstrip(".")
    # The name of a field is spelt as the contract spells it, at the beginning too.
    is_plain = words.partition(" ")[0].isalpha()
    return f"{words[0].upper() if is_plain else words[0]}{words[1:]}."


def message_for(reason: Reason) -> str:
    """Our words for a reason that a vendor's answer led to."""
    return MESSAGES.get(reason, "The vendor did not do it; nothing was booked.")


@dataclass(frozen=True, slots=True)
class _Row:
    """How a state is told. An empty reason means the booking's own."""

    reason: Reason | None
    message: str
    is_retried: bool = False
    is_retry_forbidden: bool = False


_BY_STATE: dict[State, _Row] = {
    State.RESERVED: _Row(None, ""),
    State.DECLINED: _Row(None, ""),
    State.SENDING: _Row(
        Reason.BOOKING_IN_PROGRESS,
        "This booking is under way and its outcome is not known yet. Repeat the same"
        " request_id, or give up with CancelBooking.",
        is_retried=True,
    ),
    State.IN_DOUBT: _Row(
        Reason.BOOKING_IN_DOUBT,
        "The vendor's answer is missing, so nobody knows yet whether this was booked; the"
        " gateway is finding out. Repeat the same request_id, which is always safe.",
        is_retried=True,
    ),
    State.REVERSING: _Row(
        Reason.BOOKING_IN_PROGRESS,
        "This booking is being undone. Repeat the same request_id to learn the end.",
        is_retried=True,
    ),
    State.NEEDS_REVIEW: _Row(
        Reason.BOOKING_NEEDS_REVIEW,
        "Nobody knows whether this was booked and no machine can find out; an operator must"
        " decide. Repeating does not help; GetBooking tells when it is decided.",
        is_retry_forbidden=True,
    ),
    State.NOT_EXECUTED: _Row(
        Reason.BOOKING_NOT_EXECUTED,
        "This booking was closed without any effect. Use a new request_id for a new booking.",
    ),
    State.REVERSED: _Row(
        Reason.BOOKING_REVERSED,
        "This booking was undone. Use a new request_id for a new booking.",
    ),
    State.SUCCEEDED: _Row(
        Reason.DATA_LOSS,
        "This booking succeeded, but its stored answer is missing; GetBooking tells the rest.",
    ),
}
assert set(_BY_STATE) == set(State), "every state is told"


def error_for(booking: Booking, *, now: datetime, is_replayed: bool = False) -> LoyaltyError:
    """The error that a booking's state stands for."""
    row = _BY_STATE[booking.state]
    reason = row.reason or booking.reason or Reason.INTERNAL
    message = row.message or message_for(reason)
    if booking.is_tombstone:
        reason = Reason.CANCELLED_BEFORE_ARRIVAL
        message = (
            "CancelBooking closed this request_id before its call arrived; nothing was booked."
            " Use a new request_id for a new booking."
        )
    retry_after_s: float | None = None
    if row.is_retried:
        retry_after_s = _until(booking.next_attempt_time, now)
    elif booking.state is State.RESERVED and reason in _RETRY_USEFUL:
        retry_after_s = _rest_of_pause(booking.not_before, now)
    return LoyaltyError(
        reason,
        message,
        fate=booking.outcome,
        is_final=booking.is_final,
        booking=booking.name,
        request_id=booking.request_id,
        connection=booking.connection,
        provider=booking.provider,
        provider_code=booking.provider_code,
        retry_after_s=retry_after_s,
        is_retry_forbidden=row.is_retry_forbidden,
        is_replayed=is_replayed,
        status_bytes=booking.status_bytes,
    )


def _until(due: datetime | None, now: datetime) -> float:
    """Seconds until a booking's next step; callers may trigger it sooner, so it is bounded."""
    if due is None:
        return _RETRY_DEFAULT_S
    return min(60.0, max(_RETRY_DEFAULT_S, (due - now).total_seconds()))


def _rest_of_pause(pause_end: datetime | None, now: datetime) -> float:
    """Seconds until a repeat is sent again: whole ones, so that none comes a little too soon."""
    if pause_end is None:
        return _RETRY_DEFAULT_S
    rest_s = math.ceil((pause_end - now).total_seconds())
    return min(PAUSE_S_MAX, max(_RETRY_DEFAULT_S, rest_s))


def refusal_of(booking: Booking, words: str = "") -> LoyaltyError:
    """The error of a DECLINED booking, as it is stored and repeated to the letter.

    `words` say what the caller must mend, where more is known than the reason.
    """
    assert booking.state is State.DECLINED and booking.reason is not None
    return LoyaltyError(
        booking.reason,
        words or message_for(booking.reason),
        fate=Fate.NOT_EXECUTED,
        is_final=True,
        booking=booking.name,
        request_id=booking.request_id,
        connection=booking.connection,
        provider=booking.provider,
        provider_code=booking.provider_code,
    )


def in_progress(asked: Booking, *, is_opened: bool) -> LoyaltyError:
    """The caller's deadline ends while the booking is still under way."""
    row = _BY_STATE[State.SENDING]
    assert row.reason is not None
    return LoyaltyError(
        row.reason,
        row.message,
        fate=Fate.UNKNOWN if is_opened else None,
        request_id=asked.request_id,
        booking="",
        connection=asked.connection,
        provider=asked.provider,
        retry_after_s=_RETRY_DEFAULT_S,
    )


def on_hold(asked: Booking) -> LoyaltyError:
    """Another booking on this account is a doubt that a new one would make worse."""
    return LoyaltyError(
        Reason.ACCOUNT_ON_HOLD,
        "Another booking on this account is under way or in doubt, and a second one would hide"
        " the truth about it; nothing was sent. Repeat the same request_id later.",
        fate=Fate.NOT_EXECUTED,
        request_id=asked.request_id,
        connection=asked.connection,
        provider=asked.provider,
    )
