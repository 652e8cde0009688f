"""The judge of wishes: what was undone without one, and what stands in spite of one."""

from dataclasses import replace

import pytest

from loyalty.v1 import types_pb2
from tests.e2e.caller import Reply
from tests.e2e.checker import Heard, World
from tests.e2e.journal import Move, Row
from tests.e2e.test_checker import sound_world
from tests.e2e.wanted import BookingRequest
from tests.faults.history import History, Told
from tests.faults.test_verdict import OK, SILENCE, refusal
from tests.faults.wishes import still_stands, taken_back, unwished

DOUBT = refusal("UNKNOWN")


def given_up(*replies: Reply) -> tuple[World, BookingRequest, History]:
    """The top-up of the sound world under AUTO_REVERSE, asked for once for each reply."""
    world = sound_world()
    request = world.heard[0].request
    request.options.in_doubt_policy = types_pb2.IN_DOUBT_POLICY_AUTO_REVERSE
    told = [Told(Heard(request, reply), 0.0, 1.0) for reply in replies]
    return world, request, History(told=told, asked=[request] * len(replies))


def undone(world: World, state: str = "SUCCEEDED", mode: str = "SAFE_RESEND") -> World:
    """The same, with an undo of its first booking by the gateway itself."""
    first, *rest = world.rows
    undo = Row("b11", "~undo/b1", state, method="ReversePoints", original=first.name)
    return replace(world, rows=[replace(first, mode=mode), *rest, undo])


def test_an_undo_that_nobody_had_wished_for_is_found() -> None:
    world, request, history = given_up(OK)

    assert list(unwished(world, history)) == []
    [found] = unwished(undone(world), history)
    assert (found.invariant, found.request_id) == ("I9", request.request_id)


def test_what_was_cancelled_is_undone_by_a_wish() -> None:
    world, request, history = given_up(OK)
    history.cancel_asked.add(request.request_id)

    assert list(unwished(undone(world), history)) == []


@pytest.mark.parametrize("reply", [DOUBT, SILENCE])
def test_who_has_not_heard_ok_under_auto_reverse_has_wished(reply: Reply) -> None:
    world, request, history = given_up(OK, reply)
    assert list(unwished(undone(world), history)) == []

    request.options.Clear()
    assert list(unwished(undone(world), history)) != [], "without it nobody gives up a doubt"


def test_a_doubt_under_auto_reverse_may_be_undone_in_vain_before_its_caller_hears_ok() -> None:
    world, request, history = given_up(OK, OK)
    first = world.rows[0].booking_id
    begun = [Move(first, 9, "IN_DOUBT", "REVERSING"), Move(first, 10, "REVERSING", "SUCCEEDED")]
    tried = replace(undone(world, "NOT_EXECUTED"), moves=[*world.moves, *begun])
    assert list(unwished(tried, history)) == []

    anew = replace(tried, moves=[*world.moves, Move(first, 9, "SUCCEEDED", "REVERSING")])
    assert list(unwished(anew, history)) != [], "what had been booked was no doubt"
    request.options.Clear()
    assert list(unwished(tried, history)) != []


def test_what_only_an_undo_can_settle_is_undone_without_a_wish() -> None:
    world, _, history = given_up(OK)

    assert list(unwished(undone(world, mode="REVERSE"), history)) == []


def test_a_doubt_that_was_given_up_and_stands_is_found() -> None:
    world, request, history = given_up(DOUBT)

    [found] = still_stands(world, history)
    assert (found.invariant, found.request_id) == ("I12", request.request_id)


def test_a_doubt_that_ended_as_not_executed_may_be_booked_by_a_repeat() -> None:
    world, _, history = given_up(DOUBT, OK)
    first = world.rows[0].booking_id
    again = [
        replace(it, after="RESERVED") if (it.booking_id, it.after) == (first, "IN_DOUBT") else it
        for it in world.moves
    ]

    assert again != world.moves
    assert list(still_stands(replace(world, moves=again), history)) == []


@pytest.mark.parametrize("reply", [OK, SILENCE, refusal("UNKNOWN", reason="JOURNAL_UNAVAILABLE")])
def test_who_was_not_told_of_a_doubt_has_given_nothing_up(reply: Reply) -> None:
    world, _, history = given_up(reply)

    assert list(still_stands(world, history)) == []


def test_what_was_given_up_may_stand_where_its_undo_is_declined_or_a_person_said_so() -> None:
    world, request, history = given_up(DOUBT)

    assert list(still_stands(undone(world, "DECLINED"), history)) == []
    assert list(still_stands(world, history, {request.request_id})) == []
    assert list(still_stands(undone(world, "NOT_EXECUTED"), history)) != []


def reversed_by_itself(world: World) -> World:
    """The same, with its first booking undone by the gateway."""
    undo = undone(world)
    return replace(undo, rows=[replace(undo.rows[0], state="REVERSED"), *undo.rows[1:]])


def test_an_ok_that_is_undone_though_nobody_cancelled_it_is_found() -> None:
    world, request, history = given_up(SILENCE, OK)

    assert list(taken_back(undone(world), history)) == [], "it stands"
    [found] = taken_back(reversed_by_itself(world), history)
    assert (found.invariant, found.request_id) == ("I12", request.request_id)


def test_an_ok_may_be_taken_back_by_who_cancels_or_leaves_or_while_the_journal_is_away() -> None:
    away = refusal("UNKNOWN", reason="JOURNAL_UNAVAILABLE")
    world, request, cancelled = given_up(OK)
    cancelled.cancel_asked.add(request.request_id)
    _, _, heard_away = given_up(away, OK)
    _, _, gone = given_up(OK)
    gone.asked.append(request)
    _, _, never_told = given_up(SILENCE)

    for history in (cancelled, heard_away, gone, never_told):
        assert list(taken_back(reversed_by_itself(world), history)) == []
