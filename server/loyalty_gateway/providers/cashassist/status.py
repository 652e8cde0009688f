"""What CashAssist's error codes mean; data only, and a code that is not here proves nothing.

The codes and their HTTP statuses are our working description of the vendor's API: its own
reference could not be read. A refusal counts as one only because it is listed here.
"""

from typing import Final

from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.providers.status import StatusTable

DOCUMENTED: Final[dict[str, int]] = {
    "invalid_request": 400,
    "idempotency_key_missing": 400,
    "invalid_api_key": 401,
    "insufficient_scope": 403,
    "card_not_found": 404,
    "transaction_not_found": 404,
    "verification_not_found": 404,
    "idempotency_key_reused": 409,
    "request_in_progress": 409,
    "card_exists": 409,
    "insufficient_balance": 422,
    "insufficient_points": 422,
    "card_blocked": 422,
    "code_invalid": 422,
    "receipt_mismatch": 422,
    "rate_limited": 429,
    "internal_error": 500,
}
"""The HTTP status that each code comes with. A code under another status is not believed: then
something that is not the vendor's application has had a hand in the answer."""


def _refusal(reason: Reason, *, may_be_own: bool = False) -> StatusRow:
    """A documented business refusal: the vendor understood the booking and did not make it."""
    return StatusRow(
        reason, Fate.NOT_EXECUTED, Proves.THIS_ATTEMPT, is_refusal=True, may_be_own=may_be_own
    )


def _not_booked(reason: Reason) -> StatusRow:
    """Stopped before any business was looked at: the same request may be sent again."""
    return StatusRow(reason, Fate.NOT_EXECUTED, Proves.THIS_ATTEMPT)


DEFAULT: Final = StatusRow(Reason.PROVIDER_INTERNAL)

NOT_THEIR_RECEIPT: Final = _refusal(Reason.PROVIDER_DECLINED)
"""The vendor's no to the question whether a receipt belongs to a card: an answer, no failure."""

CARD_EXISTS: Final = _refusal(Reason.ACCOUNT_ALREADY_EXISTS, may_be_own=True)
TOKEN_SPENT: Final = _refusal(Reason.CODE_EXPIRED, may_be_own=True)

STATUS: Final[StatusTable] = {
    (None, "invalid_request"): _refusal(Reason.PROVIDER_REJECTED_ARGUMENT),
    # The adapter sends a key with every booking; without one it is our own mistake.
    (None, "idempotency_key_missing"): _not_booked(Reason.INTERNAL),
    (None, "invalid_api_key"): _not_booked(Reason.PROVIDER_CREDENTIALS_REJECTED),
    (None, "insufficient_scope"): _not_booked(Reason.PROVIDER_ACCESS_DENIED),
    (None, "card_not_found"): _refusal(Reason.ACCOUNT_NOT_FOUND),
    (None, "insufficient_balance"): _refusal(Reason.INSUFFICIENT_BALANCE),
    (None, "insufficient_points"): _refusal(Reason.INSUFFICIENT_BALANCE),
    (None, "card_blocked"): _refusal(Reason.ACCOUNT_NOT_ACTIVE),
    # Spent before execution, says the vendor ("Nothing was booked"), by code and by status.
    (None, "rate_limited"): _not_booked(Reason.PROVIDER_RATE_LIMITED),
    (None, 429): _not_booked(Reason.PROVIDER_RATE_LIMITED),
    # Our key came with another body. Bodies are made from the journal alone, so either a
    # database was restored under a used salt or somebody else has our keys: a person decides.
    (None, "idempotency_key_reused"): StatusRow(
        Reason.PROVIDER_KEY_CONFLICT, Fate.UNKNOWN, contradicts=True
    ),
    # The first request with our key still runs at the vendor.
    (None, "request_in_progress"): StatusRow(Reason.PROVIDER_PENDING),
    (None, "internal_error"): StatusRow(Reason.PROVIDER_INTERNAL),
    # What is asked for under these numbers, codes and receipts has no effect; as the answer to
    # any other booking they would prove nothing.
    (None, "transaction_not_found"): StatusRow(Reason.NOT_FOUND),
    (None, "verification_not_found"): StatusRow(Reason.CODE_EXPIRED),
    (None, "code_invalid"): StatusRow(Reason.CODE_INVALID),
    (None, "receipt_mismatch"): StatusRow(Reason.PROVIDER_DECLINED),
    (None, "card_exists"): StatusRow(Reason.ACCOUNT_ALREADY_EXISTS),
    (Operation.VERIFY_CHALLENGE, "verification_not_found"): _refusal(Reason.CODE_EXPIRED),
    (Operation.VERIFY_CHALLENGE, "code_invalid"): _refusal(Reason.CODE_INVALID),
    # Beside the vendor's own number of the request there is nothing in it but the code.
    (Operation.VERIFY_CHALLENGE, "invalid_request"): _refusal(Reason.CODE_INVALID),
    (Operation.VERIFY_CARD_OWNERSHIP, "receipt_mismatch"): NOT_THEIR_RECEIPT,
    # A number that has a card gets no second one, neither at sign-up nor afterwards; to a resend
    # it may be the card that an earlier attempt made.
    (Operation.CREATE_CHALLENGE, "card_exists"): _refusal(Reason.ACCOUNT_ALREADY_EXISTS),
    (Operation.CREATE_CARD, "card_exists"): CARD_EXISTS,
    (Operation.CREATE_WALLET, "card_exists"): CARD_EXISTS,
    # There is no code for a sign-up token that is unknown, used or too old. That it is refused
    # as a code is, is assumed; to a resend it may be an earlier attempt that used it.
    (Operation.CREATE_CARD, "code_invalid"): TOKEN_SPENT,
    (Operation.CREATE_WALLET, "code_invalid"): TOKEN_SPENT,
}

UNREADABLE: Final = StatusRow(Reason.PROVIDER_ANSWER_UNREADABLE)
"""A 200 that does not prove the booking: something answered, and nothing more is known."""

TOO_LONG: Final = StatusRow(Reason.REQUEST_INVALID, Fate.NOT_EXECUTED)
"""A statement over more of the vendor's pages than one call may read; only reads meet it."""

INVALID: Final = _refusal(Reason.REQUEST_INVALID)
"""The request holds something that this vendor has no place for; nothing was sent."""

FIELD_MISSING: Final = _refusal(Reason.FIELD_REQUIRED_BY_PROVIDER)
"""The request lacks something that this vendor cannot do without; nothing was sent."""
