"""Whoever leaves, the caller or the server: what was sent is settled, and nothing else is."""

import asyncio
from pathlib import Path

import grpc
import pytest

from loyalty.v1 import types_pb2
from tests.e2e.caller import Reply, debit, learn, redeem, top_up
from tests.e2e.conftest import QUICK, open_house
from tests.e2e.house import House, until
from tests.e2e.truth import assert_booked_once, assert_not_booked, effects_of, until_final
from tests.e2e.wanted import BookingRequest

LONGER_THAN_ANY_HASTE_S = 7.0


async def hold_a_booking(
    house: House, request: BookingRequest, point: str = "after-effect", timeout_s: float = 20.0
) -> "asyncio.Task[Reply]":
    """The call of a booking that the vendor holds."""
    await house.vendor.hold(point)
    call = asyncio.create_task(house.caller.call(request, timeout_s=timeout_s))
    await house.vendor.until_held()
    return call


async def assert_first_attempt_settled_it(house: House, request: BookingRequest) -> None:
    booking = await assert_booked_once(house, request)
    assert booking.attempt_count == 1, "it was given up and found again"


@pytest.mark.parametrize("point", ["before-effect", "after-effect"])
async def test_a_caller_who_cancels_its_call_does_not_cancel_what_was_sent(
    shared_house: House, point: str
) -> None:
    house, request = shared_house, top_up(210)
    call = await hold_a_booking(house, request, point)

    call.cancel()
    await asyncio.wait({call})
    await house.vendor.let_go()

    await until_final(house, request.request_id)
    await assert_first_attempt_settled_it(house, request)
    repeated = await house.caller.call(request)
    assert repeated.is_ok and repeated.is_replayed


@pytest.mark.parametrize("point", ["before-effect", "after-effect"])
async def test_a_deadline_that_passes_is_answered_in_time_and_cancels_nothing(
    shared_house: House, point: str
) -> None:
    house, request = shared_house, debit(120)
    call = await hold_a_booking(house, request, point, timeout_s=2.5)

    reply = await call
    for _ in range(2):
        # A machine that is busy for a moment may cost an answer its way; a repeat joins in.
        if not reply.reason:
            reply = await house.caller.call(request, timeout_s=1.0)
    assert reply.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reply.reason == "BOOKING_IN_PROGRESS", "the library's own error says nothing"
    assert (reply.outcome, reply.is_final) == ("UNKNOWN", False)
    assert reply.retry_delay_s is not None
    assert reply.trailers["grpc-retry-pushback-ms"] == str(round(reply.retry_delay_s * 1000))
    under_way = await house.caller.get(request.request_id)
    assert under_way is not None
    assert under_way.state == types_pb2.BOOKING_STATE_SENDING
    await house.vendor.let_go()

    await until_final(house, request.request_id)
    await assert_first_attempt_settled_it(house, request)


async def test_a_deadline_too_short_to_begin_sends_nothing(shared_house: House) -> None:
    house, request = shared_house, top_up(90)

    reply = await house.caller.call(request, timeout_s=0.2)

    assert reply.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reply.reason in ("DEADLINE_TOO_SHORT", ""), "our word, or the library was faster"
    assert reply.outcome in ("NOT_EXECUTED", "")
    assert not reply.is_final
    await assert_not_booked(house, request)
    await assert_booked_once(house, request, await learn(house.caller, request))


async def test_sigterm_answers_the_caller_who_waits_and_leaves_nothing_open(house: House) -> None:
    request = redeem(77)
    call = await hold_a_booking(house, request)

    house.terminate_server()
    await house.until_not_serving()
    refused = await until(lambda: find_refusal(house), "a new booking is refused")
    assert refused is not None
    assert not call.done()
    await house.vendor.let_go()

    reply = await call
    assert reply.is_ok and not reply.is_replayed
    assert await house.server.end() == 0
    await assert_refused_without_effect(house, *refused)
    assert len(await effects_of(house, request)) == 1
    await house.start_server()
    assert "doubt" not in house.server.words(), "the second start found something open"
    assert await house.caller.open_bookings() == []
    await assert_first_attempt_settled_it(house, request)


async def test_sigterm_finishes_what_was_sent_for_a_caller_who_has_gone(house: House) -> None:
    request = debit(55)
    call = await hold_a_booking(house, request)
    call.cancel()
    await asyncio.wait({call})

    house.terminate_server()
    # The vendor is slow, yet within the time that one attempt may take.
    early = await house.server.find_end(LONGER_THAN_ANY_HASTE_S)
    assert early is None, "the server left while what it had sent was under way"
    await house.vendor.let_go()

    assert await house.server.end() == 0
    await house.start_server()
    assert "doubt" not in house.server.words(), "the second start found something open"
    assert await house.caller.open_bookings() == []
    await assert_first_attempt_settled_it(house, request)


async def test_while_endpoints_notice_a_stop_known_bookings_are_still_answered(
    tmp_path: Path,
) -> None:
    known, held = top_up(44), debit(22)
    settings = {**QUICK, "SERVER__ENDPOINT_DELAY_S": "6"}
    async with open_house(tmp_path / "house", settings=settings) as house:
        first = await house.caller.call(known)
        call = await hold_a_booking(house, held)

        house.terminate_server()
        await house.until_not_serving()
        again = await house.caller.call(known)
        assert again.is_ok and again.is_replayed
        assert again.body == first.body
        booking = await house.caller.get(held.request_id)
        assert booking is not None
        assert booking.state == types_pb2.BOOKING_STATE_SENDING
        await house.vendor.let_go()
        assert (await call).is_ok

        refused = await until(lambda: find_refusal(house), "a new booking is refused")
        assert refused is not None
        assert await house.server.end() == 0
        await assert_refused_without_effect(house, *refused)
        await house.start_server()
        assert await house.caller.open_bookings() == []
        for request in (known, held):
            await assert_first_attempt_settled_it(house, request)


async def find_refusal(house: House) -> tuple[BookingRequest, Reply] | None:
    """A new booking and its refusal, or None while the server still takes new ones."""
    request = top_up(1)
    reply = await house.caller.call(request, timeout_s=5.0)
    return None if reply.is_ok else (request, reply)


async def assert_refused_without_effect(
    house: House, request: BookingRequest, reply: Reply
) -> None:
    if reply.reason:
        assert (reply.code, reply.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert (reply.outcome, reply.is_final) == ("NOT_EXECUTED", False)
    else:
        # A closed port; or the library's word to a call that came while the port was closing.
        assert reply.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    await assert_not_booked(house, request)
