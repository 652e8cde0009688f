"""Holds what callers were told against what it rests on, and against what they were told before."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from tests.e2e.checker import Violation, World
from tests.faults.history import Told
from tests.faults.load import REFUSED_AT_THE_DOOR

_EPOCH_S: Final = time.time() - time.monotonic()
"""What the clock of the callers is behind the one of the vendors' books."""
_AT_ONCE_S: Final = 1.05
"""Some vendors' books know whole seconds alone."""


def never_stood(world: World) -> Iterator[Violation]:
    """I2: whatever is told as booked stood in the journal as booked, if only for a while."""
    stood = {it.booking_id for it in world.moves if it.after == "SUCCEEDED"}
    for heard in world.heard:
        if not heard.reply.is_ok:
            continue
        # A validation has no name.
        booking_id = heard.reply.booking.name.removeprefix("bookings/")
        if booking_id and booking_id not in stood:
            text = f"{heard.key[0]} was told OK and never stood"
            yield Violation("I2", text, heard.key[0])


def undid_another(world: World) -> Iterator[Violation]:
    """I9: what was undone, or added to, is what the caller named."""
    for case in world.cases():
        if case.wanted is None or not case.wanted.original:
            continue
        original = case.original.row.request_id if case.original is not None else "nothing"
        if original != case.wanted.original:
            text = f"{case.row.request_id} was for {case.wanted.original} and is of {original}"
            yield Violation("I9", text, case.row.request_id)


def denied(world: World, told: Sequence[Told]) -> Iterator[Violation]:
    """I4: nothing that the vendor had booked before somebody asked is told as not booked so far."""
    cases = world.cases()
    for it in told:
        reply = it.heard.reply
        if reply.outcome != "NOT_EXECUTED" or reply.is_final:
            continue
        case = cases.find(*it.key)
        effects = case.effects if case is not None and not case.row.is_undo else ()
        if any(0 < effect.time_s < it.began_s + _EPOCH_S - _AT_ONCE_S for effect in effects):
            text = f"{it.key[0]} was booked, and {reply} was told of it"
            yield Violation("I4", text, it.key[0])


def turned_away(told: Sequence[Told]) -> Iterator[Violation]:
    """I7: who knows the end of a booking is not told later that it could never be asked for; and
    an OK that was told before says so."""
    answers = defaultdict(list)
    for it in told:
        answers[it.key].append(it)
    for (request_id, _, _), calls in answers.items():
        # What was cancelled before it came may be found to ask for nonsense when it does.
        ends = [it for it in calls if it.heard.reply.reason != "CANCELLED_BEFORE_ARRIVAL"]
        finals = [it.ended_s for it in ends if it.heard.reply.is_final]
        goods = [it.ended_s for it in calls if it.heard.reply.is_ok]
        for it in calls:
            reply = it.heard.reply
            is_wordless = reply.code in REFUSED_AT_THE_DOOR and not reply.outcome
            is_another = reply.reason == "REQUEST_ID_REUSED"
            if finals and it.began_s >= min(finals) and is_wordless and not is_another:
                yield Violation("I7", f"{request_id} has ended and was told {reply}", request_id)
            if reply.is_ok and it.began_s >= min(goods) and not reply.is_replayed:
                text = f"{request_id} was told OK twice as if it were new"
                yield Violation("I7", text, request_id)
