"""What a database must be able to do for the journal; SQLite and PostgreSQL each fill it.

Everything here runs in the journal's threads, never on the event loop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from sqlalchemy import Connection, Engine

Row = Mapping[str, Any]


class JournalRefused(Exception):
    """The journal cannot be used as it is; the text says why and what to do."""


class Trouble(StrEnum):
    """What a failed statement says about the rows in it."""

    ROW = "ROW"
    """One of the rows is to blame: its neighbours can be saved."""
    RETRY = "RETRY"
    """Two transactions met; nothing was written, and the same may be tried again."""
    LOST = "LOST"
    """The connection broke: whether it was written must be read again."""
    REFUSED = "REFUSED"
    """The database did not write it, and will not at the moment."""


@dataclass(frozen=True, slots=True)
class Examination:
    """How a journal stands, found out without changing it.

    `revision` is the migration that it stands at, empty for one that is not made yet. Of a file
    that another process has, nothing more is looked at. `clock_skew_s` is the database's clock
    less this machine's, None where both are one. `free_bytes` is the room left for a file.
    """

    revision: str = ""
    is_in_use: bool = False
    clock_skew_s: float | None = None
    free_bytes: int | None = None


class Store(Protocol):
    """One kind of database."""

    is_shared: bool
    """Whether several processes may own bookings of this journal at the same time."""
    engine: Engine
    background: Engine
    """A small pool of its own for recovery, so that callers cannot starve it."""

    def start(self, salt_check: bytes) -> None:
        """Opens, migrates and checks the database. Raises JournalRefused."""
        ...

    def stop(self) -> None: ...

    def examine(self, salt_check: bytes) -> Examination:
        """What `start` would find, without starting. Raises JournalRefused as `start` would."""
        ...

    def writer(self) -> Connection:
        """A connection to write with, checked to be as durable as promised.

        Raises JournalRefused or the driver's error.
        """
        ...

    def begin_whole(self, connection: Connection) -> None:
        """What follows in this batch is several statements and is written whole or not at all."""
        ...

    def lock_account(self, connection: Connection, account_hash: bytes) -> None:
        """Until the end of the batch no other one opens a booking that holds this account."""
        ...

    def insert(
        self, connection: Connection, bookings: Sequence[Row], histories: Sequence[Row]
    ) -> set[str]:
        """Inserts what has no request_id yet, each with its history; ids of the new ones."""
        ...

    def update(
        self,
        connection: Connection,
        bookings: Sequence[Row],
        histories: Sequence[Row],
        attempts: Sequence[Row],
        references: Sequence[Row] = (),
    ) -> set[str]:
        """Rewrites what still stands at the epoch before and the state before, with history,
        attempts and references of just those; ids of what landed. `histories` is in the order
        of `bookings`. Fails whole, as a broken key does, where a reference is another
        booking's."""
        ...

    def claim(
        self,
        connection: Connection,
        tenant: str,
        owner: str,
        now_us: int,
        lease_us: int,
        limit: int,
        flying: Sequence[str],
        paused: Sequence[str],
    ) -> set[str]:
        """Takes due bookings that nobody holds, but those `flying` and the doubts of `paused`
        connections, for a lease; their ids."""
        ...

    def now_us(self) -> int:
        """The database's clock, in microseconds; may be computed from an earlier reading."""
        ...

    def keep_clock(self, connection: Connection) -> None:
        """Reads the clock again when the last reading is old; called between batches."""
        ...

    def try_alone(self, name: str) -> Callable[[], None] | None:
        """Takes a name that one process at a time may hold: the way to give it back, or None
        while another one has it. A process that dies gives it back."""
        ...

    def trouble(self, error: BaseException) -> Trouble: ...
