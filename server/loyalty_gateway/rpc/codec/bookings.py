"""Translates the service Bookings, and the booking that every service answers."""

from dataclasses import dataclass

from google.rpc import status_pb2

from loyalty.v1 import bookings_pb2, types_pb2
from loyalty_gateway.booking.calls import BookingFilter, BookingKey, Decision, SortOrder
from loyalty_gateway.domain import booking as domain
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Proves, Reason, Violation
from loyalty_gateway.domain.operations import InDoubtPolicy, Operation, RecoveryMode
from loyalty_gateway.rpc.codec.types import (
    Envelope,
    booking_id,
    connection_id,
    decode_account,
    decode_interval,
    decode_page_size,
    encode_account,
    encode_amount,
    encode_balance,
    encode_receipt_line,
    set_time,
)
from loyalty_gateway.rpc.status import build_status

STATES: dict[domain.State, types_pb2.BookingState.ValueType] = {
    domain.State.RESERVED: types_pb2.BOOKING_STATE_RESERVED,
    domain.State.SENDING: types_pb2.BOOKING_STATE_SENDING,
    domain.State.IN_DOUBT: types_pb2.BOOKING_STATE_IN_DOUBT,
    domain.State.REVERSING: types_pb2.BOOKING_STATE_REVERSING,
    domain.State.NEEDS_REVIEW: types_pb2.BOOKING_STATE_NEEDS_REVIEW,
    domain.State.SUCCEEDED: types_pb2.BOOKING_STATE_SUCCEEDED,
    domain.State.DECLINED: types_pb2.BOOKING_STATE_DECLINED,
    domain.State.NOT_EXECUTED: types_pb2.BOOKING_STATE_NOT_EXECUTED,
    domain.State.REVERSED: types_pb2.BOOKING_STATE_REVERSED,
}
OUTCOMES: dict[Fate, types_pb2.Outcome.ValueType] = {
    Fate.EXECUTED: types_pb2.OUTCOME_EXECUTED,
    Fate.NOT_EXECUTED: types_pb2.OUTCOME_NOT_EXECUTED,
    Fate.UNKNOWN: types_pb2.OUTCOME_UNKNOWN,
}
POLICIES: dict[InDoubtPolicy, types_pb2.InDoubtPolicy.ValueType] = {
    InDoubtPolicy.RESOLVE: types_pb2.IN_DOUBT_POLICY_RESOLVE,
    InDoubtPolicy.AUTO_REVERSE: types_pb2.IN_DOUBT_POLICY_AUTO_REVERSE,
}
RECOVERY_MODES: dict[RecoveryMode, types_pb2.RecoveryMode.ValueType] = {
    RecoveryMode.SAFE_RESEND: types_pb2.RECOVERY_MODE_SAFE_RESEND,
    RecoveryMode.STATUS_QUERY: types_pb2.RECOVERY_MODE_STATUS_QUERY,
    RecoveryMode.STATEMENT_MATCH: types_pb2.RECOVERY_MODE_STATEMENT_MATCH,
    RecoveryMode.REVERSE: types_pb2.RECOVERY_MODE_REVERSE,
    RecoveryMode.MANUAL: types_pb2.RECOVERY_MODE_MANUAL,
}
ATTEMPT_KINDS: dict[domain.AttemptKind, bookings_pb2.AttemptKind.ValueType] = {
    domain.AttemptKind.SEND: bookings_pb2.ATTEMPT_KIND_SEND,
    domain.AttemptKind.RESEND: bookings_pb2.ATTEMPT_KIND_RESEND,
}
PROOFS: dict[Proves, bookings_pb2.Proof.ValueType] = {
    Proves.THIS_ATTEMPT: bookings_pb2.PROOF_THIS_ATTEMPT,
    Proves.WHOLE_BOOKING: bookings_pb2.PROOF_WHOLE_BOOKING,
}
FAULTS: dict[domain.WhoseFault, bookings_pb2.Fault.ValueType] = {
    domain.WhoseFault.NOBODY: bookings_pb2.FAULT_NOBODY,
    domain.WhoseFault.CALLER: bookings_pb2.FAULT_CALLER,
    domain.WhoseFault.GATEWAY: bookings_pb2.FAULT_GATEWAY,
    domain.WhoseFault.PROVIDER: bookings_pb2.FAULT_PROVIDER,
    domain.WhoseFault.UNKNOWN: bookings_pb2.FAULT_UNKNOWN,
}
ORDERS: dict[bookings_pb2.BookingOrder.ValueType, SortOrder] = {
    bookings_pb2.BOOKING_ORDER_UNSPECIFIED: SortOrder.CREATE_DESC,
    bookings_pb2.BOOKING_ORDER_CREATE_DESC: SortOrder.CREATE_DESC,
    bookings_pb2.BOOKING_ORDER_SETTLE_ASC: SortOrder.SETTLE_ASC,
}

_STATE_BY_NUMBER = {number: state for state, number in STATES.items()}
_OUTCOME_BY_NUMBER = {number: fate for fate, number in OUTCOMES.items()}
_OPERATION_BY_METHOD = {operation.method: operation for operation in Operation}

# The error that a booking's own rpc answers in a state in which no status bytes are stored.
_ERROR_BY_STATE: dict[domain.State, tuple[Reason, str]] = {
    domain.State.IN_DOUBT: (
        Reason.BOOKING_IN_DOUBT,
        "The provider's answer is missing; the gateway is finding out what happened.",
    ),
    domain.State.NEEDS_REVIEW: (
        Reason.BOOKING_NEEDS_REVIEW,
        "No machine can find out what happened; a person must decide.",
    ),
    domain.State.NOT_EXECUTED: (
        Reason.BOOKING_NOT_EXECUTED,
        "The booking was not executed; use a new request_id.",
    ),
    domain.State.REVERSED: (
        Reason.BOOKING_REVERSED,
        "The booking was undone; use a new request_id.",
    ),
}


def encode_booking(booking: domain.Booking) -> types_pb2.Booking:
    """The journal's record as it stands. Without an id (validate_only) it has no name or state."""
    message = types_pb2.Booking(
        request_id=booking.request_id,
        in_doubt_policy=POLICIES[booking.in_doubt_policy],
        cancel_requested=booking.cancel_requested,
        balances_after=[encode_balance(balance) for balance in booking.balances_after],
        provider_references=[
            types_pb2.ProviderReference(kind=reference.kind, value=reference.value)
            for reference in booking.references
        ],
        receipt_lines=[encode_receipt_line(line) for line in booking.receipt_lines],
        original_booking=booking.original_booking,
        attempt_count=booking.attempt_count,
        trace_id=booking.trace_id,
        connection=booking.connection,
        incident=booking.incident,
    )
    if booking.operation is not None:
        message.service = booking.operation.service
        message.method = booking.operation.method
        message.recovery_mode = RECOVERY_MODES[booking.recovery_mode]
        message.account.CopyFrom(
            encode_account(booking.connection, booking.account_token, booking.masked_id)
        )
    if booking.asked is not None:
        message.asked.CopyFrom(encode_amount(booking.asked))
    if booking.applied is not None:
        message.applied.CopyFrom(encode_amount(booking.applied))
    if not booking.booking_id:
        return message
    message.name = booking.name
    message.state = STATES[booking.state]
    message.outcome = OUTCOMES[booking.outcome]
    message.final = booking.is_final
    set_time(message.create_time, booking.create_time)
    set_time(message.sent_time, booking.first_sent_time)
    set_time(message.next_attempt_time, booking.next_attempt_time)
    if booking.is_final:
        set_time(message.settle_time, booking.settle_time)
    error = _encode_error(booking)
    if error is not None:
        message.error.CopyFrom(error)
    return message


def _encode_error(booking: domain.Booking) -> status_pb2.Status | None:
    if booking.state is domain.State.SUCCEEDED:
        return None
    if booking.status_bytes is not None:
        return status_pb2.Status.FromString(booking.status_bytes)
    reason, text = _ERROR_BY_STATE.get(booking.state, (booking.reason, ""))
    if reason is None:
        return None
    if booking.is_tombstone:
        reason = Reason.CANCELLED_BEFORE_ARRIVAL
        text = "The request_id was cancelled before its booking arrived; use a new one."
    elif not text:
        text = "Nothing was sent so far; the same request_id may be repeated."
    return build_status(
        LoyaltyError(
            reason,
            text,
            fate=booking.outcome,
            is_final=booking.is_final,
            booking=booking.name,
            request_id=booking.request_id,
            connection=booking.connection,
            provider=booking.provider,
            provider_code=booking.provider_code,
        )
    )


_KeyRequest = (
    bookings_pb2.GetBookingRequest
    | bookings_pb2.CancelBookingRequest
    | bookings_pb2.ExplainBookingRequest
)


def decode_key(message: _KeyRequest, envelope: Envelope, problems: list[Violation]) -> BookingKey:
    """The booking that the caller means."""
    return BookingKey(booking_id=booking_id(message.name), request_id=message.request_id)


def decode_list_bookings(
    message: bookings_pb2.ListBookingsRequest, envelope: Envelope, problems: list[Violation]
) -> BookingFilter:
    """Bookings.ListBookings."""
    operation = None
    if message.method:
        operation = _OPERATION_BY_METHOD.get(message.method)
        if operation is None:
            problems.append(Violation("method", "must be the name of an rpc of this contract"))
    account = None
    if message.HasField("account"):
        account = decode_account(message.account, "account", problems)
    created_from, created_before = decode_interval(message.created, "created", problems)
    settled_from, settled_before = decode_interval(message.settled, "settled", problems)
    return BookingFilter(
        states=tuple(
            state
            for number in message.states
            if (state := _STATE_BY_NUMBER.get(number)) is not None
        ),
        connection=connection_id(message.connection),
        incident=message.incident,
        operation=operation,
        account=account,
        created_from=created_from,
        created_before=created_before,
        settled_from=settled_from,
        settled_before=settled_before,
        order=ORDERS.get(message.order, SortOrder.CREATE_DESC),
        page_size=decode_page_size(message.page),
        page_token=message.page.page_token,
    )


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a doubt shall end; `decision` is None where the provider is to be asked now."""

    booking_id: str
    decision: Decision | None


def decode_resolve_booking(
    message: bookings_pb2.ResolveBookingRequest, envelope: Envelope, problems: list[Violation]
) -> Resolution:
    """Bookings.ResolveBooking."""
    decision = None
    if message.HasField("decision"):
        decision = Decision(
            outcome=_OUTCOME_BY_NUMBER.get(message.decision.outcome, Fate.UNKNOWN),
            evidence=message.decision.evidence,
            reason=message.decision.reason,
        )
    return Resolution(booking_id(message.name), decision)


def encode_get_booking(booking: domain.Booking) -> bookings_pb2.GetBookingResponse:
    """Bookings.GetBooking."""
    return bookings_pb2.GetBookingResponse(booking=encode_booking(booking))


def encode_cancel_booking(booking: domain.Booking) -> bookings_pb2.CancelBookingResponse:
    """Bookings.CancelBooking."""
    return bookings_pb2.CancelBookingResponse(booking=encode_booking(booking))


def encode_resolve_booking(booking: domain.Booking) -> bookings_pb2.ResolveBookingResponse:
    """Bookings.ResolveBooking."""
    return bookings_pb2.ResolveBookingResponse(booking=encode_booking(booking))


def encode_list_bookings(
    page: tuple[tuple[domain.Booking, ...], str],
) -> bookings_pb2.ListBookingsResponse:
    """One page of bookings and the token of the next."""
    bookings, next_page_token = page
    return bookings_pb2.ListBookingsResponse(
        bookings=[encode_booking(booking) for booking in bookings],
        next_page_token=next_page_token,
    )


def encode_explain_booking(story: domain.Story) -> bookings_pb2.ExplainBookingResponse:
    """A booking's story."""
    message = bookings_pb2.ExplainBookingResponse(
        booking=encode_booking(story.booking),
        steps=[_encode_step(step) for step in story.steps],
        whose_fault=FAULTS[story.whose_fault],
        next_step=story.next_step,
        trace_id=story.booking.trace_id,
    )
    set_time(message.next_time, story.next_time)
    return message


def _encode_step(step: domain.Step) -> bookings_pb2.ExplanationStep:
    message = bookings_pb2.ExplanationStep(text=step.text)
    set_time(message.time, step.time)
    attempt = step.attempt
    if attempt is not None:
        ended = attempt.end_time is not None
        message.attempt.CopyFrom(
            bookings_pb2.Attempt(
                number=attempt.number,
                kind=ATTEMPT_KINDS[attempt.kind],
                request=attempt.request_text,
                answer=attempt.answer_text,
                http_status=attempt.http_status or 0,
                provider_code=attempt.provider_code,
                rule=attempt.rule,
                fate=OUTCOMES[attempt.fate],
                proves=PROOFS[attempt.proves] if ended else bookings_pb2.PROOF_UNSPECIFIED,
            )
        )
    return message
