"""Judges a fleet from outside: callers' history, the vendor's ledger, the journal; moves nothing.

Beside the invariants of the checker that it builds on, it knows the order of what was said, and
asks the gateway itself about everything that was ever in doubt.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import grpc

from loyalty.v1 import bookings_pb2, types_pb2
from loyalty_gateway.supervisor import PROOF_CARD
from tests.e2e.caller import Caller
from tests.e2e.checker import Violation, World, violations
from tests.e2e.journal import Row, read_journal
from tests.e2e.vendor import Vendor
from tests.faults.history import History, Told
from tests.faults.wishes import still_stands, taken_back, unwished
from tests.faults.words import denied, never_stood, turned_away, undid_another

_STATE_PREFIX: Final = "BOOKING_STATE_"
STORIES_MAX: Final = 6
_OPERATORS_TROUBLES: Final = ("PROVIDER_CREDENTIALS_REJECTED", "PROVIDER_ACCESS_DENIED")


class Judged(Protocol):
    """What is judged: gateways on one journal, and the vendors that they book with."""

    @property
    def replicas(self) -> Sequence[Any]: ...

    @property
    def vendors(self) -> Mapping[str, Vendor]: ...

    async def journal(self) -> Path:
        """A file to read the journal from, as it stands now."""
        ...


async def look(fleet: Judged, history: History) -> World:
    """Everything there is to compare, as it stands now."""
    journal = await fleet.journal()
    rows, moves = await asyncio.to_thread(read_journal, journal)
    vendors = fleet.vendors.values()
    return World(
        heard=[it.heard for it in history.told],
        effects=[
            it for vendor in vendors for it in await vendor.effects() if it.card != PROOF_CARD
        ],
        rows=rows,
        moves=moves,
        asked=list(history.asked),
        cancelled=list(history.cancelled),
        records={vendor.connection: await vendor.records() for vendor in vendors},
    )


async def find_violations(
    fleet: Judged, history: History, helped: Collection[str]
) -> tuple[list[Violation], World]:
    """Everything that is wrong now that all is at rest, and the world that it was found in.

    `helped` are the request_ids whose end took a person.
    """
    world = await look(fleet, history)
    caller = next(it.caller for it in fleet.replicas if it.is_running)
    wrong = [
        *violations(world),
        *changes_of_mind(history.told),
        *bugs_told(history),
        *false_refusals(world, history),
        *never_stood(world),
        *undid_another(world),
        *denied(world, history.told),
        *turned_away(history.told),
        *unwished(world, history),
        *still_stands(world, history, helped),
        *taken_back(world, history),
        *[it async for it in _own_words(caller, history.told, world.rows)],
    ]
    for name, vendor in fleet.vendors.items():
        wrong += [
            Violation("I3", f"the books of {name}: {problem}")
            for problem in await vendor.problems()
        ]
    return wrong, world


async def tell_stories(fleet: Judged, wrong: Sequence[Violation], world: World) -> list[str]:
    """The whole timeline of the first bookings that something is wrong with."""
    caller = next(it.caller for it in fleet.replicas if it.is_running)
    named = dict.fromkeys(it.request_id for it in wrong if it.request_id)
    lines: list[str] = []
    cases = {case.row.request_id: case for case in world.cases()}
    for request_id in list(named)[:STORIES_MAX]:
        lines.append(f"{request_id}:")
        for heard in world.heard:
            if heard.request.request_id == request_id:
                lines.append(f"  told: {heard.key[1]} {heard.ticket[:8]} {heard.reply}")
        reply = await caller.call(bookings_pb2.ExplainBookingRequest(request_id=request_id))
        for step in reply.response.steps if reply.is_ok else ():
            lines.append(f"  {step.time.ToJsonString()} {step.text}")
        case = cases.get(request_id)
        if case is not None:
            lines.append(f"  journal: {case.row}")
            lines.append(f"  wanted: {case.wanted}")
            lines += [f"  {effect}" for effect in (*case.effects, *case.undone)]
    return lines


def changes_of_mind(told: Sequence[Told]) -> Iterator[Violation]:
    """I12: once something final was told, whoever asks after that is told the same outcome."""
    by_key = defaultdict(list)
    for it in told:
        by_key[it.key].append(it)
    for (request_id, _, _), answers in by_key.items():
        finals = [it for it in answers if it.heard.reply.is_final]
        if not finals:
            continue
        first = min(finals, key=lambda it: it.ended_s)
        known = _outcome(first)
        for it in answers:
            # An answer without our word claims nothing; who asked before may hear less.
            claims = it.heard.reply.is_ok or it.heard.reply.outcome
            if it.began_s >= first.ended_s and claims and _outcome(it) != known:
                text = f"{request_id} was told {known} for good, then {it.heard.reply}"
                yield Violation("I12", text, request_id)


def bugs_told(history: History) -> Iterator[Violation]:
    """S17: no trouble of this plan is a bug of the gateway, so no caller is told of one.

    A vendor that refuses our credential is no bug, and is INTERNAL all the same.
    """
    booked = ((it.key[0], it.heard.reply) for it in history.told)
    for request_id, reply in (*booked, *history.words):
        is_internal = reply.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
        if is_internal and reply.reason not in _OPERATORS_TROUBLES:
            yield Violation("S17", f"{request_id or 'who read'} was told {reply}", request_id)


def false_refusals(world: World, history: History) -> Iterator[Violation]:
    """I12: who may not cancel is told the true outcome, where it is told for good."""
    states = {row.request_id: row.state for row in world.rows}
    for request_id, reply in history.words:
        if reply.reason != "CANCEL_NOT_POSSIBLE" or not reply.is_final:
            continue
        stood = states.get(request_id) in ("SUCCEEDED", "REVERSED")
        if stood != (reply.outcome == "EXECUTED"):
            text = f"{request_id} is {states.get(request_id)}, and its cancellation heard {reply}"
            yield Violation("I12", text, request_id)


def _outcome(it: Told) -> str:
    return "EXECUTED" if it.heard.reply.is_ok else it.heard.reply.outcome


async def _own_words(
    caller: Caller, told: Sequence[Told], rows: Sequence[Row]
) -> AsyncIterator[Violation]:
    """I5: of everything that was unknown to a caller, GetBooking tells what the journal holds."""
    states = {row.request_id: row.state for row in rows}
    asked = {it.key[0] for it in told if it.heard.reply.outcome in ("", "UNKNOWN")}
    for request_id in sorted(asked):
        booking = await caller.get(request_id)
        state = "none"
        if booking is not None:
            name = types_pb2.BookingState.Name(booking.state)
            state = name.removeprefix(_STATE_PREFIX)
        known = states.get(request_id, "none")
        if state != known:
            text = f"{request_id} is {state} by GetBooking, {known} by its row"
            yield Violation("I5", text, request_id)
