"""Compares what callers heard, what the vendor booked and what the journal says; pure.

The numbers are those of the invariants that every run has to keep.
"""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from loyalty.v1 import types_pb2
from loyalty_gateway.domain.booking import TRANSITIONS, State
from tests.e2e.caller import BookingRequest, Reply, signed_amounts
from tests.e2e.vendor import Effect

OPEN_STATES = frozenset({"RESERVED", "SENDING", "IN_DOUBT", "REVERSING", "NEEDS_REVIEW"})
_MOVES = {(before.value if before else "", after.value) for before, after in TRANSITIONS}
_STATES = {state.value for state in State}


@dataclass(frozen=True, slots=True)
class Heard:
    """The end of one booking call, as its caller heard it."""

    request: BookingRequest
    reply: Reply

    @property
    def ticket(self) -> str:
        """What tells one content under a request_id from another."""
        return self.request.sale.ticket_number


@dataclass(frozen=True, slots=True)
class Row:
    """One booking of the journal; amounts are signed as the card sees them."""

    booking_id: str
    request_id: str
    state: str
    outbound_id: str
    ticket: str
    amounts: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Move:
    """One line of a booking's history."""

    booking_id: str
    sequence: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class World:
    """Everything there is to compare when a run has come to rest."""

    heard: Sequence[Heard] = field(default_factory=list)
    effects: Sequence[Effect] = field(default_factory=list)
    rows: Sequence[Row] = field(default_factory=list)
    moves: Sequence[Move] = field(default_factory=list)


def read_journal(journal: Path) -> tuple[list[Row], list[Move]]:
    """The journal's own word, read from its file."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT booking_id, request_id, state, outbound_id, order_content, operation,"
            " asked_value FROM booking"
        ).fetchall()
        moves = connection.execute(
            "SELECT booking_id, sequence, from_state, to_state FROM history ORDER BY sequence"
        ).fetchall()
    return [_row(*row) for row in rows], [Move(*move) for move in moves]


def _row(
    booking_id: str,
    request_id: str,
    state: str,
    outbound_id: str | None,
    order_content: str,
    operation: str,
    asked_value: int | None,
) -> Row:
    if not operation:
        return Row(booking_id, request_id, state, "", "", (0, 0))
    ticket = json.loads(order_content)["sale"]["ticket_number"]
    assert asked_value is not None
    amounts = {
        "Balance.TopUpBalance": (asked_value, 0),
        "Balance.DebitBalance": (-asked_value, 0),
        "Points.RedeemPoints": (0, -asked_value),
    }[operation]
    return Row(booking_id, request_id, state, outbound_id or "", ticket, amounts)


def violations(world: World) -> list[str]:
    """What is wrong, each line beginning with the invariant that is broken."""
    return [
        *_sums(world),
        *_answers(world),
        *_effects(world),
        *_refusals(world),
        *_rows(world),
        *_histories(world),
    ]


def _sums(world: World) -> Iterator[str]:
    """I1: card by card the vendor's ledger and the journal add up to the same."""
    cards = {effect.reference: effect.card for effect in world.effects}
    cards |= {heard.ticket: heard.request.account.id for heard in world.heard}
    booked: Counter[tuple[str, int]] = Counter()
    for effect in world.effects:
        booked[effect.card, 0] += effect.amount_minor
        booked[effect.card, 1] += effect.points
    for row in world.rows:
        if row.state == "SUCCEEDED":
            card = cards.get(row.ticket, "of nobody")
            booked[card, 0] -= row.amounts[0]
            booked[card, 1] -= row.amounts[1]
    for (card, unit), rest in booked.items():
        if rest:
            yield f"I1: card {card} differs by {rest} {'points' if unit else 'Rappen'}"


def _answers(world: World) -> Iterator[str]:
    """I2: every OK has its effect. I7, I12: what was final stays so, to the last byte."""
    by_ticket = defaultdict(list)
    for effect in world.effects:
        by_ticket[effect.reference].append(effect)
    finals: dict[tuple[str, str], set[tuple[str, bytes, bytes]]] = defaultdict(set)
    for heard in world.heard:
        reply, request = heard.reply, heard.request
        if reply.is_final:
            key = (request.request_id, heard.ticket)
            finals[key].add((reply.code.name, reply.body, reply.status_bytes))
        if not reply.is_ok:
            continue
        effects = by_ticket[heard.ticket]
        if len(effects) != 1:
            yield f"I2: {request.request_id} was answered OK and has {len(effects)} effects"
            continue
        effect, booking = effects[0], reply.booking
        is_as_asked = (effect.amount_minor, effect.points) == signed_amounts(request)
        if not is_as_asked or effect.card != request.account.id:
            yield f"I2: {request.request_id} was answered OK and another booking was made"
        if effect.transaction_id not in {it.value for it in booking.provider_references}:
            yield f"I2: {request.request_id} was answered with another booking's number"
        if booking.state != types_pb2.BOOKING_STATE_SUCCEEDED or not booking.final:
            yield f"I2: {request.request_id} was answered OK in another state"
    for (request_id, _), told in finals.items():
        if len(told) > 1:
            codes = sorted(code for code, _, _ in told)
            yield f"I7: {request_id} was answered for good in {len(told)} ways: {codes}"


def _effects(world: World) -> Iterator[str]:
    """I3: no key has two effects. I6: no effect is unknown to the journal."""
    known = {row.outbound_id: row for row in world.rows if row.outbound_id}
    for name, count in Counter(effect.idempotency_key for effect in world.effects).items():
        if count > 1:
            yield f"I3: key {name} has {count} effects"
    for ticket, count in Counter(effect.reference for effect in world.effects).items():
        if count > 1:
            yield f"I3: ticket {ticket} has {count} effects"
    for effect in world.effects:
        row = known.get(effect.idempotency_key)
        if row is None:
            yield f"I6: effect {effect.number} is not in the journal"
        elif (row.ticket, row.amounts) != (
            effect.reference,
            (effect.amount_minor, effect.points),
        ):
            yield f"I6: effect {effect.number} is not what {row.request_id} asked for"


def _refusals(world: World) -> Iterator[str]:
    """I4: "not executed" said for good is so. I8: a second content has no effect and no OK."""
    booked = {effect.reference for effect in world.effects}
    answered = {heard.ticket for heard in world.heard if heard.reply.is_ok}
    for heard in world.heard:
        reply, request_id = heard.reply, heard.request.request_id
        if reply.outcome == "NOT_EXECUTED" and reply.is_final and heard.ticket in booked:
            yield f"I4: {request_id} was called not executed, and it was"
        if reply.reason == "REQUEST_ID_REUSED" and heard.ticket in booked | answered:
            yield f"I8: the second content of {request_id} was booked or answered OK"


def _rows(world: World) -> Iterator[str]:
    """I5: the last state agrees with the ledger. I9: nothing was undone. I10: nothing is open."""
    counts = Counter(effect.idempotency_key for effect in world.effects)
    for row in world.rows:
        if row.state in OPEN_STATES:
            yield f"I10: {row.request_id} is still {row.state}"
        expected = 1 if row.state == "SUCCEEDED" else 0
        if row.state not in OPEN_STATES and counts[row.outbound_id] != expected:
            yield f"I5: {row.request_id} is {row.state} with {counts[row.outbound_id]} effects"
        if row.state == "REVERSED":
            yield f"I9: {row.request_id} was undone at a vendor that has no undo"
    for request_id, count in Counter(row.request_id for row in world.rows).items():
        if count > 1:
            yield f"I5: {request_id} has {count} bookings"


def _histories(world: World) -> Iterator[str]:
    """I11: every history is a path of the state machine, without a gap, to the present state."""
    paths = defaultdict(list)
    for move in world.moves:
        paths[move.booking_id].append(move)
    for row in world.rows:
        path = paths[row.booking_id]
        if [move.sequence for move in path] != list(range(1, len(path) + 1)):
            yield f"I11: the history of {row.request_id} has a gap"
        state = ""
        for move in path:
            is_note = move.before == move.after and move.after in _STATES
            if move.before != state or ((move.before, move.after) not in _MOVES and not is_note):
                yield f"I11: {row.request_id} moved from {move.before or '-'} to {move.after}"
            state = move.after
        if state != row.state:
            yield f"I11: the history of {row.request_id} ends at {state}, it is {row.state}"
