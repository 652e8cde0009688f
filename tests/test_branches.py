"""The floor under the share of branches that `make coverage` demands."""

import json
from pathlib import Path

import pytest

from tests.branches import main


def report(path: Path, **rooms: tuple[int, int]) -> str:
    """A report with one file for each room, and one of no room in which nothing was taken."""
    counts = {f"server/loyalty_gateway/{room}/it.py": count for room, count in rooms.items()}
    counts["server/loyalty_gateway/cli/it.py"] = (0, 1_000)
    files = {
        name: {"summary": {"covered_branches": taken, "num_branches": known}}
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
    assert main(report(tmp_path / "report.json", **rooms), "98") == code
