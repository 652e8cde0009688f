"""What has to hold whatever was done to a gateway, and which function judges it."""

from typing import Final

from tests.faults.rows import Invariant

INVARIANTS: Final = (
    Invariant(
        "I1",
        "account by account, the vendor's ledger moved by what the journal's successes say; what a"
        " person has yet to decide counts as booked or not",
        ("tests.e2e.checker._sums",),
    ),
    Invariant(
        "I2",
        "every OK has exactly one effect, of that amount on that account, names its number, and"
        " stood in the journal",
        ("tests.e2e.checker._wrong_with_ok", "tests.faults.words.never_stood"),
    ),
    Invariant(
        "I3",
        "nothing has two effects, and the vendor's double entry adds up to nothing",
        ("tests.e2e.checker._effects", "tests.faults.checker.find_violations"),
    ),
    Invariant(
        "I4",
        "what was called not executed for good has no effect, and nothing that was booked is called"
        " not executed so far",
        ("tests.e2e.checker._refusals", "tests.faults.words.denied"),
    ),
    Invariant(
        "I5",
        "the final state of a booking is what the vendor did, and GetBooking says the same",
        (
            "tests.e2e.checker._rows",
            "tests.e2e.checker._records",
            "tests.faults.checker._own_words",
        ),
    ),
    Invariant(
        "I6",
        "no effect at a vendor is unknown to the journal, or other than what was asked for",
        ("tests.e2e.checker._effects",),
    ),
    Invariant(
        "I7",
        "a final answer is repeated to the byte: code, body, details; an OK that was told before"
        " says so, and nobody who knows an end is turned away later",
        ("tests.e2e.checker._answers", "tests.faults.words.turned_away"),
    ),
    Invariant(
        "I8",
        "a second content under one request_id has no effect and no OK",
        ("tests.e2e.checker._refusals",),
    ),
    Invariant(
        "I9",
        "what was undone is what was named, undone once, by a booking that says so; and nothing is"
        " that nobody had wished to be rid of, but what only an undo can settle",
        (
            "tests.e2e.checker._undone",
            "tests.faults.words.undid_another",
            "tests.faults.wishes.unwished",
        ),
    ),
    Invariant(
        "I10",
        "nothing stays open, and a person is asked only where no machine could find out",
        (
            "tests.e2e.checker._rows",
            "tests.faults.load.come_to_rest",
            "tests.faults.operator.is_allowed",
            "tests.faults.lane._is_a_persons",
        ),
    ),
    Invariant(
        "I11",
        "the history of each booking is a path of allowed moves, without a gap",
        ("tests.e2e.checker._histories",),
    ),
    Invariant(
        "I12",
        "what was told for good is never contradicted later, nor a cancellation that was answered;"
        " a doubt that was left to AUTO_REVERSE does not stand, and an OK is not taken back"
        " that nobody had cancelled",
        (
            "tests.faults.checker.changes_of_mind",
            "tests.e2e.checker._cancelled",
            "tests.faults.wishes.still_stands",
            "tests.faults.wishes.taken_back",
            "tests.faults.checker.false_refusals",
        ),
    ),
    Invariant(
        "I13",
        "no secret, card number or code stands in a log, span, metric, error or column",
        (
            "tests.e2e.test_canary.test_the_id_of_an_account_is_nowhere_in_any_form",
            "tests.e2e.test_canary.test_the_key_for_the_vendor_is_nowhere",
            "tests.e2e.test_canary.test_a_card_number_typed_into_a_field_is_never_logged_traced_or_counted",
            "tests.e2e.test_codes.test_no_address_and_no_code_is_written_down",
            "tests.vendors.test_codes.test_codes_numbers_and_passwords_are_written_nowhere",
        ),
    ),
    Invariant(
        "I14",
        "every booking is one trace of three spans, and recovery's trace links to it",
        (
            "tests.e2e.test_traces.test_a_booking_is_one_trace_of_three_spans",
            "tests.e2e.test_traces.test_recovery_is_a_trace_of_its_own_that_links_to_the_first",
            "tests.e2e.test_traces.test_recovery_after_a_kill_still_links_to_the_trace_of_the_dead_server",
        ),
    ),
    Invariant(
        "S17",
        "no caller is told of a bug of the gateway, whatever happens around it",
        ("tests.faults.checker.bugs_told",),
    ),
)
"""In the order in which they are printed."""
