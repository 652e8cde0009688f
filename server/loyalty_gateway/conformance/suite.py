"""The class that an adapter's test derives from: one test for each operation and duty."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import pytest

from loyalty_gateway.conformance.duties import DUTIES, Duty
from loyalty_gateway.conformance.duties.credentials import a_check_tells_the_truth
from loyalty_gateway.conformance.duties.table import what_is_not_offered_sends_nothing
from loyalty_gateway.conformance.plugin import PROPERTY
from loyalty_gateway.conformance.stage import CONNECTION, Scene
from loyalty_gateway.conformance.subject import Subject
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.providers.port import Adapter

NOWHERE: Final = "http://127.0.0.1:9"
"""Where an adapter is opened only to be asked what it offers; nothing is sent there."""

Record = Callable[[str, object], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One duty of one operation."""

    operation: Operation
    duty: Duty


def cases_of(subject: Subject) -> list[Case]:
    """Every duty of every operation that the subject's adapter offers, in the table's order."""
    adapter = open_nowhere(subject)
    return [
        Case(operation, duty)
        for operation in Operation
        if operation in adapter.operations
        for duty in DUTIES
        if duty.applies(subject, adapter, operation)
    ]


def open_nowhere(subject: Subject) -> Adapter:
    """The adapter, to be asked for its table only."""
    settings: dict[str, Any] = {
        name: value.format(origin=NOWHERE, base_url=NOWHERE) if isinstance(value, str) else value
        for name, value in {"base_url": NOWHERE, **subject.settings}.items()
    }
    return subject.open(CONNECTION, settings, "sandbox")


def try_case(scene: Scene, case: Case) -> None:
    """Tries one case on a running scene.

    Raises:
        AssertionError: the duty does not hold.
    """
    if case.operation not in scene.routes:
        scene.check(lambda stage: stage.find_route(case.operation))
    scene.check(lambda stage: case.duty.check(stage, case.operation))


class ConformanceSuite:
    """Derive from it, set `subject`, and pytest finds the rest."""

    subject: ClassVar[Subject]

    @pytest.fixture(scope="class")
    @classmethod
    def scene(cls) -> Iterator[Scene]:
        """The played vendor, for all cases of the class."""
        scene = Scene(cls.subject)
        scene.start()
        yield scene
        scene.stop()

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        if "case" not in metafunc.fixturenames:
            return
        parameters = []
        for case in cases_of(cls.subject):
            reason = cls.subject.find_exclusion(case.operation, case.duty.name)
            # An exclusion that is not needed any more is a failure, so that none outlives its
            # reason.
            marks = [] if reason is None else [_excluded(reason)]
            name = f"{case.operation}-{case.duty.name}"
            parameters.append(pytest.param(case, id=name, marks=marks))
        metafunc.parametrize("case", parameters)

    def test_it_keeps(self, case: Case, scene: Scene, record_property: Record) -> None:
        record_property(PROPERTY, f"{self.subject.provider} {case.operation} {case.duty.name}")
        try_case(scene, case)

    def test_what_is_not_offered_sends_nothing(self, scene: Scene) -> None:
        scene.check(what_is_not_offered_sends_nothing)

    def test_a_check_tells_whether_the_credential_holds(self, scene: Scene) -> None:
        scene.check(a_check_tells_the_truth)

    def test_every_exclusion_belongs_to_a_case(self) -> None:
        cases = {(case.operation, case.duty.name) for case in cases_of(self.subject)}
        for operation, duty in self.subject.exclusions:
            assert any(duty == name and operation in (None, of) for of, name in cases), (
                f"{duty} of {operation or 'any operation'} is excluded, and there is no such case"
            )


def _excluded(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True)
