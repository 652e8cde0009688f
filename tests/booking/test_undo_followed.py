"""What becomes of a booking by what became of its undos: pure, and never twice undone."""

from dataclasses import replace
from datetime import timedelta

import pytest

from loyalty_gateway.booking.undo import decided, followed
from loyalty_gateway.domain.booking import OWN_UNDO, Booking, Intent, State
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import Operation
from tests.booking.test_judge import POLICY, T0, at, sent

NOW = at(100)


def undoing(**changes: object) -> Booking:
    """A success that is being undone, with the answer that it was told with."""
    known = replace(
        sent(), state=State.REVERSING, answer_bytes=b"told", settle_time=at(1), attempt_open=False
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def an_undo(state: State, *, is_own: bool = False, **changes: object) -> Booking:
    undo = replace(
        sent(),
        booking_id="b-2",
        request_id=f"{OWN_UNDO}b-1" if is_own else "undo-0001",
        operation=Operation.REVERSE_POINTS,
        original_booking="bookings/b-1",
        state=state,
        next_attempt_time=None,
    )
    return replace(undo, **changes)  # type: ignore[arg-type]


GIVEN_UP = {"intent": Intent.CANCEL}


def state_after(original: Booking, *undos: Booking) -> State | None:
    step = decided(original, undos, NOW, POLICY)
    return None if step is None else step[0].state


def test_an_original_follows_no_undo_that_may_still_have_an_effect() -> None:
    for state in (State.SENDING, State.IN_DOUBT, State.NEEDS_REVIEW):
        assert followed(undoing(), an_undo(state), NOW, POLICY) is None


def test_an_original_that_is_not_being_undone_follows_nothing() -> None:
    for state in set(State) - {State.REVERSING}:
        assert followed(undoing(state=state), an_undo(State.SUCCEEDED), NOW, POLICY) is None


def test_an_undo_that_waits_for_a_person_is_waited_for_with_patience() -> None:
    step = decided(undoing(), [an_undo(State.NEEDS_REVIEW)], NOW, POLICY)

    assert step is not None
    waiting, why = step
    assert waiting.state is State.REVERSING
    assert waiting.next_attempt_time is not None
    assert waiting.next_attempt_time >= NOW + timedelta(hours=6)
    assert "bookings/b-2" in why


def test_an_original_does_not_look_before_its_undo_takes_its_next_step() -> None:
    due = NOW + timedelta(hours=1)
    step = decided(undoing(), [an_undo(State.IN_DOUBT, next_attempt_time=due)], NOW, POLICY)

    assert step is not None and step[0].next_attempt_time == due


@pytest.mark.parametrize(
    ("undos", "state"),
    [
        ((), State.SUCCEEDED),
        ((an_undo(State.SUCCEEDED),), State.REVERSED),
        ((an_undo(State.DECLINED), an_undo(State.SUCCEEDED)), State.REVERSED),
        ((an_undo(State.SUCCEEDED), an_undo(State.NOT_EXECUTED)), State.REVERSED),
        ((an_undo(State.DECLINED, reason=Reason.ALREADY_REVERSED),), State.REVERSED),
        ((an_undo(State.DECLINED, reason=Reason.ORIGINAL_NOT_REVERSIBLE),), State.SUCCEEDED),
        ((an_undo(State.NOT_EXECUTED),), State.SUCCEEDED),
        ((an_undo(State.NOT_EXECUTED, is_own=True),), State.SUCCEEDED),
        ((an_undo(State.RESERVED),), State.SUCCEEDED),
        ((an_undo(State.RESERVED, is_own=True),), State.REVERSING),
    ],
)
def test_a_callers_undo_decides_what_it_was_to_undo(
    undos: tuple[Booking, ...], state: State
) -> None:
    assert state_after(undoing(), *undos) is state


@pytest.mark.parametrize(
    ("undos", "state"),
    [
        # None: its own undo is opened now.
        ((), None),
        ((an_undo(State.NOT_EXECUTED),), None),
        ((an_undo(State.RESERVED),), None),
        ((an_undo(State.DECLINED, reason=Reason.ORIGINAL_NOT_REVERSIBLE),), State.SUCCEEDED),
        ((an_undo(State.NOT_EXECUTED), an_undo(State.SUCCEEDED, is_own=True)), State.REVERSED),
        ((an_undo(State.DECLINED, is_own=True),), State.SUCCEEDED),
        # A person's word, and what the gateway has given up.
        ((an_undo(State.NOT_EXECUTED, is_own=True),), State.SUCCEEDED),
        ((an_undo(State.NOT_EXECUTED, is_own=True, doubtful_attempts=0),), State.NEEDS_REVIEW),
    ],
)
def test_what_its_caller_gave_up_has_one_undo_of_its_own_and_no_second_one(
    undos: tuple[Booking, ...], state: State | None
) -> None:
    assert state_after(undoing(**GIVEN_UP), *undos) is state


def test_what_a_person_let_stand_stands_after_a_later_undo_that_came_to_nothing() -> None:
    left = an_undo(State.NOT_EXECUTED, is_own=True, doubtful_attempts=0)
    later = an_undo(State.RESERVED, booking_id="b-3")

    assert state_after(undoing(**GIVEN_UP), left, later) is State.SUCCEEDED
    found_undone = replace(later, state=State.DECLINED, reason=Reason.ALREADY_REVERSED)
    assert state_after(undoing(**GIVEN_UP), left, found_undone) is State.REVERSED


def test_the_wish_to_be_rid_of_it_outlives_the_callers_own_undo() -> None:
    step = followed(undoing(**GIVEN_UP), an_undo(State.NOT_EXECUTED), NOW, POLICY)

    assert step is not None
    assert (step[0].state, step[0].next_attempt_time) == (State.REVERSING, NOW)


@pytest.mark.parametrize("state", [State.DECLINED, State.NOT_EXECUTED])
def test_a_doubt_whose_undo_came_to_nothing_is_a_persons(state: State) -> None:
    doubt = undoing(answer_bytes=None, settle_time=None, **GIVEN_UP)

    assert state_after(doubt, an_undo(state, is_own=True)) is State.NEEDS_REVIEW


def test_a_doubt_that_the_vendor_does_not_know_often_enough_is_undone() -> None:
    doubt = undoing(answer_bytes=None, settle_time=None, **GIVEN_UP)
    times = (T0, at(300), at(900))
    undo = an_undo(State.DECLINED, is_own=True, not_found_times=times)

    assert state_after(doubt, undo) is State.REVERSED
    # What the vendor once confirmed is not undone by being unknown to it.
    assert state_after(undoing(**GIVEN_UP), undo) is State.SUCCEEDED
