"""A journal that fails in the middle: nothing is sent twice, nothing is said that is not known."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from loyalty_gateway.booking.calls import AccountKey
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import CardFacts, Operation, Person
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.journal.writer import unavailable
from tests.booking.house import (
    BRIEF_S,
    QUICK,
    House,
    an_undo,
    failure,
    open_house,
    until,
)
from tests.booking.stages import crashed_while_sending, doubt, resolve
from tests.booking.test_races import once_before_a_change
from tests.booking.test_replicas import two_houses
from tests.booking.undoing import a_house, a_vendor
from tests.booking.vendor import (
    RESENT,
    FakeVendor,
    Gate,
    loses_the_answer,
)
from tests.postgres import Place

OTHER_KEYS = Keyring([("k2", b"t" * 32)], b"p" * 32)
BRIEFLY = Limits(settle_retry_s=0.1)


async def does_not_answer() -> None:
    raise unavailable(OSError("the disk does not answer"))


# --- at the start -------------------------------------------------------------------------------


async def test_a_start_that_cannot_take_over_what_was_left_is_no_start(tmp_path: Path) -> None:
    """Serving without it would leave bookings of the dead process unowned until their leases end;
    the next start finds them as they were."""
    place = tmp_path / "journal"
    vendor = await crashed_while_sending(place, loses_the_answer)
    async with open_house(place, vendor, limits=BRIEFLY, starts=False) as house:
        house.journal.before_change = does_not_answer
        error = await failure(house.engine.start(proves_itself=False))
        assert error.reason is Reason.JOURNAL_UNAVAILABLE
        assert (await house.get()).state is State.SENDING
    async with open_house(place, vendor, policy=QUICK, boot_id="boot-3") as house:
        await house.becomes(State.SUCCEEDED)

    assert len(vendor.effects) == 1


# --- at the end of an attempt ---------------------------------------------------------------------


async def test_a_settle_that_lost_its_race_and_cannot_be_read_again_claims_nothing(
    postgres_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else has moved the booking, and nobody can read whereto: the caller hears that it
    is under way, which is true whatever was found."""
    gate = Gate()
    async with two_houses(
        postgres_dsn, FakeVendor(gate), limits=Limits(lease_s=30.0, settle_retry_s=0.1)
    ) as (first, second):
        caller = first.booking_task(within_s=5)
        await gate.arrived.wait()
        known = await second.get()

        async def is_taken_over_and_then_unreadable() -> None:
            await second.engine._steps.take(known)
            first.journal.before_find = does_not_answer

        once_before_a_change(first, 1, is_taken_over_and_then_unreadable)
        gate.go.set()
        with caplog.at_level(logging.ERROR):
            error = await failure(caller)
        first.journal.before_find = None
        booking = await second.get()

        assert error.reason is Reason.BOOKING_IN_PROGRESS
        assert (error.fate, error.is_final) == (Fate.UNKNOWN, False)
        assert "could not be read again" in caplog.text
        assert booking.state is State.IN_DOUBT
        assert len(first.vendor.effects) == 1


async def test_a_row_that_was_damaged_while_a_caller_waits_is_told_as_such(place: Place) -> None:
    async with open_house(place, FakeVendor(loses_the_answer)) as house:
        caller = house.booking_task(within_s=5)
        await house.becomes(State.IN_DOUBT)
        booking = await house.get()
        await until(lambda: bool(house.engine._closing._watchers._watchers))
        await house.journal.on_the_writers_connection(
            lambda connection: connection.execute(
                text("UPDATE booking SET recovery_mode = 'TELEPATHY' WHERE booking_id = :id"),
                {"id": booking.booking_id},
            )
        )
        house.engine._closing._watchers.tell(booking.booking_id)
        error = await failure(caller)

    assert error.reason is Reason.DATA_LOSS
    assert error.booking == booking.name


# --- recovery's loop ------------------------------------------------------------------------------


async def test_the_loop_outlives_a_bug_in_one_of_its_rounds(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(
        place, FakeVendor(loses_the_answer), policy=replace(QUICK, schedule_s=(0.3,))
    ) as house:

        async def is_a_bug() -> None:
            house.journal.before_due = None
            raise RuntimeError("a bug of ours")

        house.journal.before_due = is_a_bug
        with caplog.at_level(logging.ERROR):
            await house.book(within_s=10)

        assert "A round of recovery failed" in caplog.text
        assert len(house.vendor.effects) == 1


async def test_what_was_kicked_is_remembered_for_a_second_and_not_for_ever(place: Place) -> None:
    """A flood of repeats must not make this process grow."""
    async with open_house(place, FakeVendor(loses_the_answer), parallel_max=0) as house:
        known = await doubt(house)
        recovery = house.engine._recovery
        old = {f"old-{number}": -10.0 for number in range(10_000)}
        recovery._kicked |= old
        recovery.kick(replace(known, lease_until=None, booking_id="new-one"))

        assert "new-one" in recovery._kicked
        assert not old.keys() & recovery._kicked.keys()


# --- what is sealed -------------------------------------------------------------------------------


async def test_an_answer_whose_personal_part_cannot_be_opened_is_told_as_lost(
    place: Place,
) -> None:
    """Half an answer would be another answer than the one that was told."""
    card = CardFacts("6299000000001234", holder=Person(display_name="Jane Doe"))
    vendor = FakeVendor(offers={Operation.CREATE_CARD: RESENT}, card=card)
    create: dict[str, Any] = {
        "operation": Operation.CREATE_CARD,
        "account": AccountKey("main"),
        "asked": None,
    }
    async with open_house(place, vendor) as house:
        first = await house.book(**create)
        assert first.body.endswith(b"Jane Doe")
    async with open_house(place, vendor, keyring=OTHER_KEYS) as house:
        error = await house.fails(**create)
        booking = await house.get()

    assert error.reason is Reason.DATA_LOSS
    assert (error.booking, booking.state) == (booking.name, State.SUCCEEDED)
    assert len(vendor.effects) == 1


async def destroyed(house: House, column: str, request_id: str = "sale-0001") -> None:
    """As if the column's content had been removed from the row."""
    booking = await house.get(request_id)
    await house.journal.on_the_writers_connection(
        lambda connection: connection.execute(
            text(f"UPDATE booking SET {column} = NULL WHERE booking_id = :id"),
            {"id": booking.booking_id},
        )
    )


async def test_a_doubt_whose_account_id_was_destroyed_is_a_persons(place: Place) -> None:
    """It must not be sent for nobody, which another vendor might take for somebody."""
    async with open_house(place, FakeVendor(loses_the_answer), policy=QUICK) as house:
        house.engine._recovery._parallel_max = 0
        await doubt(house)
        await destroyed(house, "account_sealed")
        house.engine._recovery._parallel_max = 8
        house.engine._recovery.wake()
        await house.becomes(State.NEEDS_REVIEW)

        assert len(house.vendor.sends) == 1


async def test_an_undo_whose_original_is_not_there_is_not_sent(place: Place) -> None:
    """A journal that was put back, say: without its original nobody knows what it would undo."""
    async with a_house(place, a_vendor(), QUICK) as house:
        house.engine._recovery._parallel_max = 0
        await house.book()
        house.vendor.script.append(loses_the_answer)
        await failure(house.engine.book(an_undo(within_s=BRIEF_S)))
        original = await house.get()
        await house.journal.on_the_writers_connection(
            lambda connection: connection.execute(
                text("UPDATE booking SET booking_id = 'elsewhere' WHERE booking_id = :id"),
                {"id": original.booking_id},
            )
        )
        house.engine._recovery._parallel_max = 8
        undo = await resolve(house, None, request_id="undo-0001")

        assert undo.state is State.NEEDS_REVIEW
        assert len(house.vendor.sends) == 2
