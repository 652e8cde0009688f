"""What vendors do to a gateway, row by row, and where it is tried."""

from typing import Final

from tests.faults.rows import Row

_VENDOR: Final = ("tests.faults.cells.vendor_faults", "tests.faults.agree.agree")

VENDORS: Final = (
    Row(
        "P1",
        "the vendor cannot be reached: refused, no such name, bad certificate, no free place",
        "not executed, nothing was sent; the same request_id may be repeated",
        (
            "tests.faults.load.book_where_nobody_answers",
            "tests.providers.test_http.test_a_refused_connection_proves_that_nothing_was_sent",
            "tests.providers.test_http.test_a_certificate_that_cannot_be_trusted_proves_it",
            "loyalty_gateway.conformance.duties.transport.not_reached_is_not_sent",
        ),
    ),
    Row(
        "P2",
        "the connection ends or is reset before the vendor does anything",
        "unknown, then none or one by the booking's mode",
        _VENDOR,
        faults=("lost-before", "reset-before"),
    ),
    Row(
        "P3",
        "the connection ends or is reset after the effect",
        "unknown, then exactly one",
        _VENDOR,
        faults=("lost-after", "reset-after"),
    ),
    Row(
        "P4",
        "no answer within the time limit; the effect comes after the wait",
        "unknown, never two",
        _VENDOR,
        faults=("slow-before",),
    ),
    Row(
        "P5",
        "no answer within the time limit; the effect was at once",
        "unknown, then exactly one",
        _VENDOR,
        faults=("slow-after",),
    ),
    Row(
        "P6",
        "the connection ends, and the effect comes a while later",
        "not there yet is no proof: found once it is there",
        (
            *_VENDOR,
            "tests.booking.test_asking.test_a_booking_that_shows_late_is_found_although_it_was_not_there_before",
        ),
        faults=("late-effect",),
    ),
    Row(
        "P7",
        "HTTP 408, 500, 502, 503 or 504, the vendor's or a proxy's, before and after the effect",
        "unknown, whatever the page says",
        (*_VENDOR, "loyalty_gateway.conformance.duties.transport.a_failing_vendor_proves_nothing"),
        faults=(
            *("500-before", "500-after", "502-before", "502-after", "503-before", "503-after"),
            *("504-before", "504-after", "408-before", "408-after"),
        ),
    ),
    Row(
        "P8",
        "an answer that is cut off, empty, no JSON, not UTF-8, doubled, NaN, 1e999, nested, too"
        " large or packed",
        "unknown; what is beyond the limit is not read",
        (
            *_VENDOR,
            "tests.providers.test_http.test_a_huge_answer_is_not_read_beyond_the_limit",
            "tests.providers.test_strict_json.test_no_document_of_the_largest_size_takes_long",
        ),
        faults=(
            *("garbage-before", "garbage-after", "truncated-after", "chunks-cut-after"),
            *("empty-after", "html-after", "bad-utf8-after", "duplicate-keys-after", "nan-after"),
            *("1e999-after", "nested-after", "oversized-after", "gzip-bomb-after"),
        ),
    ),
    Row(
        "P9",
        "an answer that comes byte by byte",
        "the attempt ends at its total time limit, unknown",
        (*_VENDOR, "tests.providers.test_http.test_the_total_limit_closes_the_connection"),
        faults=("drip-before", "drip-after"),
    ),
    Row(
        "P10",
        "a second answer to one request, at once, after 50 and after 500 ms",
        "no other booking ever gets it",
        (*_VENDOR, "tests.providers.test_http.test_a_second_answer_never_reaches_the_next_booking"),
        faults=("second-0-after", "second-50-after", "second-500-after"),
    ),
    Row(
        "P11",
        "the vendor closes kept connections at the moment of the next request",
        "no booking is in doubt for it, and none is sent twice",
        (
            "tests.providers.test_http.test_a_vendor_that_closes_idle_connections_costs_no_booking",
            "tests.providers.test_http.test_a_stale_connection_never_doubles_a_request",
        ),
    ),
    Row(
        "P12",
        "a token is refused: once, always, for many calls at once",
        "renewed once for all who wait, and sent again once; always refused is not executed",
        (
            *_VENDOR,
            "tests.providers.test_tokens.test_many_calls_with_one_refused_token_renew_it_once",
            "loyalty_gateway.conformance.duties.credentials.a_token_that_is_always_refused_is_not_fetched_again",
        ),
        faults=("unauthorized-once",),
    ),
    Row(
        "P13",
        "HTTP 429 with a time, a date, nothing, a billion seconds, -1, or a word",
        "not executed; a wait of 1 to 300 s, and nothing is sent before it is over",
        (
            *_VENDOR,
            "tests.providers.test_status.test_retry_after_is_from_one_second_to_five_minutes",
            "tests.booking.test_recovery.test_a_vendor_that_asks_recovery_for_patience_is_left_in_peace",
            "tests.vendors.test_pause.test_the_first_repeat_after_a_pause_is_sent_and_books_once",
            "tests.vendors.test_pause.test_a_crowd_of_repeats_into_a_pause_costs_the_vendor_no_request",
        ),
        faults=("429", "429-bare", "429-date", "429-far", "429-negative", "429-text"),
    ),
    Row(
        "P14",
        "a redirect of each kind to somewhere else",
        "unknown, not followed: nobody comes there",
        (
            *_VENDOR,
            "tests.providers.test_http.test_a_redirect_is_an_answer_and_is_never_followed",
            "loyalty_gateway.conformance.duties.transport.redirects_are_not_followed",
        ),
        faults=("302-before", "307-before"),
    ),
    Row(
        "P15",
        "refused as a repeat, on the first attempt and on a later one; a later attempt is declined",
        "a refusal of a repeat shows the earlier one, a decline of a repeat proves only itself",
        (
            *_VENDOR,
            "tests.booking.test_asking.test_a_duplicate_on_a_resend_shows_that_the_first_was_booked",
            "tests.booking.test_judge.test_a_refusal_of_a_resend_proves_that_resend_alone",
        ),
        faults=("refused-first",),
    ),
    Row(
        "P16",
        "yes and no in one answer, another booking's echo, a part of it, a text as code",
        "unknown where it contradicts itself; a part only where it was allowed, and told as such",
        (
            *_VENDOR,
            "tests.vendors.test_undo.test_a_part_is_taken_only_where_it_is_allowed_and_the_rest_is_told",
            "tests.booking.test_judge.test_an_echo_in_the_unit_that_was_asked_in_must_fit",
            "loyalty_gateway.conformance.duties.answers.a_contradiction_proves_nothing",
        ),
        faults=("contradictory-after", "wrong-echo-after"),
    ),
    Row(
        "P17",
        "asked about a doubt it knows nothing yet, works on it, shows another amount, or two",
        "waits; a person where what is shown contradicts what was asked",
        (
            *_VENDOR,
            "tests.booking.test_asking.test_pending_counts_for_nothing_and_silence_neither",
            "tests.booking.test_asking.test_a_booking_with_another_amount_is_a_persons",
            "tests.booking.test_asking.test_several_lines_are_a_persons",
        ),
        faults=("pending-then-success", "pending-then-failure"),
    ),
    Row(
        "P18",
        "an undo whose answer is lost, that was done before, or that comes too late",
        "undone once at most; an undo that is declined leaves its original standing",
        (
            *_VENDOR,
            "loyalty_gateway.conformance.duties.recovery.an_undo_is_whole_and_once",
            "tests.booking.test_undo.test_a_resent_undo_that_is_a_duplicate_did_it_before",
            "tests.booking.test_undo.test_an_undo_that_the_vendor_declines_leaves_its_original_standing",
        ),
    ),
    Row(
        "P19",
        "the vendor forgets our id before the doubt has ended",
        "not sent again after half of the vendor's memory; a person decides",
        (
            "tests.booking.test_recovery.test_recovery_stops_at_half_of_the_vendors_memory_and_calls_a_person",
        ),
    ),
)
