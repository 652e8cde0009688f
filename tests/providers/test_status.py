"""How a STATUS table is looked up, and how long a vendor may make anybody wait."""

from datetime import UTC, datetime

import pytest

from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.providers.status import (
    NO_PROOF,
    RETRY_AFTER_DEFAULT_S,
    StatusTable,
    describe_row,
    find_row,
    read_retry_after,
)

EXACT = StatusRow(Reason.INSUFFICIENT_BALANCE, Fate.NOT_EXECUTED, is_refusal=True)
ANY = StatusRow(Reason.ACCOUNT_NOT_FOUND, Fate.NOT_EXECUTED, is_refusal=True)
BY_HTTP = StatusRow(Reason.PROVIDER_RATE_LIMITED, Fate.NOT_EXECUTED)
DEFAULT = StatusRow(Reason.PROVIDER_INTERNAL)
TABLE: StatusTable = {
    (Operation.REDEEM_POINTS, "E1"): EXACT,
    (None, "E1"): ANY,
    (None, 429): BY_HTTP,
}


@pytest.mark.parametrize(
    ("operation", "code", "http_status", "row"),
    [
        (Operation.REDEEM_POINTS, "E1", 422, EXACT),
        (Operation.DEBIT_BALANCE, "E1", 422, ANY),
        (Operation.DEBIT_BALANCE, "E1", 429, ANY),
        (Operation.DEBIT_BALANCE, "E2", 429, BY_HTTP),
        (Operation.DEBIT_BALANCE, "", 429, BY_HTTP),
        (Operation.DEBIT_BALANCE, "E2", 422, DEFAULT),
        (Operation.DEBIT_BALANCE, "", 500, DEFAULT),
    ],
)
def test_the_most_exact_row_wins(
    operation: Operation, code: str, http_status: int, row: StatusRow
) -> None:
    found, rule = find_row(TABLE, DEFAULT, operation, code, http_status)
    assert found is row
    assert rule


def test_a_booking_without_proof_is_never_told_a_refusal() -> None:
    row = StatusRow(Reason.ACCOUNT_NOT_FOUND)
    assert describe_row(row, Operation.DEBIT_BALANCE) == NO_PROOF
    assert describe_row(row, Operation.GET_BALANCE) != NO_PROOF


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 1.0),
        ("-1", 1.0),
        ("301", 300.0),
        ("1000000000", 300.0),
        ("9" * 30, RETRY_AFTER_DEFAULT_S),
        ("1e9", RETRY_AFTER_DEFAULT_S),
        ("7.5", RETRY_AFTER_DEFAULT_S),
        ("nan", RETRY_AFTER_DEFAULT_S),
        ("soon", RETRY_AFTER_DEFAULT_S),
        ("", RETRY_AFTER_DEFAULT_S),
        (None, RETRY_AFTER_DEFAULT_S),
        ("\u0667", RETRY_AFTER_DEFAULT_S),
        ("Sat, 21 Nov 2026 10:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 09:00:00 GMT", 1.0),
        ("Sat, 21 Nov 2099 10:00:00 GMT", 300.0),
        ("Sat, 21 Nov 2026 10:00:30 -0000", 30.0),
        ("Sat, 99 Nov 2026 10:00:30 GMT", RETRY_AFTER_DEFAULT_S),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 300.0),
    ],
)
def test_retry_after_is_from_one_second_to_five_minutes(header: str | None, seconds: float) -> None:
    now = datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert read_retry_after(header, now) == seconds
