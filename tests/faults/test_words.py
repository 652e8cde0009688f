"""The judge of words: what it must find in what callers were told, and what it must let pass."""

import time
from dataclasses import replace

import grpc
import pytest

from loyalty.v1 import balance_pb2, types_pb2
from tests.e2e.caller import Reply
from tests.e2e.test_checker import sound_world
from tests.faults.history import Told
from tests.faults.test_verdict import OK, SILENCE, refusal, told
from tests.faults.words import denied, never_stood, turned_away, undid_another

REPLAYED = Reply(grpc.StatusCode.OK, trailers={"loyalty-replayed": "true"})
TURNED_AWAY = Reply(grpc.StatusCode.UNIMPLEMENTED)


def ok_for(booking_id: str) -> Reply:
    booking = types_pb2.Booking(name=f"bookings/{booking_id}")
    answer = balance_pb2.TopUpBalanceResponse(booking=booking)
    return Reply(grpc.StatusCode.OK, answer.SerializeToString(), answer)


def test_an_ok_for_what_never_stood_is_found() -> None:
    world = sound_world()
    first = world.heard[0]
    named = replace(world, heard=[replace(first, reply=ok_for("b1"))])
    moves = [it for it in world.moves if (it.booking_id, it.after) != ("b1", "SUCCEEDED")]

    assert list(never_stood(named)) == []
    [found] = never_stood(replace(named, moves=moves))
    assert (found.invariant, found.request_id) == ("I2", first.request.request_id)


def test_an_undo_of_another_booking_than_was_named_is_found() -> None:
    world = sound_world()
    [undo] = [it for it in world.rows if it.is_undo]
    other = next(it.name for it in world.rows if it.name not in (undo.original, undo.name))
    rows = [replace(it, original=other) if it is undo else it for it in world.rows]

    assert list(undid_another(world)) == []
    [found] = undid_another(replace(world, rows=rows))
    assert (found.invariant, found.request_id) == ("I9", undo.request_id)


def test_what_was_booked_and_is_told_as_not_booked_so_far_is_found() -> None:
    world = sound_world()
    first = world.heard[0]
    early = replace(world.effects[0], time_s=1_000.0)
    booked = replace(world, effects=[early, *world.effects[1:]])
    now_s = time.monotonic()
    asked = Told(replace(first, reply=refusal("NOT_EXECUTED")), now_s, now_s + 1)
    before = replace(booked, effects=[replace(early, time_s=time.time()), *world.effects[1:]])
    final = replace(asked, heard=replace(first, reply=refusal("NOT_EXECUTED", is_final=True)))

    [found] = denied(booked, [asked])
    assert (found.invariant, found.request_id) == ("I4", first.request.request_id)
    assert list(denied(before, [asked])) == [], "it was booked while it was asked for"
    assert list(denied(booked, [final])) == [], "which is judged elsewhere"


@pytest.mark.parametrize("first", [OK, refusal("NOT_EXECUTED", is_final=True)])
def test_whose_booking_has_ended_and_is_turned_away_is_found(first: Reply) -> None:
    [found] = turned_away(told(first, TURNED_AWAY))

    assert found.invariant == "I7"


def test_an_ok_that_is_told_twice_as_if_it_were_new_is_found() -> None:
    [found] = turned_away(told(OK, REPLAYED, OK))

    assert found.invariant == "I7"


def test_what_was_cancelled_before_it_came_may_be_turned_away() -> None:
    tombstone = refusal("NOT_EXECUTED", is_final=True, reason="CANCELLED_BEFORE_ARRIVAL")

    assert list(turned_away(told(tombstone, TURNED_AWAY))) == []


def test_who_was_never_told_an_end_may_be_turned_away() -> None:
    assert list(turned_away(told(SILENCE, refusal("UNKNOWN"), TURNED_AWAY, OK, REPLAYED))) == []
