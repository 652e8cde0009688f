"""Every vendor's wish for a pause, as it comes over HTTP: what callers are told, and that the
vendor hears nothing until it is over."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Final

import grpc
import pytest

from loyalty.v1 import bookings_pb2, types_pb2
from loyalty_gateway.sandbox.faults import Answer
from tests.vendors.house import House
from tests.vendors.matrix import CONNECTIONS
from tests.vendors.rows import BOOKING_OF, CANARY, SUBJECTS, Trial, try_row

CROWD: Final = 40
SLOW_S: Final = 4
"""So slow may this machine be for a moment without a pause being over too soon for a test."""


def limited(connection: str, header: str | None) -> Answer:
    """The vendor's own HTTP 429, with this Retry-After or none."""
    answer = SUBJECTS[connection].refusal(429, CANARY)
    assert answer is not None
    headers = tuple(it for it in answer.headers if it[0].lower() != "retry-after")
    extra = () if header is None else (("Retry-After", header),)
    return Answer(answer.status, answer.body, (*headers, *extra), answer.content_type)


async def meet(house: House, connection: str, header: str | None = "7") -> Trial:
    """One booking that was answered with 429; from then on only what follows it is recorded."""
    trial = await try_row(house, connection, BOOKING_OF[connection], limited(connection, header))
    assert trial.reply.reason == "PROVIDER_RATE_LIMITED", str(trial.reply)
    house.vendors[connection].recorder.seen.clear()
    return trial


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_a_crowd_of_repeats_into_a_pause_costs_the_vendor_no_request(
    house: House, connection: str
) -> None:
    vendor = house.vendors[connection]
    trial = await meet(house, connection)

    replies = await asyncio.gather(*(house.call(trial.request) for _ in range(CROWD)))

    assert vendor.recorder.seen == []
    for reply in replies:
        assert (reply.code, reply.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "PROVIDER_RATE_LIMITED",
        )
        assert (reply.outcome, reply.is_final) == ("NOT_EXECUTED", False)
        assert reply.is_replayed
        assert reply.retry_delay_s is not None and 1 <= reply.retry_delay_s <= 7
        assert reply.trailers["grpc-retry-pushback-ms"] == str(round(reply.retry_delay_s * 1000))
    assert vendor.books == trial.before


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_the_first_repeat_after_a_pause_is_sent_and_books_once(
    house: House, connection: str
) -> None:
    vendor = house.vendors[connection]
    trial = await meet(house, connection, "60")
    house.move_on(60 - SLOW_S)
    early = await house.call(trial.request)
    assert vendor.recorder.seen == []
    assert early.retry_delay_s is not None and early.retry_delay_s <= SLOW_S

    house.move_on(early.retry_delay_s)
    replies = await asyncio.gather(*(house.call(trial.request) for _ in range(CROWD)))

    assert all(reply.is_ok for reply in replies)
    assert len({reply.body for reply in replies}) == 1
    assert vendor.books != trial.before
    booking = await house.caller.get(trial.request_id)
    assert booking is not None
    assert (booking.state, booking.attempt_count) == (types_pb2.BOOKING_STATE_SUCCEEDED, 2)


@pytest.mark.parametrize(
    ("header", "told_s"),
    [
        ("7", 7),
        (None, 5),
        ("soon", 5),
        ("-1", 1),
        ("0", 1),
        ("1000000000", 300),
        ("date", 120),
    ],
)
async def test_whatever_stands_in_retry_after_is_a_pause_of_one_second_to_five_minutes(
    house: House, header: str | None, told_s: int
) -> None:
    if header == "date":
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)
    vendor = house.vendors["cashassist"]
    trial = await meet(house, "cashassist", header)

    told = trial.reply.retry_delay_s
    assert told is not None and told_s - SLOW_S <= told <= told_s
    if told > SLOW_S:
        house.move_on(told - SLOW_S)
        assert not (await house.call(trial.request)).is_ok
        assert vendor.recorder.seen == []
    house.move_on(SLOW_S)
    assert (await house.call(trial.request)).is_ok


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_a_booking_may_be_cancelled_while_the_vendor_wants_a_pause(
    house: House, connection: str
) -> None:
    trial = await meet(house, connection)

    cancelled = await house.call(bookings_pb2.CancelBookingRequest(request_id=trial.request_id))
    again = await house.call(trial.request)

    assert cancelled.is_ok, str(cancelled)
    assert cancelled.booking.state == types_pb2.BOOKING_STATE_NOT_EXECUTED
    assert (again.reason, again.is_final) == ("BOOKING_NOT_EXECUTED", True)
    assert house.vendors[connection].recorder.seen == []
    assert house.vendors[connection].books == trial.before


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_the_story_says_until_when_the_vendor_wants_a_pause(
    house: House, connection: str
) -> None:
    trial = await meet(house, connection)

    story = await house.caller.explain(trial.request_id)

    assert "the vendor asked for a pause until 20" in story.steps[-1].text
    assert "the vendor asked for a pause until 20" in story.next_step
    assert house.vendors[connection].recorder.seen == []
    assert (await house.call(bookings_pb2.CancelBookingRequest(request_id=trial.request_id))).is_ok
