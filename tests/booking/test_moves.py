"""A move that did not land: whose the row is then, and how loud it is told."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.journal.rows import is_row_of
from loyalty_gateway.journal.writer import Change, unavailable
from tests.booking.house import BRIEF_S, House, open_house, until
from tests.booking.undoing import a_house, a_vendor
from tests.booking.vendor import Act, FakeVendor, books, limits_the_rate, loses_the_answer, refuses
from tests.postgres import Place

MOVES = "loyalty_gateway.booking.moves"


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """What was said of moves that did not land."""
    return [
        (record.levelno, record.getMessage())
        for record in caplog.records
        if record.name == MOVES and record.levelno >= logging.INFO
    ]


def loses_the_word_of(house: House, wanted: Callable[[Change], bool]) -> list[Change]:
    """The database's line is cut once behind such a change: it landed, and nobody heard of it."""
    cut: list[Change] = []
    write = house.journal.change

    async def change(change: Change) -> bool:
        has_landed = await write(change)
        if not cut and wanted(change):
            cut.append(change)
            raise unavailable(OSError("the line was cut"))
        return has_landed

    house.journal.change = change  # type: ignore[method-assign]
    return cut


def moved_by_another(
    house: House, wanted: Callable[[Change], bool], after: Callable[[Booking], Booking]
) -> list[Change]:
    """Another replica moves the row just before such a change is written, once."""
    moved: list[Change] = []
    write = house.journal.change

    async def change(change: Change) -> bool:
        if not moved and wanted(change):
            moved.append(change)
            other = replace(after(change.before), epoch=change.before.epoch + 1)
            assert await write(Change(change.before, other, "recovery", "on another replica"))
        return await write(change)

    house.journal.change = change  # type: ignore[method-assign]
    return moved


def leads_to(*states: State) -> Callable[[Change], bool]:
    return lambda change: change.after.state in states


@pytest.mark.parametrize(
    ("act", "state"),
    [
        (books, State.SUCCEEDED),
        (refuses(), State.DECLINED),
        (loses_the_answer, State.IN_DOUBT),
        (limits_the_rate(7), State.RESERVED),
    ],
)
async def test_a_move_that_landed_although_its_word_was_lost_is_our_own(
    place: Place, caplog: pytest.LogCaptureFixture, act: Act, state: State
) -> None:
    async with open_house(place, FakeVendor(act)) as house:
        cut = loses_the_word_of(house, leads_to(state))
        await asyncio.gather(house.book(within_s=BRIEF_S), return_exceptions=True)
        booking = await house.becomes(state)

        [change] = cut
        assert is_row_of(booking, change.after)
        assert (await house.moves()).count(state) == 1
    assert told(caplog) == []


async def test_an_undo_that_landed_although_its_word_was_lost_is_our_own(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        cut = loses_the_word_of(house, leads_to(State.REVERSED))
        await house.undo()

        assert len(cut) == 1
        assert (await house.get()).state is State.REVERSED
        assert (await house.moves()).count(State.REVERSED) == 1
    assert told(caplog) == []


async def test_an_undo_whose_original_another_replica_took_up_is_followed_without_alarm(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Recovery elsewhere claims what is being undone while its end is to be written."""
    async with a_house(place, a_vendor()) as house:
        await house.book()
        moved = moved_by_another(
            house, leads_to(State.REVERSED), lambda original: replace(original, owner="boot-9")
        )
        caplog.set_level(logging.INFO)
        await house.undo()

        assert len(moved) == 1
        assert (await house.get()).state is State.REVERSED
    [(level, words)] = told(caplog)
    assert level == logging.INFO
    assert "was moved to REVERSING by somebody else before REVERSED" in words


async def test_an_attempts_end_that_came_too_late_is_a_warning(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Another replica took the silent owner's booking for a doubt; the refusal proves nothing."""
    async with open_house(place, FakeVendor(refuses())) as house:
        moved_by_another(
            house,
            leads_to(State.DECLINED),
            lambda before: replace(
                before,
                state=State.IN_DOUBT,
                attempt_open=False,
                owner="",
                lease_until=None,
                reason=Reason.INTERNAL,
            ),
        )
        await house.fails(within_s=BRIEF_S)
        await until(lambda: house.link.in_flight == 0)

        assert (await house.get()).state is State.IN_DOUBT
    [(level, words)] = told(caplog)
    assert level == logging.WARNING
    assert "was moved to IN_DOUBT by somebody else before DECLINED" in words


async def test_what_was_closed_as_not_booked_and_then_confirmed_is_an_error(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The vendor says that it booked what an operator, say, had closed meanwhile: money is out."""
    async with open_house(place, FakeVendor(books)) as house:
        moved_by_another(
            house,
            leads_to(State.SUCCEEDED),
            lambda before: replace(
                before,
                state=State.NOT_EXECUTED,
                attempt_open=False,
                owner="",
                lease_until=None,
                next_attempt_time=None,
                settle_time=house.journal.now(),
            ),
        )
        error = await house.fails()

        assert (error.reason, error.fate) == (Reason.BOOKING_NOT_EXECUTED, Fate.NOT_EXECUTED)
    [(level, words)] = told(caplog)
    assert level == logging.ERROR
    assert "was closed at NOT_EXECUTED by somebody else" in words
    assert "statement" in words


async def test_a_move_that_is_refused_although_nobody_moved_the_booking_is_an_error(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(place, FakeVendor(books)) as house:
        write = house.journal.change

        async def change(change: Change) -> bool:
            return False if change.after.state is State.SUCCEEDED else await write(change)

        house.journal.change = change  # type: ignore[method-assign]
        await house.fails(within_s=BRIEF_S)
        await until(lambda: house.link.in_flight == 0)

        assert (await house.get()).state is State.SENDING
    [(level, words)] = told(caplog)
    assert level == logging.ERROR
    assert "was moved by nobody" in words


async def test_a_row_is_ours_only_in_all_that_was_to_be_written(place: Place) -> None:
    async with open_house(place, FakeVendor(loses_the_answer)) as house:
        await house.fails(within_s=BRIEF_S)
        found = await house.get()

    assert is_row_of(found, found)
    for other in (
        replace(found, epoch=found.epoch + 1),
        replace(found, state=State.NEEDS_REVIEW),
        replace(found, owner="boot-9"),
        replace(found, reason=Reason.INTERNAL),
        replace(found, next_attempt_time=None),
        replace(found, not_before=found.create_time),
    ):
        assert not is_row_of(found, other)
