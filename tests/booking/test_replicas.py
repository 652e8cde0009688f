"""Two engines on one database: who may do what, when, and what each one hears of the other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import text

from loyalty_gateway.booking.calls import Decision
from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.providers.port import Executed, Send
from tests.booking.house import (
    BRIEF_S,
    HELD_S,
    KEYRING,
    PATIENT,
    QUICK,
    TENANT,
    UNHURRIED,
    House,
    failure,
    open_house,
    until,
)
from tests.booking.stages import BOOKED, BRIEF_LEASE, NOT_BOOKED, doubt, resolve
from tests.booking.vendor import (
    FakeVendor,
    Gate,
    books,
    is_not_reached,
    loses_the_answer,
    loses_the_request,
    refuses,
)

LEASE = Limits(lease_s=2.0)


@asynccontextmanager
async def two_houses(
    dsn: str,
    vendor: FakeVendor,
    other: FakeVendor | None = None,
    *,
    policy: Policy = PATIENT,
    limits: Limits | None = None,
    promises: dict[str, bool] | None = None,
) -> AsyncIterator[tuple[House, House]]:
    """Two processes, as far as the database can tell; one vendor, unless another is given."""
    async with (
        open_house(
            dsn, vendor, boot_id="boot-a", policy=policy, limits=limits, promises=promises
        ) as first,
        open_house(
            dsn, other or vendor, boot_id="boot-b", policy=policy, limits=limits, promises=promises
        ) as second,
    ):
        yield first, second


# --- one request_id ---------------------------------------------------------------------------


async def test_a_hundred_calls_spread_over_two_replicas_have_one_effect_and_equal_answers(
    postgres_dsn: str,
) -> None:
    vendor = FakeVendor()
    async with two_houses(postgres_dsn, vendor) as houses:
        answers = await asyncio.gather(*(houses[number % 2].book() for number in range(100)))

    assert len(vendor.effects) == len(vendor.sends) == 1
    assert len({answer.body for answer in answers}) == 1
    assert {answer.booking_name for answer in answers} == {answers[0].booking_name}


async def test_a_hundred_refused_calls_over_two_replicas_hear_the_same_bytes(
    postgres_dsn: str,
) -> None:
    vendor = FakeVendor(refuses())
    async with two_houses(postgres_dsn, vendor) as houses:
        errors = await asyncio.gather(*(houses[number % 2].fails() for number in range(100)))

    assert len(vendor.sends) == 1
    assert len({error.status_bytes for error in errors}) == 1
    assert {error.reason for error in errors} == {Reason.INSUFFICIENT_BALANCE}


async def test_a_hundred_repeats_of_a_reserved_booking_over_two_replicas_send_it_once(
    postgres_dsn: str,
) -> None:
    vendor = FakeVendor(is_not_reached)
    async with two_houses(postgres_dsn, vendor) as houses:
        await houses[0].fails()
        answers = await asyncio.gather(*(houses[number % 2].book() for number in range(100)))

    assert len(vendor.sends) == 2
    assert len(vendor.effects) == 1
    assert len({answer.body for answer in answers}) == 1


async def test_a_duplicate_waits_for_the_booking_that_another_replica_has_under_way(
    postgres_dsn: str,
) -> None:
    gate = Gate()
    vendor = FakeVendor(gate)
    async with two_houses(postgres_dsn, vendor) as (first, second):
        owner = first.booking_task()
        await gate.arrived.wait()
        duplicate = second.booking_task()
        impatient = await second.fails(within_s=BRIEF_S)
        gate.go.set()
        answers = await asyncio.gather(owner, duplicate)

    assert impatient.reason is Reason.BOOKING_IN_PROGRESS
    assert impatient.fate is Fate.UNKNOWN
    assert answers[0].body == answers[1].body
    assert (answers[0].is_replayed, answers[1].is_replayed) == (False, True)
    assert len(vendor.sends) == 1


async def test_what_another_replica_has_under_way_is_neither_cancelled_nor_resolved(
    postgres_dsn: str,
) -> None:
    gate = Gate()
    async with two_houses(postgres_dsn, FakeVendor(gate)) as (first, second):
        owner = first.booking_task()
        await gate.arrived.wait()
        cancel = await failure(second.cancel())
        finding = await failure(resolve(second, BOOKED))
        gate.go.set()
        await owner

    assert cancel.reason is Reason.CANCEL_NOT_POSSIBLE
    assert cancel.fate is Fate.UNKNOWN
    assert finding.reason is Reason.RESOLUTION_NOT_POSSIBLE


async def test_a_finding_on_one_replica_frees_the_caller_who_waits_on_another(
    postgres_dsn: str,
) -> None:
    async with two_houses(postgres_dsn, FakeVendor(loses_the_answer)) as (first, second):
        caller = first.booking_task(within_s=20)
        await first.becomes(State.IN_DOUBT)
        booking = await resolve(second, BOOKED)
        answer = await caller

    assert answer.body == booking.answer_bytes


async def test_a_hold_counts_on_every_replica(postgres_dsn: str) -> None:
    vendor = FakeVendor(loses_the_answer)
    async with two_houses(postgres_dsn, vendor, promises={}, limits=UNHURRIED) as (first, second):
        await first.fails("sale-0001")
        held = await second.fails("sale-0002", within_s=HELD_S)
        await resolve(second, Decision(Fate.NOT_EXECUTED, "statement", "not seen"))
        await first.book("sale-0002")

    assert held.reason is Reason.ACCOUNT_ON_HOLD


# --- recovery ---------------------------------------------------------------------------------


async def test_two_recoveries_send_each_doubt_again_once(postgres_dsn: str) -> None:
    count = 60
    lost = FakeVendor(otherwise=loses_the_request)
    async with open_house(postgres_dsn, lost, boot_id="boot-0") as house:
        await asyncio.gather(
            *(house.fails(f"sale-{number:04}", within_s=2) for number in range(count))
        )
        await house.journal.on_the_writers_connection(
            lambda it: it.execute(text("UPDATE booking SET next_attempt_time = 1"))
        )

    async def slowly(vendor: FakeVendor, send: Send) -> Executed:
        # So that the second, which starts later, finds something left.
        await asyncio.sleep(0.3)
        return await books(vendor, send)

    vendors = FakeVendor(otherwise=slowly), FakeVendor(otherwise=slowly)
    async with two_houses(postgres_dsn, *vendors, policy=QUICK) as (first, _):

        async def are_done() -> bool:
            return not await first.journal.unresolved(TENANT)

        await until(are_done)

    sent = [[send.outbound_id for send in vendor.sends] for vendor in vendors]
    assert sorted(sent[0] + sent[1]) == sorted(
        KEYRING.outbound_id(TENANT, f"sale-{number:04}") for number in range(count)
    )
    assert sent[0] and sent[1], "both took part"


async def test_a_dead_owners_send_is_taken_over_after_its_lease_and_not_before(
    postgres_dsn: str,
) -> None:
    gate = Gate()
    vendor = FakeVendor(gate)
    async with open_house(postgres_dsn, vendor, boot_id="boot-b", policy=QUICK) as living:
        async with open_house(
            postgres_dsn, vendor, boot_id="boot-a", policy=QUICK, limits=LEASE
        ) as dying:
            caller = dying.booking_task()
            await gate.arrived.wait()
            vendor.execute(vendor.sends[0])
            leased = await dying.get()
            await dying.stop(0)
            await asyncio.gather(caller, return_exceptions=True)
        answer = await living.book()
        history, _ = await living.story()

    taken = next(entry for entry in history if entry.note == "taken up")
    assert leased.lease_until is not None
    assert taken.time >= leased.lease_until
    assert taken.time <= leased.lease_until + timedelta(seconds=5.5)
    assert answer.is_replayed
    assert len(vendor.effects) == 1


@pytest.mark.parametrize("is_resent", [True, False])
async def test_an_answer_that_comes_after_the_lease_was_lost_is_still_the_truth(
    postgres_dsn: str, is_resent: bool
) -> None:
    """A frozen process: meanwhile another one took its booking for a doubt, or a person's."""
    gate = Gate()
    vendor = FakeVendor(gate)
    promises: dict[str, bool] | None = None if is_resent else {}
    async with two_houses(postgres_dsn, vendor, limits=LEASE, promises=promises) as houses:
        first, second = houses
        caller = first.booking_task()
        await gate.arrived.wait()
        booking = await first.get()
        assert booking.lease_until is not None
        lease_until = booking.lease_until
        await until(lambda: second.journal.now() > lease_until)
        second.engine._recovery.wake()
        doubted = await second.becomes(State.IN_DOUBT, State.NEEDS_REVIEW)
        gate.go.set()
        answer = await caller
        ended = await second.get()
        repeat = await second.book()
        # The hold of a review is gone with it.
        await second.book("sale-0002")
        history, attempts = await second.story()

    assert doubted.state is (State.IN_DOUBT if is_resent else State.NEEDS_REVIEW)
    assert ended.state is State.SUCCEEDED
    assert answer.body == repeat.body == ended.answer_bytes
    assert "after the lease had ended" in history[-1].note
    assert [entry.sequence for entry in history] == list(range(1, len(history) + 1))
    assert len(vendor.effects) == 2
    assert attempts


async def test_a_late_answer_does_not_undo_what_was_found_out_meanwhile(
    postgres_dsn: str,
) -> None:
    """The other one sent it again and was answered; both heard the same vendor."""
    gate = Gate()
    vendor = FakeVendor(gate)
    async with two_houses(postgres_dsn, vendor, policy=QUICK, limits=LEASE) as (first, second):
        caller = first.booking_task()
        await gate.arrived.wait()
        second.engine._recovery.wake()
        ended = await second.becomes(State.SUCCEEDED)
        gate.go.set()
        answer = await caller

        assert await first.get() == ended
        assert answer.body == ended.answer_bytes
    assert len(vendor.effects) == 1


async def test_a_late_refusal_does_not_end_what_another_has_taken_for_a_doubt(
    postgres_dsn: str,
) -> None:
    """Its successor may have sent it again since: only a success is a success for all time."""
    gate = Gate(refuses())
    async with two_houses(postgres_dsn, FakeVendor(gate), limits=LEASE) as (first, second):
        caller = asyncio.create_task(first.fails(within_s=5))
        await gate.arrived.wait()
        booking = await first.get()
        assert booking.lease_until is not None
        lease_until = booking.lease_until
        await until(lambda: second.journal.now() > lease_until)
        second.engine._recovery.wake()
        await second.becomes(State.IN_DOUBT)
        gate.go.set()
        error = await caller

        assert (await second.get()).state is State.IN_DOUBT
    assert error.fate is Fate.UNKNOWN


async def test_a_replica_that_starts_leaves_alone_what_another_holds(postgres_dsn: str) -> None:
    gate = Gate()
    vendor = FakeVendor(gate)
    async with open_house(postgres_dsn, vendor, boot_id="boot-a", policy=QUICK) as first:
        caller = first.booking_task()
        await gate.arrived.wait()
        async with open_house(postgres_dsn, vendor, boot_id="boot-b", policy=QUICK) as second:
            looks = 0

            async def count() -> None:
                nonlocal looks
                looks += 1

            def has_looked() -> bool:
                second.engine._recovery.wake()
                return looks >= 3

            second.journal.before_due = count
            await until(has_looked)
            state = (await second.get()).state
        gate.go.set()
        await caller

        assert state is State.SENDING
        assert await first.moves() == [State.SENDING, State.SUCCEEDED]


async def test_a_doubt_that_one_replica_resends_is_not_resent_by_another_who_is_asked(
    postgres_dsn: str,
) -> None:
    gate = Gate()
    vendor = FakeVendor(loses_the_answer, gate)
    async with two_houses(postgres_dsn, vendor) as (first, second):
        await doubt(first)
        asked = asyncio.create_task(resolve(first, None))
        await gate.arrived.wait()
        also = await asyncio.gather(
            *(second.fails(within_s=BRIEF_S) for _ in range(5)), return_exceptions=True
        )
        gate.go.set()
        booking = await asked

    assert booking.state is State.SUCCEEDED
    assert len(vendor.sends) == 2
    assert len(also) == 5


async def test_doubts_elsewhere_count_towards_the_limit_here(postgres_dsn: str) -> None:
    vendor = FakeVendor(loses_the_request)
    limits = Limits(unresolved_max=1)
    async with two_houses(postgres_dsn, vendor, limits=limits) as (first, second):
        await doubt(first)

        def has_counted() -> bool:
            second.engine._recovery.wake()
            return second.link.unresolved_count == 1

        await until(has_counted)
        refused = await second.fails("sale-0002")

    assert refused.reason is Reason.PROVIDER_UNREACHABLE


# --- time -------------------------------------------------------------------------------------


async def test_what_is_stored_has_the_databases_time_whatever_this_machine_believes(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    real = time.time_ns()
    monkeypatch.setattr(time, "time", lambda: real / 1e9 + 3_600)
    monkeypatch.setattr(time, "time_ns", lambda: real + 3_600 * 10**9)
    async with open_house(postgres_dsn) as house:
        await house.book()
        booking = await house.get()
        history, _ = await house.story()
        with psycopg.connect(postgres_dsn) as connection:
            row = connection.execute(b"SELECT clock_timestamp()").fetchone()
        assert row is not None
        off = abs((house.journal.now() - row[0]).total_seconds())

    assert off < 10
    for time_of_it in (booking.create_time, booking.settle_time, history[0].time):
        assert time_of_it is not None
        assert abs((time_of_it - row[0]).total_seconds()) < 10


async def test_a_life_that_ended_in_the_middle_of_a_hundred_loses_and_doubles_nothing(
    postgres_dsn: str,
) -> None:
    """Half of the callers are with a process that dies; all of them repeat with the other."""
    vendor = FakeVendor()
    async with open_house(postgres_dsn, vendor, boot_id="boot-b", policy=QUICK) as living:
        async with open_house(
            postgres_dsn, vendor, boot_id="boot-a", policy=QUICK, limits=BRIEF_LEASE
        ) as dying:
            callers = [dying.booking_task(f"sale-{number:04}") for number in range(100)]
            await until(lambda: len(vendor.effects) >= 10)
            await dying.stop(0)
            await asyncio.gather(*callers, return_exceptions=True)
        answers = await asyncio.gather(
            *(living.book(f"sale-{number:04}", within_s=30) for number in range(100))
        )
        heard = [caller.result() for caller in callers if not caller.exception()]

    assert len(vendor.effects) == 100
    assert {answer.body for answer in heard} <= {answer.body for answer in answers}


async def test_a_finding_is_refused_while_another_replica_sends_it_again(
    postgres_dsn: str,
) -> None:
    gate = Gate()
    vendor = FakeVendor(loses_the_request, gate)
    async with two_houses(postgres_dsn, vendor) as (first, second):
        await doubt(first)
        caller = first.booking_task()
        await gate.arrived.wait()
        error = await failure(resolve(second, NOT_BOOKED))
        gate.go.set()
        await caller

        assert error.reason is Reason.RESOLUTION_NOT_POSSIBLE
        assert (await second.get()).state is State.SUCCEEDED
