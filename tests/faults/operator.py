"""What an operator does: looks into the vendor's books and decides what no machine could.

The truth is the vendor's ledger, and it is believed only when nothing can change it any more.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from loyalty.v1 import bookings_pb2, types_pb2
from tests.e2e.cases import Case
from tests.e2e.checker import World, find_traces

STATES: Final = [types_pb2.BOOKING_STATE_NEEDS_REVIEW]
PAGE: Final = 200
CONFLICTS: Final = frozenset(
    {"PROVIDER_KEY_CONFLICT", "ALREADY_REVERSED", "PROVIDER_ANSWER_UNREADABLE"}
)
"""Reasons that stand for evidence that contradicts itself."""


@dataclass(frozen=True, slots=True, order=True)
class Review:
    """Why a booking needed a person."""

    connection: str
    method: str
    mode: str
    reason: str

    @property
    def is_allowed(self) -> bool:
        """No machine could find out, or what it found contradicts itself."""
        return self.mode == "MANUAL" or self.reason in CONFLICTS


@dataclass(slots=True)
class Operator:
    """Decides what has waited for `patience_s`; counts why it was asked."""

    look: Callable[[], Awaitable[World]]
    """The world of the moment: journal and books."""
    call: Callable[[Any], Awaitable[Any]]
    patience_s: float
    reviews: Counter[Review] = field(default_factory=Counter)
    needless: dict[Review, str] = field(default_factory=dict)
    """A request_id for each reason that is none."""
    problems: list[str] = field(default_factory=list)
    helped: set[str] = field(default_factory=set)
    """The request_ids whose end took a decision: on the booking itself, or on its undo."""
    _seen_s: dict[str, float] = field(default_factory=dict)

    async def work(self, is_over: Callable[[], bool], *, every_s: float) -> None:
        """Looks again and again until it is over."""
        while not is_over():
            await self.decide()
            await asyncio.sleep(every_s)

    async def decide(self) -> int:
        """One look at everything that waits for a person; how much was decided."""
        found = await self.call(bookings_pb2.ListBookingsRequest(states=STATES, page=_page()))
        now = time.monotonic()
        if not found.is_ok:
            return 0
        ripe = []
        for booking in found.response.bookings:
            first = self._seen_s.setdefault(f"{booking.name}/{booking.attempt_count}", now)
            if now - first >= self.patience_s:
                ripe.append(booking)
        if not ripe:
            return 0
        world = await self.look()
        everything = world.cases()
        cases = {case.row.name: case for case in everything}
        decided = 0
        for booking in ripe:
            case = cases.get(booking.name)
            if case is None or case.row.state != "NEEDS_REVIEW":
                continue
            outcome = (
                types_pb2.OUTCOME_EXECUTED
                if _was_executed(world, case)
                else types_pb2.OUTCOME_NOT_EXECUTED
            )
            # The vendor's own number, as a person reads it in the vendor's books.
            evidence = f"tx_{case.effects[0].number}" if case.effects else "it is not in the books"
            decision = bookings_pb2.Decision(
                outcome=outcome, evidence=evidence, reason="decided by the operator"
            )
            reply = await self.call(
                bookings_pb2.ResolveBookingRequest(name=booking.name, decision=decision)
            )
            if reply.is_ok:
                decided += 1
                row = case.row
                self.helped.add(row.request_id)
                self.helped |= {
                    it.row.request_id for it in everything if it.row.name == row.original
                }
                # What can only be undone rests on its undo, whose own doubt may be a person's.
                undos = {undo.row.mode for undo in everything.undos_of(row)}
                mode = "MANUAL" if row.mode == "REVERSE" and "MANUAL" in undos else row.mode
                review = Review(row.connection, row.method, mode, row.reason)
                self.reviews[review] += 1
                if not review.is_allowed:
                    self.needless[review] = row.request_id
            elif reply.reason not in ("REQUEST_INVALID",):
                self.problems.append(f"{booking.request_id} could not be resolved: {reply}")
        return decided


def _page() -> types_pb2.Page:
    return types_pb2.Page(page_size=PAGE)


def _was_executed(world: World, case: Case) -> bool:
    wanted = case.wanted
    if case.row.is_undo or wanted is None or wanted.moves_value:
        return case.net > 0
    records = world.records.get(case.row.connection)
    assert records is not None, "the operator sees the vendor's records"
    return find_traces(records, case) > 0
