"""What Loyalife's codes mean; data only, and a code that is not here proves nothing.

The vendor's pages print the codes without saying what a booking has come to; a refusal counts
as one only because it is listed here. What no page prints stands in ASSUMED_CODES alone, and an
operator who knows better says so in the setting `codes`.
"""

from collections.abc import Mapping
from typing import Final

from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import CREATE_OPERATIONS, Operation
from loyalty_gateway.providers import status as tables
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.providers.status import StatusTable

DOCUMENTED_CODES: Final[Mapping[str, str]] = {
    "006": "insert_failed",
    "103": "member_missing",
    "107": "member_inactive",
    "201": "award_failed",
    "997": "exception",
    "998": "invalid_request",
    "999": "invalid_request",
    "E001": "member_missing",
    "E201": "duplicate_record",
}
"""Codes of the developer pages, and the word for what they mean."""

ASSUMED_CODES: Final[Mapping[str, str]] = {
    "301": "insufficient_points",
    "302": "already_reversed",
    "303": "reference_unknown",
    "304": "reference_mismatch",
}
"""The seed says that such codes exist and no page prints them: these four are our guess."""

SUCCESS_CODE: Final = "000"
SUCCESS_CODES: Final[Mapping[Operation, frozenset[str]]] = {
    # One edition of the page on transactions has 001 for a success.
    Operation.EARN_POINTS: frozenset({SUCCESS_CODE, "001"}),
    Operation.REVERSE_POINTS: frozenset({SUCCESS_CODE, "001"}),
}
"""Codes that may stand beside IsSucessful true, where they are more than the usual one."""


def _refusal(reason: Reason, *, shows_earlier: bool = False) -> StatusRow:
    """A documented business refusal: the vendor understood the booking and did not make it."""
    return StatusRow(reason, Fate.NOT_EXECUTED, is_refusal=True, shows_earlier=shows_earlier)


DEFAULT: Final = StatusRow(Reason.PROVIDER_INTERNAL)
KNOWN_BEFORE: Final = StatusRow(Reason.PROVIDER_KEY_CONFLICT, contradicts=True, shows_earlier=True)
"""The vendor has our number of this very booking: to a resend that is the proof that an earlier
attempt was executed, and to a first attempt, which nothing of ours came before, a contradiction:
an older journal was put back, perhaps, and then the booking stands in the vendor's books."""

MEANINGS: Final[Mapping[str, Mapping[Operation | None, StatusRow]]] = {
    "member_missing": {None: _refusal(Reason.ACCOUNT_NOT_FOUND)},
    "member_inactive": {None: _refusal(Reason.ACCOUNT_NOT_ACTIVE)},
    "insufficient_points": {None: _refusal(Reason.INSUFFICIENT_BALANCE)},
    "invalid_request": {
        None: _refusal(Reason.PROVIDER_REJECTED_ARGUMENT),
        # A code that is wrong or too old is answered as a bad request, and as nothing else.
        Operation.VERIFY_CHALLENGE: _refusal(Reason.CODE_INVALID),
    },
    "already_reversed": {
        Operation.REVERSE_POINTS: _refusal(Reason.ALREADY_REVERSED, shows_earlier=True),
    },
    "reference_unknown": {Operation.REVERSE_POINTS: _refusal(Reason.ORIGINAL_NOT_FOUND)},
    "reference_mismatch": {Operation.REVERSE_POINTS: _refusal(Reason.ORIGINAL_NOT_REVERSIBLE)},
    "duplicate_record": {
        **{operation: _refusal(Reason.ACCOUNT_ALREADY_EXISTS) for operation in CREATE_OPERATIONS},
        # The link is there: by an earlier attempt of ours, or by somebody else before.
        Operation.LINK_ACCOUNT: _refusal(Reason.ACCOUNT_ALREADY_EXISTS, shows_earlier=True),
        # Where the programme maps the key to a unique column, a repeat is a duplicate record.
        Operation.EARN_POINTS: KNOWN_BEFORE,
        Operation.REVERSE_POINTS: KNOWN_BEFORE,
    },
    # Failures of the vendor's own, after which anything may have happened.
    "insert_failed": {None: StatusRow(Reason.PROVIDER_INTERNAL)},
    "award_failed": {None: StatusRow(Reason.PROVIDER_INTERNAL)},
    "exception": {None: StatusRow(Reason.PROVIDER_INTERNAL)},
    # For the setting `codes` alone: no page prints a code for these.
    "rate_limited": {None: StatusRow(Reason.PROVIDER_RATE_LIMITED, Fate.NOT_EXECUTED)},
    "declined": {None: _refusal(Reason.PROVIDER_DECLINED)},
    "unknown": {None: DEFAULT},
}
"""Rows by the word for a meaning, and by operation or None for any."""

HTTP: Final[Mapping[int, StatusRow]] = {
    # No valid token; the code inside is not published. It is looked at before anything else.
    401: StatusRow(Reason.PROVIDER_CREDENTIALS_REJECTED, Fate.NOT_EXECUTED),
    429: StatusRow(Reason.PROVIDER_RATE_LIMITED, Fate.NOT_EXECUTED),
}
"""Rows that an HTTP status alone decides, whatever the body says."""

WRONG_CODE: Final = StatusRow(Reason.CODE_INVALID, Fate.NOT_EXECUTED)
"""HTTP 400 to a check of a code, with whatever code of the vendor's: "wrong or expired", says the
page, and no more."""

BELIEVED: Final = frozenset({200, 400, 404, 409, 422})
"""HTTP statuses under which a code is the vendor's word. With any other, and with 500 above all,
nothing is known of what happened, whatever code stands in it."""

UNREADABLE: Final = StatusRow(Reason.PROVIDER_ANSWER_UNREADABLE)
"""An answer that does not prove the booking: something answered, and nothing more is known."""

TOO_LONG: Final = StatusRow(Reason.REQUEST_INVALID)
"""A history over more pages than one call may read."""

NOT_SENT_TWICE: Final = StatusRow(Reason.PROVIDER_PENDING, contradicts=True)
"""A booking that would be a second one if it were sent again: a person must look."""

CONTRADICTED: Final = StatusRow(Reason.PROVIDER_ANSWER_UNREADABLE, contradicts=True)
"""The vendor's books hold something under our name that is not what we asked for."""


def status_table(codes: Mapping[str, str]) -> StatusTable:
    """The STATUS table: the documented codes, the assumed ones, and the operator's over both.

    Raises:
        ValueError: a meaning is none of MEANINGS.
    """
    table: dict[tuple[Operation | None, str | int], StatusRow] = {}
    for code, word in {**DOCUMENTED_CODES, **ASSUMED_CODES, **codes}.items():
        if word not in MEANINGS:
            raise ValueError(f"knows these meanings: {', '.join(MEANINGS)}")
        for operation, row in MEANINGS[word].items():
            table[operation, code] = row
    return table


STATUS: Final = status_table({})


def find_row(
    table: StatusTable, operation: Operation, code: str, http_status: int
) -> tuple[StatusRow, str]:
    """The row for an answer that is no success, and the words that name it."""
    if http_status in HTTP:
        return HTTP[http_status], f"HTTP {http_status}"
    if http_status not in BELIEVED:
        return DEFAULT, f"{code} under HTTP {http_status}" if code else f"HTTP {http_status}"
    row, rule = tables.find_row(table, DEFAULT, operation, code, http_status)
    if row is DEFAULT and (operation, http_status) == (Operation.VERIFY_CHALLENGE, 400):
        return WRONG_CODE, f"HTTP {http_status} to {operation}"
    return row, rule
