"""Tells a booking's story in words, from the journal alone; it never guesses."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from loyalty_gateway.domain.booking import (
    TRANSITIONS,
    Attempt,
    AttemptKind,
    Booking,
    HistoryEntry,
    State,
    Step,
    Story,
    WhoseFault,
)
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import RecoveryMode
from loyalty_gateway.journal.journal import Excerpt

FIRST_TOLD = 50
LAST_TOLD = 150
"""How many moves and how many attempts are told of a long story: with the longest answers of a
vendor it still fits into one answer of ours."""

_FAULTS: dict[Reason, WhoseFault] = {
    Reason.REQUEST_INVALID: WhoseFault.CALLER,
    Reason.REQUEST_ID_REUSED: WhoseFault.CALLER,
    Reason.BOOKING_IN_DOUBT: WhoseFault.PROVIDER,
    Reason.BOOKING_IN_PROGRESS: WhoseFault.NOBODY,
    Reason.BOOKING_NEEDS_REVIEW: WhoseFault.PROVIDER,
    Reason.BOOKING_NOT_EXECUTED: WhoseFault.UNKNOWN,
    Reason.BOOKING_REVERSED: WhoseFault.CALLER,
    Reason.CANCEL_NOT_POSSIBLE: WhoseFault.NOBODY,
    Reason.RESOLUTION_NOT_POSSIBLE: WhoseFault.NOBODY,
    Reason.ALREADY_REVERSED: WhoseFault.CALLER,
    Reason.ORIGINAL_NOT_FOUND: WhoseFault.CALLER,
    Reason.ORIGINAL_NOT_REVERSIBLE: WhoseFault.CALLER,
    Reason.ACCOUNT_ON_HOLD: WhoseFault.PROVIDER,
    Reason.CURRENCY_NOT_ACCEPTED: WhoseFault.CALLER,
    Reason.CAPABILITY_NOT_SUPPORTED: WhoseFault.CALLER,
    Reason.FIELD_REQUIRED_BY_PROVIDER: WhoseFault.CALLER,
    Reason.CONNECTION_NOT_FOUND: WhoseFault.CALLER,
    Reason.CONNECTION_PAUSED: WhoseFault.GATEWAY,
    Reason.UNAUTHENTICATED: WhoseFault.CALLER,
    Reason.SCOPE_MISSING: WhoseFault.CALLER,
    Reason.NOT_FOUND: WhoseFault.CALLER,
    Reason.OVERLOADED: WhoseFault.GATEWAY,
    Reason.TENANT_LIMITED: WhoseFault.CALLER,
    Reason.DRAINING: WhoseFault.GATEWAY,
    Reason.DATA_LOSS: WhoseFault.GATEWAY,
    Reason.INSUFFICIENT_BALANCE: WhoseFault.CALLER,
    Reason.ACCOUNT_NOT_FOUND: WhoseFault.CALLER,
    Reason.ACCOUNT_NOT_ACTIVE: WhoseFault.CALLER,
    Reason.ACCOUNT_ALREADY_EXISTS: WhoseFault.CALLER,
    Reason.CODE_INVALID: WhoseFault.CALLER,
    Reason.CODE_EXPIRED: WhoseFault.CALLER,
    Reason.CANCELLED_BEFORE_ARRIVAL: WhoseFault.CALLER,
    Reason.DEADLINE_TOO_SHORT: WhoseFault.CALLER,
    Reason.PROVIDER_DECLINED: WhoseFault.PROVIDER,
    Reason.PROVIDER_INTERNAL: WhoseFault.PROVIDER,
    Reason.PROVIDER_PENDING: WhoseFault.PROVIDER,
    Reason.PROVIDER_ANSWER_UNREADABLE: WhoseFault.PROVIDER,
    Reason.PROVIDER_RATE_LIMITED: WhoseFault.PROVIDER,
    Reason.PROVIDER_UNREACHABLE: WhoseFault.PROVIDER,
    Reason.PROVIDER_KEY_CONFLICT: WhoseFault.UNKNOWN,
    Reason.PROVIDER_CREDENTIALS_REJECTED: WhoseFault.GATEWAY,
    Reason.PROVIDER_ACCESS_DENIED: WhoseFault.GATEWAY,
    Reason.PROVIDER_REJECTED_ARGUMENT: WhoseFault.CALLER,
    Reason.ADAPTER_ROUTE_INVALID: WhoseFault.GATEWAY,
    Reason.JOURNAL_UNAVAILABLE: WhoseFault.GATEWAY,
    Reason.INTERNAL: WhoseFault.GATEWAY,
}
"""Whose fault a reason is; a vendor's side includes the line to it."""
assert set(_FAULTS) == set(Reason), "every reason is somebody's, nobody's or unknown"

_NEXT: dict[State, str] = {
    State.RESERVED: "Nothing is booked. The caller may repeat the same request_id; if nobody"
    " does, the booking is closed without effect.",
    State.SENDING: "The vendor is being asked; its answer or the time limit ends this.",
    State.IN_DOUBT: "The gateway finds out by itself.",
    State.REVERSING: "The undo is under way; when it has ended, this booking follows it.",
    State.NEEDS_REVIEW: "No machine can find out. Compare the account's statement at the vendor"
    " with this booking, then record the truth with `loyalty bookings resolve`.",
    State.SUCCEEDED: "Nothing: the booking is done.",
    State.DECLINED: "Nothing: the vendor refused, and nothing was booked.",
    State.NOT_EXECUTED: "Nothing: the request_id is closed, and nothing was booked.",
    State.REVERSED: "Nothing: the booking was undone.",
}
assert set(_NEXT) == set(State), "every state has a next step"

_NEXT_BY_MODE: dict[RecoveryMode, str] = {
    RecoveryMode.SAFE_RESEND: "The gateway sends the same booking again under the same id, which"
    " the vendor answers as it answered, or would have answered, the first one.",
    RecoveryMode.STATUS_QUERY: "The gateway asks the vendor for it by its own number. That it is"
    " not there counts only once it has had ample time, and several times.",
    RecoveryMode.STATEMENT_MATCH: "The gateway looks for it in the account's history at the"
    " vendor. That it is not there counts only once it has had ample time, and several times.",
    RecoveryMode.REVERSE: "The gateway undoes it by its own number as soon as nothing of it can"
    " still be carried out.",
    RecoveryMode.MANUAL: _NEXT[State.IN_DOUBT],
}
"""What happens next to a doubt, by the way that is open to it."""
assert set(_NEXT_BY_MODE) == set(RecoveryMode), "every way has words"

_ACTORS = {
    "caller": "for the caller",
    "recovery": "by recovery",
    "undo": "as its undo ended",
}

_FATE_WORDS: dict[Fate, str] = {
    Fate.EXECUTED: "it was booked",
    Fate.NOT_EXECUTED: "this attempt booked nothing",
    Fate.UNKNOWN: "which proves nothing",
}

_QUESTION_WORDS: dict[Fate, str] = {
    Fate.EXECUTED: "it was",
    Fate.NOT_EXECUTED: "it was not",
    Fate.UNKNOWN: "the answer proves nothing (yet)",
}


def tell(
    booking: Booking,
    excerpt: Excerpt,
    undos: Sequence[Booking] = (),
) -> Story:
    """The story so far; steps are in the order in which they happened.

    `undos` are the bookings that were opened to undo it, which it may have to wait for.
    """
    history, attempts = excerpt.history, excerpt.attempts
    dated = [(entry.time, 1, Step(entry.time, _history_words(booking, entry))) for entry in history]
    for attempt in attempts:
        time = _attempt_time(attempt, history)
        # An attempt ends just before the move that it caused is written. One without an end is
        # told where it began, just after the move that announced it.
        order = 2 if attempt.end_time is None else 0
        dated.append((time, order, Step(time, _attempt_words(booking, attempt), attempt)))
    dated += _gap(excerpt)
    steps = tuple(step for _, _, step in sorted(dated, key=lambda item: item[:2]))
    parked = _parked_undo(booking, undos)
    return Story(
        booking,
        steps,
        _whose_fault(booking, attempts),
        _next_step(booking, parked),
        # Whoever decides may take days; that a machine looks in between moves nothing.
        booking.next_attempt_time if parked is None else None,
    )


def _gap(excerpt: Excerpt) -> list[tuple[datetime, int, Step]]:
    """Says where a long story is cut and how much of it is missing; empty where it is whole."""
    cuts: list[datetime] = []
    missing: list[str] = []
    if excerpt.moves_left_out:
        cuts.append(excerpt.history[FIRST_TOLD - 1].time)
        count = len(excerpt.history) + excerpt.moves_left_out
        missing.append(f"{excerpt.moves_left_out} of {count} moves")
    if excerpt.attempts_left_out:
        cuts.append(_attempt_time(excerpt.attempts[FIRST_TOLD - 1], excerpt.history))
        count = len(excerpt.attempts) + excerpt.attempts_left_out
        missing.append(f"{excerpt.attempts_left_out} of {count} attempts")
    if not cuts:
        return []
    words = (
        f"Left out from here on: {' and '.join(missing)}. The first {FIRST_TOLD} and the last"
        f" {LAST_TOLD} of each are told."
    )
    return [(min(cuts), 3, Step(min(cuts), words))]


def _parked_undo(booking: Booking, undos: Sequence[Booking]) -> Booking | None:
    """The undo that a person has to decide about before this booking can move, if there is one."""
    if booking.state is not State.REVERSING:
        return None
    return next((undo for undo in undos if undo.state is State.NEEDS_REVIEW), None)


def _next_step(booking: Booking, parked: Booking | None) -> str:
    if parked is not None:
        return (
            f"It waits for a person: no machine can find out whether {parked.name} has undone it."
            " Compare the account's statement at the vendor, then record the truth about"
            f" {parked.name} with `loyalty bookings resolve`; this booking follows at once."
        )
    if booking.state is State.IN_DOUBT:
        return _NEXT_BY_MODE[booking.recovery_mode]
    if booking.state is State.RESERVED and booking.is_own_undo:
        return "Nothing is undone so far. The gateway sends the undo again by itself."
    if booking.state is State.RESERVED and booking.not_before is not None:
        return (
            f"Nothing is booked: {pause_words(booking)}. The caller may repeat the same"
            " request_id, which is sent from then on and told to wait until then; if nobody does,"
            " the booking is closed without effect."
        )
    return _NEXT[booking.state]


def pause_words(booking: Booking) -> str:
    """Until when the vendor does not want to hear of a booking; empty where it did not say so."""
    if booking.not_before is None:
        return ""
    # Rounded up like the wait that its caller is told.
    end = booking.not_before.astimezone(UTC) + timedelta(microseconds=999_999)
    return f"the vendor asked for a pause until {end:%Y-%m-%d %H:%M:%S} UTC"


def _attempt_time(attempt: Attempt, history: Sequence[HistoryEntry]) -> datetime:
    if attempt.end_time is not None:
        return attempt.end_time
    later = [entry.time for entry in history if entry.time >= attempt.start_time]
    return later[0] if later else attempt.start_time


def _history_words(booking: Booking, entry: HistoryEntry) -> str:
    if entry.from_state == entry.to_state:
        words = entry.note or "it is not known yet"
    else:
        words = TRANSITIONS[(entry.from_state, entry.to_state)]
        if entry.from_state is None and entry.to_state is State.SENDING and booking.order:
            words = (
                f"{_subject(booking)} at {booking.connection} was written down before anything"
                " was sent"
            )
        if entry.note:
            words = f"{words} ({entry.note})"
    who = _ACTORS.get(entry.actor, f"by {entry.actor}")
    return f"{entry.to_state}: {words}, {who}."


def _subject(booking: Booking) -> str:
    """What is booked, on which account, and what it belongs to."""
    words = str(booking.operation)
    if booking.asked is not None:
        words = f"{words} of {booking.asked}"
    if booking.masked_id:
        words = f"{words} on account {booking.masked_id}"
    return f"{words} for {booking.original_booking}" if booking.original_booking else words


def _attempt_words(booking: Booking, attempt: Attempt) -> str:
    if attempt.kind is AttemptKind.ASK:
        return _question_words(booking, attempt)
    is_again = attempt.kind is AttemptKind.RESEND
    if attempt.fate is Fate.NOT_EXECUTED and attempt.http_status is None:
        how = f"did not {'leave again for' if is_again else 'leave for'} {booking.provider}"
    else:
        answer = (
            f"HTTP {attempt.http_status}" if attempt.http_status is not None else "no HTTP answer"
        )
        how = f"was sent {'again ' if is_again else ''}to {booking.provider}: {answer}"
    if attempt.provider_code:
        how = f"{how}, code {attempt.provider_code}"
    return f"Attempt {attempt.number} {how}; {_FATE_WORDS[attempt.fate]} (rule: {attempt.rule})."


def _question_words(booking: Booking, attempt: Attempt) -> str:
    how = f"Attempt {attempt.number} asked {booking.provider} whether it was booked"
    if attempt.http_status is None:
        how = f"{how}: no HTTP answer"
    if attempt.provider_code:
        how = f"{how}, code {attempt.provider_code}"
    return f"{how}; {_QUESTION_WORDS[attempt.fate]} (rule: {attempt.rule})."


def _whose_fault(booking: Booking, attempts: Sequence[Attempt]) -> WhoseFault:
    if booking.reason is not None:
        return _FAULTS.get(booking.reason, WhoseFault.UNKNOWN)
    troubles = [attempt.reason for attempt in attempts if attempt.reason is not None]
    if troubles:
        return _FAULTS.get(troubles[0], WhoseFault.UNKNOWN)
    return WhoseFault.NOBODY
