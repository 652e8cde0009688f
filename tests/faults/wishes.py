"""Holds what was undone, and what was not, against what its callers had wished."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

from loyalty.v1 import types_pb2
from loyalty_gateway.domain.booking import OWN_UNDO
from tests.e2e.checker import Violation, World
from tests.e2e.wanted import BookingRequest
from tests.faults.history import History

_JOURNAL_AWAY: Final = "JOURNAL_UNAVAILABLE"
"""Who is told this of a doubt is told as well that its wish could not be written."""


def unwished(world: World, history: History) -> Iterator[Violation]:
    """I9: the gateway undoes by itself what somebody wished to be rid of, or what nothing but an
    undo can settle; and nothing else."""
    wished = history.cancel_asked | _relied_on(history)
    relying = {it.request_id for it in history.asked if is_auto(it)}
    from_doubt = {
        it.booking_id
        for it in world.moves
        if it.before in ("IN_DOUBT", "NEEDS_REVIEW") and it.after == "REVERSING"
    }
    for case in world.cases():
        if not case.row.request_id.startswith(OWN_UNDO):
            continue
        row = case.original.row if case.original is not None else case.row
        # The doubt itself begins the undo, so its caller may hear only that it came to nothing.
        is_doubts = row.request_id in relying and row.booking_id in from_doubt
        if not is_doubts and row.request_id not in wished and row.mode != "REVERSE":
            text = f"{row.request_id} was undone, and nobody had wished so"
            yield Violation("I9", text, row.request_id)


def still_stands(
    world: World, history: History, helped: Collection[str] = ()
) -> Iterator[Violation]:
    """I12: what a caller with AUTO_REVERSE was told to be in doubt does not stand in the end.

    Where the vendor declined the undo, or the end took a person (`helped`), it may; and where the
    doubt ended as not executed so far, so that a repeat was another wish.
    """
    cases = world.cases()
    repeatable = {it.booking_id for it in world.moves if it.after == "RESERVED"}
    for it in history.told:
        reply, request_id = it.heard.reply, it.key[0]
        if reply.outcome != "UNKNOWN" or reply.reason == _JOURNAL_AWAY:
            continue
        case = cases.find(*it.key) if is_auto(it.heard.request) else None
        if case is None or case.row.state != "SUCCEEDED" or request_id in helped:
            continue
        if case.row.booking_id in repeatable:
            continue
        if all(undo.row.state != "DECLINED" for undo in cases.undos_of(case.row)):
            text = f"{request_id} was given up as {reply} and stands"
            yield Violation("I12", text, request_id)


def taken_back(world: World, history: History) -> Iterator[Violation]:
    """I12: what its callers were told to be booked is undone for who cancels it, and nobody else.

    A wish that could not be written at once may come too late for another replica's caller: where
    a caller has left, or was told that the journal is away, nothing is said here.
    """
    cases = world.cases()
    good = {it.key[0] for it in history.told if it.heard.reply.is_ok}
    away = {it.key[0] for it in history.told if it.heard.reply.reason == _JOURNAL_AWAY}
    asked = Counter(it.request_id for it in history.asked)
    answered = Counter(it.key[0] for it in history.told)
    left = {request_id for request_id, count in asked.items() if count > answered[request_id]}
    for case in cases:
        request_id = case.row.request_id
        if case.row.state != "REVERSED" or request_id not in good:
            continue
        undos = [undo for undo in cases.undos_of(case.row) if undo.row.state == "SUCCEEDED"]
        is_own = all(undo.row.request_id.startswith(OWN_UNDO) for undo in undos)
        if is_own and request_id not in history.cancel_asked | away | left:
            text = f"{request_id} was told OK, and was undone though nobody cancelled it"
            yield Violation("I12", text, request_id)


def _relied_on(history: History) -> set[str]:
    """What was asked for with AUTO_REVERSE by a caller who has not heard OK."""
    asked = Counter(it.request_id for it in history.asked if is_auto(it))
    answered = Counter(
        it.key[0] for it in history.told if it.heard.reply.is_ok and is_auto(it.heard.request)
    )
    return {request_id for request_id, count in asked.items() if count > answered[request_id]}


def is_auto(request: BookingRequest) -> bool:
    """Whether its caller relies on the undo of a doubt."""
    return request.options.in_doubt_policy == types_pb2.IN_DOUBT_POLICY_AUTO_REVERSE
