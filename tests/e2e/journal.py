"""What the checker reads of a journal: its bookings and their histories, from the file itself."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.wanted import UNDOES

BOOKING_COLUMNS: Final = (
    "booking_id, request_id, state, outbound_id, order_content, operation, connection,"
    " applied_value, original_booking, recovery_mode, reason, result_content"
)
HISTORY_COLUMNS: Final = "booking_id, sequence, from_state, to_state, time, actor, note"


@dataclass(frozen=True, slots=True)
class Row:
    """One booking of the journal. `method` is empty for a tombstone."""

    booking_id: str
    request_id: str
    state: str
    outbound_id: str = ""
    ticket: str = ""
    method: str = ""
    connection: str = "cashassist"
    applied: int | None = None
    original: str = ""
    """The name of the booking that it undoes or adds to."""
    mode: str = ""
    reason: str = ""
    references: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"bookings/{self.booking_id}"

    @property
    def is_undo(self) -> bool:
        return self.method in UNDOES


@dataclass(frozen=True, slots=True)
class Move:
    """One line of a booking's history."""

    booking_id: str
    sequence: int
    before: str
    after: str
    note: str = ""


def read_journal(journal: Path) -> tuple[list[Row], list[Move]]:
    """The journal's own word, read from its file."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        rows = connection.execute(f"SELECT {BOOKING_COLUMNS} FROM booking").fetchall()
        moves = connection.execute(
            "SELECT booking_id, sequence, from_state, to_state, note FROM history ORDER BY sequence"
        ).fetchall()
    return [_row(*row) for row in rows], [Move(*move) for move in moves]


def _row(
    booking_id: str,
    request_id: str,
    state: str,
    outbound_id: str | None,
    order_content: str,
    operation: str,
    connection: str,
    applied: int | None,
    original: str,
    mode: str,
    reason: str,
    result_content: str,
) -> Row:
    if not operation:
        return Row(booking_id, request_id, state, connection=connection)
    references = json.loads(result_content or "{}").get("references", [])
    return Row(
        booking_id,
        request_id,
        state,
        outbound_id or "",
        json.loads(order_content)["sale"].get("ticket_number", ""),
        operation.partition(".")[2],
        connection,
        applied,
        original,
        mode,
        reason,
        tuple(value for _, value in references),
    )
