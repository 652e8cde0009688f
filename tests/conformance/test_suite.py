"""The suite itself: nothing is left out in silence, and the summary counts what was tried."""

from dataclasses import replace

import pytest

from loyalty_gateway.conformance import ConformanceSuite
from loyalty_gateway.conformance.duties import DUTIES
from loyalty_gateway.conformance.plugin import PROPERTY, ConformanceSummary
from loyalty_gateway.conformance.suite import cases_of, open_nowhere
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS
from tests.conformance.test_cashassist import SUBJECT


def test_every_operation_of_an_adapter_is_tried() -> None:
    tried = {case.operation for case in cases_of(SUBJECT)}
    assert tried == set(open_nowhere(SUBJECT).operations)


@pytest.mark.parametrize("name", ["same-request", "lost-answer", "unlisted-code", "recovery"])
def test_what_keeps_money_safe_is_tried_for_every_booking(name: str) -> None:
    tried = {case.operation for case in cases_of(SUBJECT) if case.duty.name == name}
    assert tried >= BOOKING_OPERATIONS & open_nowhere(SUBJECT).operations.keys()


def test_each_duty_has_a_name_and_a_meaning_of_its_own() -> None:
    names = [duty.name for duty in DUTIES]
    assert len(set(names)) == len(names) == len({duty.meaning for duty in DUTIES})


def test_an_exclusion_that_belongs_to_no_case_fails_the_suite() -> None:
    class Suite(ConformanceSuite):
        subject = replace(SUBJECT, exclusions={(None, "no-such-duty"): "for the test"})

    with pytest.raises(AssertionError, match="no-such-duty of any operation"):
        Suite().test_every_exclusion_belongs_to_a_case()


def report(duty: str, outcome: str, *, reason: str = "") -> pytest.TestReport:
    made = pytest.TestReport(
        nodeid=duty,
        location=("", None, ""),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=None,
        when="call",
        user_properties=[(PROPERTY, f"vendor Points.EarnPoints {duty}")],
    )
    if reason:
        made.wasxfail = f"reason: {reason}"
    return made


def test_the_summary_names_what_failed_and_what_is_excluded() -> None:
    summary = ConformanceSummary()
    summary.pytest_runtest_logreport(report("reference", "passed"))
    summary.pytest_runtest_logreport(report("outbound-id", "skipped", reason="it has none"))
    summary.pytest_runtest_logreport(report("recovery", "failed"))
    line, failed, excluded, last = summary.texts()
    assert line.split(maxsplit=2)[2] == "1 kept, 1 failed, 1 excluded"
    assert failed.split() == ["FAILED", "recovery"]
    assert excluded.strip() == "excluded outbound-id: it has none"
    assert last == "1 adapters, 1 operations, 1 kept, 1 failed, 1 excluded"
