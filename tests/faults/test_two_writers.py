"""Two replicas that open the same bookings at the same moment: one wins each, nobody fails."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.postgres import PostgresStore
from loyalty_gateway.journal.store import Row
from loyalty_gateway.journal.writer import Opened, Opening
from tests.journal.rows import CHECK, a_booking

ROUNDS = 400
MEET_S = 10


class MeetingStore(PostgresStore):
    """Waits before the first insert of each round until the other one is there too."""

    def __init__(self, dsn: str, barrier: threading.Barrier) -> None:
        super().__init__(dsn)
        self.meets = False
        self._barrier = barrier

    def insert(
        self, connection: Connection, bookings: Sequence[Row], histories: Sequence[Row]
    ) -> set[str]:
        if self.meets:
            self.meets = False
            self._barrier.wait(MEET_S)
        return super().insert(connection, bookings, histories)


async def test_an_opening_that_loses_a_race_meets_the_winner(postgres_dsn: str) -> None:
    barrier = threading.Barrier(2)
    stores = [MeetingStore(postgres_dsn, barrier) for _ in range(2)]
    journals = [Journal(store, boot_id=f"boot-{number}") for number, store in enumerate(stores)]
    for journal in journals:
        await journal.start(CHECK)
    try:
        for _ in range(ROUNDS):
            booking = a_booking()
            for store in stores:
                store.meets = True
            answers: list[Opened] = await asyncio.gather(
                *(
                    # One alone: a batch that is refused is tried again in parts, which helps too.
                    journal.open(
                        Opening(replace(booking, booking_id=f"{booking.booking_id}-{number}"), "")
                    )
                    for number, journal in enumerate(journals)
                )
            )

            assert sum(answer.is_new for answer in answers) == 1
            assert answers[0].booking.booking_id == answers[1].booking.booking_id
    finally:
        for journal in journals:
            await journal.stop()
