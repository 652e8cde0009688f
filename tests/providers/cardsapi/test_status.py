"""Each code of CardAPI and AuthAPI has a meaning, and only what is listed counts as a refusal."""

from importlib import resources
from typing import Any

import pytest
import yaml

from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.cardsapi.status import DEFAULT, DOCUMENTED, STATUS, UNREADABLE
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.providers.status import REFUSALS, find_row

SEED = {
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
}
"""The two tables of the vendor's page, to the letter."""

WITHOUT_STATUS = {"AUTH-10"}
"""Listed by the vendor; its HTTP status lies beyond what could be read."""


def vendor_document() -> Any:
    folder = resources.files("loyalty_gateway.sandbox.cardsapi")
    return yaml.safe_load((folder / "openapi.yaml").read_text())


def row(code: str, http_status: int | None = None) -> StatusRow:
    status = DOCUMENTED.get(code, 0) if http_status is None else http_status
    return find_row(STATUS, DEFAULT, Operation.DEBIT_BALANCE, code, status)[0]


def examples(document: Any, response: Any) -> list[str]:
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return list(response["content"]["application/json"].get("examples", ()))


def test_every_code_of_the_vendors_page_comes_with_the_status_that_the_page_gives_it() -> None:
    assert {code: DOCUMENTED[code] for code in SEED} == SEED
    assert {code for code in DOCUMENTED if code.startswith("CARD")} == set(SEED)


def test_every_code_of_the_vendors_document_has_a_row_and_its_http_status() -> None:
    document = vendor_document()
    schemas = document["components"]["schemas"]
    codes = {
        code
        for name in ("Error", "AuthError")
        for code in schemas[name]["properties"]["code"]["enum"]
    }
    assert len(codes) == 19
    assert {code for _, code in STATUS if isinstance(code, str)} == codes
    http_statuses = {
        code: int(http_status)
        for path in document["paths"].values()
        for name, method in path.items()
        if name in ("get", "post")
        for http_status, response in method["responses"].items()
        for code in examples(document, response)
        if code in codes
    }
    assert http_statuses == DOCUMENTED
    assert codes - set(DOCUMENTED) == WITHOUT_STATUS


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("CARD-3", Reason.PROVIDER_REJECTED_ARGUMENT),
        ("CARD-14", Reason.ACCOUNT_NOT_FOUND),
    ],
)
def test_a_business_refusal_declines_the_booking(code: str, reason: Reason) -> None:
    assert row(code) == StatusRow(reason, Fate.NOT_EXECUTED, Proves.THIS_ATTEMPT, is_refusal=True)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("CARD-2", Reason.ADAPTER_ROUTE_INVALID),
        ("CARD-5", Reason.PROVIDER_CREDENTIALS_REJECTED),
        ("CARD-6", Reason.PROVIDER_CREDENTIALS_REJECTED),
        ("CARD-7", Reason.PROVIDER_CREDENTIALS_REJECTED),
        ("CARD-8", Reason.PROVIDER_CREDENTIALS_REJECTED),
        ("CARD-9", Reason.PROVIDER_ACCESS_DENIED),
        ("AUTH-1", Reason.PROVIDER_CREDENTIALS_REJECTED),
        ("AUTH-2", Reason.PROVIDER_CREDENTIALS_REJECTED),
        ("AUTH-3", Reason.PROVIDER_CREDENTIALS_REJECTED),
        ("AUTH-6", Reason.ADAPTER_ROUTE_INVALID),
        ("AUTH-7", Reason.PROVIDER_ACCESS_DENIED),
        ("AUTH-9", Reason.PROVIDER_CREDENTIALS_REJECTED),
    ],
)
def test_what_stops_a_request_at_the_door_lets_it_be_repeated(code: str, reason: Reason) -> None:
    assert row(code) == StatusRow(reason, Fate.NOT_EXECUTED)


def test_a_429_is_a_rate_limit_whatever_its_body_is() -> None:
    assert row("", 429) == StatusRow(Reason.PROVIDER_RATE_LIMITED, Fate.NOT_EXECUTED)


@pytest.mark.parametrize(
    "code",
    ["CARD-1", "CARD-4", "CARD-10", "CARD-11", "CARD-12", "CARD-13", "CARD-15", "AUTH-10", ""],
)
def test_every_other_code_leaves_the_booking_in_doubt(code: str) -> None:
    assert row(code) is DEFAULT
    assert (DEFAULT.fate, DEFAULT.is_refusal) == (Fate.UNKNOWN, False)


@pytest.mark.parametrize("http_status", [*range(201, 429), *range(430, 600)])
def test_an_http_status_alone_proves_nothing(http_status: int) -> None:
    assert row("", http_status) is DEFAULT


def test_every_reason_that_a_row_gives_has_words() -> None:
    assert {found.reason for found in STATUS.values()} - {DEFAULT.reason} <= set(REFUSALS)
    assert UNREADABLE.fate is Fate.UNKNOWN


def test_no_row_claims_to_prove_more_than_its_own_attempt() -> None:
    assert {found.proves for found in STATUS.values()} == {Proves.THIS_ATTEMPT}
