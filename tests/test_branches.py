"""What `make coverage` demands of the branches: a floor, and a reason for each that is left."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import branches
from tests.branches import main


@pytest.fixture(autouse=True)
def reasons(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The reasons that are given, here none yet."""
    given: dict[str, str] = {}
    monkeypatch.setattr(branches, "LEFT", given)
    return given


def report(
    path: Path,
    rooms: Mapping[str, tuple[int, int]],
    missing: Mapping[str, list[tuple[int, int]]] | None = None,
) -> str:
    """A report with one file for each room, and one of no room in which nothing was taken."""
    counts = {f"server/loyalty_gateway/{room}/it.py": count for room, count in rooms.items()}
    counts["server/loyalty_gateway/cli/it.py"] = (0, 1_000)
    files = {
        name: {
            "summary": {"covered_branches": taken, "num_branches": known},
            "functions": {
                function: {"missing_branches": arcs} for function, arcs in (missing or {}).items()
            },
        }
        for name, (taken, known) in counts.items()
    }
    path.write_text(json.dumps({"files": files}))
    return str(path)


@pytest.mark.parametrize(
    ("rooms", "code"),
    [
        ({"booking": (97, 99), "journal": (1, 1)}, 0),
        ({"booking": (97, 99), "journal": (0, 1)}, 1),
        ({"domain": (98, 100)}, 0),
        ({}, 1),
    ],
)
def test_fewer_branches_than_the_floor_are_refused(
    tmp_path: Path, rooms: dict[str, tuple[int, int]], code: int
) -> None:
    assert main(report(tmp_path / "report.json", rooms), "98") == code


def test_a_branch_that_is_left_needs_a_reason(
    tmp_path: Path, reasons: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"Moves.move": [(7, -3)], "Moves.park": []}
    path = report(tmp_path / "report.json", {"booking": (99, 100)}, missing)

    assert main(path, "98") == 1
    assert "booking/it.py Moves.move has a branch that no test takes" in capsys.readouterr().err
    reasons["booking/it.py Moves.move"] = "it is a race"
    assert main(path, "98") == 0
    assert "line 7 to its end: it is a race" in capsys.readouterr().out


def test_a_reason_for_what_is_not_there_any_more_is_refused(
    tmp_path: Path, reasons: dict[str, str]
) -> None:
    path = report(tmp_path / "report.json", {"booking": (99, 100)}, {"Moves.move": []})
    reasons["booking/it.py Moves.move"] = "taken every time after all"
    assert main(path, "98") == 0
    reasons["booking/it.py Moves.mvoe"] = "a race"
    assert main(path, "98") == 1
