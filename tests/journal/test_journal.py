"""One file, one process, one deployment; what is read of it, and by which index."""

import contextlib
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, event, text, update
from sqlalchemy.exc import IntegrityError

from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import FINAL, Booking, State
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.domain.operations import Operation, Order
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.journal import Journal, JournalRefused, ListQuery, PromiseRow
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.journal.writer import Opening
from tests.booking.house import HookedJournal, failure
from tests.journal.rows import (
    CHECK,
    T0,
    TENANT,
    a_booking,
    engine_of,
    moved,
    open_journal,
    opened,
    set_directly,
    succeeded,
    writers_engine_of,
)
from tests.postgres import Place, store_at


@pytest.fixture
async def journal(place: Place) -> AsyncIterator[HookedJournal]:
    async with open_journal(place) as journal:
        yield journal


# --- one file, one process, one deployment ----------------------------------------------------


async def test_a_journal_belongs_to_one_process(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "journal"):
        second = Journal(SqliteStore(tmp_path / "journal"), "boot-2")
        with pytest.raises(JournalRefused, match="in use by another process"):
            await second.start(CHECK)
        await second.stop()


async def test_a_journal_that_was_closed_may_be_opened_again_and_remembers(
    place: Place,
) -> None:
    async with open_journal(place) as journal:
        booking = await opened(journal)
    async with open_journal(place, boot_id="boot-2") as journal:
        assert await journal.find(TENANT, request_id=booking.request_id) == booking


async def test_a_journal_of_another_salt_is_refused_and_says_what_to_restore(
    place: Place,
) -> None:
    async with open_journal(place):
        pass
    other = Journal(store_at(place), "boot-2")
    with pytest.raises(JournalRefused, match=r"keys\.outbound_salt"):
        await other.start(b"d" * 16)
    await other.stop()


async def test_a_refused_journal_gives_back_what_it_took(place: Place) -> None:
    async with open_journal(place):
        pass
    other = Journal(store_at(place), "boot-2")
    with contextlib.suppress(JournalRefused):
        await other.start(b"d" * 16)
    await other.stop()
    async with open_journal(place):
        pass


@pytest.mark.parametrize(
    "content", [b"this is no database at all, but a letter to a friend\n" * 40, b"SQLite format 3"]
)
async def test_a_file_that_is_no_journal_is_refused_with_a_clear_word(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "journal").write_bytes(content)
    journal = Journal(SqliteStore(tmp_path / "journal"), "boot-1")
    with pytest.raises(JournalRefused, match="cannot be used"):
        await journal.start(CHECK)
    await journal.stop()

    assert (tmp_path / "journal").read_bytes() == content


async def test_a_place_that_cannot_be_written_is_refused_with_a_clear_word(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_bytes(b"")
    journal = Journal(SqliteStore(tmp_path / "file" / "journal"), "boot-1")
    with pytest.raises(JournalRefused, match="cannot be used"):
        await journal.start(CHECK)
    await journal.stop()


@pytest.mark.parametrize("name", ["with blank", "with?mark", "with#hash", "with%25percent", "ü"])
async def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    async with open_journal(tmp_path / name) as journal:
        await opened(journal)

    assert (tmp_path / name).stat().st_size > 0


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with open_journal(tmp_path / "deep" / "journal") as journal:
            await opened(journal)
            modes = {
                file.name: stat.S_IMODE(file.stat().st_mode)
                for file in (tmp_path / "deep").iterdir()
            }
    finally:
        os.umask(before)

    assert set(modes) == {"journal", "journal-wal", "journal-shm", "journal.lock"}
    assert set(modes.values()) == {0o600}


async def test_every_connection_is_as_durable_as_promised(tmp_path: Path) -> None:
    def promised(connection: Any) -> tuple[str, int]:
        return (
            connection.execute(text("PRAGMA journal_mode")).scalar_one(),
            connection.execute(text("PRAGMA synchronous")).scalar_one(),
        )

    async with open_journal(tmp_path / "journal") as journal:
        engine = engine_of(journal)
        with engine.connect() as first, engine.connect() as second:
            assert promised(first) == promised(second) == ("wal", 2)
        assert await journal.on_the_writers_connection(promised) == ("wal", 2)


async def test_what_was_answered_is_on_disk_for_whoever_opens_the_file(tmp_path: Path) -> None:
    """Another process reads it the moment the answer is there."""
    async with open_journal(tmp_path / "journal") as journal:
        booking = await opened(journal)
        with contextlib.closing(sqlite3.connect(tmp_path / "journal")) as other:
            rows = other.execute("SELECT booking_id, state FROM booking").fetchall()

    assert rows == [(booking.booking_id, "SENDING")]


def test_the_clock_never_stands_still_or_goes_back(journal: Journal) -> None:
    times = [journal.now() for _ in range(1_000)]

    assert times == sorted(set(times))


# --- what the database itself refuses ---------------------------------------------------------


@pytest.fixture
async def raw(journal: Journal) -> AsyncIterator[Connection]:
    """A connection of somebody else, with transactions of its own."""
    engine = engine_of(journal)
    if journal.is_shared:
        engine = engine.execution_options(isolation_level="READ COMMITTED")
    with engine.connect() as connection:
        yield connection


async def in_state(journal: HookedJournal, state: State) -> Booking:
    booking = await opened(journal)
    if state is State.SENDING:
        return booking
    if state is State.REVERSING:
        # No move leads there yet; the table's constraints know it all the same.
        done = succeeded(booking)
        await journal.change(done)
        await set_directly(journal, booking, "state = 'REVERSING'")
        return replace(done.after, state=State.REVERSING)
    path = {
        State.SUCCEEDED: [State.SUCCEEDED],
        State.DECLINED: [State.DECLINED],
        State.RESERVED: [State.RESERVED],
        State.IN_DOUBT: [State.IN_DOUBT],
        State.NEEDS_REVIEW: [State.NEEDS_REVIEW],
        State.NOT_EXECUTED: [State.RESERVED, State.NOT_EXECUTED],
    }[state]
    for step in path:
        change = moved(booking, step, answer_bytes=b"a" if step is State.SUCCEEDED else None)
        assert await journal.change(change)
        booking = change.after
    return booking


LEFT_TO = (State.REVERSING, State.NEEDS_REVIEW)
REACHED = [state for state in State if state is not State.REVERSED]


@pytest.mark.parametrize("state", REACHED)
async def test_a_final_state_stays_even_against_a_bug_of_ours(
    journal: HookedJournal, raw: Connection, state: State
) -> None:
    booking = await in_state(journal, state)
    for to in State:
        if to is state:
            continue
        may = state not in FINAL or (state is State.SUCCEEDED and to in LEFT_TO)
        statement = update(schema.booking).values(state=to.value, answer_bytes=b"0")
        if may:
            raw.execute(statement.where(schema.booking.c.booking_id == booking.booking_id))
        else:
            with pytest.raises(IntegrityError, match="final booking"):
                raw.execute(statement.where(schema.booking.c.booking_id == booking.booking_id))
        raw.rollback()


@pytest.mark.parametrize("state", REACHED)
async def test_a_booking_that_is_not_final_cannot_be_deleted(
    journal: HookedJournal, raw: Connection, state: State
) -> None:
    booking = await in_state(journal, state)
    statement = delete(schema.booking).where(schema.booking.c.booking_id == booking.booking_id)
    if state in FINAL:
        assert raw.execute(statement).rowcount == 1
    else:
        with pytest.raises(IntegrityError, match="open booking"):
            raw.execute(statement)
    raw.rollback()


@pytest.mark.parametrize(
    ("assignment", "constraint"),
    [
        ("state = 'SUCCEEDED', answer_bytes = NULL", "booking_success_has_answer"),
        ("outbound_id = NULL", "booking_sending_has_outbound_id"),
        ("state = 'ELSEWHERE'", "booking_state_known"),
        ("doubtful_attempts = -1", "booking_doubtful_attempts_sane"),
    ],
)
async def test_a_row_that_means_nothing_is_refused(
    journal: Journal, raw: Connection, assignment: str, constraint: str
) -> None:
    await opened(journal)
    with pytest.raises(IntegrityError, match=constraint):
        raw.execute(text(f"UPDATE booking SET {assignment}"))
    raw.rollback()


async def test_the_engine_hears_of_a_refused_move_as_an_error_not_as_a_lost_race(
    journal: Journal,
) -> None:
    booking = await opened(journal)
    assert await journal.change(succeeded(booking))
    final = replace(succeeded(booking).after)
    # A bug: the move is written over the final row itself.
    careless = moved(replace(final, state=State.SENDING), State.IN_DOUBT)
    object.__setattr__(careless, "before", final)
    with pytest.raises(IntegrityError):
        await journal.change(careless)


async def test_one_vendors_outbound_id_belongs_to_one_booking(journal: Journal) -> None:
    await opened(journal, outbound_id="o-shared")
    with pytest.raises(IntegrityError):
        await opened(journal, outbound_id="o-shared")
    await opened(journal, outbound_id="o-shared", connection="second")


# --- damage -----------------------------------------------------------------------------------


async def test_a_damaged_answer_is_data_loss_for_whoever_would_repeat_it(
    journal: HookedJournal,
) -> None:
    booking = await opened(journal)
    await journal.change(succeeded(booking))
    await set_directly(journal, booking, "answer_bytes = answer_sha256")
    repeat = a_booking(request_id=booking.request_id, outbound_id="o-else")
    errors = [
        await failure(journal.find(TENANT, request_id=booking.request_id)),
        await failure(journal.find(TENANT, booking_id=booking.booking_id)),
        await failure(journal.open(Opening(repeat, "caller"))),
    ]

    assert {error.reason for error in errors} == {Reason.DATA_LOSS}
    assert {error.booking for error in errors} == {booking.name}


async def test_a_damaged_answer_does_not_hide_the_list_it_stands_in(
    journal: HookedJournal,
) -> None:
    bookings = [await opened(journal) for _ in range(3)]
    for booking in bookings:
        await journal.change(succeeded(booking))
    await set_directly(journal, bookings[1], "answer_bytes = answer_sha256")

    assert len((await journal.list(ListQuery(tenant=TENANT))).bookings) == 3


# --- lists ------------------------------------------------------------------------------------


async def pages(journal: Journal, query: ListQuery) -> list[Booking]:
    """All pages of a list, each begun where the one before ended."""
    found: list[Booking] = []
    while True:
        page = await journal.list(query)
        assert len(page.bookings) <= query.limit
        found += page.bookings
        if page.next is None:
            return found
        query = replace(query, after=page.next)


async def test_a_list_is_newest_first_and_its_pages_lose_and_repeat_nothing(
    journal: Journal,
) -> None:
    """Several bookings of one moment, more than a page holds."""
    bookings = [
        await opened(journal, create_time=T0 + timedelta(seconds=number // 7))
        for number in range(40)
    ]
    found = await pages(journal, ListQuery(tenant=TENANT, limit=3))

    assert found == sorted(bookings, key=lambda it: (it.create_time, it.booking_id), reverse=True)


async def test_a_list_by_settle_time_is_oldest_first_and_holds_what_is_settled(
    journal: Journal,
) -> None:
    bookings = [
        await opened(journal, create_time=T0 + timedelta(seconds=number // 7))
        for number in range(40)
    ]
    changes = [succeeded(booking) for booking in bookings[::2]]
    for change in changes:
        await journal.change(change)
    found = await pages(journal, ListQuery(tenant=TENANT, limit=3, by_settle_time=True))

    settled = [change.after for change in changes]
    assert found == sorted(settled, key=lambda it: (it.settle_time, it.booking_id))


async def test_every_filter_restricts_and_intervals_are_half_open(journal: Journal) -> None:
    plain = await opened(journal, create_time=T0)
    other = await opened(
        journal,
        create_time=T0 + timedelta(hours=1),
        connection="second",
        account_hash=b"another",
        operation=Operation.TOP_UP_BALANCE,
        order=Order(Operation.TOP_UP_BALANCE, "", Money("CHF", 1000)),
    )
    done = succeeded(other).after
    await journal.change(succeeded(other))
    await opened(journal, tenant="another")
    hour, second = timedelta(hours=1), timedelta(seconds=1)

    for filters, wanted in (
        ({}, [done, plain]),
        ({"states": (State.SENDING,)}, [plain]),
        ({"states": (State.SENDING, State.SUCCEEDED)}, [done, plain]),
        ({"states": (State.NEEDS_REVIEW,)}, []),
        ({"connection": "second"}, [done]),
        ({"operation": "Balance.TopUpBalance"}, [done]),
        ({"account_hash": b"another"}, [done]),
        ({"created_from": T0}, [done, plain]),
        ({"created_from": T0 + second}, [done]),
        ({"created_before": T0 + hour}, [plain]),
        ({"created_before": T0}, []),
        ({"settled_from": T0 + hour + second}, [done]),
        ({"settled_from": T0 + hour + 2 * second}, []),
        ({"settled_before": T0 + hour + second}, []),
        ({"connection": "second", "states": (State.SENDING,)}, []),
    ):
        assert (await journal.list(ListQuery(tenant=TENANT, **filters))).bookings == wanted


# --- what recovery asks -----------------------------------------------------------------------


async def test_what_is_due_is_claimed_longest_due_first_and_final_bookings_never(
    journal: Journal,
) -> None:
    now = journal.now()
    due = [
        await opened(journal, next_attempt_time=now + timedelta(seconds=seconds))
        for seconds in (-1, -9, -5, 60)
    ]
    settled = await opened(journal, next_attempt_time=T0)
    await journal.change(succeeded(settled))
    reviewed = await opened(journal, next_attempt_time=T0)
    await journal.change(moved(reviewed, State.NEEDS_REVIEW, next_attempt_time=None))
    await opened(journal, tenant="another", next_attempt_time=T0)
    claimed = [await journal.claim(TENANT, 600, limit) for limit in (2, 10, 10)]

    ids = [[booking.booking_id for booking in bookings] for bookings in claimed]
    assert ids == [[due[1].booking_id, due[2].booking_id], [due[0].booking_id], []]
    assert await journal.next_due_time(TENANT, now) == due[3].next_attempt_time
    assert await journal.next_due_time(TENANT, now + timedelta(hours=1)) is None


async def test_a_claim_is_a_lease_and_a_move_that_its_history_tells(journal: Journal) -> None:
    booking = await opened(journal, owner="boot-0", next_attempt_time=T0)
    before = journal.now()
    (claimed,) = await journal.claim(TENANT, 30, 1)
    history, _ = await journal.story(TENANT, booking.booking_id)

    assert claimed.lease_until is not None
    assert before <= claimed.lease_until - timedelta(seconds=30) <= journal.now()
    assert claimed == replace(
        booking,
        owner="boot-1",
        epoch=booking.epoch + 1,
        lease_until=claimed.lease_until,
        next_attempt_time=claimed.lease_until,
    )
    assert (history[-1].sequence, history[-1].to_state) == (claimed.epoch, State.SENDING)
    assert not await journal.change(succeeded(booking)), "its owner before has lost it"


async def test_what_somebody_holds_or_works_on_is_not_claimed(journal: Journal) -> None:
    later = journal.now() + timedelta(seconds=60)
    held = await opened(journal, owner="boot-2", next_attempt_time=T0, lease_until=later)
    flying = await opened(journal, owner="boot-1", next_attempt_time=T0)
    free = await opened(journal, owner="", next_attempt_time=T0, lease_until=None)
    claimed = await journal.claim(TENANT, 30, 10, {flying.booking_id})

    assert [booking.booking_id for booking in claimed] == [free.booking_id]
    assert await journal.find(TENANT, booking_id=held.booking_id) == held
    assert await journal.find(TENANT, booking_id=flying.booking_id) == flying


async def test_what_other_boots_left_open_is_found(journal: Journal) -> None:
    left = await opened(journal, owner="boot-0")
    await opened(journal, owner="boot-1")
    resent = moved(await opened(journal, owner="boot-0"), State.IN_DOUBT)
    await journal.change(resent)
    await journal.change(moved(await opened(journal, owner="boot-0"), State.IN_DOUBT, owner=""))
    await journal.change(succeeded(await opened(journal, owner="boot-0")))
    await opened(journal, owner="boot-0", tenant="another")

    wanted = sorted([left, resent.after], key=lambda it: it.booking_id)
    found, end = await journal.orphans(TENANT, 2)
    assert (sorted(found, key=lambda it: it.booking_id), end) == (wanted, "")
    first, after = await journal.orphans(TENANT, 1)
    second, end = await journal.orphans(TENANT, 1, after)
    assert ([*first, *second], end) == (wanted, "")


async def test_what_cannot_be_understood_hides_nothing_that_another_boot_left_open(
    journal: HookedJournal,
) -> None:
    left = sorted(
        [await opened(journal, owner="boot-0") for _ in range(7)], key=lambda it: it.booking_id
    )
    for booking in [*left[:3], left[4]]:
        await set_directly(journal, booking, "reason = 'OF_A_LATER_VERSION'")
    found, after = await journal.orphans(TENANT, 3)
    assert (found, after) == ([], left[2].booking_id)
    found, after = await journal.orphans(TENANT, 3, after)
    assert {it.booking_id for it in found} == {left[3].booking_id, left[5].booking_id}
    assert await journal.orphans(TENANT, 3, after) == ([left[6]], "")


async def test_what_is_unresolved_is_counted_with_its_age(journal: Journal) -> None:
    first, second = await opened(journal), await opened(journal)
    third = await opened(journal, connection="second")
    await journal.change(moved(first, State.IN_DOUBT))
    await journal.change(moved(second, State.IN_DOUBT))
    await journal.change(moved(third, State.NEEDS_REVIEW))
    await journal.change(succeeded(await opened(journal)))
    await opened(journal, tenant="another")
    rows = await journal.unresolved(TENANT)

    assert {(row.connection, row.state, row.count, row.oldest) for row in rows} == {
        ("main", State.IN_DOUBT, 2, first.create_time),
        ("second", State.NEEDS_REVIEW, 1, third.create_time),
    }


async def test_our_names_are_found_behind_a_vendors_history(journal: Journal) -> None:
    booking = await opened(journal)
    other = await opened(journal, connection="second")
    wanted = [booking.outbound_id, other.outbound_id, "theirs"]

    assert await journal.names_of(TENANT, "main", wanted) == {booking.outbound_id: booking.name}
    assert await journal.names_of("another", "main", wanted) == {}
    assert await journal.names_of(TENANT, "main", []) == {}


async def test_a_proof_is_kept_once_per_promise_and_the_last_one_counts(
    journal: Journal,
) -> None:
    row = PromiseRow("main", "resend_is_safe", b"target", False, T0, "it did not hold")
    better = replace(row, value=True, evidence="it held")
    await journal.save_promise(TENANT, row)
    await journal.save_promise(TENANT, better)
    await journal.save_promise("another", row)

    assert await journal.promises(TENANT) == [better]


def overwrite(folder: Path) -> None:
    """What a careless backup does to a journal in use."""
    (folder / "journal").write_bytes(b"overwritten by a careless backup " * 4_000)
    (folder / "journal-wal").unlink()
    (folder / "journal-shm").unlink()


async def test_a_journal_that_cannot_be_read_says_so_and_nothing_of_a_booking(
    tmp_path: Path,
) -> None:
    async with open_journal(tmp_path / "journal") as journal:
        await opened(journal)
        engine_of(journal).dispose()
        overwrite(tmp_path)
        error = await failure(journal.find(TENANT, request_id="sale-0001"))

    assert isinstance(error, LoyaltyError)
    assert (error.reason, error.fate) == (Reason.JOURNAL_UNAVAILABLE, None)


# --- by which index ---------------------------------------------------------------------------


@contextlib.contextmanager
def statements_seen(journal: Journal) -> Iterator[dict[str, Any]]:
    """Every statement that runs meanwhile, with the values it was first run with."""
    seen: dict[str, Any] = {}

    def note(_c: Any, _cursor: Any, statement: str, values: Any, _x: Any, is_many: bool) -> None:
        seen.setdefault(statement, values[0] if is_many else values)

    store = journal._store
    engines = (store.engine, store.background, writers_engine_of(journal))
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[HookedJournal]:
    async with open_journal(tmp_path / "journal") as journal:
        yield journal


async def test_every_statement_finds_its_rows_by_an_index_that_fits(
    file: HookedJournal, tmp_path: Path
) -> None:
    """An index of the tenant alone is all of the tenant's rows: ten million, some day.

    The statements are those that run, seen on their way to the database; the plans are SQLite's.
    """
    journal = file
    bookings = [await opened(journal) for _ in range(3)]
    after = (int(T0.timestamp()) * 1_000_000, "b-1")
    wanted: dict[str, list[Callable[[], Awaitable[object]]]] = {
        "open": [lambda: journal.open(Opening(a_booking(), "caller"))],
        "settle": [lambda: journal.change(succeeded(bookings[0]))],
        "find": [
            lambda: journal.find(TENANT, booking_id="b-1"),
            lambda: journal.find(TENANT, request_id="sale-0001"),
        ],
        "claim": [lambda: journal.claim(TENANT, 30, 50)],
        "next due": [lambda: journal.next_due_time(TENANT, T0)],
        "orphans": [lambda: journal.orphans(TENANT, 200)],
        "unresolved": [lambda: journal.unresolved(TENANT)],
        "names": [lambda: journal.names_of(TENANT, "main", ["o-1", "o-2"])],
        "tombstones": [lambda: journal.count_tombstones(TENANT, T0)],
        "story": [
            lambda: journal.story(TENANT, "b-1"),
            lambda: journal.excerpt(TENANT, bookings[0].booking_id, 1, 1),
        ],
        "following": [lambda: journal.following(TENANT, ["bookings/b-1", "bookings/b-2"])],
        "reference": [lambda: journal.find_by_reference(TENANT, "main", "receipt", "R-1")],
        "challenge": [lambda: journal.find_challenge(TENANT, "code-0001")],
        "list": [lambda: journal.list(ListQuery(tenant=TENANT))],
        "next page": [lambda: journal.list(ListQuery(tenant=TENANT, after=after))],
        "settled": [
            lambda: journal.list(ListQuery(tenant=TENANT, by_settle_time=True, after=after))
        ],
    }
    allowed = {
        "open": [
            "USING INDEX booking_request_id (tenant=? AND request_id=?)",
            "(tenant=? AND booking_id=?)",
        ],
        "settle": ["(tenant=? AND booking_id=?)"],
        "find": ["(tenant=? AND booking_id=?)", "(tenant=? AND request_id=?)"],
        "claim": [
            "USING INDEX booking_due (tenant=? AND next_attempt_time<?)",
            "(tenant=? AND booking_id=?)",
        ],
        "next due": ["INDEX booking_due (tenant=? AND next_attempt_time>?)"],
        # Partial indexes that hold nothing but what is open, so all of it may be read.
        "orphans": ["USING INDEX booking_due (tenant=?)", "(tenant=? AND booking_id=?)"],
        "unresolved": ["USING INDEX booking_unresolved (tenant=?)"],
        "names": ["(tenant=? AND connection=? AND outbound_id=?)"],
        "tombstones": ["INDEX booking_tombstone (tenant=? AND create_time>?)"],
        "story": [
            "(tenant=? AND booking_id=?)",
            "(tenant=? AND booking_id=? AND sequence>?)",
            "(tenant=? AND booking_id=? AND sequence>? AND sequence<?)",
        ],
        "following": ["USING INDEX booking_original (tenant=? AND original_booking=?)"],
        "reference": ["(tenant=? AND connection=? AND kind=? AND value=?)"],
        "challenge": ["(tenant=? AND request_id=?)"],
        # The first page reads the index from its end and stops when the page is full.
        "list": ["USING INDEX booking_create_time (tenant=?)"],
        "next page": ["USING INDEX booking_create_time (tenant=? AND create_time<?)"],
        "settled": ["USING INDEX booking_settle_time (tenant=? AND settle_time>?)"],
    }
    assert set(wanted) == set(allowed)
    for name, calls in wanted.items():
        with statements_seen(journal) as seen:
            for call in calls:
                await call()
        with contextlib.closing(sqlite3.connect(tmp_path / "journal")) as raw:
            plans = {
                statement: [it[3] for it in raw.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
                for statement, values in seen.items()
                if statement.lstrip().startswith(("SELECT", "UPDATE"))
            }
        assert plans, f"{name} was seen"
        for statement, plan in plans.items():
            steps = [step for step in plan if "SEARCH" in step or "SCAN" in step]
            # What SQLite makes of an empty list of ids.
            steps = [it for it in steps if not it.startswith(("SCAN CONSTANT", "SCAN (subquery"))]
            for step in steps:
                assert any(step.endswith(fit) for fit in allowed[name]), (
                    f"{name}: {step}\n{statement}"
                )
            assert "USE TEMP B-TREE FOR ORDER BY" not in plan, f"{name} sorts: {statement}"


async def test_a_read_that_the_database_refuses_is_an_unavailable_journal(
    place: Place,
) -> None:
    """Not a booking that does not exist."""
    async with open_journal(place) as journal:
        await journal.on_the_writers_connection(
            lambda it: it.exec_driver_sql("ALTER TABLE booking RENAME TO elsewhere")
        )
        error = await failure(journal.find(TENANT, request_id="sale-0001"))
        await journal.on_the_writers_connection(
            lambda it: it.exec_driver_sql("ALTER TABLE elsewhere RENAME TO booking")
        )

        assert await journal.find(TENANT, request_id="sale-0001") is None
    assert error.reason is Reason.JOURNAL_UNAVAILABLE
