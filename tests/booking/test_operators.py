"""An operator's word: what it may decide, what it may not, and what it can never say twice."""

import asyncio

import pytest

from loyalty_gateway.booking.calls import Decision
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import Operation
from tests.booking.house import (
    BRIEF_S,
    CARD,
    TENANT,
    failure,
    in_s,
    open_house,
)
from tests.booking.stages import BOOKED, NOT_BOOKED, doubt, resolve
from tests.booking.vendor import (
    TAKES_PARTS,
    Act,
    FakeVendor,
    Gate,
    books,
    contradicts,
    is_not_reached,
    loses_the_answer,
    refuses,
)
from tests.postgres import Place


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
            booking = await resolve(house, None, within_s=BRIEF_S)
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
