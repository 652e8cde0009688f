"""Two replicas that open the same bookings at the same moment: one wins each, nobody fails."""

import threading
from dataclasses import replace

from loyalty_gateway.journal.postgres import PostgresStore
from loyalty_gateway.journal.rows import booking_row
from loyalty_gateway.journal.writer import _history_row
from tests.journal.rows import CHECK, a_booking

ROUNDS = 250
BATCH = 4


def test_an_opening_that_loses_a_race_is_no_error(postgres_dsn: str) -> None:
    rounds = [[a_booking() for _ in range(BATCH)] for _ in range(ROUNDS)]
    barrier = threading.Barrier(2, timeout=30)
    inserted: list[int] = []
    errors: list[Exception] = []

    def write(name: str) -> None:
        store = PostgresStore(postgres_dsn)
        store.start(CHECK)
        connection = store.writer()
        connection.rollback()
        for bookings in rounds:
            mine = [replace(it, booking_id=f"{it.booking_id}-{name}") for it in bookings]
            rows = [booking_row(it) for it in mine]
            histories = [_history_row(it, None, "caller", "", 1) for it in mine]
            barrier.wait()
            try:
                with connection.begin():
                    inserted.append(len(store.insert(connection, rows, histories)))
            except Exception as error:
                errors.append(error)
        connection.close()
        store.stop()

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert sum(inserted) == ROUNDS * BATCH
