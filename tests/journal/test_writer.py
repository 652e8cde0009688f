"""Group commit: what shares a commit, what a bad row may not spoil, what is never half done."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DataError, IntegrityError

from loyalty_gateway import failpoints
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import OWN_UNDO, Attempt, AttemptKind, Booking, Intent, State
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.domain.operations import Operation, Order, Sale
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.journal.store import JournalRefused, Trouble
from loyalty_gateway.journal.writer import Change, Opened, Opening, Writer
from tests.booking.house import HookedJournal, failure, until
from tests.journal.rows import (
    CHECK,
    T0,
    TENANT,
    a_booking,
    commits_counted,
    moved,
    open_journal,
    opened,
    set_directly,
    succeeded,
)
from tests.postgres import Place, store_at


@pytest.fixture
async def journal(place: Place) -> AsyncIterator[HookedJournal]:
    async with open_journal(place) as journal:
        yield journal


async def queued(journal: HookedJournal, *calls: Any) -> list[Any]:
    """Has all calls wait for one and the same moment of the writer, then lets it go."""
    async with journal.writer_held():
        tasks = [asyncio.ensure_future(call) for call in calls]
        await until(lambda: journal.writes_waiting == len(calls))
    return await asyncio.gather(*tasks, return_exceptions=True)


# --- sharing a commit -------------------------------------------------------------------------


async def test_bookings_that_open_at_one_moment_share_one_commit(journal: HookedJournal) -> None:
    bookings = [a_booking() for _ in range(64)]
    with commits_counted(journal) as commits:
        results = await queued(
            journal, *(journal.open(Opening(booking, "caller")) for booking in bookings)
        )

    assert all(result.is_new for result in results)
    # One for the work that held the writer, one for all of them.
    assert len(commits) == 2
    for booking in bookings:
        assert await journal.find(TENANT, booking_id=booking.booking_id) == booking


async def test_bookings_that_settle_at_one_moment_share_one_commit(
    journal: HookedJournal,
) -> None:
    bookings = [await opened(journal) for _ in range(64)]
    changes = [succeeded(booking) for booking in bookings]
    with commits_counted(journal) as commits:
        results = await queued(journal, *(journal.change(change) for change in changes))

    assert results == [True] * 64
    assert len(commits) == 2
    for change in changes:
        found = await journal.find(TENANT, booking_id=change.after.booking_id)
        assert found == change.after


async def test_settles_go_first_and_in_a_commit_of_their_own(journal: HookedJournal) -> None:
    """They free callers; an opening that fails must not take them along."""
    booking = await opened(journal)
    order: list[str] = []

    async def told(name: str, call: Any) -> None:
        await call
        order.append(name)

    with commits_counted(journal) as commits:
        await queued(
            journal,
            told("open", journal.open(Opening(a_booking(), "caller"))),
            told("settle", journal.change(succeeded(booking))),
        )

    assert len(commits) == 3
    assert order == ["settle", "open"]


async def test_one_commit_never_holds_more_than_its_limit(journal: HookedJournal) -> None:
    bookings = [a_booking() for _ in range(600)]
    with commits_counted(journal) as commits:
        results = await queued(
            journal, *(journal.open(Opening(booking, "caller")) for booking in bookings)
        )

    assert sum(result.is_new for result in results) == 600
    assert len(commits) == 3


async def test_a_lone_booking_does_not_wait_for_company(journal: HookedJournal) -> None:
    with commits_counted(journal) as commits:
        await opened(journal)

    assert len(commits) == 1


# --- one request_id ---------------------------------------------------------------------------


async def test_the_second_of_two_equal_request_ids_meets_the_first(
    journal: HookedJournal,
) -> None:
    first = await opened(journal)
    second = a_booking(request_id=first.request_id, outbound_id="o-else")
    result = await journal.open(Opening(second, "caller"))

    assert not result.is_new
    assert result.booking == first


async def test_of_equal_request_ids_in_one_commit_the_first_wins_for_all(
    journal: HookedJournal,
) -> None:
    bookings = [a_booking(request_id="sale-shared", outbound_id="o-shared") for _ in range(20)]
    results = await queued(
        journal, *(journal.open(Opening(booking, "caller")) for booking in bookings)
    )

    assert [result.is_new for result in results] == [True] + [False] * 19
    assert {result.booking.booking_id for result in results} == {bookings[0].booking_id}
    history, _ = await journal.story(TENANT, bookings[0].booking_id)
    assert len(history) == 1
    for booking in bookings[1:]:
        assert await journal.find(TENANT, booking_id=booking.booking_id) is None


async def test_the_same_request_id_of_two_tenants_is_two_request_ids(
    journal: HookedJournal,
) -> None:
    first = await opened(journal, request_id="sale-shared", outbound_id="o-shared")
    second = await opened(
        journal, tenant="another", request_id="sale-shared", outbound_id="o-shared"
    )

    assert first.booking_id != second.booking_id


# --- a bad row --------------------------------------------------------------------------------


def _broken_text() -> Booking:
    """Half a surrogate pair cannot be stored as UTF-8."""
    return a_booking(provider_code="\ud800")


def _too_large() -> Booking:
    order = Order(Operation.DEBIT_BALANCE, "", Money("CHF", 2**70))
    return a_booking(order=order)


def _refused_by_a_check() -> Booking:
    return a_booking(doubtful_attempts=-1)


def _sending_without_an_outbound_id() -> Booking:
    return a_booking(outbound_id="")


def _outbound_id_of_another() -> Booking:
    return a_booking(outbound_id="o-taken")


@pytest.mark.parametrize(
    "bad",
    [
        _broken_text,
        _too_large,
        _refused_by_a_check,
        _sending_without_an_outbound_id,
        _outbound_id_of_another,
    ],
)
@pytest.mark.parametrize("at", [0, 7, 15])
async def test_a_bad_opening_fails_alone_and_its_neighbours_live(
    journal: HookedJournal, bad: Any, at: int
) -> None:
    await opened(journal, outbound_id="o-taken")
    bookings = [a_booking() for _ in range(16)]
    bookings[at] = bad()
    results = await queued(
        journal, *(journal.open(Opening(booking, "caller")) for booking in bookings)
    )

    for number, (booking, result) in enumerate(zip(bookings, results, strict=True)):
        found = await journal.find(TENANT, booking_id=booking.booking_id)
        if number == at:
            assert isinstance(result, Exception)
            assert found is None
        else:
            assert result.is_new
            assert found == booking
    assert journal.is_healthy


async def test_several_bad_openings_of_one_commit_fail_alone(journal: HookedJournal) -> None:
    bookings = [_broken_text() if number % 5 == 0 else a_booking() for number in range(33)]
    results = await queued(
        journal, *(journal.open(Opening(booking, "caller")) for booking in bookings)
    )

    assert [isinstance(result, Exception) for result in results] == [
        number % 5 == 0 for number in range(33)
    ]


async def test_a_known_row_that_cannot_be_understood_costs_its_neighbours_nothing(
    journal: HookedJournal,
) -> None:
    """A caller repeats a booking whose row is damaged, in the moment others open theirs."""
    damaged = await opened(journal)
    await set_directly(journal, damaged, "intent = 'WISH'")
    repeat = a_booking(request_id=damaged.request_id, outbound_id="o-else")
    bookings = [a_booking() for _ in range(5)]
    *others, bad = await queued(
        journal,
        *(journal.open(Opening(booking, "caller")) for booking in bookings),
        journal.open(Opening(repeat, "caller")),
    )

    assert all(result.is_new for result in others)
    assert isinstance(bad, LoyaltyError)
    assert bad.reason is Reason.DATA_LOSS
    assert bad.booking == damaged.name


async def test_a_bad_settle_fails_alone_and_its_neighbours_live(journal: HookedJournal) -> None:
    bookings = [await opened(journal) for _ in range(9)]
    changes = [succeeded(booking) for booking in bookings]
    attempt = Attempt(
        number=1, kind=AttemptKind.SEND, start_time=T0, answer_text="half a pair: \udc00"
    )
    changes[4] = replace(changes[4], attempt=attempt)
    changes[6] = Change(changes[6].before, replace(changes[6].after, answer_bytes=None), "caller")
    results = await queued(journal, *(journal.change(change) for change in changes))

    assert isinstance(results[4], UnicodeEncodeError | DataError)
    assert isinstance(results[6], IntegrityError)
    for number, (change, result) in enumerate(zip(changes, results, strict=True)):
        found = await journal.find(TENANT, booking_id=change.after.booking_id)
        is_bad = number in (4, 6)
        assert found == (change.before if is_bad else change.after)
        assert is_bad or result is True


async def test_a_vendors_odd_texts_do_not_keep_a_settle_from_being_written(
    journal: HookedJournal,
) -> None:
    """PostgreSQL has no NUL in a text, and holds every column to its length."""
    booking = await opened(journal)
    attempt = Attempt(
        number=1,
        kind=AttemptKind.SEND,
        start_time=T0,
        provider_code="c" * 1_000,
        rule="r" * 1_000,
        request_text="a\0b",
        answer_text="\0" * 3,
    )
    change = replace(succeeded(booking), actor="a" * 1_000, note="n\0n", attempt=attempt)

    assert await journal.change(change)
    history, (kept,) = await journal.story(TENANT, booking.booking_id)
    assert (kept.provider_code, kept.rule) == ("c" * 64, "r" * 80)
    assert (kept.request_text, kept.answer_text) == ("a\ufffdb", "\ufffd" * 3)
    assert (history[-1].actor, history[-1].note) == ("a" * 80, "n\ufffdn")


# --- moves over an epoch ----------------------------------------------------------------------


async def test_of_two_changes_of_one_epoch_one_lands(journal: HookedJournal) -> None:
    booking = await opened(journal)
    first, second = succeeded(booking), moved(booking, State.IN_DOUBT)

    assert await journal.change(first)
    assert not await journal.change(second)
    assert await journal.find(TENANT, booking_id=booking.booking_id) == first.after
    history, _ = await journal.story(TENANT, booking.booking_id)
    assert [entry.to_state for entry in history] == [State.SENDING, State.SUCCEEDED]


async def test_of_two_changes_of_one_epoch_in_one_commit_one_lands_and_the_others_too(
    journal: HookedJournal,
) -> None:
    bookings = [await opened(journal) for _ in range(8)]
    rival = moved(bookings[3], State.IN_DOUBT)
    changes = [succeeded(booking) for booking in bookings]
    results = await queued(
        journal, *(journal.change(change) for change in changes), journal.change(rival)
    )

    assert results == [True] * 8 + [False]
    for change in changes:
        found = await journal.find(TENANT, booking_id=change.after.booking_id)
        assert found == change.after
        history, _ = await journal.story(TENANT, change.after.booking_id)
        assert [entry.sequence for entry in history] == [1, 2]


async def test_of_two_claims_of_one_epoch_one_lands_although_the_state_stays(
    journal: HookedJournal,
) -> None:
    """Two owners who both want to send the same doubt again."""
    doubt = moved(await opened(journal), State.IN_DOUBT)
    await journal.change(doubt)
    doubted = doubt.after
    first = moved(doubted, State.IN_DOUBT, owner="boot-1")
    second = moved(doubted, State.IN_DOUBT, owner="boot-2")

    assert await queued(journal, journal.change(first), journal.change(second)) == [True, False]
    assert not await journal.change(second)
    assert await journal.find(TENANT, booking_id=doubted.booking_id) == first.after


async def test_a_stale_change_does_not_take_along_the_one_that_must_land(
    journal: HookedJournal,
) -> None:
    """A cancel that read RESERVED meets, in one commit, the settle of the repeat that was sent."""
    reserved = moved(await opened(journal), State.RESERVED)
    await journal.change(reserved)
    sent = moved(reserved.after, State.SENDING)
    await journal.change(sent)
    cancelled = moved(reserved.after, State.NOT_EXECUTED)
    settled = succeeded(sent.after)
    results = await queued(journal, journal.change(cancelled), journal.change(settled))

    assert results == [False, True]
    assert await journal.find(TENANT, booking_id=settled.after.booking_id) == settled.after


async def test_two_moves_of_one_booking_in_a_row_share_a_commit(journal: HookedJournal) -> None:
    booking = await opened(journal)
    first = moved(booking, State.IN_DOUBT)
    second = succeeded(first.after)
    results = await queued(journal, journal.change(first), journal.change(second))

    assert results == [True, True]
    history, _ = await journal.story(TENANT, booking.booking_id)
    assert [entry.sequence for entry in history] == [1, 2, 3]


async def test_a_change_over_another_state_does_not_land(journal: HookedJournal) -> None:
    booking = await opened(journal)
    mistaken = replace(booking, state=State.IN_DOUBT)

    assert not await journal.change(succeeded(mistaken))


async def test_a_change_of_another_tenants_booking_does_not_land(journal: HookedJournal) -> None:
    booking = await opened(journal)

    assert not await journal.change(succeeded(replace(booking, tenant="another")))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (State.SUCCEEDED, State.IN_DOUBT),
        (State.DECLINED, State.SUCCEEDED),
        (State.NOT_EXECUTED, State.SENDING),
        (State.NEEDS_REVIEW, State.RESERVED),
        (State.NEEDS_REVIEW, State.DECLINED),
    ],
)
def test_a_move_that_the_table_does_not_know_cannot_even_be_asked_for(
    before: State, after: State
) -> None:
    booking = a_booking(state=before)
    with pytest.raises(AssertionError, match="no such move"):
        moved(booking, after)


def test_no_doubt_of_a_callers_can_become_repeatable() -> None:
    with pytest.raises(AssertionError, match="repeat a doubt"):
        moved(a_booking(state=State.IN_DOUBT), State.RESERVED)
    own = a_booking(state=State.IN_DOUBT, request_id=f"{OWN_UNDO}b-1")
    assert moved(own, State.RESERVED).after.state is State.RESERVED


def test_every_change_raises_the_epoch() -> None:
    booking = a_booking()
    with pytest.raises(AssertionError, match="epoch"):
        Change(booking, replace(booking, state=State.IN_DOUBT), "caller")


async def test_an_attempt_and_a_move_are_written_together(journal: HookedJournal) -> None:
    booking = await opened(journal)
    attempt = Attempt(number=1, kind=AttemptKind.SEND, start_time=T0, rule="read time-out")
    await journal.change(replace(moved(booking, State.IN_DOUBT), attempt=attempt, note="why"))
    history, attempts = await journal.story(TENANT, booking.booking_id)

    assert attempts == [attempt]
    assert (history[-1].from_state, history[-1].to_state) == (State.SENDING, State.IN_DOUBT)
    assert (history[-1].actor, history[-1].note) == ("caller", "why")


# --- a disk that fails ------------------------------------------------------------------------


LONG = Order(
    Operation.DEBIT_BALANCE, "", Money("CHF", 1000), sale=Sale(caller_reference="x" * 50_000)
)


async def test_a_full_disk_is_an_unavailable_journal_for_all_and_writes_nothing(
    journal: HookedJournal,
) -> None:
    await journal.fill_the_disk()
    bookings = [a_booking(order=LONG) for _ in range(4)]
    results = await queued(
        journal, *(journal.open(Opening(booking, "caller")) for booking in bookings)
    )
    is_healthy = journal.is_healthy
    await journal.clear_the_disk()

    assert {result.reason for result in results} == {Reason.JOURNAL_UNAVAILABLE}
    assert {result.fate for result in results} == {None}
    assert not is_healthy
    for booking in bookings:
        assert await journal.find(TENANT, booking_id=booking.booking_id) is None
    assert (await journal.open(Opening(bookings[0], "caller"))).is_new


async def test_a_journal_finds_out_by_itself_that_the_disk_has_room_again(
    journal: HookedJournal,
) -> None:
    """A pod that is not ready gets no calls, so no call can show that it would be."""
    await journal.fill_the_disk()
    await failure(journal.open(Opening(a_booking(order=LONG), "caller")))
    assert not journal.is_healthy

    # Not by a write of ours, which would be a sign of health itself.
    await asyncio.to_thread(journal.make_room)
    await until(lambda: journal.is_healthy)


async def test_a_connection_that_broke_is_made_anew(journal: HookedJournal) -> None:
    def break_it(connection: Connection) -> None:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        raw.close()

    await failure(journal.on_the_writers_connection(break_it))
    await until(lambda: journal.is_healthy)

    await opened(journal)


async def test_a_writer_that_is_stopping_writes_what_waits(place: Place) -> None:
    journal = HookedJournal(store_at(place), "boot-1")
    await journal.start(CHECK)
    bookings = [a_booking() for _ in range(700)]
    async with journal.writer_held():
        tasks = [
            asyncio.ensure_future(journal.open(Opening(booking, "caller"))) for booking in bookings
        ]
        await until(lambda: journal.writes_waiting == 700)
        stopping = asyncio.ensure_future(journal.stop())
        await asyncio.sleep(0)
    results = await asyncio.gather(*tasks)
    await stopping

    assert all(result.is_new for result in results)
    error = await failure(journal.open(Opening(a_booking(), "caller")))
    assert error.reason is Reason.JOURNAL_UNAVAILABLE


async def test_a_caller_who_leaves_does_not_take_its_write_along(journal: HookedJournal) -> None:
    booking = a_booking()
    async with journal.writer_held():
        caller = asyncio.ensure_future(journal.open(Opening(booking, "caller")))
        await until(lambda: journal.writes_waiting == 1)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)

    async def is_there() -> bool:
        return await journal.find(TENANT, booking_id=booking.booking_id) is not None

    await until(is_there)


async def test_a_queue_without_room_is_an_unavailable_journal(place: Place) -> None:
    journal = HookedJournal(store_at(place), "boot-1")
    journal._writer = Writer(journal._store, queue_max=2)
    await journal.start(CHECK)
    async with journal.writer_held():
        waiting = [
            asyncio.ensure_future(journal.open(Opening(a_booking(), "caller"))) for _ in range(2)
        ]
        await until(lambda: journal.writes_waiting == 2)
        error = await failure(journal.open(Opening(a_booking(), "caller")))
    await asyncio.gather(*waiting)
    await journal.stop()

    assert error.reason is Reason.JOURNAL_UNAVAILABLE


async def test_after_a_lost_commit_another_move_is_not_taken_for_a_wish_that_did_not_land(
    journal: HookedJournal,
) -> None:
    """Both lead to the same epoch and state; the caller's CANCEL stands in one of them alone."""
    doubt = moved(await opened(journal), State.IN_DOUBT, owner="", lease_until=None)
    assert await journal.change(doubt)
    rest = moved(doubt.after, State.IN_DOUBT, recovery_tries=1)
    wish = moved(doubt.after, State.IN_DOUBT, intent=Intent.CANCEL)
    assert await journal.change(rest)
    found = await journal.on_the_writers_connection(
        lambda connection: journal._writer._batches.found_changes(connection, [wish, rest])
    )

    assert found == [False, True]


async def test_after_a_lost_commit_one_of_two_equal_moves_of_one_process_has_landed(
    journal: HookedJournal,
) -> None:
    """Each has a lease of its own, and is alike in all else."""
    doubt = moved(await opened(journal), State.IN_DOUBT, owner="", lease_until=None)
    assert await journal.change(doubt)
    one, other = (
        moved(doubt.after, State.IN_DOUBT, owner=journal.boot_id, lease_until=journal.now())
        for _ in range(2)
    )
    assert await journal.change(one)
    found = await journal.on_the_writers_connection(
        lambda connection: journal._writer._batches.found_changes(connection, [one, other])
    )

    assert found == [True, False]


async def test_what_is_found_after_a_lost_commit_is_believed_once_it_is_as_safe_as_a_new_one(
    journal: HookedJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be read may have been waiting for a standby when the server fell."""
    statements: list[str] = []

    def hear(_: Connection, __: object, statement: str, *rest: object) -> None:
        statements.append(statement)

    def is_cut(name: str) -> None:
        if name == "after-commit":
            monkeypatch.setattr(failpoints, "hit", lambda _: None)
            event.listen(Engine, "before_cursor_execute", hear)
            raise ConnectionResetError("between the commit and its answer")

    monkeypatch.setattr(journal._store, "trouble", lambda error: Trouble.LOST)
    monkeypatch.setattr(failpoints, "hit", is_cut)
    try:
        opening = Opening(a_booking(), "caller")
        assert await journal.open(opening) == Opened(opening.booking, True)
    finally:
        event.remove(Engine, "before_cursor_execute", hear)

    found = next(n for n, it in enumerate(statements) if "request_id) IN" in it)
    assert any("INSERT INTO deployment" in it for it in statements[found:])


def test_what_was_on_its_way_when_its_loop_was_closed_is_written_all_the_same(
    tmp_path: Path,
) -> None:
    """Nobody is left to hear of it; the next process finds it."""
    store = SqliteStore(tmp_path / "journal")
    store.start(CHECK)
    writer, booking, go = Writer(store), a_booking(), threading.Event()

    async def leave() -> None:
        await writer.start()
        calls = [
            asyncio.create_task(writer.run(lambda _: go.wait(20))),
            asyncio.create_task(writer.open(Opening(booking, "caller"))),
        ]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(leave())
    go.set()
    asyncio.run(writer.stop())
    with store.engine.connect() as connection:
        written = connection.execute(text("SELECT booking_id FROM booking")).scalars().all()
    store.stop()

    assert written == [booking.booking_id]


async def test_a_file_that_is_not_synced_at_each_commit_is_not_written(tmp_path: Path) -> None:
    """As on a share whose driver takes the wish and does not keep it."""
    store = SqliteStore(tmp_path / "journal")
    store.start(CHECK)
    store._writers.dispose()

    @event.listens_for(store._writers, "connect")
    def forget(dbapi_connection: Any, _record: object) -> None:
        dbapi_connection.execute("PRAGMA synchronous=OFF")

    with pytest.raises(JournalRefused, match="synchronous=0"):
        await Writer(store).start()
    store.stop()
