"""The judge of words: what it must find in what callers were told, and what it must let pass."""

from dataclasses import replace

import grpc
import pytest

from loyalty.v1 import balance_pb2, types_pb2
from tests.e2e.caller import Reply
from tests.e2e.test_checker import sound_world
from tests.faults.test_verdict import OK, SILENCE, refusal, told
from tests.faults.words import never_stood, turned_away, undid_another

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


@pytest.mark.parametrize("first", [OK, refusal("NOT_EXECUTED", is_final=True)])
def test_whose_booking_has_ended_and_is_turned_away_is_found(first: Reply) -> None:
    [found] = turned_away(told(first, TURNED_AWAY))

    assert found.invariant == "I7"


def test_an_ok_that_is_told_twice_as_if_it_were_new_is_found() -> None:
    [found] = turned_away(told(OK, REPLAYED, OK))

    assert found.invariant == "I7"


def test_who_was_never_told_an_end_may_be_turned_away() -> None:
    assert list(turned_away(told(SILENCE, refusal("UNKNOWN"), TURNED_AWAY, OK, REPLAYED))) == []
