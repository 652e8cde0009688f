"""Reasons, fates and the one exception for expected failure; never a gRPC or HTTP status."""

from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """What is known of an effect at the vendor. There is no fourth value."""

    EXECUTED = "EXECUTED"
    NOT_EXECUTED = "NOT_EXECUTED"
    UNKNOWN = "UNKNOWN"


class Proves(StrEnum):
    """How far the proof of a fate reaches when a booking had more than one attempt."""

    THIS_ATTEMPT = "THIS_ATTEMPT"
    WHOLE_BOOKING = "WHOLE_BOOKING"


class Reason(StrEnum):
    """Why a call failed: the `reason` of google.rpc.ErrorInfo, ErrorReason in the contract."""

    REQUEST_INVALID = "REQUEST_INVALID"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    BOOKING_IN_DOUBT = "BOOKING_IN_DOUBT"
    BOOKING_IN_PROGRESS = "BOOKING_IN_PROGRESS"
    BOOKING_NEEDS_REVIEW = "BOOKING_NEEDS_REVIEW"
    BOOKING_NOT_EXECUTED = "BOOKING_NOT_EXECUTED"
    BOOKING_REVERSED = "BOOKING_REVERSED"
    CANCELLED_BEFORE_ARRIVAL = "CANCELLED_BEFORE_ARRIVAL"
    CANCEL_NOT_POSSIBLE = "CANCEL_NOT_POSSIBLE"
    RESOLUTION_NOT_POSSIBLE = "RESOLUTION_NOT_POSSIBLE"
    ALREADY_REVERSED = "ALREADY_REVERSED"
    ORIGINAL_NOT_FOUND = "ORIGINAL_NOT_FOUND"
    ORIGINAL_NOT_REVERSIBLE = "ORIGINAL_NOT_REVERSIBLE"
    ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
    ACCOUNT_NOT_ACTIVE = "ACCOUNT_NOT_ACTIVE"
    ACCOUNT_ALREADY_EXISTS = "ACCOUNT_ALREADY_EXISTS"
    ACCOUNT_ON_HOLD = "ACCOUNT_ON_HOLD"
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    CURRENCY_NOT_ACCEPTED = "CURRENCY_NOT_ACCEPTED"
    CODE_INVALID = "CODE_INVALID"
    CODE_EXPIRED = "CODE_EXPIRED"
    CAPABILITY_NOT_SUPPORTED = "CAPABILITY_NOT_SUPPORTED"
    FIELD_REQUIRED_BY_PROVIDER = "FIELD_REQUIRED_BY_PROVIDER"
    PROVIDER_DECLINED = "PROVIDER_DECLINED"
    PROVIDER_REJECTED_ARGUMENT = "PROVIDER_REJECTED_ARGUMENT"
    PROVIDER_PENDING = "PROVIDER_PENDING"
    PROVIDER_CREDENTIALS_REJECTED = "PROVIDER_CREDENTIALS_REJECTED"
    PROVIDER_ACCESS_DENIED = "PROVIDER_ACCESS_DENIED"
    PROVIDER_RATE_LIMITED = "PROVIDER_RATE_LIMITED"
    PROVIDER_INTERNAL = "PROVIDER_INTERNAL"
    PROVIDER_UNREACHABLE = "PROVIDER_UNREACHABLE"
    PROVIDER_ANSWER_UNREADABLE = "PROVIDER_ANSWER_UNREADABLE"
    PROVIDER_KEY_CONFLICT = "PROVIDER_KEY_CONFLICT"
    ADAPTER_ROUTE_INVALID = "ADAPTER_ROUTE_INVALID"
    CONNECTION_NOT_FOUND = "CONNECTION_NOT_FOUND"
    CONNECTION_PAUSED = "CONNECTION_PAUSED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    SCOPE_MISSING = "SCOPE_MISSING"
    NOT_FOUND = "NOT_FOUND"
    OVERLOADED = "OVERLOADED"
    TENANT_LIMITED = "TENANT_LIMITED"
    DRAINING = "DRAINING"
    DEADLINE_TOO_SHORT = "DEADLINE_TOO_SHORT"
    JOURNAL_UNAVAILABLE = "JOURNAL_UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that cannot be accepted; the text never holds the value."""

    field: str
    description: str


class LoyaltyError(Exception):
    """An expected failure on its way to the caller.

    `fate` is None until the journal was asked; the caller reads its absence as UNKNOWN.
    `is_final` says that the fate can never change. `retry_after_s` is set only where repeating
    the same request_id is useful. `status_bytes` is a stored answer that must be repeated
    to the letter. Nothing here may hold a card number, a secret or a vendor's free text.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        fate: Fate | None = None,
        is_final: bool = False,
        booking: str = "",
        request_id: str = "",
        connection: str = "",
        provider: str = "",
        provider_code: str = "",
        field: str = "",
        violations: tuple[Violation, ...] = (),
        retry_after_s: float | None = None,
        is_retry_forbidden: bool = False,
        is_replayed: bool = False,
        status_bytes: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fate = fate
        self.is_final = is_final
        self.booking = booking
        self.request_id = request_id
        self.connection = connection
        self.provider = provider
        self.provider_code = provider_code
        self.field = field
        self.violations = violations
        self.retry_after_s = retry_after_s
        self.is_retry_forbidden = is_retry_forbidden
        self.is_replayed = is_replayed
        self.status_bytes = status_bytes
