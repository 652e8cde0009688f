"""Each of CashAssist's codes has a meaning, and only what is listed counts as a refusal."""

from importlib import resources
from typing import Any

import pytest
import yaml

from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.cashassist.status import DEFAULT, DOCUMENTED, STATUS, UNREADABLE
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.providers.status import REFUSALS, find_row


def vendor_document() -> Any:
    folder = resources.files("loyalty_gateway.sandbox.cashassist")
    return yaml.safe_load((folder / "openapi.yaml").read_text())


def row(code: str, http_status: int | None = None) -> StatusRow:
    status = DOCUMENTED.get(code, 0) if http_status is None else http_status
    return find_row(STATUS, DEFAULT, Operation.DEBIT_BALANCE, code, status)[0]


def test_every_code_of_the_vendors_document_has_a_row_and_its_http_status() -> None:
    document = vendor_document()
    error = document["components"]["schemas"]["Error"]["properties"]["error"]
    codes = set(error["properties"]["code"]["enum"])
    assert len(codes) == 17
    assert set(DOCUMENTED) == codes
    assert {code for _, code in STATUS if isinstance(code, str)} == codes
    http_statuses = {
        code: int(http_status)
        for path in document["paths"].values()
        for method in path.values()
        for http_status, response in method["responses"].items()
        if "$ref" in response
        for code in examples(document, response["$ref"])
        if code in codes
    }
    assert http_statuses == DOCUMENTED


def examples(document: Any, reference: str) -> list[str]:
    response = document["components"]["responses"][reference.rpartition("/")[2]]
    return list(response["content"]["application/json"]["examples"])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("invalid_request", Reason.PROVIDER_REJECTED_ARGUMENT),
        ("card_not_found", Reason.ACCOUNT_NOT_FOUND),
        ("card_blocked", Reason.ACCOUNT_NOT_ACTIVE),
        ("insufficient_balance", Reason.INSUFFICIENT_BALANCE),
        ("insufficient_points", Reason.INSUFFICIENT_BALANCE),
    ],
)
def test_a_business_refusal_declines_the_booking(code: str, reason: Reason) -> None:
    assert row(code) == StatusRow(reason, Fate.NOT_EXECUTED, Proves.THIS_ATTEMPT, is_refusal=True)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("idempotency_key_missing", Reason.INTERNAL),
        ("invalid_api_key", Reason.PROVIDER_CREDENTIALS_REJECTED),
        ("insufficient_scope", Reason.PROVIDER_ACCESS_DENIED),
        ("rate_limited", Reason.PROVIDER_RATE_LIMITED),
    ],
)
def test_what_stops_a_request_at_the_door_lets_it_be_repeated(code: str, reason: Reason) -> None:
    assert row(code) == StatusRow(reason, Fate.NOT_EXECUTED)


def test_a_429_is_a_rate_limit_whatever_its_body_is() -> None:
    assert row("", 429) == StatusRow(Reason.PROVIDER_RATE_LIMITED, Fate.NOT_EXECUTED)


def test_a_key_that_was_used_otherwise_is_for_a_person() -> None:
    assert row("idempotency_key_reused") == StatusRow(
        Reason.PROVIDER_KEY_CONFLICT, Fate.UNKNOWN, contradicts=True
    )


@pytest.mark.parametrize(
    "code",
    [
        "request_in_progress",
        "internal_error",
        "transaction_not_found",
        "verification_not_found",
        "card_exists",
        "code_invalid",
        "receipt_mismatch",
        "new_code_of_next_year",
        "",
    ],
)
def test_every_other_code_leaves_the_booking_in_doubt(code: str) -> None:
    assert row(code).fate is Fate.UNKNOWN
    assert not row(code).is_refusal


def test_only_a_new_card_may_be_what_refuses_its_own_resend() -> None:
    found = {key for key, found in STATUS.items() if found.may_be_own}
    assert found == {
        (operation, code)
        for operation in (Operation.CREATE_CARD, Operation.CREATE_WALLET)
        for code in ("card_exists", "code_invalid")
    }


@pytest.mark.parametrize("http_status", [*range(201, 429), *range(430, 600)])
def test_an_http_status_alone_proves_nothing(http_status: int) -> None:
    assert row("", http_status) is DEFAULT


def test_every_reason_that_a_row_gives_has_words() -> None:
    silent = {DEFAULT.reason, Reason.PROVIDER_PENDING, Reason.PROVIDER_KEY_CONFLICT}
    assert {found.reason for found in STATUS.values()} - silent <= set(REFUSALS)
    assert UNREADABLE.fate is Fate.UNKNOWN


def test_no_row_claims_to_prove_more_than_its_own_attempt() -> None:
    assert {found.proves for found in STATUS.values()} == {Proves.THIS_ATTEMPT}
