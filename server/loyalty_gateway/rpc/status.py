"""Turns an expected failure into google.rpc.Status; never a vendor's text, never an exception's."""

import re
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from loyalty_gateway.domain.errors import LoyaltyError, Reason, Violation

DOMAIN = "loyalty-gateway"

STATUS_BYTES_MAX = 4096
"""Trailers are limited to 8 KiB in all, and binary ones grow by a third on the wire."""

MESSAGE_LENGTH_MAX = 400

_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_STATE = grpc.StatusCode.FAILED_PRECONDITION
_LATE = grpc.StatusCode.DEADLINE_EXCEEDED
_OPERATORS = grpc.StatusCode.INTERNAL
_ABSENT = grpc.StatusCode.NOT_FOUND
_NEW_ID = grpc.StatusCode.ABORTED
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_LIMITED = grpc.StatusCode.RESOURCE_EXHAUSTED

CODES: dict[Reason, grpc.StatusCode] = {
    Reason.REQUEST_INVALID: _INVALID,
    Reason.REQUEST_ID_REUSED: _STATE,
    Reason.BOOKING_IN_DOUBT: _LATE,
    Reason.BOOKING_IN_PROGRESS: _LATE,
    Reason.BOOKING_NEEDS_REVIEW: _LATE,
    Reason.BOOKING_NOT_EXECUTED: _NEW_ID,
    Reason.BOOKING_REVERSED: _NEW_ID,
    Reason.CANCELLED_BEFORE_ARRIVAL: _NEW_ID,
    Reason.CANCEL_NOT_POSSIBLE: _STATE,
    Reason.RESOLUTION_NOT_POSSIBLE: _STATE,
    Reason.ALREADY_REVERSED: _STATE,
    Reason.ORIGINAL_NOT_FOUND: _ABSENT,
    Reason.ORIGINAL_NOT_REVERSIBLE: _STATE,
    Reason.ACCOUNT_NOT_FOUND: _ABSENT,
    Reason.ACCOUNT_NOT_ACTIVE: _STATE,
    Reason.ACCOUNT_ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.ACCOUNT_ON_HOLD: _NEW_ID,
    Reason.INSUFFICIENT_BALANCE: _STATE,
    Reason.CURRENCY_NOT_ACCEPTED: _STATE,
    Reason.CODE_INVALID: _INVALID,
    Reason.CODE_EXPIRED: _STATE,
    Reason.CAPABILITY_NOT_SUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Reason.FIELD_REQUIRED_BY_PROVIDER: _INVALID,
    Reason.PROVIDER_DECLINED: _STATE,
    Reason.PROVIDER_REJECTED_ARGUMENT: _INVALID,
    Reason.PROVIDER_PENDING: _LATE,
    # The caller cannot mend our credentials: UNAUTHENTICATED and PERMISSION_DENIED would tell
    # the caller to look at its own.
    Reason.PROVIDER_CREDENTIALS_REJECTED: _OPERATORS,
    Reason.PROVIDER_ACCESS_DENIED: _OPERATORS,
    Reason.PROVIDER_RATE_LIMITED: _LIMITED,
    Reason.PROVIDER_INTERNAL: _UNAVAILABLE,
    Reason.PROVIDER_UNREACHABLE: _UNAVAILABLE,
    Reason.PROVIDER_ANSWER_UNREADABLE: _UNAVAILABLE,
    Reason.PROVIDER_KEY_CONFLICT: _LATE,
    Reason.ADAPTER_ROUTE_INVALID: _OPERATORS,
    Reason.CONNECTION_NOT_FOUND: _ABSENT,
    Reason.CONNECTION_PAUSED: _STATE,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.SCOPE_MISSING: grpc.StatusCode.PERMISSION_DENIED,
    Reason.NOT_FOUND: _ABSENT,
    Reason.OVERLOADED: _LIMITED,
    Reason.TENANT_LIMITED: _LIMITED,
    Reason.DRAINING: _UNAVAILABLE,
    Reason.DEADLINE_TOO_SHORT: _LATE,
    Reason.JOURNAL_UNAVAILABLE: _UNAVAILABLE,
    Reason.DATA_LOSS: grpc.StatusCode.DATA_LOSS,
    Reason.INTERNAL: _OPERATORS,
}
"""The gRPC code of every reason. Libraries retry UNAVAILABLE by themselves, so on a booking only
reasons that prove "nothing was sent by this call" may have it; the engine sees to that."""

_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_RESOURCE_TYPES: dict[Reason, str] = {
    Reason.ORIGINAL_NOT_FOUND: "loyalty.v1.Booking",
    Reason.ACCOUNT_NOT_FOUND: "loyalty.v1.Account",
    Reason.CONNECTION_NOT_FOUND: "loyalty.v1.Connection",
    Reason.NOT_FOUND: "loyalty.v1.Booking",
}


@dataclass(frozen=True, slots=True)
class WireStatus:
    """A failure as it leaves: the code, the message and the serialised google.rpc.Status."""

    code: grpc.StatusCode
    message: str
    status_bytes: bytes


def wire_status(error: LoyaltyError, *, error_id: str = "") -> WireStatus:
    """The failure of a call. A stored status is sent again to the letter."""
    if error.status_bytes is not None:
        try:
            stored = status_pb2.Status.FromString(error.status_bytes)
        except DecodeError:
            return wire_status(
                LoyaltyError(
                    Reason.DATA_LOSS,
                    "The stored answer of this booking cannot be read; ask for the booking.",
                    booking=error.booking,
                    request_id=error.request_id,
                )
            )
        code = _BY_NUMBER.get(stored.code, grpc.StatusCode.INTERNAL)
        return WireStatus(code, stored.message, error.status_bytes)
    code = CODES[error.reason]
    message = _one_line(error.message)
    return WireStatus(code, message, encode_status(error, error_id=error_id))


def encode_status(error: LoyaltyError, *, error_id: str = "") -> bytes:
    """The serialised google.rpc.Status of a failure, small enough for a trailer."""
    violations = error.violations
    while True:
        status: Message = build_status(error, violations, error_id=error_id)
        body = status.SerializeToString(deterministic=True)
        if len(body) <= STATUS_BYTES_MAX or not violations:
            return body
        violations = violations[: len(violations) // 2]


def build_status(
    error: LoyaltyError, violations: tuple[Violation, ...] | None = None, *, error_id: str = ""
) -> status_pb2.Status:
    """The google.rpc.Status of a failure, showing only `violations` of all that it has."""
    shown = error.violations if violations is None else violations
    status = status_pb2.Status(code=CODES[error.reason].value[0], message=_one_line(error.message))
    _add(
        status,
        error_details_pb2.ErrorInfo(
            reason=error.reason.value, domain=DOMAIN, metadata=_metadata(error, error_id)
        ),
    )
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in shown:
            bad.field_violations.add(field=violation.field, description=violation.description)
        left_out = len(error.violations) - len(shown)
        if left_out:
            bad.field_violations.add(description=f"and {left_out} more violations")
        _add(status, bad)
    if error.retry_after_s is not None:
        milliseconds = max(0, round(error.retry_after_s * 1000))
        delay = duration_pb2.Duration(
            seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000
        )
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    resource_type = _RESOURCE_TYPES.get(error.reason)
    if resource_type is not None:
        # An account has no name that may be shown, so its connection stands for it.
        connection = f"connections/{error.connection}" if error.connection else ""
        named = error.booking if resource_type == "loyalty.v1.Booking" else connection
        _add(
            status,
            error_details_pb2.ResourceInfo(resource_type=resource_type, resource_name=named),
        )
    if error.reason is Reason.INSUFFICIENT_BALANCE:
        failure = error_details_pb2.PreconditionFailure()
        failure.violations.add(
            type=error.reason.value,
            subject=error.booking or error.connection,
            description=_one_line(error.message),
        )
        _add(status, failure)
    return status


def _metadata(error: LoyaltyError, error_id: str) -> dict[str, str]:
    metadata = {
        "booking": error.booking,
        "request_id": error.request_id,
        "connection": error.connection,
        "provider": error.provider,
        "provider_code": error.provider_code,
        "error_id": error_id,
        "field": error.field,
    }
    metadata = {name: value[:128] for name, value in metadata.items() if value}
    if error.fate is not None:
        # Without an outcome there is no `final` either: nothing is known of an earlier call.
        metadata["outcome"] = error.fate.value
        metadata["final"] = "true" if error.is_final else "false"
    return metadata


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail, deterministic=True)
    status.details.append(packed)


def _one_line(text: str) -> str:
    """The message as it may stand in a header: one line of a bounded length."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)[:MESSAGE_LENGTH_MAX]
