"""The table of states that engine and journal obey, and what a booking says of itself."""

from datetime import UTC, datetime

import pytest

from loyalty_gateway.domain.accounts import (
    looks_like_card_number,
    looks_like_payment_card,
    mask_account_id,
    mask_email,
)
from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.booking import FINAL, OUTCOMES, TRANSITIONS, Booking, State
from loyalty_gateway.domain.errors import Fate
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    Operation,
    Order,
    Original,
    Reference,
    kind_of,
)
from loyalty_gateway.rpc.catalog import join_catalog

RPCS = join_catalog()


def test_every_state_has_an_outcome_and_the_unknown_ones_are_never_final() -> None:
    assert set(OUTCOMES) == set(State)
    assert {state for state in State if OUTCOMES[state] is Fate.UNKNOWN} == {
        State.SENDING,
        State.IN_DOUBT,
        State.REVERSING,
        State.NEEDS_REVIEW,
    }
    assert all(OUTCOMES[state] is not Fate.UNKNOWN for state in FINAL)


def test_reserved_is_not_executed_so_far_and_not_final() -> None:
    assert OUTCOMES[State.RESERVED] is Fate.NOT_EXECUTED
    assert State.RESERVED not in FINAL


def test_a_final_state_is_left_by_a_success_alone_and_for_an_undo_or_a_contradiction() -> None:
    left = {(before, after) for before, after in TRANSITIONS if before in FINAL}

    assert left <= {
        (State.SUCCEEDED, State.REVERSING),
        (State.SUCCEEDED, State.NEEDS_REVIEW),
    }


def test_nothing_in_doubt_goes_back_to_where_it_would_be_sent_as_new() -> None:
    """RESERVED invites a repeat as a first attempt; a doubt must never look like it. The one that
    may is an undo that no caller can repeat."""
    doubts = (State.IN_DOUBT, State.NEEDS_REVIEW)
    back = {move for move in TRANSITIONS if move[0] in doubts and move[1] is State.RESERVED}
    assert back == {(State.IN_DOUBT, State.RESERVED)}
    assert not {move for move in TRANSITIONS if move[0] in doubts and move[1] is State.SENDING}


def test_a_booking_is_born_with_the_intent_to_send_or_as_a_tombstone() -> None:
    assert {after for before, after in TRANSITIONS if before is None} == {
        State.SENDING,
        State.NOT_EXECUTED,
    }


def test_only_a_person_or_a_machines_proof_ends_a_review_as_not_booked() -> None:
    assert (State.NEEDS_REVIEW, State.DECLINED) not in TRANSITIONS


def test_every_move_has_words() -> None:
    assert all(words and not words.endswith(".") for words in TRANSITIONS.values())


def a_booking(asked: Amount | None, applied: Amount | None = None, trace: str = "") -> Booking:
    order = None if asked is None else Order(Operation.DEBIT_BALANCE, "", asked)
    return Booking(
        tenant="default",
        booking_id="b-1",
        request_id="sale-0001",
        state=State.SUCCEEDED,
        create_time=datetime(2026, 11, 21, tzinfo=UTC),
        operation=order.operation if order else None,
        order=order,
        applied=applied,
        trace_parent=trace,
    )


@pytest.mark.parametrize(
    ("asked", "applied", "due"),
    [
        (Money("CHF", 1000), Money("CHF", 1000), 0),
        (Money("CHF", 1000), Money("CHF", 400), 600),
        (Money("CHF", 1000), None, None),
        (Points(10), Points(10), None),
        (None, None, None),
    ],
)
def test_what_is_still_due_is_never_guessed(
    asked: Amount | None, applied: Amount | None, due: int | None
) -> None:
    assert a_booking(asked, applied).remaining_due_minor == due


def test_a_trace_id_is_read_of_its_trace_parent() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    assert a_booking(None, trace=trace).trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert a_booking(None).trace_id == a_booking(None, trace="nonsense").trace_id == ""


def test_bookings_are_the_operations_that_have_an_effect() -> None:
    assert Operation.GET_CARD not in BOOKING_OPERATIONS
    assert (Operation.DEBIT_BALANCE.service, Operation.DEBIT_BALANCE.method) == (
        "Balance",
        "DebitBalance",
    )


@pytest.mark.parametrize(
    ("account_id", "masked"),
    [
        ("", ""),
        ("1", "•"),
        ("12", "•2"),
        ("10472", "•••72"),
        ("12345678", "••••5678"),
        ("6299123412341234", "••••••••••••1234"),
        ("ümläut", "•••äut"),
    ],
)
def test_a_mask_shows_at_most_four_and_never_more_than_half(account_id: str, masked: str) -> None:
    assert mask_account_id(account_id) == masked


@pytest.mark.parametrize(
    ("email", "masked"),
    [
        ("jane.doe@example.com", "j•••••••@e••••••••••"),
        ("a@b.ch", "a@b•••"),
        ("a@b.c", "•@•••"),
        ("a@b", "•@•"),
        ('"x@y"@example.com', '"••••@e••••••••••'),
    ],
)
def test_a_masked_address_is_known_to_its_owner_alone(email: str, masked: str) -> None:
    assert mask_email(email) == masked
    assert sum(letter != "•" for letter in masked) <= min(4, len(email) // 2)


@pytest.mark.parametrize(
    "text",
    ["4111111111111111", "4111-1111-1111-1111", "4111 1111 1111 1111", "4111.1111:1111_1111"],
)
def test_a_card_number_is_seen_through_its_separators(text: str) -> None:
    assert looks_like_card_number(text)


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",
        "411111111111",
        "41111111111111111111",
        "sale-4111",
        "",
        "٤١١١١١١١١١١١١١١١",
    ],
)
def test_what_is_no_card_number_is_left_alone(text: str) -> None:
    assert not looks_like_card_number(text)


@pytest.mark.parametrize("text", ["4111111111111111", "4111-1111-1111-1111", "378282246310005"])
def test_a_payment_cards_number_is_seen_by_its_first_digit_and_length(text: str) -> None:
    assert looks_like_payment_card(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1111111111111117",  # Passes the check, but no payment card begins so.
        "41111111111116",  # Passes the check, but has fourteen digits, as an order may.
        "4111111111111112",
        "order 4111111111111111",
    ],
)
def test_other_long_numbers_are_no_payment_cards(text: str) -> None:
    assert not looks_like_payment_card(text)


def test_an_original_is_asked_for_the_vendors_number_of_one_kind() -> None:
    original = Original(
        Order(Operation.DEBIT_BALANCE, "", None),
        "o-1",
        (Reference("receipt", "R-1"), Reference("transaction", "T-1")),
    )

    assert original.find_reference("transaction") == "T-1"
    assert original.find_reference("voucher") == ""


def test_every_operation_is_of_the_kind_that_the_contract_says() -> None:
    kinds = {rpc.name.removeprefix("loyalty.v1.").replace("/", "."): rpc.kind for rpc in RPCS}

    assert {it.value: kind_of(it) for it in Operation}.items() <= kinds.items()
