"""Each of openLoyaltyPay's codes has a meaning, and only what is listed counts as a refusal."""

from importlib import resources
from typing import Any

import pytest
import yaml

from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS, Operation
from loyalty_gateway.providers.openloyaltypay import status, wire
from loyalty_gateway.providers.openloyaltypay.status import DEFAULT, DOCUMENTED, STATUS
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.providers.status import REFUSALS, find_row

ANY = Operation.PAY_WITH_GIFT_CARD
VOID = Operation.VOID_GIFT_TRANSACTION
TIP = Operation.ADD_GIFT_TIP


def vendor_document() -> Any:
    folder = resources.files("loyalty_gateway.sandbox.openloyaltypay")
    return yaml.safe_load((folder / "openapi.yaml").read_text())


def responses(document: Any) -> list[tuple[str, int, Any]]:
    """Each documented answer as (operationId, HTTP status, example value)."""
    found = []
    for path in document["paths"].values():
        for method in path.values():
            for http_status, response in method["responses"].items():
                if "$ref" in response:
                    name = response["$ref"].rpartition("/")[2]
                    response = document["components"]["responses"][name]
                content = response["content"]["application/json"]
                examples = content.get("examples", {"only": {"value": content.get("example")}})
                found += [
                    (method["operationId"], int(http_status), example["value"])
                    for example in examples.values()
                ]
    return found


def row(operation: Operation, code: str, http_status: int = 200) -> StatusRow:
    return find_row(STATUS, DEFAULT, operation, code, http_status)[0]


def test_every_code_of_the_vendors_document_has_a_row_and_its_http_statuses() -> None:
    seen: dict[str, set[int]] = {}
    for _, http_status, value in responses(vendor_document()):
        seen.setdefault(str(value["code"]), set()).add(http_status)
    assert seen.pop(status.SUCCESS) == {200}
    assert len(seen) == 11
    assert seen == DOCUMENTED
    assert {code for _, code in STATUS if isinstance(code, str)} == set(seen)


def test_each_refusal_of_the_document_is_one_for_the_operation_that_shows_it() -> None:
    operations = {
        route.rpartition("/")[2]: operation
        for operation, route in wire.ROUTES.items()
        if operation is not Operation.ACTIVATE_GIFT_CARD
    }
    checked = set()
    for name, _, value in responses(vendor_document()):
        code = str(value["code"])
        operation = operations.get(name)
        # A duplicate order is never a refusal: see the tests of it.
        if operation is not None and code.startswith("40") and len(code) == 4 and code != "4004":
            assert row(operation, code).is_refusal, (operation, code)
            checked.add((operation, code))
    assert (VOID, "4005") in checked
    assert (TIP, "4005") in checked
    assert len(checked) == 14


@pytest.mark.parametrize(
    ("operation", "code", "reason"),
    [
        (ANY, "4001", Reason.INSUFFICIENT_BALANCE),
        (ANY, "4002", Reason.ACCOUNT_NOT_FOUND),
        (ANY, "4003", Reason.ACCOUNT_NOT_ACTIVE),
        (VOID, "4005", Reason.ORIGINAL_NOT_FOUND),
        (TIP, "4005", Reason.ORIGINAL_NOT_FOUND),
        (TIP, "4006", Reason.ALREADY_REVERSED),
        (ANY, "400", Reason.PROVIDER_REJECTED_ARGUMENT),
    ],
)
def test_a_business_refusal_declines_the_booking(
    operation: Operation, code: str, reason: Reason
) -> None:
    assert row(operation, code) == StatusRow(
        reason, Fate.NOT_EXECUTED, Proves.THIS_ATTEMPT, is_refusal=True
    )


def test_an_original_that_is_undone_shows_a_voids_own_earlier_attempt_and_nothing_elses() -> None:
    assert row(VOID, "4006") == StatusRow(
        Reason.ALREADY_REVERSED, Fate.NOT_EXECUTED, is_refusal=True, shows_earlier=True
    )
    shown = [key for key, found in STATUS.items() if found.shows_earlier]
    assert shown == [(VOID, "4006")]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("401", Reason.PROVIDER_CREDENTIALS_REJECTED),
        ("403", Reason.PROVIDER_CREDENTIALS_REJECTED),
        ("429", Reason.PROVIDER_RATE_LIMITED),
    ],
)
def test_what_stops_a_request_at_the_door_lets_it_be_repeated(code: str, reason: Reason) -> None:
    assert row(ANY, code) == StatusRow(reason, Fate.NOT_EXECUTED)


def test_a_429_is_a_rate_limit_whatever_its_body_is() -> None:
    assert row(ANY, "", 429) == StatusRow(Reason.PROVIDER_RATE_LIMITED, Fate.NOT_EXECUTED)


def test_a_number_used_before_is_a_doubt_to_a_resend_and_a_persons_to_a_first_attempt() -> None:
    assert row(ANY, "4004") == StatusRow(Reason.PROVIDER_KEY_CONFLICT)
    [(code, first)] = status.FIRST_ATTEMPT.items()
    assert code == "4004"
    assert first == StatusRow(Reason.PROVIDER_KEY_CONFLICT, contradicts=True)


@pytest.mark.parametrize("operation", sorted(BOOKING_OPERATIONS - {VOID, TIP}))
@pytest.mark.parametrize("code", ["4004", "4005", "4006", "500", "200", "201", "4007", ""])
def test_every_other_code_leaves_the_booking_in_doubt(operation: Operation, code: str) -> None:
    found = row(operation, code)
    assert found.fate is Fate.UNKNOWN
    assert not found.is_refusal


@pytest.mark.parametrize("http_status", [*range(201, 429), *range(430, 600)])
def test_an_http_status_alone_proves_nothing(http_status: int) -> None:
    assert row(ANY, "", http_status) is DEFAULT


def test_a_result_is_success_refusal_or_open() -> None:
    declined = StatusRow(Reason.PROVIDER_DECLINED, Fate.NOT_EXECUTED, is_refusal=True)
    assert status.RESULTS["1"] == declined
    assert status.RESULTS["2"] == StatusRow(Reason.PROVIDER_PENDING)
    described = vendor_document()["components"]["schemas"]["Result"]["enum"]
    assert {str(result) for result in described} == {"0", *status.RESULTS}


def test_every_reason_that_a_refusal_gives_has_words() -> None:
    rows = [*STATUS.values(), *status.RESULTS.values()]
    assert {found.reason for found in rows if found.fate is Fate.NOT_EXECUTED} <= set(REFUSALS)
    assert status.UNREADABLE.fate is Fate.UNKNOWN


def test_no_row_claims_to_prove_more_than_its_own_attempt() -> None:
    assert {found.proves for found in STATUS.values()} == {Proves.THIS_ATTEMPT}
