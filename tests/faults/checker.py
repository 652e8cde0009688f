"""Judges a fleet from outside: callers' history, the vendor's ledger, the journal; moves nothing.

Beside the invariants of the checker that it builds on, it knows the order of what was said, and
asks the gateway itself about everything that was ever in doubt.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

import grpc

from loyalty.v1 import types_pb2
from loyalty_gateway.supervisor import PROOF_CARD
from tests.e2e.checker import Row, World, read_journal, violations
from tests.faults.database import copy_journal
from tests.faults.fleet import Fleet
from tests.faults.history import History, Told

_STATE_PREFIX: Final = "BOOKING_STATE_"


async def journal_of(fleet: Fleet) -> Path:
    """A file to read the journal from, as it stands now."""
    if not fleet.dsn:
        return fleet.home.journal
    copy = fleet.home.folder / "journal" / "copy.sqlite3"
    return await asyncio.to_thread(copy_journal, fleet.dsn, copy)


async def find_violations(fleet: Fleet, history: History, journal: Path) -> tuple[list[str], World]:
    """Everything that is wrong now that all is at rest, and the world that it was found in."""
    rows, moves = await asyncio.to_thread(read_journal, journal)
    effects = [it for it in await fleet.vendor.effects() if it.card != PROOF_CARD]
    world = World([it.heard for it in history.told], effects, rows, moves)
    wrong = [
        *violations(world),
        *changes_of_mind(history.told),
        *bugs_told(history.told),
        *[line async for line in _own_words(fleet, history.told, rows)],
        *(f"I3: the vendor's books: {problem}" for problem in await fleet.vendor.problems()),
    ]
    return wrong, world


def changes_of_mind(told: Sequence[Told]) -> Iterator[str]:
    """I12: once something final was told, whoever asks after that is told the same outcome."""
    by_key = defaultdict(list)
    for it in told:
        by_key[it.key].append(it)
    for (request_id, _), answers in by_key.items():
        finals = [it for it in answers if it.heard.reply.is_final]
        if not finals:
            continue
        first = min(finals, key=lambda it: it.ended_s)
        known = _outcome(first)
        for it in answers:
            # An answer without our word claims nothing; who asked before may hear less.
            claims = it.heard.reply.is_ok or it.heard.reply.outcome
            if it.began_s >= first.ended_s and claims and _outcome(it) != known:
                yield f"I12: {request_id} was told {known} for good, then {it.heard.reply}"


def bugs_told(told: Sequence[Told]) -> Iterator[str]:
    """S17: no trouble of this plan is a bug of the gateway, so no caller is told of one."""
    for it in told:
        if it.heard.reply.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
            yield f"S17: {it.key[0]} was told {it.heard.reply}"


def _outcome(it: Told) -> str:
    return "EXECUTED" if it.heard.reply.is_ok else it.heard.reply.outcome


async def _own_words(fleet: Fleet, told: Sequence[Told], rows: Sequence[Row]) -> AsyncIterator[str]:
    """I5: of everything that was unknown to a caller, GetBooking tells what the journal holds."""
    states = {row.request_id: row.state for row in rows}
    asked = {it.key[0] for it in told if it.heard.reply.outcome in ("", "UNKNOWN")}
    replica = next(it for it in fleet.replicas if it.is_running)
    for request_id in sorted(asked):
        booking = await replica.caller.get(request_id)
        state = "none"
        if booking is not None:
            name = types_pb2.BookingState.Name(booking.state)
            state = name.removeprefix(_STATE_PREFIX)
        if state != states.get(request_id, "none"):
            yield f"I5: {request_id} is {state} by GetBooking, {states.get(request_id)} by its row"
