"""How a vendor's STATUS table is read, for all vendors alike; it holds no row of its own."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS, Operation
from loyalty_gateway.providers.port import StatusRow

StatusTable = Mapping[tuple[Operation | None, str | int], StatusRow]
"""Rows by (operation, or None for any; the vendor's code, or an HTTP status as a number)."""

REFUSALS: Mapping[Reason, str] = {
    Reason.PROVIDER_REJECTED_ARGUMENT: "the provider takes a value of the request for invalid",
    Reason.PROVIDER_CREDENTIALS_REJECTED: (
        "the provider does not accept the gateway's credentials; an operator must renew them"
    ),
    Reason.PROVIDER_ACCESS_DENIED: (
        "the gateway's credentials do not allow this; an operator must widen them"
    ),
    Reason.PROVIDER_RATE_LIMITED: "the provider takes no more requests for now; repeat later",
    Reason.PROVIDER_DECLINED: "the provider declined",
    Reason.ACCOUNT_NOT_FOUND: "the provider knows no such account",
    Reason.ACCOUNT_NOT_ACTIVE: "the account is blocked or not active at the provider",
    Reason.ACCOUNT_ALREADY_EXISTS: "the provider already has such an account",
    Reason.INSUFFICIENT_BALANCE: "the account holds less than was asked for",
    Reason.CODE_INVALID: "the code is wrong",
    Reason.CODE_EXPIRED: "the code is unknown or its time has passed",
    Reason.NOT_FOUND: "the provider knows nothing under that number",
    Reason.ALREADY_REVERSED: "the provider has reversed this before",
    Reason.ORIGINAL_NOT_FOUND: "the provider knows no such booking to reverse",
    Reason.ORIGINAL_NOT_REVERSIBLE: "the provider does not reverse this booking",
    Reason.ADAPTER_ROUTE_INVALID: (
        "the gateway asked the provider in a way that it does not know; this is the gateway's fault"
    ),
    Reason.INTERNAL: "the gateway sent the provider something that it should not have",
}
"""What a caller is told of a row of a STATUS table; a reason that is not here is no refusal."""

NO_PROOF = "the provider's answer does not tell what happened"

RETRY_AFTER_MIN_S = 1.0
RETRY_AFTER_MAX_S = 300.0
RETRY_AFTER_DEFAULT_S = 5.0
"""How long to wait where a vendor says "too often" and nothing readable about when."""

_WHOLE_SECONDS = re.compile(r"[+-]?[0-9]{1,20}")


def find_row(
    table: StatusTable, default: StatusRow, operation: Operation, code: str, http_status: int
) -> tuple[StatusRow, str]:
    """The row for an answer and the words that name it: the most exact row wins.

    The order is: the code for this operation, the code, the HTTP status, the default. `code`
    is empty where the answer carries none that can be trusted.
    """
    if code:
        if (row := table.get((operation, code))) is not None:
            return row, f"{code} to {operation}"
        if (row := table.get((None, code))) is not None:
            return row, code
    if (row := table.get((None, http_status))) is not None:
        return row, f"HTTP {http_status}"
    return default, "default"


def describe_row(row: StatusRow, operation: Operation) -> str:
    """One sentence of ours about a row; the vendor's own words never reach a caller."""
    if operation in BOOKING_OPERATIONS and row.fate is Fate.UNKNOWN:
        return NO_PROOF
    return REFUSALS.get(row.reason, NO_PROOF)


def read_retry_after(value: str | None, now: datetime | None = None) -> float:
    """Seconds to wait by a Retry-After header, always from 1 to 300.

    The header is a vendor's and may be anything: seconds, a date, too large, negative, text.
    """
    text = (value or "").strip()
    if _WHOLE_SECONDS.fullmatch(text):
        seconds = float(int(text))
    else:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError, OverflowError):
            return RETRY_AFTER_DEFAULT_S
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)
