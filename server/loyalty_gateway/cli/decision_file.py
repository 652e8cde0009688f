"""Reads a file of decisions, and names every line that is wrong; it must never ask a server.

The file is checked as a whole before anything is sent, so that a mistake in its last line is
found before the first booking is settled. Messages name lines and columns and never repeat a
value: it may be a card number that was pasted into the wrong column.
"""

import csv
import io
import json
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loyalty.v1 import types_pb2
from loyalty_gateway.cli.failure import UsageFailed

FILE_BYTES_MAX = 16 * 1024 * 1024
DECISIONS_MAX = 10_000
COLUMNS = ("booking", "outcome", "evidence", "reason")
STANDARD_INPUT = Path("-")

OUTCOMES: Mapping[str, types_pb2.Outcome.ValueType] = {
    "executed": types_pb2.OUTCOME_EXECUTED,
    "not-executed": types_pb2.OUTCOME_NOT_EXECUTED,
}
"""What a person can have found out, as it is typed."""

# As in the contract's rules, so that what the server would refuse is found before it is asked.
_BOOKING_NAME = re.compile(r"bookings/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{8,64}")
_LENGTHS_MAX = {"evidence": 256, "reason": 1000}


@dataclass(frozen=True, slots=True)
class LineDecision:
    """What one line of the file says about one booking."""

    line: int
    booking: str
    outcome: types_pb2.Outcome.ValueType
    evidence: str
    reason: str


def read_decisions(path: Path) -> tuple[LineDecision, ...]:
    """The decisions of a CSV file or a file of JSON lines; `-` reads standard input.

    Raises:
        UsageFailed: the file cannot be read, or naming every line that is wrong.
    """
    text = _read_text(path)
    rows = _json_rows(text) if text.lstrip().startswith("{") else _csv_rows(text)
    problems: list[str] = []
    decisions: list[LineDecision] = []
    lines_of: dict[str, int] = {}
    for line, row in rows:
        wrong = [row] if isinstance(row, str) else list(_problems(row))
        if wrong or isinstance(row, str):
            problems.extend(f"line {line}: {problem}" for problem in wrong)
            continue
        booking = row["booking"]
        if booking in lines_of:
            problems.append(f"line {line}: booking: is the one of line {lines_of[booking]}")
            continue
        lines_of[booking] = line
        outcome = OUTCOMES[_outcome_word(row["outcome"])]
        decisions.append(LineDecision(line, booking, outcome, row["evidence"], row["reason"]))
    if not decisions and not problems:
        problems.append("it holds no decision")
    if len(decisions) > DECISIONS_MAX:
        problems.append(f"it holds more than {DECISIONS_MAX} decisions; split it")
    if problems:
        shown = "standard input" if path == STANDARD_INPUT else str(path)
        told = "".join(f"\n  {problem}" for problem in problems)
        raise UsageFailed(f"nothing was done, because {shown} is wrong:{told}")
    return tuple(decisions)


def _read_text(path: Path) -> str:
    try:
        if path == STANDARD_INPUT:
            content = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageFailed(f"cannot read {path}: {error.strerror}.") from None
    if len(content) > FILE_BYTES_MAX:
        raise UsageFailed(f"{path} is larger than {FILE_BYTES_MAX} bytes; split it.")
    try:
        # Spreadsheets begin their UTF-8 with a byte order mark.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageFailed(f"{path} is not UTF-8 text; save it as CSV in UTF-8.") from None


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """The number of each line, and its cells by column or what is wrong with it."""
    header = text.partition("\n")[0]
    # Spreadsheets of many countries write semicolons; no name of a column holds any of these.
    delimiter = next((each for each in ",;\t" if each in header), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        if sorted(columns) != sorted(COLUMNS):
            yield (
                1,
                f"must be {','.join(COLUMNS)}, or every line must be a JSON object of these names",
            )
            return
        before = reader.line_num
        for cells in reader:
            line, before = before + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                yield line, f"has {len(cells)} columns and not {len(columns)}"
            else:
                yield line, dict(zip(columns, map(str.strip, cells), strict=True))
    except csv.Error as error:
        yield reader.line_num, f"is no CSV: {error}"


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield (
                line,
                {name: it.strip() if isinstance(it, str) else it for name, it in row.items()},
            )
        else:
            yield line, "is not one JSON object"


def _problems(row: Mapping[str, Any]) -> Iterator[str]:
    if row.keys() - set(COLUMNS):
        yield f"has names other than {', '.join(COLUMNS)}"
    for name in COLUMNS:
        value = row.get(name, "")
        if value == "":
            yield f"{name}: is missing"
        elif not isinstance(value, str):
            yield f"{name}: must be text"
        elif name == "booking":
            if not _BOOKING_NAME.fullmatch(value) and not _REQUEST_ID.fullmatch(value):
                yield "booking: must be `bookings/` and a UUID, or a request_id"
        elif name == "outcome":
            if _outcome_word(value) not in OUTCOMES:
                yield f"outcome: must be {' or '.join(OUTCOMES)}"
        elif len(value) > _LENGTHS_MAX[name]:
            yield f"{name}: is longer than {_LENGTHS_MAX[name]} characters"
        elif any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in value):
            yield f"{name}: must be one line without control characters"


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _outcome_word(text: str) -> str:
    return text.lower().replace("_", "-")
