"""Says which share of the branches a coverage report has, and fails below a floor.

`coverage report` counts statements and branches together, so that many lines could hide a few
branches. `python -m tests.branches REPORT.json FLOOR` is about branches alone.
"""

import json
import sys
from pathlib import Path
from typing import Final

ROOMS: Final = ("domain", "booking", "journal")


def main(path: str, floor: str) -> int:
    """0 where at least `floor` percent of the branches were taken."""
    files = json.loads(Path(path).read_text(encoding="utf-8"))["files"]
    taken = known = 0
    for room in ROOMS:
        parts = [it["summary"] for name, it in files.items() if f"/loyalty_gateway/{room}/" in name]
        room_taken = sum(it["covered_branches"] for it in parts)
        room_known = sum(it["num_branches"] for it in parts)
        print(f"{room:8} {room_taken} of {room_known} branches")
        taken, known = taken + room_taken, known + room_known
    is_enough = known > 0 and 100 * taken >= float(floor) * known
    print(f"all      {taken} of {known} branches: {100 * taken / max(known, 1):.1f} %")
    if not is_enough:
        print(f"Fewer than {floor} % of the branches were taken.", file=sys.stderr)
    return 0 if is_enough else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
