"""What openLoyaltyPay's codes mean; data only, and a code that is not here proves nothing.

The vendor publishes 200 for success and no other code: every row stands on our own assumption of
its codes, and a refusal counts as one only because it is listed here.
"""

from collections.abc import Mapping
from typing import Final

from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.providers.status import StatusTable

SUCCESS: Final = "200"

_IN_CODE_ONLY: Final = frozenset({200})

DOCUMENTED: Final[Mapping[str, frozenset[int]]] = {
    "4001": _IN_CODE_ONLY,
    "4002": _IN_CODE_ONLY,
    "4003": _IN_CODE_ONLY,
    "4004": _IN_CODE_ONLY,
    "4005": _IN_CODE_ONLY,
    "4006": _IN_CODE_ONLY,
    "400": frozenset({200, 400}),
    "401": frozenset({200, 401}),
    "403": frozenset({200, 403}),
    "429": frozenset({200, 429}),
    "500": frozenset({200, 500}),
}
"""The HTTP statuses that each code may come with: the codes of business only under 200, the
others (assumed) also under the HTTP status of the same number. A code under any other status is
not believed: then something that is not the vendor's application has had a hand in the answer."""


def _refusal(reason: Reason, *, shows_earlier: bool = False) -> StatusRow:
    """A business refusal: the vendor understood the booking and did not make it."""
    return StatusRow(
        reason,
        Fate.NOT_EXECUTED,
        Proves.THIS_ATTEMPT,
        is_refusal=True,
        shows_earlier=shows_earlier,
    )


def _not_booked(reason: Reason) -> StatusRow:
    """Stopped before any business was looked at: the same request may be sent again."""
    return StatusRow(reason, Fate.NOT_EXECUTED, Proves.THIS_ATTEMPT)


DEFAULT: Final = StatusRow(Reason.PROVIDER_INTERNAL)

STATUS: Final[StatusTable] = {
    (None, "4001"): _refusal(Reason.INSUFFICIENT_BALANCE),
    (None, "4002"): _refusal(Reason.ACCOUNT_NOT_FOUND),
    (None, "4003"): _refusal(Reason.ACCOUNT_NOT_ACTIVE),
    # The order number was used before. To a resend that is no proof of anything: whether a
    # refused or a failed order has used its number up as well is not documented, so the earlier
    # attempt may have booked or not. To a first attempt see FIRST_ATTEMPT.
    (None, "4004"): StatusRow(Reason.PROVIDER_KEY_CONFLICT),
    # Only a void and a tip name an original; as the answer to anything else these two codes would
    # say nothing that could be understood.
    (None, "4005"): StatusRow(Reason.ORIGINAL_NOT_FOUND),
    (Operation.VOID_GIFT_TRANSACTION, "4005"): _refusal(Reason.ORIGINAL_NOT_FOUND),
    (Operation.ADD_GIFT_TIP, "4005"): _refusal(Reason.ORIGINAL_NOT_FOUND),
    (None, "4006"): StatusRow(Reason.ALREADY_REVERSED),
    # A void undoes its original whole and once: a resend that finds it undone was executed before.
    (Operation.VOID_GIFT_TRANSACTION, "4006"): _refusal(
        Reason.ALREADY_REVERSED, shows_earlier=True
    ),
    # A tip on a payment that was voided; it tells nothing of an earlier attempt of the tip.
    (Operation.ADD_GIFT_TIP, "4006"): _refusal(Reason.ALREADY_REVERSED),
    (None, "400"): _refusal(Reason.PROVIDER_REJECTED_ARGUMENT),
    # Token and signature are looked at before anything else (assumed). A wrong signature is as
    # much our credential's trouble as a wrong token: the secret that it is made with is not theirs.
    (None, "401"): _not_booked(Reason.PROVIDER_CREDENTIALS_REJECTED),
    (None, "403"): _not_booked(Reason.PROVIDER_CREDENTIALS_REJECTED),
    (None, "429"): _not_booked(Reason.PROVIDER_RATE_LIMITED),
    (None, 429): _not_booked(Reason.PROVIDER_RATE_LIMITED),
    (None, "500"): StatusRow(Reason.PROVIDER_INTERNAL),
}

FIRST_ATTEMPT: Final[Mapping[str, StatusRow]] = {
    # Nobody of ours has used this number: a database was restored under a used salt, somebody
    # else has our client id, or a proxy sent the request twice. A person decides.
    "4004": StatusRow(Reason.PROVIDER_KEY_CONFLICT, contradicts=True),
}
"""Rows that hold instead of STATUS for the very first attempt of a booking."""

RESULTS: Final[Mapping[str, StatusRow]] = {
    "1": _refusal(Reason.PROVIDER_DECLINED),
    # Accepted and still open: neither booked nor refused.
    "2": StatusRow(Reason.PROVIDER_PENDING),
}
"""What `data.result` means under code 200, except for 0, which is success."""

UNREADABLE: Final = StatusRow(Reason.PROVIDER_ANSWER_UNREADABLE)
"""A 200 that does not prove the booking: something answered, and nothing more is known."""

UNDONE_ELSEWHERE: Final = StatusRow(Reason.ALREADY_REVERSED, contradicts=True)
"""An order in doubt that the vendor says was executed and then undone, wholly or in part. Nothing
of ours undid it, so a person has to find out who did."""

NEEDS_POINTS: Final = _refusal(Reason.FIELD_REQUIRED_BY_PROVIDER)
"""This vendor credits a number of points; it has no rules that make points of a purchase."""

NEEDS_SCAN: Final = StatusRow(Reason.FIELD_REQUIRED_BY_PROVIDER, Fate.NOT_EXECUTED)
"""Cards are found here by their own number and by nothing else."""

UNKNOWN_ATTRIBUTE: Final = _refusal(Reason.REQUEST_INVALID)
"""A field of the holder that this vendor has no place for; it is not dropped in silence."""

ORIGINAL_NOT_KNOWN: Final = _not_booked(Reason.ORIGINAL_NOT_FOUND)
"""A tip on a payment whose number at the vendor is not known (yet): nothing was sent."""
