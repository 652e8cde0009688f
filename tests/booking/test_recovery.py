"""Recovery: what it sends again, what it hands to a person, and what no crash may lose."""

import asyncio
import itertools
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from loyalty_gateway.booking.calls import Decision, PromiseSource
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.booking import AttemptKind, Booking, State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.journal.journal import PromiseRow
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.journal.writer import Change, unavailable
from tests.booking.house import (
    CARD,
    KEYRING,
    PATIENT,
    QUICK,
    TENANT,
    House,
    failure,
    in_s,
    open_house,
    until,
)
from tests.booking.vendor import (
    RESEND_IS_SAFE,
    TAKES_PARTS,
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

BRIEF_LEASE = Limits(lease_s=0.3)
"""A process that died is known to be dead by its lease alone where others may live on."""

BOOKED = Decision(Fate.EXECUTED, "statement line 7", "seen at the vendor")
NOT_BOOKED = Decision(Fate.NOT_EXECUTED, "statement of the day", "not seen at the vendor")


async def resolve(
    house: House, decision: Decision | None, within_s: float = 10.0, request_id: str = "sale-0001"
) -> Booking:
    booking = await house.get(request_id)
    return await house.engine.resolve(TENANT, booking.booking_id, decision, "anna", in_s(within_s))


async def doubt(house: House, request_id: str = "sale-0001") -> Booking:
    """A booking that its caller left in doubt."""
    await house.fails(request_id, within_s=0.8)
    return await house.get(request_id)


# --- sending again ----------------------------------------------------------------------------


async def test_a_doubt_is_sent_again_under_the_same_id_until_it_ends(place: Place) -> None:
    vendor = FakeVendor(loses_the_answer, loses_the_request, is_not_reached, books)
    async with open_house(place, vendor, policy=QUICK) as house:
        await asyncio.gather(house.book(within_s=0.3), return_exceptions=True)
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
        await asyncio.gather(house.book(within_s=0.3), return_exceptions=True)
        await until(lambda: len(vendor.sends) == 4)
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
        await asyncio.gather(house.book(within_s=0.3), return_exceptions=True)

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
    policy = replace(QUICK, settle_s=0.4)
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
    assert attempts[-1].start_time >= ended + timedelta(seconds=0.4)
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
    vendor = FakeVendor(otherwise=loses_the_request, key_lifetime_s=1.2)
    async with open_house(place, vendor, policy=policy) as house:
        await asyncio.gather(house.book(within_s=0.3), return_exceptions=True)
        booking = await house.becomes(State.NEEDS_REVIEW)
        attempts = (await house.story())[1]
        sends = len(vendor.sends)
        error = await house.fails()

    assert sends > 2
    assert booking.first_sent_time is not None
    stop = booking.first_sent_time + timedelta(seconds=0.6)
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


async def left_in_doubt(place: Place, act: Act = loses_the_answer) -> None:
    """A journal that an earlier process left with one booking in doubt."""
    async with open_house(place, FakeVendor(act), boot_id="boot-0") as house:
        assert (await doubt(house)).state is State.IN_DOUBT


async def test_a_connection_that_is_gone_leaves_its_doubts_to_a_person(place: Place) -> None:
    await left_in_doubt(place)
    vendor = FakeVendor()
    async with open_house(place, policy=QUICK, connections={"other": vendor}) as house:
        booking = await kicked_to(house, State.NEEDS_REVIEW)

    assert vendor.sends == []
    assert booking.next_attempt_time is None


async def kicked_to(house: House, state: State) -> Booking:
    """Has the next step taken now, as an operator may, and waits for the state."""
    await asyncio.gather(resolve(house, None, within_s=1), return_exceptions=True)
    return await house.becomes(state)


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
        await asyncio.gather(house.book(within_s=0.5), return_exceptions=True)
        booking = await house.get()

        assert booking.state is State.IN_DOUBT
        assert booking.next_attempt_time is not None
        assert booking.next_attempt_time > house.journal.now() + timedelta(seconds=30)
    assert vendor.sends == []


# --- a process that died ----------------------------------------------------------------------


async def crashed_while_sending(place: Place, then: Act) -> FakeVendor:
    """A journal whose process died while the vendor had the request; `then` is its effect."""
    vendor = FakeVendor(Gate())
    async with open_house(place, vendor, boot_id="boot-0", limits=BRIEF_LEASE) as house:
        caller = house.booking_task()
        await until(lambda: vendor.running == 1)
        if then is loses_the_answer:
            vendor.execute(vendor.sends[0])
        await house.stop(0)
        await asyncio.gather(caller, return_exceptions=True)
    return vendor


def without_repeats(states: list[State]) -> list[State]:
    """The moves, without the steps that stayed where they were."""
    return [state for state, _ in itertools.groupby(states)]


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
    async with open_house(place, vendor, boot_id="boot-0", limits=BRIEF_LEASE) as house:
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


async def crashed_while_resending(place: Place) -> Booking:
    """A journal whose process died while recovery's resend was under way."""
    vendor = FakeVendor(loses_the_request, Gate())
    async with open_house(
        place, vendor, boot_id="boot-0", policy=QUICK, limits=BRIEF_LEASE
    ) as house:
        caller = house.booking_task(within_s=1)
        await until(lambda: len(vendor.sends) == 2)
        booking = await house.get()
        await house.stop(0)
        await asyncio.gather(caller, return_exceptions=True)
    assert booking.owner == "boot-0"
    assert booking.doubtful_attempts == 2
    return booking


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
        caller = house.booking_task(within_s=1)
        await until(lambda: len(vendor.sends) == 2)
        await house.stop(0)
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
        await asyncio.gather(resolve(house, None, within_s=0.5), return_exceptions=True)

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


async def looked_at_after_its_lease(house: House) -> Booking:
    """The booking, once recovery has had a whole look for due ones after its lease."""
    booking = await house.get()
    assert booking.lease_until is not None
    lease_until = booking.lease_until
    await until(lambda: house.journal.now() > lease_until)
    looks = 0

    async def count() -> None:
        nonlocal looks
        looks += 1

    def has_looked() -> bool:
        house.engine._recovery.wake()
        return looks >= 2

    house.journal.before_due = count
    await until(has_looked)
    return await house.get()


# --- operators --------------------------------------------------------------------------------


async def test_an_operators_finding_ends_a_doubt_as_booked(place: Place) -> None:
    async with open_house(place, FakeVendor(loses_the_answer)) as house:
        await doubt(house)
        booking = await resolve(house, BOOKED)
        answer = await house.book()
        history = (await house.story())[0]

        assert booking.state is State.SUCCEEDED
        assert booking.applied == booking.asked
        assert booking.settle_time is not None
        assert booking.next_attempt_time is None
        assert answer.body == booking.answer_bytes
        assert ("operator-evidence", "statement line 7") in [
            (it.kind, it.value) for it in booking.references
        ]
        assert history[-1].actor == "operator anna"
        assert "statement line 7" in history[-1].note
        assert len(house.vendor.sends) == 1


async def test_an_operators_finding_ends_a_review_as_not_booked(place: Place) -> None:
    async with open_house(place, FakeVendor(contradicts)) as house:
        await house.fails()
        booking = await resolve(house, NOT_BOOKED)
        error = await house.fails()

    assert booking.state is State.NOT_EXECUTED
    assert error.reason is Reason.BOOKING_NOT_EXECUTED
    assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, True)


async def test_the_part_that_was_applied_stays_unknown_where_a_part_was_allowed(
    place: Place,
) -> None:
    vendor = FakeVendor(contradicts, offers={Operation.DEBIT_BALANCE: TAKES_PARTS})
    async with open_house(place, vendor) as house:
        await house.fails(allow_partial=True)
        booking = await resolve(house, BOOKED)

    assert booking.applied is None


async def test_a_finding_frees_a_caller_who_waits_for_the_doubt_to_end(place: Place) -> None:
    async with open_house(place, FakeVendor(loses_the_answer)) as house:
        caller = house.booking_task(within_s=60)
        await house.becomes(State.IN_DOUBT)
        await resolve(house, BOOKED)
        async with asyncio.timeout(10):
            answer = await caller

        assert answer.body == (await house.get()).answer_bytes


async def test_secrets_in_an_operators_words_are_not_kept(place: Place) -> None:
    async with open_house(place, FakeVendor(contradicts)) as house:
        await house.fails()
        words = Decision(Fate.EXECUTED, f"card {CARD}", "api_key=abcdef123456")
        booking = await resolve(house, words)
        history = (await house.story())[0]

    kept = f"{booking.references} {history}"
    assert CARD not in kept and "abcdef123456" not in kept


async def test_a_finding_is_refused_while_a_step_of_recovery_runs(place: Place) -> None:
    gate = Gate()
    vendor = FakeVendor(loses_the_answer, gate)
    async with open_house(place, vendor) as house:
        await doubt(house)
        caller = house.booking_task()
        await gate.arrived.wait()
        error = await failure(resolve(house, NOT_BOOKED))
        gate.go.set()
        await caller

    assert error.reason is Reason.RESOLUTION_NOT_POSSIBLE
    assert error.fate is Fate.UNKNOWN


@pytest.mark.parametrize(
    ("act", "same", "other"),
    [(books, BOOKED, NOT_BOOKED), (refuses(), NOT_BOOKED, BOOKED)],
)
async def test_a_final_booking_takes_no_other_finding(
    place: Place, act: Act, same: Decision, other: Decision
) -> None:
    async with open_house(place, FakeVendor(act)) as house:
        await asyncio.gather(house.book(), return_exceptions=True)
        before = await house.get()
        assert await resolve(house, same) == before
        assert await resolve(house, None) == before
        error = await failure(resolve(house, other))

        assert error.reason is Reason.RESOLUTION_NOT_POSSIBLE
        assert (error.fate, error.is_final) == (before.outcome, True)
        assert await house.get() == before


async def test_a_booking_under_way_takes_no_finding(place: Place) -> None:
    gate = Gate()
    async with open_house(place, FakeVendor(gate)) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        error = await failure(resolve(house, NOT_BOOKED))
        gate.go.set()
        await caller

    assert error.reason is Reason.RESOLUTION_NOT_POSSIBLE


async def test_a_booking_whose_request_id_may_be_repeated_takes_no_finding(
    place: Place,
) -> None:
    """CancelBooking closes it."""
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        await house.fails()
        error = await failure(resolve(house, BOOKED))

    assert error.reason is Reason.RESOLUTION_NOT_POSSIBLE
    assert error.fate is Fate.NOT_EXECUTED


async def test_a_codec_that_fails_on_a_finding_changes_nothing(place: Place) -> None:
    async with open_house(place, FakeVendor(contradicts)) as house:
        await house.fails()
        before = await house.get()
        house.codec.breaks = True
        with pytest.raises(RuntimeError):
            await resolve(house, BOOKED)

        assert await house.get() == before


async def test_an_operator_may_have_a_review_asked_once_more(place: Place) -> None:
    """The promise is proven by now, and the vendor still remembers the key."""
    vendor = FakeVendor(loses_the_answer)
    async with open_house(place, vendor, promises={}) as house:
        await house.fails()
        refused = await failure(resolve(house, None))
    async with open_house(place, vendor) as house:
        booking = await resolve(house, None)
        moves = await house.moves()

    assert refused.reason is Reason.RESOLUTION_NOT_POSSIBLE
    assert booking.state is State.SUCCEEDED
    assert moves[:4] == [State.SENDING, State.NEEDS_REVIEW, State.IN_DOUBT, State.IN_DOUBT]
    assert len(vendor.effects) == 1


async def test_asking_now_does_not_wait_for_the_schedule(place: Place) -> None:
    async with open_house(place, FakeVendor(loses_the_answer)) as house:
        await doubt(house)

        assert (await resolve(house, None)).state is State.SUCCEEDED


async def test_asking_now_never_outlives_the_askers_deadline(place: Place) -> None:
    vendor = FakeVendor(loses_the_answer, otherwise=Gate())
    async with open_house(place, vendor) as house:
        await doubt(house)
        async with asyncio.timeout(8):
            booking = await resolve(house, None, within_s=0.3)
        await house.stop(0)

    assert booking.state is State.IN_DOUBT


async def test_an_unknown_or_foreign_booking_is_not_found(place: Place) -> None:
    async with open_house(place, FakeVendor(contradicts)) as house:
        await house.fails()
        booking = await house.get()
        errors = [
            await failure(house.engine.resolve(tenant, booking_id, BOOKED, "anna", in_s(5)))
            for tenant, booking_id in ((TENANT, "nope"), ("another", booking.booking_id))
        ]

    assert {error.reason for error in errors} == {Reason.NOT_FOUND}


# --- the loop itself --------------------------------------------------------------------------


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
    policy = replace(QUICK, schedule_s=(1.0,))
    vendor = FakeVendor(loses_the_answer, loses_the_answer)
    async with open_house(place, vendor, policy=policy) as house:
        await house.fails("sale-0001", within_s=0.4)
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

    assert took < 2


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
        await asyncio.gather(*(house.fails(request_id, within_s=1.5) for request_id in ids))
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
        caller = asyncio.create_task(house.fails(within_s=0.6))
        await gate.arrived.wait()
        stopping = asyncio.create_task(house.engine.stop(20))
        await caller
        gate.go.set()
        await stopping

        assert (await house.get()).state is State.SUCCEEDED


# --- promises ---------------------------------------------------------------------------------


async def test_a_proof_is_remembered_for_the_target_it_was_made_on(place: Place) -> None:
    row = PromiseRow(
        "main",
        RESEND_IS_SAFE,
        KEYRING.target_hash(FakeVendor().target),
        True,
        datetime(2026, 11, 21, tzinfo=UTC),
        "seen",
    )
    async with open_house(place, promises={}) as house:
        await house.journal.save_promise(TENANT, row)
    async with open_house(place, promises={}) as house:
        known = house.link.promise(RESEND_IS_SAFE)
    moved = FakeVendor(target="https://vendor.test|credential-2")
    async with open_house(place, moved, promises={}) as house:
        unknown = house.link.promise(RESEND_IS_SAFE)

    assert (known.value, known.source) == (True, PromiseSource.PROVEN)
    assert (unknown.value, unknown.source) == (False, PromiseSource.DEFAULT)
