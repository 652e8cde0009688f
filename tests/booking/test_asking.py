"""Finding out by asking: our own number, or a statement; "not found" proves something late."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty_gateway.booking.calls import AccountKey
from loyalty_gateway.booking.connections import NO_OTHER_CHANNEL_BOOKS
from loyalty_gateway.booking.findings import after_finding
from loyalty_gateway.booking.judge import Means, Policy
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import TRANSITIONS, AttemptKind, Booking, Intent, State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    AMOUNT_ECHO_UNIT,
    Operation,
    Order,
    Receipt,
    RecoveryMode,
    Reference,
)
from loyalty_gateway.providers.port import Candidate, Finding
from tests.booking.house import (
    HELD_S,
    PATIENT,
    QUICK,
    TENANT,
    UNHURRIED,
    House,
    open_house,
    until,
)
from tests.booking.stages import doubt, resolve
from tests.booking.vendor import (
    ASKED,
    MATCHED,
    QUERY,
    QUERY_ANSWERS,
    RESEND_IS_SAFE,
    SAFE_RESEND,
    TAG_IS_SHOWN,
    Act,
    FakeVendor,
    Gate,
    books,
    contradicts_the_question,
    finds,
    finds_nothing,
    is_a_duplicate,
    is_a_named_duplicate,
    is_silent,
    is_working_on_it,
    loses_the_answer,
    loses_the_request,
    says_it_refused,
    shows_a_statement,
)
from tests.postgres import Place

DEBIT = Operation.DEBIT_BALANCE
SETTLED = replace(QUICK, settle_s=0.1)
PROMISED = {QUERY_ANSWERS: True}
UNTAGGED = {NO_OTHER_CHANNEL_BOOKS: True}
TAGGED = {TAG_IS_SHOWN: True}
ANOTHER = AccountKey("main", plain_id="6299000011112222")


def asked(*acts: Any, **changes: Any) -> FakeVendor:
    return FakeVendor(*acts, offers={DEBIT: ASKED}, **changes)


def matched(*acts: Any, **changes: Any) -> FakeVendor:
    return FakeVendor(*acts, offers={DEBIT: MATCHED}, **changes)


async def kinds(house: House) -> list[AttemptKind]:
    return [attempt.kind for attempt in (await house.story())[1]]


# --- by our own number --------------------------------------------------------------------------


async def test_a_lost_answer_is_found_by_asking_and_nothing_is_sent_again(place: Place) -> None:
    async with open_house(place, asked(loses_the_answer), policy=QUICK, promises=PROMISED) as house:
        answer = await house.book()
        booking = await house.get()
        _, attempts = await house.story()

        assert len(house.vendor.sends) == 1
    assert not answer.is_replayed
    assert booking.state is State.SUCCEEDED
    assert booking.references
    assert booking.doubtful_attempts == 1, "a question adds no doubt"
    assert [it.kind for it in attempts] == [AttemptKind.SEND, AttemptKind.ASK]
    assert (attempts[1].fate, attempts[1].rule) == (Fate.EXECUTED, "asked by our number")


async def test_what_is_not_found_three_times_after_the_settle_time_was_not_executed(
    place: Place,
) -> None:
    """T10."""
    async with open_house(
        place, asked(loses_the_request), policy=SETTLED, promises=PROMISED
    ) as house:
        error = await house.fails()
        booking = await house.get()

        assert len(house.vendor.sends) == 1
    assert booking.state is State.NOT_EXECUTED
    assert error.reason is Reason.BOOKING_NOT_EXECUTED
    assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, True)
    assert booking.doubt_time is not None
    first, second, third = booking.not_found_times
    assert (first - booking.doubt_time).total_seconds() >= 0.1
    assert (second - first).total_seconds() >= 0.05
    assert (third - second).total_seconds() >= 0.05


async def test_a_booking_that_shows_late_is_found_although_it_was_not_there_before(
    place: Place,
) -> None:
    vendor = asked(loses_the_answer, answers=[finds_nothing] * 2)
    policy = replace(SETTLED, settle_s=0.15, not_found_waits_s=(0.2, 0.2))
    async with open_house(place, vendor, policy=policy, promises=PROMISED) as house:
        await house.book()

        assert len(vendor.questions) == 3
        assert (await house.get()).state is State.SUCCEEDED


ELSEWHERE = "https://vendor.test|credential-2"


async def left_in_doubt(place: Place, *acts: Act) -> None:
    """A journal that an earlier process left with one booking in doubt, at the first target."""
    async with open_house(
        place, asked(*acts), policy=PATIENT, promises=PROMISED, boot_id="boot-0"
    ) as house:
        assert (await doubt(house)).state is State.IN_DOUBT


@pytest.mark.parametrize("answer", [finds_nothing, says_it_refused])
async def test_another_target_that_does_not_know_a_booking_proves_nothing(
    place: Place, answer: Any
) -> None:
    await left_in_doubt(place, loses_the_answer)
    vendor = asked(answers=[answer] * 9, target=ELSEWHERE)
    async with open_house(place, vendor, policy=SETTLED, promises=PROMISED) as house:
        await resolve_soon(house)
        booking = await house.becomes(State.NEEDS_REVIEW)

        assert vendor.questions and not vendor.sends
    assert booking.not_found_times == ()


async def test_a_booking_that_another_target_finds_was_executed(place: Place) -> None:
    await left_in_doubt(place, loses_the_answer)
    found = Candidate(Receipt((Reference("receipt", "R-1"),)), is_certain=True)
    vendor = asked(answers=[finds(found)], target=ELSEWHERE)
    async with open_house(place, vendor, policy=SETTLED, promises=PROMISED) as house:
        await resolve_soon(house)
        booking = await house.becomes(State.SUCCEEDED)

    assert booking.references == found.receipt.references


async def test_a_target_that_knows_our_ids_from_before_the_change_proves_what_it_always_did(
    place: Place,
) -> None:
    await left_in_doubt(place, loses_the_request)
    vendor = asked(target=ELSEWHERE)
    promises = PROMISED | {"keys_survive_rotation": True}
    async with open_house(place, vendor, policy=SETTLED, promises=promises) as house:
        await resolve_soon(house)
        await house.becomes(State.NOT_EXECUTED)

    assert vendor.sends == []


async def resolve_soon(house: House) -> None:
    """Has the next step taken now, as an operator may."""
    await asyncio.gather(resolve(house, None), return_exceptions=True)


async def test_callers_who_repeat_do_not_make_not_found_a_proof(place: Place) -> None:
    async with open_house(
        place, asked(loses_the_request), policy=PATIENT, promises=PROMISED
    ) as house:
        for _ in range(10):
            await house.fails(within_s=1.3)
            if len(house.vendor.questions) >= 2:
                break
        booking = await house.get()

    assert booking.state is State.IN_DOUBT
    assert booking.not_found_times == ()
    assert len(house.vendor.questions) >= 2


async def test_pending_counts_for_nothing_and_silence_neither(place: Place) -> None:
    vendor = asked(loses_the_answer, answers=[is_working_on_it, is_silent, is_working_on_it])
    async with open_house(place, vendor, policy=SETTLED, promises=PROMISED) as house:
        await house.book()
        booking = await house.get()
        _, attempts = await house.story()

    assert booking.state is State.SUCCEEDED
    assert booking.not_found_times == ()
    assert [it.fate for it in attempts[1:-1]] == [Fate.UNKNOWN] * 3


async def test_an_answer_that_only_a_person_can_judge_ends_the_asking(place: Place) -> None:
    vendor = asked(loses_the_answer, answers=[contradicts_the_question])
    async with open_house(place, vendor, policy=QUICK, promises=PROMISED) as house:
        error = await house.fails()
        booking = await house.get()

        assert len(house.vendor.questions) == 1
    assert error.reason is Reason.BOOKING_NEEDS_REVIEW
    assert booking.state is State.NEEDS_REVIEW
    assert booking.reason is Reason.ALREADY_REVERSED
    assert booking.provider_code == "undone"


async def test_the_vendors_own_refusal_declines_the_booking(place: Place) -> None:
    vendor = asked(loses_the_request, answers=[says_it_refused])
    async with open_house(place, vendor, policy=QUICK, promises=PROMISED) as house:
        error = await house.fails()

    assert error.reason is Reason.PROVIDER_DECLINED
    assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, True)


async def test_a_booking_with_another_amount_is_a_persons(place: Place) -> None:
    receipt = Receipt((Reference("receipt", "R-9"),), echoed=Money("CHF", 1))
    vendor = asked(loses_the_answer, answers=[finds(Candidate(receipt, is_certain=True))])
    promises = {**PROMISED, AMOUNT_ECHO_UNIT: True}
    async with open_house(place, vendor, policy=QUICK, promises=promises) as house:
        error = await house.fails()

    assert error.reason is Reason.BOOKING_NEEDS_REVIEW


async def test_when_one_way_runs_out_the_next_is_taken(place: Place) -> None:
    """Half of the vendor's memory is over: from then on it is asked."""
    offer = replace(ASKED, ways=(SAFE_RESEND, QUERY))
    vendor = FakeVendor(
        loses_the_answer,
        otherwise=loses_the_request,
        offers={DEBIT: offer},
        key_lifetime_s=8.0,
        answers=[is_silent],
    )
    promises = {RESEND_IS_SAFE: True, QUERY_ANSWERS: True}
    async with open_house(place, vendor, policy=QUICK, promises=promises) as house:
        await house.book()
        found = await kinds(house)
        booking = await house.get()

    assert AttemptKind.RESEND in found
    assert found[-2:] == [AttemptKind.ASK, AttemptKind.ASK]
    assert booking.recovery_mode is RecoveryMode.STATUS_QUERY


async def test_a_machine_that_asked_long_enough_leaves_it_to_a_person(place: Place) -> None:
    vendor = asked(loses_the_answer, answers=[is_working_on_it] * 1000)
    policy = replace(QUICK, give_up_s=0.5)
    async with open_house(place, vendor, policy=policy, promises=PROMISED) as house:
        error = await house.fails()

    assert error.reason is Reason.BOOKING_NEEDS_REVIEW


async def test_a_duplicate_on_a_resend_shows_that_the_first_was_booked(place: Place) -> None:
    offer = replace(ASKED, ways=(SAFE_RESEND,))
    vendor = FakeVendor(loses_the_answer, is_a_duplicate, offers={DEBIT: offer})
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.book()
        booking = await house.get()

    assert booking.state is State.SUCCEEDED
    assert booking.references, "its details were asked for"


async def test_a_duplicate_without_anything_to_ask_is_a_success_all_the_same(
    place: Place,
) -> None:
    vendor = FakeVendor(loses_the_answer, is_a_duplicate)
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.book()
        booking = await house.get()

    assert (booking.state, booking.references) == (State.SUCCEEDED, ())
    assert booking.applied == Money("CHF", 1000)


async def test_a_duplicate_whose_number_is_known_is_a_success_with_that_number(
    place: Place,
) -> None:
    vendor = FakeVendor(loses_the_answer, is_a_named_duplicate)
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.book()
        booking = await house.get()

        assert booking.state is State.SUCCEEDED
        assert booking.references == (Reference("our-number", booking.outbound_id),)
        found = await house.journal.find_by_reference(
            TENANT, "main", "our-number", booking.outbound_id
        )
    assert found is not None and found.booking_id == booking.booking_id


async def test_a_duplicates_own_number_is_kept_where_nothing_certain_is_found(
    place: Place,
) -> None:
    offer = replace(ASKED, ways=(SAFE_RESEND,))
    vendor = FakeVendor(
        loses_the_answer, is_a_named_duplicate, offers={DEBIT: offer}, answers=[finds_nothing]
    )
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.book()
        booking = await house.get()

    assert booking.references == (Reference("our-number", booking.outbound_id),)


async def test_a_duplicate_whose_details_cannot_be_asked_for_is_a_success_all_the_same(
    place: Place,
) -> None:
    """The vendor's word that it booked stands, whatever it is called there."""
    offer = replace(ASKED, ways=(SAFE_RESEND,))
    vendor = FakeVendor(
        loses_the_answer, is_a_duplicate, offers={DEBIT: offer}, answers=[is_silent]
    )
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.book()
        booking = await house.get()

    assert (booking.state, booking.references) == (State.SUCCEEDED, ())
    assert len(vendor.effects) == 1


@pytest.mark.parametrize("act", [is_a_duplicate, is_a_named_duplicate])
async def test_a_duplicate_on_the_first_attempt_is_a_refusal(place: Place, act: Act) -> None:
    async with open_house(place, FakeVendor(act)) as house:
        error = await house.fails()
        booking = await house.get()

    assert (error.reason, error.is_final) == (Reason.PROVIDER_DECLINED, True)
    assert booking.references == ()


async def test_a_crash_while_it_asks_changes_nothing(place: Place) -> None:
    gate = asyncio.Event()

    async def never(vendor: FakeVendor, question: object) -> Finding:
        await gate.wait()
        raise AssertionError("stopped before")

    vendor = asked(loses_the_answer, answers=[never])
    async with open_house(place, vendor, policy=QUICK, promises=PROMISED) as house:
        caller = house.booking_task()
        await until(lambda: bool(vendor.questions))
        await house.stop(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    async with open_house(
        place, vendor, policy=QUICK, promises=PROMISED, boot_id="boot-2"
    ) as house:
        booking = await house.get()
        assert booking.state is State.IN_DOUBT


# --- by a statement -----------------------------------------------------------------------------


async def test_the_one_line_that_nobody_else_has_is_the_booking(place: Place) -> None:
    vendor = matched(books, loses_the_answer, answers=[shows_a_statement])
    async with open_house(place, vendor, policy=QUICK, promises=UNTAGGED) as house:
        await house.book("sale-0001")
        await house.book("sale-0002")
        first, second = await house.get("sale-0001"), await house.get("sale-0002")

    assert second.state is State.SUCCEEDED
    assert second.is_matched
    assert first.references != second.references
    assert not first.is_matched


async def test_a_line_whose_booking_is_ours_already_is_not_this_one(place: Place) -> None:
    vendor = matched(books, loses_the_request, answers=[shows_a_statement] * 20)
    async with open_house(place, vendor, policy=SETTLED, promises=UNTAGGED) as house:
        await house.book("sale-0001")
        await house.fails("sale-0002")

        assert (await house.get("sale-0002")).state is State.NOT_EXECUTED
        assert (await house.get("sale-0001")).state is State.SUCCEEDED


@pytest.mark.parametrize("time", [timedelta(hours=-20), timedelta(hours=20), None])
async def test_a_line_of_another_time_is_a_persons(place: Place, time: timedelta | None) -> None:
    """It may be of an earlier booking of ours that is not known by its number."""
    shown = None if time is None else datetime.now(UTC) + time
    line = Candidate(Receipt((Reference("line", "1"),)), shown)
    vendor = matched(loses_the_request, answers=[finds(line)])
    async with open_house(place, vendor, policy=QUICK, promises=UNTAGGED) as house:
        error = await house.fails()
        booking = await house.get()

    assert error.reason is Reason.BOOKING_NEEDS_REVIEW
    assert (booking.is_matched, booking.references) == (False, ())


async def test_several_lines_are_a_persons(place: Place) -> None:
    lines = [Candidate(Receipt((Reference("line", number),))) for number in ("1", "2")]
    vendor = matched(loses_the_answer, answers=[finds(*lines)])
    async with open_house(
        place, vendor, policy=QUICK, promises=UNTAGGED, limits=UNHURRIED
    ) as house:
        error = await house.fails()
        held = await house.fails("sale-0002", within_s=HELD_S)

    assert error.reason is Reason.BOOKING_NEEDS_REVIEW
    assert held.reason is Reason.ACCOUNT_ON_HOLD


async def test_with_a_tag_another_line_is_waited_out_and_then_a_persons(place: Place) -> None:
    line = Candidate(Receipt((Reference("line", "1"),)))
    vendor = matched(loses_the_request, answers=[finds(line)] * 1000)
    policy = replace(SETTLED, settle_s=2.5)
    async with open_house(place, vendor, policy=policy, promises=TAGGED) as house:
        error = await house.fails()
        booking = await house.get()

        assert house.vendor.sends[0].order.carries_tag
    assert error.reason is Reason.BOOKING_NEEDS_REVIEW
    assert len(house.vendor.questions) > 1
    assert booking.order is not None and booking.order.carries_tag


async def test_a_statement_without_any_promise_is_no_way(place: Place) -> None:
    async with open_house(place, matched(loses_the_answer), promises={}) as house:
        error = await house.fails()

    assert error.reason is Reason.BOOKING_NEEDS_REVIEW


# --- holds --------------------------------------------------------------------------------------


async def test_untagged_bookings_of_one_account_go_one_after_the_other(place: Place) -> None:
    gate = Gate()
    async with open_house(place, matched(gate), promises=UNTAGGED, limits=UNHURRIED) as house:
        first = house.booking_task("sale-0001")
        await gate.arrived.wait()
        hurried = await house.fails("sale-0002", within_s=HELD_S)
        await house.book("sale-0003", account=ANOTHER)
        waiting = house.booking_task("sale-0004")
        await asyncio.sleep(0)
        gate.go.set()
        await first
        await waiting

        assert hurried.reason is Reason.ACCOUNT_ON_HOLD
        assert len(house.vendor.effects) == 3


async def test_tagged_bookings_of_one_account_go_side_by_side(place: Place) -> None:
    gate = Gate()
    async with open_house(place, matched(gate), promises=TAGGED) as house:
        first = house.booking_task("sale-0001")
        await gate.arrived.wait()
        await house.book("sale-0002")
        gate.go.set()
        await first


@pytest.mark.parametrize("act", [loses_the_answer, loses_the_request])
async def test_an_account_is_free_again_when_its_doubt_has_ended(place: Place, act: Any) -> None:
    offer = replace(ASKED, is_held_in_doubt=True)
    vendor = FakeVendor(act, offers={DEBIT: offer}, answers=[finds_nothing])
    policy = replace(SETTLED, schedule_s=(5.0, 0.05), then_every_s=0.05)
    async with open_house(
        place, vendor, policy=policy, promises=PROMISED, limits=UNHURRIED
    ) as house:
        await house.fails("sale-0001", within_s=HELD_S)
        held = await house.fails("sale-0002", within_s=HELD_S)
        await house.is_quiet()
        await house.book("sale-0003")

    assert held.reason is Reason.ACCOUNT_ON_HOLD


async def test_what_did_not_leave_holds_nothing_and_takes_its_turn_when_repeated(
    place: Place,
) -> None:
    from tests.booking.vendor import is_not_reached

    gate = Gate()
    async with open_house(
        place, matched(is_not_reached, gate), promises=UNTAGGED, limits=UNHURRIED
    ) as house:
        await house.fails("sale-0001")
        second = house.booking_task("sale-0002")
        await gate.arrived.wait()
        repeat = await house.fails("sale-0001", within_s=HELD_S)
        gate.go.set()
        await second
        await house.book("sale-0001")

    assert repeat.reason is Reason.ACCOUNT_ON_HOLD
    assert (repeat.fate, repeat.is_final) == (Fate.NOT_EXECUTED, False)


# --- the rules, without an engine ---------------------------------------------------------------

T0 = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
POLICY = Policy((1.0, 5.0), 900.0, settle_s=60.0, abandon_reserved_s=900.0)
ASKS = Means((RecoveryMode.STATUS_QUERY,))


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def a_doubt(**changes: Any) -> Booking:
    booking = Booking(
        tenant="default",
        booking_id="b-1",
        request_id="sale-0001",
        state=State.IN_DOUBT,
        create_time=at(-500),
        operation=DEBIT,
        connection="main",
        order=Order(DEBIT, asked=Money("CHF", 1000)),
        outbound_id="o-1",
        attempt_count=1,
        doubtful_attempts=1,
        first_sent_time=at(-500),
        sent_time=at(-500),
        doubt_time=T0,
        recovery_mode=RecoveryMode.STATUS_QUERY,
    )
    return replace(booking, **changes)


def test_the_settle_time_counts_from_the_end_of_the_last_attempt_and_not_from_its_birth() -> None:
    """The booking is old, its last attempt is not."""
    for began, count in ((59.9, 0), (60.0, 1)):
        after = after_finding(a_doubt(), Finding(), at(began), at(began), ASKS, POLICY)
        assert len(after.not_found_times) == count


def test_a_question_that_began_before_the_settle_time_proves_nothing_however_late_it_ends() -> None:
    after = after_finding(a_doubt(), Finding(), at(50), at(70), ASKS, POLICY)

    assert after.not_found_times == ()


def test_a_vendor_may_need_longer_than_the_policy_says() -> None:
    slow = replace(ASKS, settle_s=600.0)

    assert not after_finding(a_doubt(), Finding(), at(599), at(599), slow, POLICY).not_found_times
    assert after_finding(a_doubt(), Finding(), at(600), at(600), slow, POLICY).not_found_times


def test_what_the_vendor_once_said_it_booked_is_never_not_executed() -> None:
    booking = a_doubt(references=(Reference("receipt", "R-1"),))
    for finding in (Finding(), Finding(is_refused=True)):
        after = after_finding(booking, finding, at(100), at(100), ASKS, POLICY)
        assert after.state is State.NEEDS_REVIEW


def test_what_another_target_does_not_know_is_a_persons_once_nothing_can_show_any_more() -> None:
    elsewhere = replace(ASKS, is_same_target=False)
    for finding in (Finding(), Finding(is_refused=True)):
        early, late = (
            after_finding(a_doubt(), finding, at(began), at(began), elsewhere, POLICY)
            for began in (59, 60)
        )
        assert (early.state, late.state) == (State.IN_DOUBT, State.NEEDS_REVIEW)
        assert late.not_found_times == ()


def test_a_refusal_of_one_of_several_attempts_waits_for_the_settle_time() -> None:
    booking = a_doubt(doubtful_attempts=2)
    refused = Finding(is_refused=True)

    assert after_finding(booking, refused, at(10), at(10), ASKS, POLICY).state is State.IN_DOUBT
    assert after_finding(booking, refused, at(60), at(60), ASKS, POLICY).state is State.DECLINED


@pytest.mark.parametrize(
    ("shown_s", "state"),
    [
        (-1401, State.NEEDS_REVIEW),
        (-1400, State.SUCCEEDED),
        (960, State.SUCCEEDED),
        (961, State.NEEDS_REVIEW),
    ],
)
def test_a_line_is_of_the_time_in_which_the_booking_may_have_happened(
    shown_s: float, state: State
) -> None:
    """From the first attempt to the settle time of the last, and a quarter of an hour each way."""
    line = Candidate(Receipt((Reference("line", "1"),)), at(shown_s))
    means = Means((RecoveryMode.STATEMENT_MATCH,), books_alone=True)
    after = after_finding(a_doubt(), Finding((line,)), at(10), at(10), means, POLICY)

    assert after.state is state


@pytest.mark.parametrize(
    ("is_unlike", "state"), [(False, State.SUCCEEDED), (True, State.NEEDS_REVIEW)]
)
def test_a_line_that_something_speaks_against_is_a_persons(is_unlike: bool, state: State) -> None:
    line = Candidate(Receipt((Reference("line", "1"),)), at(-400), is_unlike=is_unlike)
    means = Means((RecoveryMode.STATEMENT_MATCH,), books_alone=True)
    after = after_finding(a_doubt(), Finding((line,)), at(10), at(10), means, POLICY)

    assert after.state is state


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        (
            {"operation": Operation.CREATE_WALLET},
            State.DECLINED,
            Reason.ACCOUNT_ALREADY_EXISTS,
        ),
        (
            {"operation": Operation.CREATE_CARD, "intent": Intent.CANCEL},
            State.DECLINED,
            Reason.ACCOUNT_ALREADY_EXISTS,
        ),
        (
            {
                "operation": Operation.CREATE_WALLET,
                "references": (Reference("member_number", "5"),),
            },
            State.NEEDS_REVIEW,
            None,
        ),
        ({"operation": DEBIT}, State.NEEDS_REVIEW, None),
    ],
)
def test_what_another_booking_of_ours_did_is_never_this_one(
    changes: dict[str, Any], state: State, reason: Reason | None
) -> None:
    theirs = (Reference("member_number", "1"),)
    finding = Finding((Candidate(Receipt(theirs), is_certain=True),))
    booking = a_doubt(doubtful_attempts=2, **changes)
    after = after_finding(booking, finding, at(1), at(1), ASKS, POLICY, taken=theirs)

    assert (after.state, after.reason) == (state, reason)
    assert after.references == booking.references
    assert not after.is_matched


_R1, _R2 = (Candidate(Receipt((Reference("line", number),)), at(-400)) for number in "12")
_FINDINGS = st.sampled_from(
    [
        Finding(),
        Finding(),
        Finding(is_pending=True),
        Finding(is_refused=True),
        Finding((_R1,)),
        Finding((_R1, _R2)),
        Finding((replace(_R1, is_certain=True), _R2)),
        Finding((replace(_R1, is_certain=True), replace(_R2, is_certain=True))),
    ]
)
_MEANS = st.builds(
    Means,
    ways=st.sampled_from([(RecoveryMode.STATUS_QUERY,), (RecoveryMode.STATEMENT_MATCH,), ()]),
    books_alone=st.booleans(),
    may_undo=st.booleans(),
    declines_are_replayed=st.booleans(),
    is_same_target=st.booleans(),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(_FINDINGS, st.sampled_from([1.0, 30.0, 61.0, 301.0, 601.0])), max_size=12),
    _MEANS,
    st.booleans(),
    st.sampled_from(Intent),
    st.integers(1, 3),
    st.booleans(),
)
def test_whatever_is_answered_an_end_is_a_proof(
    answers: list[tuple[Finding, float]],
    means: Means,
    carries_tag: bool,
    intent: Intent,
    doubtful: int,
    is_taken: bool,
) -> None:
    order = Order(DEBIT, asked=Money("CHF", 1000), carries_tag=carries_tag)
    booking = a_doubt(order=order, intent=intent, doubtful_attempts=doubtful)
    taken = _R1.receipt.references if is_taken else ()
    now, absent = 0.0, []
    for finding, wait_s in answers:
        now += wait_s
        before = booking
        booking = after_finding(before, finding, at(now), at(now), means, POLICY, taken=taken)
        assert (before.state, booking.state) in TRANSITIONS
        assert booking.epoch == before.epoch + 1
        assert booking.doubtful_attempts in (0, doubtful), "a question adds no doubt"
        certain = [it for it in finding.candidates if it.is_certain]
        free = [it for it in finding.candidates if not is_taken or it.receipt != _R1.receipt]
        is_absent = not (free or certain or finding.is_pending or finding.is_refused)
        if is_absent and now >= 60:
            absent.append(now)
        match booking.state:
            case State.SUCCEEDED:
                assert intent is Intent.EXECUTE
                one = (len(certain) == 1 and certain[0] in free) or (
                    not certain and len(free) == 1 and means.books_alone and not carries_tag
                )
                assert one
                assert booking.is_matched is not bool(certain)
            case State.REVERSING:
                assert intent is Intent.CANCEL and means.may_undo
                assert len(certain) == 1 and certain[0] in free
            case State.NOT_EXECUTED:
                assert means.is_same_target
                assert len(absent) >= 3
                assert absent[-1] - absent[0] >= 900
            case State.DECLINED:
                assert finding.is_refused and means.is_same_target
                assert doubtful == 1 or means.declines_are_replayed or now >= 60
            case State.IN_DOUBT:
                assert booking.next_attempt_time is not None
                assert booking.next_attempt_time >= at(now)
            case State.NEEDS_REVIEW:
                assert booking.next_attempt_time is None
        if booking.state is not State.IN_DOUBT:
            return
