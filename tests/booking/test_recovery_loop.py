"""The loop of recovery: what wakes it, what it may take at a time, and what it outlives."""

import asyncio
import logging
from dataclasses import replace

import pytest
from sqlalchemy import text

from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.journal.writer import unavailable
from tests.booking.house import (
    BRIEF_S,
    QUICK,
    in_s,
    open_house,
    until,
)
from tests.booking.stages import BRIEF_LEASE, doubt
from tests.booking.vendor import (
    FakeVendor,
    Gate,
    books,
    loses_the_answer,
)
from tests.postgres import Place


async def test_the_loop_outlives_a_journal_that_cannot_be_read(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    policy = replace(QUICK, schedule_s=(0.3,))
    vendor = FakeVendor(loses_the_answer)
    async with open_house(place, vendor, policy=policy) as house:
        looks = 0

        async def fail() -> None:
            nonlocal looks
            looks += 1
            raise unavailable(OSError("the disk does not answer"))

        house.journal.before_due = fail
        with caplog.at_level(logging.WARNING):
            error = await house.fails(within_s=2)
        looks_within_2_s = looks
        house.journal.before_due = None
        await house.becomes(State.SUCCEEDED)

    assert error.reason is Reason.BOOKING_IN_DOUBT
    assert 1 <= looks_within_2_s <= 6
    assert len(caplog.records) <= 12


async def test_a_step_that_cannot_be_written_is_not_tried_hot(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk: reads go well, so the booking is found due again and again."""
    vendor = FakeVendor(loses_the_answer)
    async with open_house(place, vendor, policy=QUICK, limits=BRIEF_LEASE) as house:
        tries = 0

        async def fail() -> None:
            nonlocal tries
            tries += 1
            raise unavailable(OSError("the disk is full"))

        async def fail_from_now_on() -> None:
            house.journal.before_change = fail

        house.journal.after_change = fail_from_now_on
        with caplog.at_level(logging.WARNING):
            error = await house.fails(within_s=2)
        tries_within_2_s = tries
        house.journal.before_change = house.journal.after_change = None
        await house.becomes(State.SUCCEEDED)

    assert error.reason is Reason.BOOKING_IN_DOUBT
    assert 1 <= tries_within_2_s <= 6
    assert len(vendor.effects) == 1


async def test_a_row_that_cannot_be_understood_does_not_stop_the_others(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Left by a newer program, or damaged: it must not cost the neighbours their truth."""
    policy = replace(QUICK, schedule_s=(4.0,))
    vendor = FakeVendor(loses_the_answer, loses_the_answer)
    async with open_house(place, vendor, policy=policy) as house:
        await house.fails("sale-0001", within_s=BRIEF_S)
        damaged = await house.get("sale-0001")
        await house.journal.on_the_writers_connection(
            lambda connection: connection.execute(
                text(
                    "UPDATE booking SET recovery_mode = 'TELEPATHY', next_attempt_time = 1"
                    " WHERE booking_id = :booking_id"
                ),
                {"booking_id": damaged.booking_id},
            )
        )
        looks = 0

        async def count() -> None:
            nonlocal looks
            looks += 1

        house.journal.before_due = count
        with caplog.at_level(logging.ERROR):
            answer = await house.book("sale-0002")
            started = in_s(0)
            looks = 0
            await until(lambda: in_s(0) > started + 1.2)

    assert answer.body
    assert looks <= 4
    assert damaged.name in caplog.text


async def test_the_loop_rests_where_nothing_is_due(place: Place) -> None:
    async with open_house(place, policy=QUICK) as house:
        await house.book()
        looks = 0

        async def count() -> None:
            nonlocal looks
            looks += 1

        house.journal.before_due = count
        started = in_s(0)
        await until(lambda: in_s(0) > started + 0.6)

    assert looks <= 2


async def test_a_doubt_that_comes_while_the_loop_looks_is_not_forgotten_for_seconds(
    place: Place,
) -> None:
    """It becomes due after the loop has asked what is due next, and before it sleeps."""
    vendor = FakeVendor(loses_the_answer, books, loses_the_answer)
    async with open_house(place, vendor, policy=QUICK) as house:
        # The loop remembers when this one was due, which is past by now.
        await house.book("sale-0001")
        may_go, is_asked = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            is_asked.set()
            await may_go.wait()

        house.journal.after_next_due = hold
        house.engine._recovery._wake.set()
        await is_asked.wait()
        caller = house.booking_task("sale-0002")
        await house.becomes(State.IN_DOUBT, request_id="sale-0002")
        house.journal.after_next_due = None
        started = in_s(0)
        may_go.set()
        await caller
        took = in_s(0) - started

    assert took < 4.5


async def test_repeats_do_not_make_recovery_work_on_more_at_a_time(place: Place) -> None:
    gate = Gate()
    vendor = FakeVendor(*[loses_the_answer] * 3, otherwise=gate)
    async with open_house(place, vendor, parallel_max=1) as house:
        ids = [f"sale-{number:04}" for number in range(3)]
        for request_id in ids:
            await doubt(house, request_id)
        await asyncio.gather(*(house.fails(request_id, within_s=1.5) for request_id in ids))
        await gate.arrived.wait()
        running, busy = vendor.running, len(house.engine._recovery._busy)
        gate.go.set()

    assert (running, busy) == (1, 1)


async def test_repeats_while_the_loop_looks_do_not_either(place: Place) -> None:
    gate = Gate()
    vendor = FakeVendor(*[loses_the_answer] * 3, otherwise=gate)
    async with open_house(place, vendor, parallel_max=1) as house:
        ids = [f"sale-{number:04}" for number in range(3)]
        for request_id in ids:
            await doubt(house, request_id)
        may_look, is_looking = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            is_looking.set()
            await may_look.wait()

        house.journal.before_due = hold
        house.engine._recovery._wake.set()
        await is_looking.wait()
        await asyncio.gather(*(house.fails(request_id, within_s=3) for request_id in ids))
        put_off = set(house.engine._recovery._put_off)
        house.journal.before_due = None
        may_look.set()
        await gate.arrived.wait()
        running, busy = vendor.running, len(house.engine._recovery._busy)
        gate.go.set()

    assert len(put_off) == 3
    assert (running, busy) == (1, 1)


async def test_stopping_waits_for_a_step_that_was_sent(place: Place) -> None:
    gate = Gate()
    vendor = FakeVendor(loses_the_answer, gate)
    async with open_house(place, vendor, policy=QUICK) as house:
        caller = asyncio.create_task(house.fails(within_s=BRIEF_S))
        await gate.arrived.wait()
        stopping = asyncio.create_task(house.engine.stop(20))
        await caller
        gate.go.set()
        await stopping

        assert (await house.get()).state is State.SUCCEEDED
