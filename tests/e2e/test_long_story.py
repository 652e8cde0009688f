"""A story that went on for hours is told in one answer, as any other."""

import sqlite3
from contextlib import closing

from loyalty.v1 import bookings_pb2
from tests.e2e.caller import debit
from tests.e2e.house import House
from tests.journal.rows import lengthening

ANSWER_BYTES_MAX = 1024 * 1024


async def test_the_story_of_three_thousand_attempts_fits_into_one_answer(house: House) -> None:
    request = debit(120)
    assert (await house.caller.call(request)).is_ok
    booking = await house.caller.explain(request.request_id)
    booking_id = booking.booking.name.removeprefix("bookings/")
    with closing(sqlite3.connect(house.home.journal)) as connection, connection:
        for statement in lengthening(booking_id, 3_000):
            connection.execute(statement)
        # As long as an adapter ever lets it be, and in letters of several bytes.
        connection.execute("UPDATE attempt SET answer_text = ?", ["\N{ROCKET}" * 1_000])

    reply = await house.caller.call(
        bookings_pb2.ExplainBookingRequest(request_id=request.request_id)
    )

    assert reply.is_ok, str(reply)
    story = reply.response
    assert story.ByteSize() < ANSWER_BYTES_MAX
    texts = [step.text for step in story.steps]
    assert "before anything was sent" in texts[0]
    assert "again 3000" in texts[-1]
    numbers = [step.attempt.number for step in story.steps if step.HasField("attempt")]
    assert (numbers[0], numbers[-1]) == (1, 3_001)
    assert [text for text in texts if "Left out" in text]
