"""Recovery: what it sends again, what it hands to a person, and what no crash may lose."""

import asyncio
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.booking import AttemptKind, State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.journal.writer import Change
from tests.booking.house import (
    BRIEF_S,
    CARD,
    PATIENT,
    QUICK,
    TENANT,
    open_house,
    until,
)
from tests.booking.stages import (
    BRIEF_LEASE,
    crashed_while_resending,
    crashed_while_sending,
    doubt,
    kicked_to,
    left_in_doubt,
    looked_at_after_its_lease,
    resolve,
    without_repeats,
)
from tests.booking.vendor import (
    RESEND_IS_SAFE,
    Act,
    FakeVendor,
    Gate,
    books,
    contradicts,
    is_not_reached,
    limits_the_rate,
    loses_the_answer,
    loses_the_request,
    refuses,
)
from tests.journal.rows import set_directly
from tests.postgres import Place

# --- sending again ----------------------------------------------------------------------------


async def test_a_doubt_is_sent_again_under_the_same_id_until_it_ends(place: Place) -> None:
    vendor = FakeVendor(loses_the_answer, loses_the_request, is_not_reached, books)
    async with open_house(place, vendor, policy=QUICK) as house:
        await asyncio.gather(house.book(), return_exceptions=True)
        booking = await house.becomes(State.SUCCEEDED)
        attempts = (await house.story())[1]

    assert len({send.outbound_id for send in vendor.sends}) == 1
    assert {send.order.account_id for send in vendor.sends} == {CARD}
    assert len({send.order for send in vendor.sends}) == 1
    assert [send.attempt_number for send in vendor.sends] == [1, 2, 3, 4]
    assert [attempt.number for attempt in attempts] == [1, 2, 3, 4]
    assert [attempt.kind for attempt in attempts] == [AttemptKind.SEND] + [AttemptKind.RESEND] * 3
    assert len(vendor.effects) == 1
    assert booking.attempt_count == 4


async def test_recovery_keeps_its_schedule(place: Place) -> None:
    policy = replace(QUICK, schedule_s=(0.2, 0.3), then_every_s=0.4)
    vendor = FakeVendor(otherwise=loses_the_request)
    async with open_house(place, vendor, policy=policy) as house:
        await asyncio.gather(house.book(within_s=BRIEF_S), return_exceptions=True)
        await until(lambda: len(vendor.sends) >= 4)
        await house.becomes(State.IN_DOUBT)
        attempts = (await house.story())[1]

    starts = [attempt.start_time for attempt in attempts]
    waits = [(b - a).total_seconds() for a, b in itertools.pairwise(starts)]
    for wait, planned in zip(waits, (0.2, 0.3, 0.4), strict=False):
        assert wait >= 0.8 * planned


async def test_recovery_never_carries_a_fault_that_a_caller_wished_for(place: Place) -> None:
    vendor = FakeVendor(loses_the_answer)
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.book(fault="lost-answer")

    assert [send.fault for send in vendor.sends] == ["lost-answer", ""]


async def test_a_vendor_that_asks_recovery_for_patience_is_left_in_peace(place: Place) -> None:
    vendor = FakeVendor(loses_the_answer, limits_the_rate(120))
    async with open_house(place, vendor, policy=QUICK) as house:
        await asyncio.gather(house.book(within_s=BRIEF_S), return_exceptions=True)

        async def is_put_off() -> bool:
            booking = await house.get()
            return booking.attempt_count == 2 and not booking.owner

        await until(is_put_off)
        booking = await house.get()

        assert booking.next_attempt_time is not None
        wait = booking.next_attempt_time - house.journal.now()
        assert timedelta(seconds=110) < wait <= timedelta(seconds=120)
        assert booking.doubtful_attempts == 1


async def test_a_refused_resend_stays_in_doubt_until_the_settle_time_and_is_then_declined(
    place: Place,
) -> None:
    policy = replace(QUICK, settle_s=2.0)
    vendor = FakeVendor(loses_the_request, otherwise=refuses())
    async with open_house(place, vendor, policy=policy) as house:
        error = await house.fails()
        booking = await house.get()
        attempts = (await house.story())[1]

    assert booking.state is State.DECLINED
    assert error.reason is Reason.INSUFFICIENT_BALANCE
    assert error.is_final
    ended = attempts[0].end_time
    assert ended is not None
    assert attempts[-1].start_time >= ended + timedelta(seconds=2)
    assert len(attempts) > 2


async def test_a_contradiction_met_by_recovery_is_a_persons(place: Place) -> None:
    vendor = FakeVendor(loses_the_answer, contradicts)
    async with open_house(place, vendor, policy=QUICK) as house:
        error = await house.fails()

    assert error.reason is Reason.BOOKING_NEEDS_REVIEW
    assert len(vendor.sends) == 2


async def test_recovery_works_on_a_limited_number_at_a_time(place: Place) -> None:
    gate = Gate()
    vendor = FakeVendor(*[loses_the_answer] * 6, otherwise=gate)
    async with open_house(place, vendor, policy=QUICK, parallel_max=2) as house:
        callers = [house.booking_task(f"sale-{number:04}") for number in range(6)]
        await until(lambda: vendor.running == 2 and len(vendor.sends) >= 8)
        gate.go.set()
        await asyncio.gather(*callers)

    assert len(vendor.effects) == 6
    assert vendor.running_max <= 6


# --- where resending stops --------------------------------------------------------------------


async def test_recovery_stops_at_half_of_the_vendors_memory_and_calls_a_person(
    place: Place,
) -> None:
    policy = replace(QUICK, then_every_s=0.05)
    vendor = FakeVendor(otherwise=loses_the_request, key_lifetime_s=6.0)
    async with open_house(place, vendor, policy=policy) as house:
        await asyncio.gather(house.book(), return_exceptions=True)
        booking = await house.becomes(State.NEEDS_REVIEW)
        attempts = (await house.story())[1]
        sends = len(vendor.sends)
        error = await house.fails()

    assert sends > 2
    assert booking.first_sent_time is not None
    stop = booking.first_sent_time + timedelta(seconds=3)
    assert all(attempt.start_time < stop for attempt in attempts)
    assert error.reason is Reason.BOOKING_NEEDS_REVIEW
    assert len(vendor.sends) == sends


async def test_without_the_promise_nothing_is_sent_again(place: Place) -> None:
    vendor = FakeVendor(loses_the_answer, is_idempotent=False)
    async with open_house(place, vendor, policy=QUICK, promises={}) as house:
        error = await house.fails()
        repeat = await house.fails()

    assert error.reason is repeat.reason is Reason.BOOKING_NEEDS_REVIEW
    assert len(vendor.sends) == 1


async def test_a_promise_that_was_lost_meanwhile_stops_recovery(place: Place) -> None:
    vendor = FakeVendor(otherwise=loses_the_answer)
    async with open_house(place, vendor) as house:
        await doubt(house)
        house.link.proven.clear()
        error = await house.fails()

    assert error.reason is Reason.BOOKING_NEEDS_REVIEW
    assert len(vendor.sends) == 1


async def test_a_connection_that_is_gone_leaves_its_doubts_to_a_person(place: Place) -> None:
    await left_in_doubt(place)
    vendor = FakeVendor()
    async with open_house(place, policy=QUICK, connections={"other": vendor}) as house:
        booking = await kicked_to(house, State.NEEDS_REVIEW)

    assert vendor.sends == []
    assert booking.next_attempt_time is None


async def test_a_doubt_of_another_target_is_not_sent_to_this_one(place: Place) -> None:
    await left_in_doubt(place)
    vendor = FakeVendor(target="https://vendor.test|credential-2")
    async with open_house(place, vendor, policy=QUICK) as house:
        await kicked_to(house, State.NEEDS_REVIEW)

    assert vendor.sends == []


async def test_a_doubt_of_another_target_is_sent_where_keys_survive_the_change(
    place: Place,
) -> None:
    await left_in_doubt(place)
    vendor = FakeVendor(target="https://vendor.test|credential-2")
    async with open_house(
        place,
        vendor,
        policy=QUICK,
        promises={RESEND_IS_SAFE: True, "keys_survive_rotation": True},
    ) as house:
        await kicked_to(house, State.SUCCEEDED)

    assert len(vendor.sends) == 1


async def test_a_doubt_whose_sealing_key_is_gone_is_a_persons(place: Place) -> None:
    await left_in_doubt(place)
    rotated = Keyring([("k2", b"t" * 32)], b"p" * 32)
    vendor = FakeVendor()
    async with open_house(place, vendor, policy=QUICK, keyring=rotated) as house:
        await kicked_to(house, State.NEEDS_REVIEW)

    assert vendor.sends == []


async def test_a_doubt_sealed_under_an_older_key_is_still_sent_again(place: Place) -> None:
    await left_in_doubt(place)
    rotated = Keyring([("k2", b"t" * 32), ("k1", b"s" * 32)], b"p" * 32)
    vendor = FakeVendor()
    async with open_house(place, vendor, policy=QUICK, keyring=rotated) as house:
        await kicked_to(house, State.SUCCEEDED)

    assert [send.order.account_id for send in vendor.sends] == [CARD]


async def test_a_paused_connection_is_left_in_peace_and_its_doubts_wait(place: Place) -> None:
    await left_in_doubt(place)
    vendor = FakeVendor()
    async with open_house(place, vendor, policy=QUICK, is_paused=True) as house:
        await asyncio.gather(house.book(within_s=BRIEF_S), return_exceptions=True)
        booking = await house.get()

        assert booking.state is State.IN_DOUBT
        assert booking.next_attempt_time is not None
        assert booking.next_attempt_time > house.journal.now() + timedelta(seconds=30)
    assert vendor.sends == []


# --- a process that died ----------------------------------------------------------------------


async def test_what_is_left_open_and_cannot_be_understood_stops_no_start(place: Place) -> None:
    await crashed_while_sending(place, loses_the_request)
    async with open_house(place, boot_id="boot-0", starts=False) as house:
        left = await house.get()
        await set_directly(house.journal, left, "reason = 'OF_A_LATER_VERSION'")
    async with open_house(place) as house:
        await house.book("sale-0002")
        error = await house.fails()

    assert (error.reason, error.booking) == (Reason.DATA_LOSS, left.name)


@pytest.mark.parametrize("then", [loses_the_answer, loses_the_request])
async def test_what_a_dead_process_was_sending_is_taken_over_at_the_start(
    place: Place, then: Act
) -> None:
    """Whether it had its effect or not: one effect, and one truth."""
    vendor = await crashed_while_sending(place, then)
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.becomes(State.SUCCEEDED)
        answer = await house.book()
        moves = await house.moves()
        attempts = (await house.story())[1]

    assert without_repeats(moves)[:2] == [State.SENDING, State.IN_DOUBT]
    assert answer.is_replayed
    assert len(vendor.effects) == 1
    assert attempts[0].end_time is None
    assert attempts[0].fate is Fate.UNKNOWN


async def test_a_dead_process_leaves_a_doubt_to_a_person_where_resending_is_not_safe(
    place: Place,
) -> None:
    vendor = await crashed_while_sending(place, loses_the_answer)
    async with open_house(place, vendor, policy=QUICK, promises={}) as house:
        await house.becomes(State.NEEDS_REVIEW)

    assert len(vendor.sends) == 1


async def test_bookings_of_a_file_are_taken_over_before_the_first_call_is_answered(
    tmp_path: Path,
) -> None:
    """A file has one process, so whoever held a booking of it before is gone."""
    vendor = await crashed_while_sending(tmp_path / "journal", loses_the_answer)
    async with open_house(tmp_path / "journal", vendor) as house:
        assert (await house.get()).state is State.IN_DOUBT


async def test_more_orphans_than_one_page_are_all_taken_over(place: Place) -> None:
    vendor = FakeVendor(otherwise=Gate())
    async with open_house(
        place, vendor, boot_id="boot-0", limits=Limits(lease_s=0.3, send_by_s=20)
    ) as house:
        callers = [house.booking_task(f"sale-{number:04}") for number in range(120)]
        more = [house.booking_task(f"more-{number:04}") for number in range(110)]
        await until(lambda: vendor.running == 128)
        await house.stop(0)
        await asyncio.gather(*callers, *more, return_exceptions=True)
    async with open_house(place, FakeVendor()) as house:

        async def are_taken_over() -> bool:
            rows = await house.journal.unresolved(TENANT)
            return [(row.state, row.count) for row in rows] == [(State.IN_DOUBT, 128)]

        await until(are_taken_over)


async def test_orphans_are_taken_over_page_by_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, vendor = tmp_path / "journal", FakeVendor(otherwise=Gate())
    names = [f"sale-{number:04}" for number in range(3)]
    async with open_house(place, vendor, boot_id="boot-0", limits=BRIEF_LEASE) as house:
        callers = [house.booking_task(name) for name in names]
        await until(lambda: vendor.running == 3)
        await house.stop(0)
        await asyncio.gather(*callers, return_exceptions=True)
    async with open_house(place, FakeVendor(), starts=False) as house:
        orphans = house.journal.orphans
        monkeypatch.setattr(
            house.journal, "orphans", lambda tenant, _, after: orphans(tenant, 1, after)
        )
        await house.engine.start(proves_itself=False)

        assert [(await house.get(name)).state for name in names] == [State.IN_DOUBT] * 3


async def test_a_resend_that_a_dead_process_began_is_kept_as_an_attempt_without_an_end(
    place: Place,
) -> None:
    await crashed_while_resending(place)
    vendor = FakeVendor()
    async with open_house(place, vendor, policy=QUICK) as house:
        await kicked_to(house, State.SUCCEEDED)
        attempts = (await house.story())[1]

    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    assert [attempt.end_time is None for attempt in attempts] == [False, True, False]
    assert attempts[1].kind is AttemptKind.RESEND
    assert attempts[1].fate is Fate.UNKNOWN


async def test_the_settle_time_counts_from_the_resend_of_a_dead_process_too(
    place: Place,
) -> None:
    """Its effect may come late: a refusal right after it proves nothing of it."""
    before = await crashed_while_resending(place)
    assert before.doubt_time is not None
    first_doubt = before.doubt_time
    await until(lambda: datetime.now(UTC) > first_doubt + timedelta(seconds=1.1))
    policy = replace(PATIENT, settle_s=1.0)
    async with open_house(place, FakeVendor(otherwise=refuses()), policy=policy) as house:

        async def has_asked() -> bool:
            booking = await house.get()
            return len(house.vendor.sends) == 1 and not booking.owner

        await until(has_asked)
        booking = await house.get()

    assert booking.state is State.IN_DOUBT
    assert booking.doubtful_attempts == 2
    assert booking.doubt_time is not None
    assert booking.doubt_time > first_doubt + timedelta(seconds=1)


async def test_a_claim_of_a_dead_process_is_taken_over_when_its_lease_ends(
    place: Place,
) -> None:
    """Nobody asks for it: the loop finds it by itself."""
    vendor = FakeVendor(loses_the_request, Gate())
    limits = Limits(lease_s=1.0)
    async with open_house(place, vendor, boot_id="boot-0", policy=QUICK, limits=limits) as house:
        caller = house.booking_task()
        await until(lambda: len(vendor.sends) == 2)
        await house.stop(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.becomes(State.SUCCEEDED)

    assert len(vendor.effects) == 1


async def test_a_booking_that_another_owner_claimed_is_not_sent_by_this_one(
    place: Place,
) -> None:
    vendor = FakeVendor(loses_the_answer)
    async with open_house(place, vendor) as house:
        booking = await doubt(house)

        async def claim_first() -> None:
            house.journal.before_change = None
            claimed = replace(booking, epoch=booking.epoch + 1, owner="boot-9")
            assert await house.journal.change(Change(booking, claimed, "somebody else"))

        house.journal.before_change = claim_first
        await asyncio.gather(resolve(house, None, within_s=BRIEF_S), return_exceptions=True)

    assert len(vendor.sends) == 1


async def test_a_sent_booking_whose_lease_ran_out_is_left_to_the_flight_that_still_works(
    place: Place,
) -> None:
    gate = Gate()
    limits = Limits(lease_s=0.05)
    async with open_house(place, FakeVendor(gate), policy=QUICK, limits=limits) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        due = await looked_at_after_its_lease(house)
        gate.go.set()
        await caller

        assert due.state is State.SENDING
        assert await house.moves() == [State.SENDING, State.SUCCEEDED]
        assert len(house.vendor.sends) == 1
