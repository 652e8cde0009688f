"""Judges the branches in a coverage report: a floor, and a reason for each one that is left.

`coverage report` counts statements and branches together, so that many lines could hide a few
branches. `python -m tests.branches REPORT.json FLOOR` is about branches alone.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

ROOMS: Final = ("domain", "booking", "journal")

_LOST_RACE: Final = "another replica moves the row between the reading and the writing of it"

LEFT: Final[Mapping[str, str]] = {
    "booking/flights.py Flights._give_up_later": "the attempt ends between the failure of the"
    " journal and the note about it; the wish is then written by itself, which is tried",
    "booking/moves.py Moves._follow": f"{_LOST_RACE}, once or eight times over; what is not"
    " followed here is followed by recovery, which is tried",
    "booking/moves.py Moves.take_back": "AUTO_REVERSE is accepted only where a machine can undo,"
    " and what a vendor offers does not change while the process runs",
    "booking/moves.py Moves.end_undo": "the lease of an undo that did not come about ends in the"
    " moment in which it is taken back, and another replica has done so",
    "booking/settling.py Settling.settle": "a settle meets another wish eight times over, and then"
    " leaves it to the lease, which is tried",
    "booking/steps.py Steps._ask": f"{_LOST_RACE}; the question is then the other one's to ask",
    "booking/steps.py Steps._reverse": "the way that was open when a doubt began closes before its"
    " settle time, and undoing is what is left",
    "booking/steps.py Steps._undo": "two replicas open the undo of one booking in one moment, of"
    " which the claim before it lets only one go on",
    "booking/steps.py Steps._send_own_undo": f"{_LOST_RACE}; the undo is then the other one's",
    "booking/promises.py Promises._keep_proving": "the loop ends with the last proof or with the"
    " process, whichever is first",
    "journal/batches.py Batches.apply_contradicted": f"{_LOST_RACE}, while both bookings of one"
    " reference are given to a person; and a refusal by an index that nothing explains",
    "journal/journal.py Journal.alone": "who leaves while it takes a name finds that another has it"
    ", and has nothing to give back",
    "journal/postgres.py PostgresStore._check_durability": "a start on a server with a synchronous"
    " standby, which `make faults` makes with a real one",
}
"""Where a branch may be left, by file and function, and why no test takes it every time."""


def main(path: str, floor: str) -> int:
    """0 where at least `floor` percent of the branches were taken and LEFT names the others."""
    files = dict(_in_rooms(json.loads(Path(path).read_text(encoding="utf-8"))["files"]))
    taken = known = 0
    for room in ROOMS:
        parts = [it["summary"] for name, it in files.items() if name.startswith(f"{room}/")]
        room_taken = sum(it["covered_branches"] for it in parts)
        room_known = sum(it["num_branches"] for it in parts)
        print(f"{room:8} {room_taken} of {room_known} branches")
        taken, known = taken + room_taken, known + room_known
    is_enough = known > 0 and 100 * taken >= float(floor) * known
    print(f"all      {taken} of {known} branches: {100 * taken / max(known, 1):.1f} %")
    wrong = [] if is_enough else [f"Fewer than {floor} % of the branches were taken."]
    left, names = {}, set()
    for name, file in files.items():
        for function, part in file["functions"].items():
            names.add(f"{name} {function}")
            if part["missing_branches"]:
                left[f"{name} {function}"] = part["missing_branches"]
    for name, branches in left.items():
        lines = ", ".join(f"{start} to {end if end > 0 else 'its end'}" for start, end in branches)
        print(f"left     {name}, line {lines}: {LEFT.get(name, 'NO REASON')}")
        if name not in LEFT:
            wrong.append(f"{name} has a branch that no test takes: take it, or say why in LEFT.")
    wrong += [f"LEFT names {name}, which there is not." for name in LEFT if name not in names]
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


def _in_rooms(files: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, file in files.items():
        short = name.partition("/loyalty_gateway/")[2]
        if short.startswith(tuple(f"{room}/" for room in ROOMS)):
            yield short, file


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
