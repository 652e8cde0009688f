"""The write that confirms what was found after a lost commit: it is one, and meets no other."""

import asyncio

import psycopg
from sqlalchemy import text

from loyalty_gateway.journal.writer import Opening, _touch
from tests.booking.house import HookedJournal
from tests.journal.proxy import Cut, running_proxy
from tests.journal.rows import a_booking, engine_of, open_journal
from tests.postgres import Place


async def test_every_touch_is_written(place: Place) -> None:
    """SQLite leaves out what would stay the same, and then has nothing to commit."""
    kept = text("SELECT value FROM deployment WHERE name = 'touch'")
    values = []
    async with open_journal(place) as journal:
        for _ in range(2):
            await journal.on_the_writers_connection(_touch)
            with engine_of(journal).connect() as connection:
                values.append(bytes(connection.execute(kept).scalar_one()))

    assert values[0] != values[1]


async def test_a_touch_that_was_left_over_is_in_nobodys_way(postgres_dsn: str) -> None:
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute(b"INSERT INTO deployment (name, value) VALUES ('touch', '')")
    async with running_proxy(postgres_dsn) as proxy, open_journal(proxy.dsn) as journal:
        for _ in range(2):
            booking = a_booking()
            proxy.arm(booking.request_id.encode(), Cut.AFTER)
            found = await journal.open(Opening(booking, "caller"))
            assert (found.is_new, found.booking) == (True, booking)

        assert proxy.cuts == 2
        assert journal.is_healthy


async def test_two_replicas_may_touch_at_one_moment(postgres_dsn: str) -> None:
    async def touch_often(replica: HookedJournal) -> None:
        for _ in range(100):
            await replica.on_the_writers_connection(_touch)

    async with (
        open_journal(postgres_dsn) as one,
        open_journal(postgres_dsn, boot_id="boot-2") as other,
    ):
        await asyncio.gather(touch_often(one), touch_often(other))

        assert one.is_healthy and other.is_healthy
