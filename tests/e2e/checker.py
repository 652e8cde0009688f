"""Compares what callers heard, what the vendors booked and what the journal says; pure.

The numbers are those of the invariants that every run has to keep, whichever the vendor.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from loyalty.v1 import types_pb2
from loyalty_gateway.domain.booking import TRANSITIONS, State
from tests.e2e.caller import Reply
from tests.e2e.cases import Case, Cases
from tests.e2e.journal import Move, Row
from tests.e2e.vendor import Effect, Records
from tests.e2e.wanted import BookingRequest, method_of, minor_of, ticket_of, wanted_of

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
        return ticket_of(self.request)

    @property
    def key(self) -> tuple[str, str, str]:
        """One content under one request_id."""
        return self.request.request_id, method_of(self.request), self.ticket


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A CancelBooking that was answered OK, which closes the request_id."""

    request_id: str
    is_final: bool
    """Whether it said that it is over; else an undo was asked for."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything there is to compare when a run has come to rest.

    `asked` holds the contents whose calls were begun, those without an end included. An account
    that has no entry in `records` is not looked at.
    """

    heard: Sequence[Heard] = field(default_factory=list)
    effects: Sequence[Effect] = field(default_factory=list)
    rows: Sequence[Row] = field(default_factory=list)
    moves: Sequence[Move] = field(default_factory=list)
    asked: Sequence[BookingRequest] = field(default_factory=list)
    cancelled: Sequence[Cancelled] = field(default_factory=list)
    records: Mapping[str, Records] = field(default_factory=dict)
    """By connection."""

    def cases(self) -> Cases:
        """Each booking of the journal with what it did."""
        contents = {
            (it.request_id, method_of(it), ticket_of(it)): wanted_of(it)
            for it in (*self.asked, *(heard.request for heard in self.heard))
        }
        return Cases(self.rows, self.effects, contents)


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant, and the booking that it was seen at, if it was one."""

    invariant: str
    text: str
    request_id: str = ""

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"


def violations(world: World) -> list[Violation]:
    """What is wrong, each with the invariant that is broken."""
    cases = world.cases()
    return [
        *_sums(cases),
        *_answers(world, cases),
        *_effects(cases),
        *_refusals(world, cases),
        *_rows(world, cases),
        *_undone(cases),
        *_cancelled(world, cases),
        *_records(world, cases),
        *_histories(world),
    ]


def _sums(cases: Cases) -> Iterator[Violation]:
    """I1: account by account the vendor's ledger and the journal add up to the same.

    What only a person can decide, or is not over, may have been booked or not.
    """
    rest: Counter[tuple[str, str, int]] = Counter()
    least: Counter[tuple[str, str, int]] = Counter()
    most: Counter[tuple[str, str, int]] = Counter()
    for effect in cases.all_effects:
        rest[effect.connection, effect.card, 0] += effect.amount_minor
        rest[effect.connection, effect.card, 1] += effect.points
    for case in cases:
        if case.row.state in ("DECLINED", "NOT_EXECUTED"):
            continue
        if case.row.is_undo:
            # Its original, which is REVERSED then, is left out in its stead; while it is open
            # it may have taken back what the original did.
            if case.row.state in OPEN_STATES and case.original is not None:
                for key, amount in _amounts(case.original):
                    least[key] += min(0, -amount)
                    most[key] += max(0, -amount)
            continue
        for key, amount in _amounts(case):
            if case.row.state == "SUCCEEDED":
                rest[key] -= amount
            elif case.row.state in OPEN_STATES:
                least[key] += min(0, amount)
                most[key] += max(0, amount)
    for key, difference in rest.items():
        if not least[key] <= difference <= most[key]:
            connection, card, unit = key
            what = "points" if unit else "minor units"
            yield Violation("I1", f"card {card} of {connection} differs by {difference} {what}")


def _amounts(case: Case) -> Iterator[tuple[tuple[str, str, int], int]]:
    """What the booking moves when it is executed, by account and unit."""
    wanted = case.wanted
    if wanted is None or not wanted.moves_value:
        return
    place = wanted.connection, wanted.account
    minor, points = wanted.minor, wanted.points
    if wanted.allows_part and case.row.applied is not None:
        minor = -case.row.applied
    if wanted.purchase_minor:
        # By the vendor's own rules; whether they were applied to the right sale is I2's affair.
        points = case.effects[0].points if case.effects else 0
    yield (*place, 0), minor
    yield (*place, 1), points


def _answers(world: World, cases: Cases) -> Iterator[Violation]:
    """I2: every OK has its effect. I7, I12: what was final stays so, to the last byte."""
    found_out = {it.booking_id for it in world.moves if it.after in ("NEEDS_REVIEW", "IN_DOUBT")}
    finals: dict[tuple[str, str, str], set[tuple[str, bytes, bytes]]] = defaultdict(set)
    for heard in world.heard:
        reply = heard.reply
        if reply.is_final:
            finals[heard.key].add((reply.code.name, reply.body, reply.status_bytes))
        if reply.is_ok:
            for text in _wrong_with_ok(heard, cases, found_out):
                yield Violation("I2", text, heard.request.request_id)
    for (request_id, _, _), told in finals.items():
        if len(told) > 1:
            codes = sorted(code for code, _, _ in told)
            text = f"{request_id} was answered for good in {len(told)} ways: {codes}"
            yield Violation("I7", text, request_id)


def _wrong_with_ok(heard: Heard, cases: Cases, found_out: Set[str]) -> Iterator[str]:
    request_id, booking = heard.request.request_id, heard.reply.booking
    case = cases.find(*heard.key)
    if case is None or case.wanted is None:
        yield f"{request_id} was answered OK and is not in the journal"
        return
    if booking.state != types_pb2.BOOKING_STATE_SUCCEEDED or not booking.final:
        yield f"{request_id} was answered OK in another state"
    wanted = case.wanted
    if wanted.original and (case.original is None or booking.original_booking != case.row.original):
        yield f"{request_id} was answered OK without the booking that it belongs to"
    if not wanted.moves_value and not wanted.is_undo:
        return
    if len(case.effects) != 1:
        yield f"{request_id} was answered OK and has {len(case.effects)} effects"
        return
    [effect] = case.effects
    if wanted.moves_value and not case.is_as_asked(effect):
        yield f"{request_id} was answered OK and another booking was made"
    references = [it.value for it in booking.provider_references]
    # What was found out later, by a refusal as a duplicate or by a person, may lack the vendor's
    # number and its amount.
    is_found_out = case.row.booking_id in found_out
    is_its = bool(references) and references[0] in effect.names
    if wanted.moves_value and not (is_its or (is_found_out and not references)):
        yield (
            f"{request_id} was answered with another booking's number,"
            f" {references[:1]}, not one of {sorted(effect.names)}"
        )
    is_unknown = is_found_out and not booking.HasField("applied")
    if (
        wanted.minor
        and not is_unknown
        and minor_of(booking.applied.money) != abs(effect.amount_minor)
    ):
        yield f"{request_id} was answered with another amount than was applied"
    if effect.points and booking.applied.HasField("points"):
        told = booking.applied.points.value
        if told != abs(effect.points):
            yield f"{request_id} was answered with {told} points, {effect.points} were applied"


def _effects(cases: Cases) -> Iterator[Violation]:
    """I3: nothing has two effects. I6: no effect is unknown to the journal."""
    keys = Counter((it.connection, it.idempotency_key) for it in cases.all_effects if it.is_keyed)
    for (connection, key), count in keys.items():
        if count > 1:
            case = cases.by_outbound_id(connection, key)
            request_id = case.row.request_id if case else ""
            yield Violation("I3", f"key {key} of {connection} has {count} effects", request_id)
    for case in cases:
        if len(case.effects) > 1:
            text = f"{case.row.request_id} has {len(case.effects)} effects"
            yield Violation("I3", text, case.row.request_id)
    for effect in cases.orphans:
        yield Violation("I6", f"effect {effect.number} is not in the journal ({effect})")
    for case in cases:
        for effect in case.effects:
            if not case.is_as_asked(effect):
                text = f"effect {effect.number} is not what {case.row.request_id} asked for"
                yield Violation("I6", text, case.row.request_id)


def _refusals(world: World, cases: Cases) -> Iterator[Violation]:
    """I4: "not executed" said for good is so. I8: a second content has no effect and no OK."""
    answered = {heard.key for heard in world.heard if heard.reply.is_ok}
    for heard in world.heard:
        reply, request_id = heard.reply, heard.request.request_id
        case = cases.find(*heard.key)
        if reply.outcome == "NOT_EXECUTED" and reply.is_final and case is not None and case.net:
            yield Violation("I4", f"{request_id} was called not executed, and it was", request_id)
        if reply.reason == "REQUEST_ID_REUSED" and (case is not None or heard.key in answered):
            text = f"the second content of {request_id} was booked or answered OK"
            yield Violation("I8", text, request_id)


def _rows(world: World, cases: Cases) -> Iterator[Violation]:
    """I5: the last state agrees with the ledger. I10: nothing is open."""
    for case in cases:
        row = case.row
        if row.state in OPEN_STATES:
            yield Violation("I10", f"{row.request_id} is still {row.state}", row.request_id)
            continue
        moves_value = case.wanted is not None and case.wanted.moves_value
        expected = int(row.state == "SUCCEEDED" and (moves_value or row.is_undo))
        if case.net != expected:
            effects = f"{len(case.effects)} effects, {len(case.undone)} of them undone"
            text = f"{row.request_id} is {row.state} with {effects}"
            yield Violation("I5", text, row.request_id)
    for request_id, count in Counter(row.request_id for row in world.rows).items():
        if count > 1:
            yield Violation("I5", f"{request_id} has {count} bookings", request_id)


def _undone(cases: Cases) -> Iterator[Violation]:
    """I9: what was undone was undone once, by a booking that says so, and is REVERSED."""
    undone = Counter(
        (it.connection, it.reverses) for it in cases.all_effects if it.reverses is not None
    )
    for (connection, number), count in undone.items():
        if count > 1:
            yield Violation("I9", f"effect {number} of {connection} was undone {count} times")
    for case in cases:
        row = case.row
        if len(case.undone) > max(1, len(case.effects)):
            text = f"{row.request_id} was undone {len(case.undone)} times"
            yield Violation("I9", text, row.request_id)
        if row.state == "REVERSED" and not cases.undos_of(row):
            text = f"{row.request_id} is REVERSED and no booking has undone it"
            yield Violation("I9", text, row.request_id)
        if row.is_undo and row.state == "SUCCEEDED":
            original = case.original
            state = original.row.state if original is not None else "unknown"
            if state != "REVERSED":
                text = f"{row.request_id} has undone a booking that is {state}"
                yield Violation("I9", text, row.request_id)


def _cancelled(world: World, cases: Cases) -> Iterator[Violation]:
    """I12: a request_id that was closed does not come to life again.

    Where an undo was promised and the vendor declined it, or a person found that it was not done,
    the booking stands, and says so.
    """
    states = {row.request_id: row for row in world.rows}
    ends = ("SUCCEEDED", "NOT_EXECUTED")
    decided = {
        it.booking_id for it in world.moves if it.before == "NEEDS_REVIEW" and it.after in ends
    }
    for it in world.cancelled:
        row = states.get(it.request_id)
        if row is None:
            text = f"{it.request_id} was cancelled and is not in the journal"
            yield Violation("I12", text, it.request_id)
        elif row.state == "SUCCEEDED":
            undos = [undo.row for undo in cases.undos_of(row)]
            may_stand = any(undo.state == "DECLINED" for undo in undos) or any(
                one.booking_id in decided for one in (row, *undos)
            )
            if it.is_final or not may_stand:
                text = f"{it.request_id} was cancelled and is {row.state}"
                yield Violation("I12", text, it.request_id)


def _records(world: World, cases: Cases) -> Iterator[Violation]:
    """I5, of what moves no value: made, linked, activated or changed is what succeeded."""
    marks: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        wanted, row = case.wanted, case.row
        if wanted is None or wanted.moves_value or wanted.is_undo:
            continue
        records = world.records.get(row.connection)
        if records is None:
            continue
        if wanted.method.startswith("Update"):
            marks[row.connection, wanted.account].append(case)
            continue
        count = find_traces(records, case)
        if row.state not in OPEN_STATES and count != int(row.state == "SUCCEEDED"):
            text = f"{row.request_id} is {row.state} and left {count} traces"
            yield Violation("I5", text, row.request_id)
    for (connection, account), changes in marks.items():
        detail = world.records[connection].get(account, {})
        written = [it for it in changes if it.wanted and it.wanted.mark in detail.values()]
        for case in written:
            if case.row.state in ("DECLINED", "NOT_EXECUTED"):
                text = f"{case.row.request_id} is {case.row.state} and changed {account}"
                yield Violation("I5", text, case.row.request_id)
        if not written and any(it.row.state == "SUCCEEDED" for it in changes):
            yield Violation("I5", f"no change of {account} of {connection} is to be seen")


def find_traces(records: Records, case: Case) -> int:
    """How often what a change of records leaves behind is to be seen."""
    wanted = case.wanted
    assert wanted is not None
    if wanted.method == "LinkAccount":
        links = [link for detail in records.values() for link in detail.get("links", ())]
        return sum(wanted.mark in link.values() for link in links)
    if wanted.method == "ActivateGiftCard":
        return int(bool(records.get(wanted.account, {}).get("is_active")))
    if wanted.account and wanted.method.startswith("Create"):
        return int(wanted.account in records)
    return sum(wanted.mark in detail.values() for detail in records.values())


def _histories(world: World) -> Iterator[Violation]:
    """I11: every history is a path of the state machine, without a gap, to the present state."""
    paths = defaultdict(list)
    for move in world.moves:
        paths[move.booking_id].append(move)
    for row in world.rows:
        path, request_id = paths[row.booking_id], row.request_id
        if [move.sequence for move in path] != list(range(1, len(path) + 1)):
            yield Violation("I11", f"the history of {request_id} has a gap", request_id)
        state = ""
        for move in path:
            is_note = move.before == move.after and move.after in _STATES
            if move.before != state or ((move.before, move.after) not in _MOVES and not is_note):
                text = f"{request_id} moved from {move.before or '-'} to {move.after}"
                yield Violation("I11", text, request_id)
            state = move.after
        if state != row.state:
            text = f"the history of {request_id} ends at {state}, it is {row.state}"
            yield Violation("I11", text, request_id)
