"""kill -9 at every moment of a booking: after the restart there is one truth, the vendor's."""

import asyncio
import random
from pathlib import Path

import grpc
import pytest

from loyalty.v1 import bookings_pb2, types_pb2
from tests.e2e.caller import BOOKINGS, debit, learn, top_up
from tests.e2e.conftest import UNPROVEN, open_house
from tests.e2e.house import House, until
from tests.e2e.truth import assert_booked_once, assert_not_booked, effects_of, until_final


async def refusals(house: House, idempotency_key: str) -> int:
    """How often the vendor said that the first request with this key is still running."""
    exchanges = await house.vendor.exchanges(idempotency_key)
    return sum(exchange.status == 409 for exchange in exchanges)


@pytest.mark.parametrize("method", BOOKINGS)
async def test_a_booking_killed_between_the_two_writes_is_found_by_recovery_alone(
    shared_house: House, method: str
) -> None:
    house, request = shared_house, BOOKINGS[method](150)

    await house.vendor.hold("after-effect")
    call = asyncio.create_task(house.caller.call(request))
    await house.vendor.until_held()
    await house.kill_server()
    heard = await call
    assert heard.code is grpc.StatusCode.UNAVAILABLE
    assert heard.outcome == "", "who is cut off is told nothing, which means unknown"
    assert len(await effects_of(house, request)) == 1
    await house.vendor.let_go()
    await house.start_server()

    booking = await until_final(house, request.request_id)
    assert booking.attempt_count == 2
    repeated = await house.caller.call(request)
    assert repeated.is_replayed
    await assert_booked_once(house, request, repeated)
    assert await house.caller.open_bookings() == []
    story = await house.caller.explain(request.request_id)
    words = " ".join(step.text for step in story.steps)
    assert "the process that sent it is gone" in words
    assert "SUCCEEDED" in story.steps[-1].text


@pytest.mark.parametrize("is_let_go_first", [True, False], ids=["ended", "still-running"])
async def test_a_booking_killed_before_its_effect_is_booked_once(
    shared_house: House, is_let_go_first: bool
) -> None:
    house, request = shared_house, top_up(275)

    await house.vendor.hold("before-effect")
    call = asyncio.create_task(house.caller.call(request))
    key = await house.vendor.until_held()
    await house.kill_server()
    assert (await call).outcome == ""
    await assert_not_booked(house, request)
    if is_let_go_first:
        await house.vendor.let_go()
    await house.start_server()
    if not is_let_go_first:
        # Recovery meets the first request, which still runs at the vendor: no proof, no harm.
        await until(lambda: refusals(house, key), "the vendor says that the first still runs")
        before = await house.caller.get(request.request_id)
        assert before is not None
        assert before.outcome == types_pb2.OUTCOME_UNKNOWN
        await assert_not_booked(house, request)
        await house.vendor.let_go()

    await until_final(house, request.request_id)
    await assert_booked_once(house, request, await house.caller.call(request))
    assert await house.caller.open_bookings() == []


async def test_where_nothing_was_proven_a_person_decides_what_a_kill_left_half_done(
    tmp_path: Path,
) -> None:
    async with open_house(tmp_path / "house", more_config=UNPROVEN) as house:
        request = debit(85, connection="cashassist-unproven")
        await house.vendor.hold("after-effect")
        call = asyncio.create_task(house.caller.call(request))
        await house.vendor.until_held()
        await house.kill_server()
        await house.vendor.let_go()
        assert (await call).outcome == ""
        await house.start_server()

        reply = await house.caller.call(request)
        assert (reply.code, reply.reason) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "BOOKING_NEEDS_REVIEW",
        )
        assert (reply.outcome, reply.is_final) == ("UNKNOWN", False)
        assert reply.retry_delay_s is None
        assert reply.trailers["grpc-retry-pushback-ms"] == "-1"
        [effect] = await effects_of(house, request)
        assert len(await house.vendor.exchanges(effect.idempotency_key)) == 1, "it was sent again"
        decision = bookings_pb2.Decision(
            outcome=types_pb2.OUTCOME_EXECUTED, evidence=effect.transaction_id, reason="seen"
        )
        name = reply.info.metadata["booking"]
        wish = bookings_pb2.ResolveBookingRequest(name=name, decision=decision)
        assert (await house.caller.call(wish)).is_ok

        await assert_booked_once(house, request, await house.caller.call(request))
        assert await house.caller.open_bookings() == []


async def test_ten_kills_about_the_moment_of_the_answer_leave_one_effect_each(
    shared_house: House,
) -> None:
    house, chance = shared_house, random.Random(20_261_121)
    heard_before_kill = found_in_doubt = 0

    for round_number in range(10):
        requests = [chance.choice(list(BOOKINGS.values()))(chance.randint(1, 99)) for _ in range(3)]
        calls = [asyncio.create_task(house.caller.call(request)) for request in requests]
        # Each second kill comes with the first answer, the others somewhere on the way.
        limit_s = chance.uniform(0.0, 0.03) if round_number % 2 else 10.0
        await asyncio.wait(calls, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        await house.kill_server()
        firsts = await asyncio.gather(*calls)
        await house.start_server()
        found_in_doubt += "were found in doubt" in house.server.words()
        for request, first in zip(requests, firsts, strict=True):
            last = await learn(house.caller, request)
            await assert_booked_once(house, request, last)
            if first.is_ok:
                heard_before_kill += 1
                assert last.is_replayed
                assert last.body == first.body, "an answer that was given never changes"

    assert heard_before_kill >= 1, "every kill came before any answer"
    assert found_in_doubt >= 1, "no kill came between the two writes"
    assert await house.caller.open_bookings() == []
