"""Many calls at the same moment with one request_id: one booking, one answer, one effect."""

import asyncio
import time
from collections import Counter

import grpc

from tests.e2e.caller import Reply, debit, learn, new_request_id, redeem, top_up
from tests.e2e.house import House
from tests.e2e.truth import assert_booked_once, assert_not_booked, effects_of

CALLS = 100
WAVES, WAVE = 6, 24
LEASE_S = 30
"""How long a booking belongs to whoever has taken it up, by default."""


async def test_a_hundred_equal_calls_have_one_effect_and_one_answer(shared_house: House) -> None:
    house, request = shared_house, top_up(1_05)

    replies = await asyncio.gather(*(house.caller.call_for_bytes(request) for _ in range(CALLS)))

    assert Counter(reply.code for reply in replies) == {grpc.StatusCode.OK: CALLS}
    assert len({reply.body for reply in replies}) == 1
    assert sum(not reply.is_replayed for reply in replies) == 1
    assert len({reply.trailers["loyalty-booking"] for reply in replies}) == 1
    await assert_booked_once(house, request)
    [effect] = await effects_of(house, request)
    assert len(await house.vendor.exchanges(effect.idempotency_key)) == 1


async def test_calls_that_come_while_the_first_is_under_way_get_its_answer(
    shared_house: House,
) -> None:
    house, request = shared_house, debit(30)
    await house.vendor.hold("before-effect")
    first = asyncio.create_task(house.caller.call_for_bytes(request))
    key = await house.vendor.until_held()

    others = [asyncio.create_task(house.caller.call_for_bytes(request)) for _ in range(20)]
    # A call with another content need not wait for that answer to learn that it is refused.
    stranger = await house.caller.call(debit(31, request_id=request.request_id))
    await house.vendor.let_go()
    replies = await asyncio.gather(first, *others)

    assert stranger.reason == "REQUEST_ID_REUSED"
    assert {reply.code for reply in replies} == {grpc.StatusCode.OK}
    assert len({reply.body for reply in replies}) == 1
    await assert_booked_once(house, request)
    assert len(await house.vendor.exchanges(key)) == 1


async def test_of_a_hundred_contents_under_one_request_id_exactly_one_wins(
    shared_house: House,
) -> None:
    house, request_id = shared_house, new_request_id()
    requests = [top_up(minor, request_id=request_id) for minor in range(1, CALLS + 1)]

    replies = await asyncio.gather(*(house.caller.call(request) for request in requests))

    winners = [
        (request, reply) for request, reply in zip(requests, replies, strict=True) if reply.is_ok
    ]
    assert len(winners) == 1
    losers = [reply for reply in replies if not reply.is_ok]
    assert {(reply.code, reply.reason) for reply in losers} <= {
        (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "BOOKING_IN_PROGRESS"),
    }
    # What became of the other content is not this caller's to conclude from.
    assert {reply.outcome for reply in losers if reply.reason == "REQUEST_ID_REUSED"} == {""}
    await assert_booked_once(house, *winners[0])
    for request, reply in zip(requests, replies, strict=True):
        again = await house.caller.call(request)
        assert again.is_ok is reply.is_ok
        assert again.is_ok or again.reason == "REQUEST_ID_REUSED"
    await assert_booked_once(house, *winners[0])


async def test_repeating_while_recovery_takes_a_booking_up_does_not_delay_the_truth(
    shared_house: House,
) -> None:
    house = shared_house
    requests = [top_up(1) for _ in range(WAVES * WAVE)]

    async def repeat_about_the_due_time(number: int) -> float:
        """Seconds until the end was heard; recovery is due 0.3 s after the answer was lost."""
        began = time.monotonic()
        limit_s = 0.27 + number % WAVE * 0.005
        await house.caller.call(requests[number], timeout_s=limit_s, fault="lost-after")
        await learn(house.caller, requests[number], limit_s=LEASE_S + 15)
        return time.monotonic() - began

    for wave in range(WAVES):
        numbers = range(wave * WAVE, (wave + 1) * WAVE)
        seconds = await asyncio.gather(*(repeat_about_the_due_time(it) for it in numbers))
        slow = [round(took_s, 1) for took_s in seconds if took_s > LEASE_S / 3]
        assert not slow, f"{len(slow)} of {WAVE} waited for a lease to run out: {slow} s"
    for request in requests:
        await assert_booked_once(house, request)


async def test_a_request_id_belongs_to_one_method_and_one_connection(shared_house: House) -> None:
    house, request = shared_house, top_up(40)
    reply = await house.caller.call(request)

    others = [
        await house.caller.call(other)
        for other in (
            debit(40, request_id=request.request_id),
            redeem(40, request_id=request.request_id),
            top_up(40, request_id=request.request_id, connection="cashassist-down"),
            top_up(40, "10472", request_id=request.request_id),
        )
    ]

    assert [(other.code, other.reason) for other in others] == [
        (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    ] * 4
    await assert_booked_once(house, request, reply)


async def test_a_refusal_is_repeated_to_the_letter_and_asks_the_vendor_once(
    shared_house: House,
) -> None:
    house, request = shared_house, debit(10, "10491")

    replies: list[Reply] = await asyncio.gather(
        *(house.caller.call_for_bytes(request) for _ in range(20))
    )
    replies.append(await house.caller.call_for_bytes(request))

    assert {(reply.code, reply.reason, reply.outcome) for reply in replies} == {
        (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE", "NOT_EXECUTED")
    }
    assert all(reply.is_final for reply in replies)
    assert len({reply.status_bytes for reply in replies}) == 1
    assert sum(not reply.is_replayed for reply in replies) == 1
    await assert_not_booked(house, request)
    exchanges = await house.vendor.exchanges()
    assert sum(exchange.status == 422 for exchange in exchanges) == 1
