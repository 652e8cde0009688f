"""What CardAPI's and AuthAPI's error codes mean; data only, and an unlisted code proves nothing.

The codes and their HTTP statuses are the vendor's own. CARD-12 and CARD-13 are missing from its
list, and no code is published for a balance that is too low.
"""

from typing import Final

from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.providers.status import StatusTable

DOCUMENTED: Final[dict[str, int]] = {
    "CARD-1": 500,
    "CARD-2": 404,
    "CARD-3": 422,
    "CARD-4": 500,
    "CARD-5": 401,
    "CARD-6": 400,
    "CARD-7": 400,
    "CARD-8": 400,
    "CARD-9": 403,
    "CARD-10": 500,
    "CARD-11": 500,
    "CARD-14": 404,
    "AUTH-1": 401,
    "AUTH-2": 401,
    "AUTH-3": 401,
    "AUTH-6": 422,
    "AUTH-7": 403,
    "AUTH-9": 400,
}
"""The HTTP status that each code comes with; AUTH-10 is listed without one."""


def _refusal(reason: Reason) -> StatusRow:
    """A documented business refusal: the vendor understood the booking and did not make it."""
    return StatusRow(reason, Fate.NOT_EXECUTED, Proves.THIS_ATTEMPT, is_refusal=True)


def _not_booked(reason: Reason) -> StatusRow:
    """Stopped before any business was looked at: the same request may be sent again."""
    return StatusRow(reason, Fate.NOT_EXECUTED, Proves.THIS_ATTEMPT)


DEFAULT: Final = StatusRow(Reason.PROVIDER_INTERNAL)

_TOKEN_REFUSED: Final = _not_booked(Reason.PROVIDER_CREDENTIALS_REJECTED)
"""Assumed, here and nowhere else: the vendor looks at the token before it looks at anything
else, so a refused token means that nothing was booked. That is why a debit may be sent once more
with a new token."""

REJECTED: Final = _refusal(Reason.PROVIDER_REJECTED_ARGUMENT)

STATUS: Final[StatusTable] = {
    # "Invalid path": the vendor has no such route, so nothing of ours was looked at.
    (None, "CARD-2"): _not_booked(Reason.ADAPTER_ROUTE_INVALID),
    (None, "CARD-3"): REJECTED,
    (None, "CARD-5"): _TOKEN_REFUSED,
    (None, "CARD-6"): _TOKEN_REFUSED,
    # A token whose time has passed comes as HTTP 400 here, not as 401.
    (None, "CARD-7"): _TOKEN_REFUSED,
    (None, "CARD-8"): _TOKEN_REFUSED,
    (None, "CARD-9"): _not_booked(Reason.PROVIDER_ACCESS_DENIED),
    (None, "CARD-14"): _refusal(Reason.ACCOUNT_NOT_FOUND),
    # The vendor lists these four as internal and without a meaning.
    (None, "CARD-1"): DEFAULT,
    (None, "CARD-4"): DEFAULT,
    (None, "CARD-10"): DEFAULT,
    (None, "CARD-11"): DEFAULT,
    # No rate limit is published; whatever stands before the vendor may have one all the same.
    (None, 429): _not_booked(Reason.PROVIDER_RATE_LIMITED),
    # AuthAPI, where only a token is asked for: nothing can be booked there.
    (None, "AUTH-1"): _TOKEN_REFUSED,
    (None, "AUTH-2"): _TOKEN_REFUSED,
    (None, "AUTH-3"): _TOKEN_REFUSED,
    (None, "AUTH-9"): _TOKEN_REFUSED,
    # A parameter of the token request: its body is assumed, so the mistake is the adapter's.
    (None, "AUTH-6"): _not_booked(Reason.ADAPTER_ROUTE_INVALID),
    (None, "AUTH-7"): _not_booked(Reason.PROVIDER_ACCESS_DENIED),
    # Listed by the vendor; its meaning could not be read.
    (None, "AUTH-10"): DEFAULT,
}

TOO_LITTLE: Final = _refusal(Reason.INSUFFICIENT_BALANCE)
"""CARD-3 to a debit of more than the pass was seen to hold: the vendor has no better code."""

UNREADABLE: Final = StatusRow(Reason.PROVIDER_ANSWER_UNREADABLE)
"""A 200 that does not prove what it should: something answered, and nothing more is known."""

NOT_CASHBACK: Final = _refusal(Reason.ACCOUNT_NOT_ACTIVE)
"""The vendor debits passes of type CASHBACK only. The connection can debit, this pass cannot: so
it is the account that is not in a state for it, and not a missing capability."""

OTHER_CURRENCY: Final = _refusal(Reason.CURRENCY_NOT_ACCEPTED)
"""The pass holds another currency than the connection books in."""

INVALID: Final = _refusal(Reason.REQUEST_INVALID)
"""The request holds something that this vendor's shapes have no place for; nothing was sent."""
