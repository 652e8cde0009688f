"""Each of Loyalife's codes has a meaning, and only what is listed counts as a refusal."""

import re
from importlib import resources
from typing import Any

import pytest
import yaml

from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.loyalife.status import (
    ASSUMED_CODES,
    BELIEVED,
    CONTRADICTED,
    DEFAULT,
    DOCUMENTED_CODES,
    HTTP,
    MEANINGS,
    STATUS,
    SUCCESS_CODE,
    SUCCESS_CODES,
    TOO_LONG,
    UNREADABLE,
    find_row,
    status_table,
)
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.providers.status import REFUSALS

REDEEM = Operation.REDEEM_POINTS
# Codes that stand in the document's examples and are no row: they mean success, or the HTTP
# status that they repeat has a row of its own.
KNOWN_WITHOUT_A_ROW = {"000", "001", "401"}


def vendor_document() -> Any:
    folder = resources.files("loyalty_gateway.sandbox.loyalife")
    return yaml.safe_load((folder / "openapi.yaml").read_text())


def row(code: str, http_status: int = 200, operation: Operation = REDEEM) -> StatusRow:
    return find_row(STATUS, operation, code, http_status)[0]


def test_every_code_that_the_vendors_document_lists_is_documented_or_assumed() -> None:
    listed = vendor_document()["components"]["schemas"]["ErrorCodes"]
    assumed = set(listed["x-assumed-values"])
    assert set(listed["enum"]) == set(listed["x-meanings"]) | assumed
    assert set(ASSUMED_CODES) == assumed
    assert set(DOCUMENTED_CODES) == set(listed["x-meanings"]) - {"000", "001"}
    assert {code for _, code in STATUS} == set(DOCUMENTED_CODES) | set(ASSUMED_CODES)


def test_every_code_in_an_example_of_the_document_has_a_row_or_is_known_without_one() -> None:
    text = (resources.files("loyalty_gateway.sandbox.loyalife") / "openapi.yaml").read_text()
    shown = set(re.findall(r"ErrorCode: \"?([A-Z]?\d+)\"?", text)) - {"0"}
    assert shown >= {"000", "103", "107", "301", "302", "303", "304", "997", "E001", "E201"}
    rows = {code for _, code in STATUS}
    assert shown - KNOWN_WITHOUT_A_ROW <= rows


def test_success_is_000_and_for_transactions_001_too() -> None:
    assert SUCCESS_CODE == "000"
    assert {
        Operation.EARN_POINTS: {"000", "001"},
        Operation.REVERSE_POINTS: {"000", "001"},
    } == SUCCESS_CODES


@pytest.mark.parametrize(
    ("code", "operation", "reason"),
    [
        ("103", REDEEM, Reason.ACCOUNT_NOT_FOUND),
        ("E001", Operation.GET_CARD, Reason.ACCOUNT_NOT_FOUND),
        ("107", REDEEM, Reason.ACCOUNT_NOT_ACTIVE),
        ("301", REDEEM, Reason.INSUFFICIENT_BALANCE),
        ("998", REDEEM, Reason.PROVIDER_REJECTED_ARGUMENT),
        ("999", REDEEM, Reason.PROVIDER_REJECTED_ARGUMENT),
        ("303", Operation.REVERSE_POINTS, Reason.ORIGINAL_NOT_FOUND),
        ("304", Operation.REVERSE_POINTS, Reason.ORIGINAL_NOT_REVERSIBLE),
        ("E201", Operation.CREATE_CARD, Reason.ACCOUNT_ALREADY_EXISTS),
        ("E201", Operation.CREATE_WALLET, Reason.ACCOUNT_ALREADY_EXISTS),
        ("998", Operation.VERIFY_CHALLENGE, Reason.CODE_INVALID),
    ],
)
def test_a_business_refusal_declines_the_booking(
    code: str, operation: Operation, reason: Reason
) -> None:
    assert row(code, operation=operation) == StatusRow(
        reason, Fate.NOT_EXECUTED, Proves.THIS_ATTEMPT, is_refusal=True
    )


@pytest.mark.parametrize(
    ("code", "operation", "reason"),
    [
        ("302", Operation.REVERSE_POINTS, Reason.ALREADY_REVERSED),
        ("E201", Operation.LINK_ACCOUNT, Reason.ACCOUNT_ALREADY_EXISTS),
    ],
)
def test_a_duplicate_shows_that_an_earlier_attempt_was_executed(
    code: str, operation: Operation, reason: Reason
) -> None:
    assert row(code, operation=operation) == StatusRow(
        reason, Fate.NOT_EXECUTED, is_refusal=True, shows_earlier=True
    )


@pytest.mark.parametrize("operation", [Operation.EARN_POINTS, Operation.REVERSE_POINTS])
def test_our_own_number_known_to_the_vendor_is_no_refusal_of_a_first_attempt(
    operation: Operation,
) -> None:
    assert row("E201", operation=operation) == StatusRow(
        Reason.PROVIDER_KEY_CONFLICT, Fate.UNKNOWN, contradicts=True, shows_earlier=True
    )


@pytest.mark.parametrize("code", ["302", "303", "304", "E201"])
def test_a_code_of_another_operation_leaves_a_redemption_in_doubt(code: str) -> None:
    assert row(code) is DEFAULT


@pytest.mark.parametrize("code", ["006", "201", "997", "000", "001", "401", "777", "E999", ""])
@pytest.mark.parametrize("http_status", [200, 400, 404, 409, 422])
def test_every_other_code_leaves_the_booking_in_doubt(code: str, http_status: int) -> None:
    found = row(code, http_status)
    assert (found.reason, found.fate) == (Reason.PROVIDER_INTERNAL, Fate.UNKNOWN)
    assert not found.is_refusal


@pytest.mark.parametrize("http_status", [201, 202, 204, 302, 403, 408, 500, 502, 503, 504])
@pytest.mark.parametrize("code", ["103", "301", "998"])
def test_a_refusal_under_another_http_status_is_not_believed(code: str, http_status: int) -> None:
    assert row(code, http_status) is DEFAULT


@pytest.mark.parametrize("code", ["", "103", "401", "997"])
def test_401_and_429_are_about_the_request_whatever_stands_in_them(code: str) -> None:
    assert row(code, 401) == StatusRow(Reason.PROVIDER_CREDENTIALS_REJECTED, Fate.NOT_EXECUTED)
    assert row(code, 429) == StatusRow(Reason.PROVIDER_RATE_LIMITED, Fate.NOT_EXECUTED)


def test_a_wrong_code_is_a_bad_request_whatever_stands_in_it() -> None:
    for code in ("", "123", "400", "998"):
        found = row(code, 400, Operation.VERIFY_CHALLENGE)
        assert (found.reason, found.fate) == (Reason.CODE_INVALID, Fate.NOT_EXECUTED)


def test_an_operator_may_say_what_a_code_means() -> None:
    table = status_table({"1301": "insufficient_points", "301": "unknown", "429": "rate_limited"})
    found = {code: find_row(table, REDEEM, code, 200)[0] for code in ("1301", "301", "429")}
    assert found["1301"].reason is Reason.INSUFFICIENT_BALANCE
    assert found["301"] is DEFAULT
    assert (found["429"].reason, found["429"].fate) == (
        Reason.PROVIDER_RATE_LIMITED,
        Fate.NOT_EXECUTED,
    )


def test_a_meaning_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="insufficient_points"):
        status_table({"301": "no such thing"})


def test_every_reason_that_a_row_gives_a_booking_has_words() -> None:
    rows = [found for meaning in MEANINGS.values() for found in meaning.values()]
    told = {found.reason for found in (*rows, *HTTP.values()) if not found.contradicts}
    assert told - {DEFAULT.reason} <= set(REFUSALS)


def test_what_proves_nothing_says_so() -> None:
    assert {found.fate for found in (DEFAULT, UNREADABLE, TOO_LONG, CONTRADICTED)} == {Fate.UNKNOWN}
    assert CONTRADICTED.contradicts


def test_no_row_claims_to_prove_more_than_its_own_attempt() -> None:
    assert {found.proves for found in STATUS.values()} == {Proves.THIS_ATTEMPT}
    assert 500 not in BELIEVED
