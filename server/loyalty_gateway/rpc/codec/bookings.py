"""Translates the service Bookings, and the booking that every service answers."""

from dataclasses import dataclass
from datetime import UTC, datetime

from google.rpc import status_pb2

from loyalty.v1 import bookings_pb2, types_pb2
from loyalty_gateway.booking.answers import error_for
from loyalty_gateway.booking.calls import BookingFilter, BookingKey, Decision, SortOrder
from loyalty_gateway.domain import booking as domain
from loyalty_gateway.domain.errors import Fate, Proves, Violation
from loyalty_gateway.domain.operations import InDoubtPolicy, Operation, RecoveryMode
from loyalty_gateway.rpc.codec.types import (
    Envelope,
    booking_id,
    connection_id,
    decode_account,
    decode_interval,
    decode_page_size,
    decode_request_id,
    fill_account,
    fill_amount,
    fill_balance,
    fill_money,
    fill_time,
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
    domain.AttemptKind.ASK: bookings_pb2.ATTEMPT_KIND_ASK,
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


def fill_booking(message: types_pb2.Booking, booking: domain.Booking) -> None:
    """Writes the journal's record as it stands; without an id (validate_only) no name or state.

    It fills in place and field by field, because every booking pays for it.
    """
    message.request_id = booking.request_id
    message.connection = booking.connection
    message.in_doubt_policy = POLICIES[booking.in_doubt_policy]
    if booking.incident:
        message.incident = booking.incident
    if booking.operation is not None:
        message.service = booking.operation.service
        message.method = booking.operation.method
        message.recovery_mode = RECOVERY_MODES[booking.recovery_mode]
        fill_booking_account(message.account, booking)
    if booking.asked is not None:
        fill_amount(message.asked, booking.asked)
    if not booking.booking_id:
        return
    message.name = booking.name
    message.state = STATES[booking.state]
    message.outcome = OUTCOMES[booking.outcome]
    message.final = booking.is_final
    message.cancel_requested = booking.cancel_requested
    message.original_booking = booking.original_booking
    message.undo_bookings.extend(booking.undo_bookings)
    message.reversible = booking.is_reversible
    message.attempt_count = booking.attempt_count
    message.trace_id = booking.trace_id
    if booking.applied is not None:
        fill_amount(message.applied, booking.applied)
    for balance in booking.balances_after:
        fill_balance(message.balances_after.add(), balance)
    for reference in booking.references:
        message.provider_references.add(kind=reference.kind, value=reference.value)
    for line in booking.receipt_lines:
        shown = message.receipt_lines.add(label=line.label, text=line.text)
        if line.amount is not None:
            fill_money(shown.amount, line.amount)
    fill_time(message.create_time, booking.create_time)
    fill_time(message.sent_time, booking.first_sent_time)
    fill_time(message.next_attempt_time, booking.next_attempt_time)
    if booking.is_final:
        fill_time(message.settle_time, booking.settle_time)
    error = _encode_error(booking)
    if error is not None:
        message.error.CopyFrom(error)


def _encode_error(booking: domain.Booking) -> status_pb2.Status | None:
    """The error that the booking's own rpc would answer now; None once it has succeeded."""
    if booking.state is domain.State.SUCCEEDED:
        return None
    if booking.status_bytes is not None:
        return status_pb2.Status.FromString(booking.status_bytes)
    return build_status(error_for(booking, now=datetime.now(UTC)))


def fill_booking_account(message: types_pb2.Account, booking: domain.Booking) -> None:
    """Writes the account of a booking; one that a booking has yet to make stays absent."""
    created = booking.created
    if created is not None:
        fill_account(message, booking.connection, created.token, created.masked_id)
    elif booking.account_token:
        fill_account(message, booking.connection, booking.account_token, booking.masked_id)


_KeyRequest = (
    bookings_pb2.GetBookingRequest
    | bookings_pb2.CancelBookingRequest
    | bookings_pb2.ExplainBookingRequest
)


def decode_key(message: _KeyRequest, envelope: Envelope, problems: list[Violation]) -> BookingKey:
    """The booking that the caller means."""
    request_id = decode_request_id(message.request_id, problems)
    return BookingKey(booking_id=booking_id(message.name), request_id=request_id)


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
    response = bookings_pb2.GetBookingResponse()
    fill_booking(response.booking, booking)
    return response


def encode_cancel_booking(booking: domain.Booking) -> bookings_pb2.CancelBookingResponse:
    """Bookings.CancelBooking."""
    response = bookings_pb2.CancelBookingResponse()
    fill_booking(response.booking, booking)
    return response


def encode_resolve_booking(booking: domain.Booking) -> bookings_pb2.ResolveBookingResponse:
    """Bookings.ResolveBooking."""
    response = bookings_pb2.ResolveBookingResponse()
    fill_booking(response.booking, booking)
    return response


def encode_list_bookings(
    page: tuple[tuple[domain.Booking, ...], str],
) -> bookings_pb2.ListBookingsResponse:
    """One page of bookings and the token of the next."""
    bookings, next_page_token = page
    response = bookings_pb2.ListBookingsResponse(next_page_token=next_page_token)
    for booking in bookings:
        fill_booking(response.bookings.add(), booking)
    return response


def encode_explain_booking(story: domain.Story) -> bookings_pb2.ExplainBookingResponse:
    """A booking's story."""
    response = bookings_pb2.ExplainBookingResponse(
        whose_fault=FAULTS[story.whose_fault],
        next_step=story.next_step,
        trace_id=story.booking.trace_id,
    )
    fill_booking(response.booking, story.booking)
    for step in story.steps:
        shown = response.steps.add(text=step.text)
        fill_time(shown.time, step.time)
        if step.attempt is not None:
            _fill_attempt(shown.attempt, step.attempt)
    fill_time(response.next_time, story.next_time)
    return response


def _fill_attempt(message: bookings_pb2.Attempt, attempt: domain.Attempt) -> None:
    message.number = attempt.number
    message.kind = ATTEMPT_KINDS[attempt.kind]
    message.request = attempt.request_text
    message.answer = attempt.answer_text
    message.http_status = attempt.http_status or 0
    message.provider_code = attempt.provider_code
    message.rule = attempt.rule
    message.fate = OUTCOMES[attempt.fate]
    if attempt.end_time is not None:
        # An attempt without an end proves nothing, whatever its row says.
        message.proves = PROOFS[attempt.proves]
