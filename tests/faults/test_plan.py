"""The plan names what there is: every place, failpoint, fault, cell and planted bug, both ways."""

import ast
import importlib.util
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from loyalty_gateway.failpoints import POINTS
from loyalty_gateway.sandbox.faults import FAULT_BY_NAME
from tests.faults import run
from tests.faults.plan import INVARIANTS, PLAN, UNTRIED
from tests.faults.trades import FALSE
from tests.planted.plan import BUGS
from tests.planted.plants import PLANTS

ROWS = (*PLAN, *BUGS)
PLACES = sorted(
    {place for row in ROWS for place in row.places}
    | {place for it in INVARIANTS for place in it.places}
)
LABELS = [row.label for row in ROWS] + [it.label for it in INVARIANTS]
CELLS = (*run.ON_SQLITE, *run.ON_POSTGRESQL, *run.WITH_REPLICAS)


@cache
def functions(module: str) -> frozenset[str]:
    """Every function of a module, and the methods of its classes."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"{module} is no module"
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@pytest.mark.parametrize("place", PLACES)
def test_every_place_that_the_plan_names_is_there(place: str) -> None:
    module, _, name = place.rpartition(".")
    assert name in functions(module)


def test_every_row_has_a_label_of_its_own_and_says_everything() -> None:
    labels = Counter(LABELS + [it.label for it in UNTRIED])
    assert [label for label, count in labels.items() if count > 1] == []
    assert all(row.done and row.expected and row.places for row in ROWS)
    assert all(it.text and it.places for it in INVARIANTS)
    assert all(it.text and it.reason for it in UNTRIED)


def test_every_kind_of_row_is_complete() -> None:
    for letter, count in (("K", 15), ("P", 19), ("D", 9), ("M", 20), ("I", 14)):
        assert {f"{letter}{number}" for number in range(1, count + 1)} <= set(LABELS)
    assert [it.label for it in BUGS] == list(PLANTS)


def test_every_cell_of_a_run_has_its_row() -> None:
    named = {place for row in PLAN for place in row.places}
    assert {f"{cell.__module__}.{cell.__name__}" for cell in CELLS} <= named


def test_every_failpoint_has_its_row_and_no_row_names_another() -> None:
    assert Counter(point for row in PLAN for point in row.points) == Counter(
        dict.fromkeys(POINTS, 1)
    )


def test_every_fault_of_the_sandbox_has_its_row_and_no_row_names_another() -> None:
    named = Counter(fault for row in (*PLAN, *UNTRIED) for fault in row.faults)
    assert named == Counter(dict.fromkeys(FAULT_BY_NAME, 1))
    assert {fault for row in UNTRIED for fault in row.faults} == FALSE


def test_a_place_that_is_not_there_is_found() -> None:
    assert "no_such_cell" not in functions("tests.faults.cells")
    assert "points" in functions("tests.faults.cells")
