"""Pools of connections: whoever reads much keeps neither the writer nor recovery waiting."""

import asyncio

from sqlalchemy import Connection, text

from loyalty_gateway.domain.booking import State
from tests.journal.rows import TENANT, moved, open_journal, opened, succeeded

SLOW_S = 3.0
CROWD = 40


def slow(connection: Connection) -> None:
    connection.execute(text("SELECT pg_sleep(:slow_s)"), {"slow_s": SLOW_S})


async def test_readers_who_take_every_connection_leave_the_writer_and_recovery_theirs(
    postgres_dsn: str,
) -> None:
    async with open_journal(postgres_dsn) as journal:
        doubt = moved(await opened(journal), State.IN_DOUBT, owner="", lease_until=None)
        assert await journal.change(doubt)
        crowd = [asyncio.create_task(journal._read(slow)) for _ in range(CROWD)]
        try:
            await asyncio.sleep(0)
            booking = await opened(journal)
            has_landed = await journal.change(succeeded(booking))
            claimed = await journal.claim(TENANT, 30.0, 10)
            due = await journal.next_due_time(TENANT, doubt.after.create_time)
            unresolved = await journal.unresolved(TENANT)
            are_waiting = not any(task.done() for task in crowd)
        finally:
            for task in crowd:
                task.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)

    assert has_landed
    assert [it.booking_id for it in claimed] == [doubt.after.booking_id]
    assert due is not None
    assert unresolved
    assert are_waiting, "nobody waited for a reader"


async def test_a_reader_who_has_to_wait_too_long_reads_all_the_same_once_there_is_room(
    postgres_dsn: str,
) -> None:
    """Readers queue in front of the pool, so that none is refused by it."""
    async with open_journal(postgres_dsn) as journal:
        booking = await opened(journal)
        crowd = [asyncio.create_task(journal._read(slow)) for _ in range(4)]
        await asyncio.sleep(0)
        found = await journal.find(TENANT, booking_id=booking.booking_id)
        are_done = [task.done() for task in crowd]
        await asyncio.gather(*crowd)

    assert found == booking
    assert any(are_done), "the read came after one of those before it"
