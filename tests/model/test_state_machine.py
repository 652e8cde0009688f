"""Whatever callers, vendor, crashes, time and operators do: the engine is as the reference says."""

import os
from collections.abc import Callable, Mapping
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import BookingMachine
from tests.model.places import DatabasePlace, FilePlace, ModelPlace
from tests.model.reference import Act
from tests.model.undo_machine import UndoMachine

IS_LONG = os.environ.get("LOYALTY_TEST_MODEL") == "long"
EXAMPLES, STEPS = (2_000, 50) if IS_LONG else (60, 25)

FLOORS = {
    **{act.name: 1 for act in Act},
    "new": 60,
    "repeat": 60,
    "conflict": 30,
    "cancel": 30,
    "resolve": 10,
    "ask": 5,
    "crash": 60,
    "crash in a send": 20,
    "crash in a resend": 10,
    "RESERVED": 10,
    "IN_DOUBT": 60,
    "NEEDS_REVIEW": 20,
    "SUCCEEDED": 60,
    "DECLINED": 60,
    "NOT_EXECUTED": 60,
}
"""What must have been met at least, or the run has proven nothing."""


UNDO_FLOORS = {
    "new": 80,
    "repeat": 90,
    "undo ok": 4,
    "undo refused": 90,
    "cancelled": 24,
    "crash": 60,
    "crash in a call": 6,
    "question": 10,
    "late effect": 5,
    "books later and is silent": 8,
    "REVERSED": 200,
    "REVERSING": 70,
    "SUCCEEDED": 1000,
    "DECLINED": 100,
    "NOT_EXECUTED": 90,
    "IN_DOUBT": 200,
}
"""About a third of what a run meets: how it goes on after a crash depends on the moment."""


ON_DATABASE = 1 / 5
"""The part of the examples that is played on PostgreSQL as well, where each takes longer."""
FEW = 10
"""So much less than its part of a floor is asked of a few examples, each of which weighs much."""


def lives(
    machine: type[BookingMachine | UndoMachine],
    floors: Mapping[str, int],
    new_place: Callable[[], ModelPlace],
    part: float = 1,
) -> None:
    """Plays this part of the examples, and looks that enough of everything was met."""
    machine.seen.clear()
    run_state_machine_as_test(
        # Whatever makes a machine will do, although it says that it wants the class.
        partial(machine, new_place),  # type: ignore[arg-type]
        settings=settings(
            max_examples=round(EXAMPLES * part),
            stateful_step_count=STEPS,
            deadline=None,
            # The same examples each time, so that a red run is repeated by running it again.
            derandomize=not IS_LONG,
            # Making a failure short takes minutes: each time the engine is waited for in vain.
            phases=tuple(Phase) if IS_LONG else (Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )
    seen = machine.seen
    least = part if part == 1 else part / FEW
    missed = {name: seen[name] for name, floor in floors.items() if seen[name] < int(floor * least)}
    assert not missed, f"hardly met: {missed}"


@pytest.mark.timeout(4 * 3600 if IS_LONG else 300)
def test_the_engine_lives_as_the_reference_says() -> None:
    lives(BookingMachine, FLOORS, FilePlace)


@pytest.mark.timeout(4 * 3600 if IS_LONG else 300)
def test_the_engine_lives_as_the_reference_says_on_postgresql(postgres_dsn: str) -> None:
    lives(BookingMachine, FLOORS, partial(DatabasePlace, postgres_dsn), ON_DATABASE)


@pytest.mark.timeout(4 * 3600 if IS_LONG else 400)
def test_undo_cancellation_and_questions_keep_every_promise() -> None:
    lives(UndoMachine, UNDO_FLOORS, FilePlace)


@pytest.mark.timeout(4 * 3600 if IS_LONG else 400)
def test_undo_cancellation_and_questions_keep_every_promise_on_postgresql(
    postgres_dsn: str,
) -> None:
    lives(UndoMachine, UNDO_FLOORS, partial(DatabasePlace, postgres_dsn), ON_DATABASE)
