"""What the end of an attempt means: every row of the rules, and what must never happen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty_gateway.booking import judge
from loyalty_gateway.booking.answers import error_for
from loyalty_gateway.booking.connections import Link, proof
from loyalty_gateway.booking.judge import Means, Policy, Verdict
from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.booking import FINAL, TRANSITIONS, Booking, Intent, State
from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import (
    Balance,
    InDoubtPolicy,
    Operation,
    Order,
    Receipt,
    ReceiptLine,
    RecoveryMode,
    Reference,
)
from loyalty_gateway.providers.port import Offer, StatusRow, Way
from tests.booking.vendor import RESEND_IS_SAFE, RESENT, SAFE_RESEND, FakeVendor

T0 = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
POLICY = Policy(
    schedule_s=(1.0, 5.0, 15.0), then_every_s=900.0, settle_s=60.0, abandon_reserved_s=900.0
)
RESEND = (RecoveryMode.SAFE_RESEND,)
RESENDS = Means(RESEND, resend_until=T0 + timedelta(hours=12))
ECHOES = replace(RESENDS, echo_is_exact=True)
UNDOES = replace(RESENDS, may_undo=True)
BY_HAND = Means()
RECEIPT = Receipt(
    references=(Reference("receipt", "R-1"),),
    echoed=None,
    balances_after=(Balance(Money("CHF", 4250)),),
    receipt_lines=(ReceiptLine("Thank you"),),
)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def sent(
    asked: Amount | None = None, *, allow_partial: bool = False, intent: Intent = Intent.EXECUTE
) -> Booking:
    """A booking whose first attempt is under way."""
    return Booking(
        tenant="default",
        booking_id="b-1",
        request_id="sale-0001",
        state=State.SENDING,
        create_time=T0,
        operation=Operation.DEBIT_BALANCE,
        connection="main",
        provider="fakevendor",
        order=Order(
            Operation.DEBIT_BALANCE,
            "",
            asked or Money("CHF", 1000),
            allow_partial=allow_partial,
            may_take_part=allow_partial,
        ),
        outbound_id="o-1",
        target_hash=b"target",
        recovery_mode=RecoveryMode.SAFE_RESEND,
        intent=intent,
        owner="boot-1",
        lease_until=at(30),
        attempt_count=1,
        doubtful_attempts=1,
        first_sent_time=T0,
        sent_time=T0,
        next_attempt_time=at(30),
    )


def resent(doubt_ended: float, sent_at: float, **changes: object) -> Booking:
    """A booking whose first attempt proved nothing, and whose second is under way."""
    doubted = judge.after_attempt(sent(), UNKNOWN, at(doubt_ended), RESENDS, POLICY)
    return replace(_claimed(doubted, at(sent_at)), **changes)  # type: ignore[arg-type]


def _claimed(booking: Booking, now: datetime) -> Booking:
    """As recovery claims a booking before it sends again."""
    return replace(
        booking,
        epoch=booking.epoch + 1,
        owner="boot-1",
        lease_until=now + timedelta(seconds=30),
        next_attempt_time=now + timedelta(seconds=30),
        attempt_count=booking.attempt_count + 1,
        doubtful_attempts=booking.doubtful_attempts + 1,
        sent_time=now,
    )


def executed(receipt: Receipt = RECEIPT) -> Verdict:
    return Verdict(StatusRow(Reason.INTERNAL, Fate.EXECUTED), "200", receipt=receipt)


def refused(proves: Proves = Proves.THIS_ATTEMPT, retry_after_s: float | None = None) -> Verdict:
    return Verdict(
        StatusRow(Reason.INSUFFICIENT_BALANCE, Fate.NOT_EXECUTED, proves, is_refusal=True),
        "refusal",
        provider_code="insufficient",
        retry_after_s=retry_after_s,
    )


def not_booked(proves: Proves = Proves.THIS_ATTEMPT, retry_after_s: float | None = None) -> Verdict:
    return Verdict(
        StatusRow(Reason.PROVIDER_UNREACHABLE, Fate.NOT_EXECUTED, proves),
        "refused",
        retry_after_s=retry_after_s,
    )


UNKNOWN = Verdict(StatusRow(Reason.PROVIDER_INTERNAL), "read time-out", provider_code="E500")
CONTRADICTION = Verdict(StatusRow(Reason.PROVIDER_KEY_CONFLICT, contradicts=True), "key reused")


def after(booking: Booking, verdict: Verdict, now: float, means: Means = RESENDS) -> Booking:
    return judge.after_attempt(booking, verdict, at(now), means, POLICY)


# --- the first attempt ------------------------------------------------------------------------


def test_a_confirmed_booking_succeeds_with_what_the_vendor_said_of_it() -> None:
    """T4: SENDING -> SUCCEEDED."""
    ended = after(sent(), executed(), 1)

    assert ended.state is State.SUCCEEDED
    assert ended.applied == Money("CHF", 1000)
    assert ended.references == RECEIPT.references
    assert ended.balances_after == RECEIPT.balances_after
    assert ended.receipt_lines == RECEIPT.receipt_lines
    assert ended.settle_time == at(1)
    assert ended.reason is None


def test_a_documented_refusal_of_the_first_attempt_declines_the_booking() -> None:
    """T5: SENDING -> DECLINED."""
    ended = after(sent(), refused(), 1)

    assert ended.state is State.DECLINED
    assert ended.reason is Reason.INSUFFICIENT_BALANCE
    assert ended.provider_code == "insufficient"
    assert ended.doubtful_attempts == 0
    assert ended.settle_time == at(1)


@pytest.mark.parametrize("proves", list(Proves))
def test_what_booked_nothing_on_the_first_attempt_may_be_repeated(proves: Proves) -> None:
    """T3: SENDING -> RESERVED, closed by recovery when nobody repeats it (T8)."""
    ended = after(sent(), not_booked(proves), 1)

    assert ended.state is State.RESERVED
    assert ended.doubtful_attempts == 0
    assert ended.settle_time is None
    assert ended.next_attempt_time == at(1 + 900)


def waits_about(booking: Booking, now: float, planned_s: float) -> bool:
    """Whether the next step is where the schedule has it, give or take a fifth."""
    assert booking.next_attempt_time is not None
    wait_s = (booking.next_attempt_time - at(now)).total_seconds()
    return planned_s * 0.8 <= wait_s <= planned_s * 1.2


def test_an_answer_that_proves_nothing_leaves_the_booking_in_doubt_with_a_next_step() -> None:
    """T6: SENDING -> IN_DOUBT."""
    ended = after(sent(), UNKNOWN, 2)

    assert ended.state is State.IN_DOUBT
    assert ended.doubtful_attempts == 1
    assert ended.doubt_time == at(2)
    assert waits_about(ended, 2, 1)
    assert ended.reason is Reason.PROVIDER_INTERNAL
    assert ended.settle_time is None


def test_the_default_of_a_status_row_is_doubt() -> None:
    """An answer that no table lists counts as UNKNOWN."""
    assert StatusRow(Reason.PROVIDER_INTERNAL).fate is Fate.UNKNOWN
    assert after(sent(), Verdict(StatusRow(Reason.INTERNAL), "default"), 1).outcome is Fate.UNKNOWN


@pytest.mark.parametrize(
    "means",
    [
        BY_HAND,
        Means(RESEND, resend_until=None),
        Means(RESEND, resend_until=at(2)),
        Means((RecoveryMode.MANUAL,), resend_until=at(3600)),
        # Nothing is there to undo it with.
        Means((RecoveryMode.REVERSE,), resend_until=at(3600)),
    ],
)
def test_a_doubt_that_no_machine_can_end_is_a_persons_at_once(means: Means) -> None:
    """T15: no mode, another target, or a key that the vendor may have forgotten."""
    ended = after(sent(), UNKNOWN, 2, means)

    assert ended.state is State.NEEDS_REVIEW
    assert ended.next_attempt_time is None
    assert ended.recovery_mode is RecoveryMode.MANUAL
    assert ended.doubt_time == at(2)


def test_a_contradiction_is_a_persons_even_where_resending_is_allowed() -> None:
    """A key-reused conflict is NEEDS_REVIEW."""
    ended = after(sent(), CONTRADICTION, 2)

    assert ended.state is State.NEEDS_REVIEW
    assert ended.reason is Reason.PROVIDER_KEY_CONFLICT
    assert ended.next_attempt_time is None


@pytest.mark.parametrize("verdict", [UNKNOWN, CONTRADICTION])
def test_the_settle_time_counts_from_the_last_attempt_that_proved_nothing(
    verdict: Verdict,
) -> None:
    ended = after(resent(doubt_ended=1, sent_at=40), verdict, 41)

    assert ended.doubt_time == at(41)


@pytest.mark.parametrize("verdict", [executed(), refused(), not_booked(), UNKNOWN, CONTRADICTION])
def test_an_attempt_that_ended_gives_the_booking_up_and_raises_its_epoch(verdict: Verdict) -> None:
    before = sent()
    ended = after(before, verdict, 1)

    assert (ended.owner, ended.lease_until) == ("", None)
    assert ended.epoch == before.epoch + 1


def test_a_success_without_a_receipt_is_a_doubt() -> None:
    """EXECUTED by a table row alone tells nothing of the booking that could be answered."""
    ended = after(sent(), replace(executed(), receipt=None), 1)

    assert ended.state is State.IN_DOUBT


# --- later attempts ---------------------------------------------------------------------------


def test_a_success_of_a_resend_ends_the_doubt() -> None:
    """T9: IN_DOUBT -> SUCCEEDED."""
    ended = after(resent(doubt_ended=1, sent_at=2), executed(), 3)

    assert ended.state is State.SUCCEEDED
    assert ended.settle_time == at(3)
    assert ended.reason is None


def test_a_refusal_of_a_resend_proves_that_resend_alone() -> None:
    """The balance may be gone because the first attempt took it."""
    ended = after(resent(doubt_ended=1, sent_at=2), refused(), 3)

    assert ended.state is State.IN_DOUBT
    assert ended.doubtful_attempts == 1
    assert ended.doubt_time == at(1)


def test_a_refusal_of_a_resend_does_not_rename_the_doubt() -> None:
    """Whoever reads the booking in doubt must not take it for declined."""
    ended = after(resent(doubt_ended=1, sent_at=2), refused(), 3)

    assert ended.reason is Reason.PROVIDER_INTERNAL
    assert ended.provider_code == "E500"


def test_a_refusal_of_a_resend_counts_for_all_where_the_vendor_replays_refusals() -> None:
    """T11 under the promise declines_are_replayed."""
    means = replace(RESENDS, declines_are_replayed=True)
    ended = after(resent(doubt_ended=1, sent_at=2), refused(), 3, means)

    assert ended.state is State.DECLINED
    assert ended.doubtful_attempts == 0
    assert ended.reason is Reason.INSUFFICIENT_BALANCE


@pytest.mark.parametrize(("sent_at", "state"), [(60.9, State.IN_DOUBT), (61, State.DECLINED)])
def test_a_refusal_asked_for_after_the_settle_time_counts_for_all(
    sent_at: float, state: State
) -> None:
    """T11: later than the settle time after the last attempt that proved nothing ended."""
    ended = after(resent(doubt_ended=1, sent_at=sent_at), refused(), sent_at + 1)

    assert ended.state is state


def test_a_slow_refusal_does_not_reach_the_settle_time_by_being_slow() -> None:
    """The vendor may have judged as soon as it was asked."""
    ended = after(resent(doubt_ended=1, sent_at=50), refused(), 64)

    assert ended.state is State.IN_DOUBT


def test_a_refusal_that_an_earlier_attempt_may_have_caused_never_counts_for_all() -> None:
    """The card exists: whoever sends its creation again hears so of his own card as well."""
    row = StatusRow(
        Reason.ACCOUNT_ALREADY_EXISTS, Fate.NOT_EXECUTED, is_refusal=True, may_be_own=True
    )
    ended = after(resent(doubt_ended=1, sent_at=3_000), Verdict(row, "exists"), 3_001)

    assert ended.state is State.IN_DOUBT
    assert ended.doubtful_attempts == 1
    means = replace(RESENDS, declines_are_replayed=True)
    replayed = after(resent(doubt_ended=1, sent_at=2), Verdict(row, "exists"), 3, means)
    assert replayed.state is State.DECLINED
    first = after(sent(), Verdict(row, "exists"), 3)
    assert first.state is State.DECLINED


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (Reason.ACCOUNT_NOT_ACTIVE, State.IN_DOUBT),
        (Reason.ACCOUNT_NOT_FOUND, State.IN_DOUBT),
        (Reason.PROVIDER_DECLINED, State.IN_DOUBT),
        (Reason.PROVIDER_REJECTED_ARGUMENT, State.DECLINED),
        (Reason.REQUEST_INVALID, State.DECLINED),
    ],
)
@pytest.mark.parametrize("replays", [True, False])
def test_without_a_key_a_late_refusal_counts_for_all_only_if_it_is_of_what_was_asked(
    reason: Reason, state: State, replays: bool
) -> None:
    """The card may have been blocked since the first attempt was carried out."""
    means = replace(RESENDS, is_keyless=True, declines_are_replayed=replays)
    row = StatusRow(reason, Fate.NOT_EXECUTED, is_refusal=True)
    ended = after(resent(doubt_ended=1, sent_at=3_000), Verdict(row, "refused"), 3_001, means)

    assert ended.state is state
    first = after(sent(), Verdict(row, "refused"), 3, means)
    assert first.state is State.DECLINED


def test_a_refusal_of_the_whole_booking_declines_it_on_any_attempt() -> None:
    ended = after(resent(doubt_ended=1, sent_at=2), refused(Proves.WHOLE_BOOKING), 3)

    assert ended.state is State.DECLINED


def test_proof_that_the_whole_booking_did_not_happen_closes_it() -> None:
    """T10: nobody waits to repeat it, so it is not RESERVED again."""
    ended = after(resent(doubt_ended=1, sent_at=2), not_booked(Proves.WHOLE_BOOKING), 3)

    assert ended.state is State.NOT_EXECUTED
    assert ended.doubtful_attempts == 0
    assert ended.settle_time == at(3)


@pytest.mark.parametrize("sent_at", [2, 3_000])
def test_a_resend_that_did_not_leave_proves_nothing_of_the_first_attempt(sent_at: float) -> None:
    """However late: the settle time is for refusals."""
    ended = after(resent(doubt_ended=1, sent_at=sent_at), not_booked(), sent_at + 1)

    assert ended.state is State.IN_DOUBT
    assert ended.doubtful_attempts == 1


def test_promises_about_refusals_say_nothing_of_a_resend_that_did_not_leave() -> None:
    means = replace(RESENDS, declines_are_replayed=True)

    assert after(resent(1, 2), not_booked(), 3, means).state is State.IN_DOUBT


def test_a_vendor_that_asks_for_patience_is_not_asked_before() -> None:
    ended = after(resent(doubt_ended=1, sent_at=2), not_booked(retry_after_s=120), 3)

    assert ended.next_attempt_time == at(3 + 120)


def test_a_callers_time_to_repeat_begins_when_the_pause_of_the_vendor_ends() -> None:
    ended = after(sent(), not_booked(retry_after_s=120), 3)

    assert ended.state is State.RESERVED
    assert ended.not_before == at(3 + 120)
    assert ended.next_attempt_time == at(3 + 120 + POLICY.abandon_reserved_s)


def test_what_did_nothing_without_a_wish_for_a_pause_may_be_repeated_at_once() -> None:
    ended = after(replace(sent(), not_before=at(2)), not_booked(), 3)

    assert ended.state is State.RESERVED
    assert ended.not_before is None
    assert ended.next_attempt_time == at(3 + POLICY.abandon_reserved_s)


@pytest.mark.parametrize("begin", [sent, lambda: resent(doubt_ended=1, sent_at=2)])
def test_no_wish_for_a_pause_is_kept_for_more_than_five_minutes(
    begin: Callable[[], Booking],
) -> None:
    ended = after(begin(), not_booked(retry_after_s=1_000_000_000), 3)

    assert ended.not_before == at(3 + 300)
    assert ended.next_attempt_time is not None
    assert ended.next_attempt_time <= at(3 + 300 + POLICY.abandon_reserved_s)


@pytest.mark.parametrize("verdict", [refused(retry_after_s=60), executed()])
def test_what_is_final_waits_for_nothing(verdict: Verdict) -> None:
    assert after(sent(), verdict, 3).not_before is None


def test_a_vendor_that_asks_for_less_patience_than_the_schedule_does_not_hurry_it() -> None:
    ended = after(resent(doubt_ended=1, sent_at=2), not_booked(retry_after_s=1), 3)

    assert waits_about(ended, 3, 5)


@pytest.mark.parametrize("verdict", [UNKNOWN, refused(), not_booked(), not_booked(retry_after_s=9)])
def test_recovery_stops_at_half_of_the_vendors_memory(verdict: Verdict) -> None:
    """T15: a key that the vendor has forgotten would book a second time."""
    means = Means(RESEND, resend_until=at(3))
    ended = after(resent(doubt_ended=1, sent_at=2), verdict, 3, means)

    assert ended.state is State.NEEDS_REVIEW
    assert ended.next_attempt_time is None


def test_recovery_goes_by_its_schedule_and_then_at_a_steady_pace() -> None:
    booking, now, waits = after(sent(), UNKNOWN, 0), 0.0, []
    for _ in range(5):
        assert booking.next_attempt_time is not None
        waits.append((booking.next_attempt_time - at(now)).total_seconds())
        now += waits[-1]
        booking = after(_claimed(booking, at(now)), UNKNOWN, now)

    for wait, planned in zip(waits, (1, 5, 15, 900, 900), strict=True):
        assert planned * 0.8 <= wait <= planned * 1.2


def test_a_flood_of_doubts_does_not_come_back_at_one_moment() -> None:
    """Doubts that began together are spread by a fifth; each one always waits the same time."""
    waits = [POLICY.wait_s(3, f"b-{number}") for number in range(400)]

    assert len(set(waits)) > 200
    assert max(waits) - min(waits) > 0.3 * POLICY.then_every_s
    assert waits == [POLICY.wait_s(3, f"b-{number}") for number in range(400)]


def test_an_attempt_without_an_end_stays_counted_for_ever() -> None:
    """A crash during the second attempt: the refusals of later ones do not clear it."""
    crashed = resent(doubt_ended=1, sent_at=2)
    third = after(_claimed(crashed, at(40)), refused(), 41)

    assert third.state is State.IN_DOUBT
    assert third.doubtful_attempts == 2


def test_a_repeat_after_nothing_was_booked_counts_as_a_first_attempt() -> None:
    """Each attempt before it is itself proven, so its refusal is the booking's."""
    reserved = after(sent(), not_booked(), 1)
    again = replace(
        reserved, state=State.SENDING, attempt_count=2, doubtful_attempts=1, sent_time=at(5)
    )

    assert after(again, refused(), 6).state is State.DECLINED


# --- who gave up, and what was applied --------------------------------------------------------


@pytest.mark.parametrize(
    "booking", [sent(intent=Intent.CANCEL), resent(1, 2, intent=Intent.CANCEL)]
)
def test_a_booking_that_its_caller_gave_up_never_succeeds(booking: Booking) -> None:
    """Where no machine can undo it, a person has to."""
    ended = after(booking, executed(), 3)

    assert ended.state is State.NEEDS_REVIEW
    assert ended.references == RECEIPT.references


@pytest.mark.parametrize(
    "booking", [sent(intent=Intent.CANCEL), resent(1, 2, intent=Intent.CANCEL)]
)
def test_what_its_caller_gave_up_is_undone_where_it_can_be(booking: Booking) -> None:
    """T12: the settle that finds CANCEL, and what the vendor said is kept."""
    ended = after(booking, executed(), 3, UNDOES)

    assert ended.state is State.REVERSING
    assert ended.references == RECEIPT.references
    assert ended.applied == Money("CHF", 1000)
    assert ended.settle_time is None
    assert ended.next_attempt_time == at(3)


def test_what_its_caller_gave_up_and_was_not_booked_is_closed() -> None:
    """Nobody may repeat it any more."""
    ended = after(sent(intent=Intent.CANCEL), not_booked(), 2)

    assert ended.state is State.NOT_EXECUTED


def test_a_doubt_under_auto_reverse_is_given_up_in_the_same_move() -> None:
    booking = sent()
    assert booking.order is not None
    order = replace(booking.order, in_doubt_policy=InDoubtPolicy.AUTO_REVERSE)
    ended = after(replace(booking, order=order), UNKNOWN, 2, UNDOES)

    assert (ended.state, ended.intent) == (State.IN_DOUBT, Intent.CANCEL)


_TEN = Money("CHF", 1000)


@pytest.mark.parametrize(
    ("asked", "may_take_part", "echoed", "fits", "applied"),
    [
        (_TEN, False, None, True, _TEN),
        (_TEN, False, _TEN, True, _TEN),
        (_TEN, False, Money("CHF", 999), False, _TEN),
        (_TEN, False, Points(1000), False, _TEN),
        # A part may have been taken, and the vendor does not say which.
        (_TEN, True, None, True, None),
        (_TEN, True, Money("CHF", 400), True, Money("CHF", 400)),
        (_TEN, True, _TEN, True, _TEN),
        (_TEN, True, Money("CHF", 1001), False, None),
        (_TEN, True, Money("CHF", 0), False, None),
        (_TEN, True, Money("CHF", -5), False, None),
        (_TEN, True, Money("EUR", 400), False, None),
        (_TEN, True, Points(400), False, None),
        (Points(100), True, Points(40), True, Points(40)),
        (Points(100), True, Points(101), False, None),
        (Points(100), True, Points(0), False, None),
        (Points(100, "miles"), True, Points(40, "stars"), False, None),
        (Points(100), True, Money("CHF", 40), False, None),
    ],
)
def test_an_echo_in_the_unit_that_was_asked_in_must_fit(
    asked: Amount, may_take_part: bool, echoed: Amount | None, fits: bool, applied: Amount | None
) -> None:
    booking = sent(asked, allow_partial=may_take_part)
    receipt = replace(RECEIPT, echoed=echoed)

    assert judge.echo_fits(booking, receipt, ECHOES) is fits
    if fits:
        assert judge.applied_amount(booking, receipt, ECHOES) == applied


@pytest.mark.parametrize("echoed", [None, _TEN, Money("CHF", 999), Points(5)])
@pytest.mark.parametrize(("may_take_part", "applied"), [(False, _TEN), (True, None)])
def test_an_echo_without_that_promise_is_evidence_and_not_compared(
    echoed: Amount | None, may_take_part: bool, applied: Amount | None
) -> None:
    booking = sent(allow_partial=may_take_part)
    ended = after(booking, executed(replace(RECEIPT, echoed=echoed)), 2)

    assert ended.state is State.SUCCEEDED
    assert ended.applied == applied


@pytest.mark.parametrize(
    ("echoed", "applied"), [(Points(7), Points(7)), (None, None), (_TEN, None)]
)
def test_points_that_the_vendors_rules_made_are_the_vendors_word(
    echoed: Amount | None, applied: Amount | None
) -> None:
    booking = sent()
    assert booking.order is not None
    booking = replace(booking, order=replace(booking.order, asked=None))
    ended = after(booking, executed(replace(RECEIPT, echoed=echoed)), 2)

    assert (ended.state, ended.applied) == (State.SUCCEEDED, applied)


def test_an_amount_that_was_never_asked_for_proves_nothing_and_is_kept() -> None:
    """The vendor's word may be about something else."""
    ended = after(sent(), executed(replace(RECEIPT, echoed=Money("CHF", 5000))), 2, ECHOES)

    assert ended.state is State.IN_DOUBT
    assert ended.references == RECEIPT.references
    assert ended.reason is Reason.PROVIDER_ANSWER_UNREADABLE
    assert ended.applied is None
    assert ended.doubt_time == at(2)


@pytest.mark.parametrize("declines_are_replayed", [False, True])
def test_a_refusal_never_declines_what_the_vendor_once_said_it_booked(
    declines_are_replayed: bool,
) -> None:
    """After the strange amount an operator asks again, long after, and the vendor refuses."""
    strange = after(sent(), executed(replace(RECEIPT, echoed=Money("CHF", 5000))), 2, ECHOES)
    asked_again = _claimed(strange, at(3_600))
    means = replace(RESENDS, declines_are_replayed=declines_are_replayed)
    ended = after(asked_again, refused(), 3_601, means)

    assert ended.state is State.NEEDS_REVIEW
    assert ended.references == RECEIPT.references


# --- what a connection allows -----------------------------------------------------------------


def mode_of(means: Means, now: datetime = T0) -> RecoveryMode:
    return judge.mode_now(sent(), means, now, POLICY)


def a_link(promises: Mapping[str, bool], vendor: FakeVendor | None = None) -> Link:
    return Link(
        "main",
        vendor or FakeVendor(),
        b"target",
        proven={name: proof(name, value, T0, "") for name, value in promises.items()},
    )


def test_resending_is_allowed_for_half_of_the_vendors_memory_from_the_first_send() -> None:
    link = a_link({RESEND_IS_SAFE: True}, FakeVendor(key_lifetime_s=7_200))
    means = link.means(replace(sent(), sent_time=at(3_000)))

    assert means.resend_until == at(3_600)
    assert mode_of(means, at(3_599.9)) is RecoveryMode.SAFE_RESEND
    assert mode_of(means, at(3_600)) is RecoveryMode.MANUAL


@pytest.mark.parametrize("promises", [{}, {RESEND_IS_SAFE: False}])
def test_a_promise_that_was_not_proven_allows_nothing(promises: dict[str, bool]) -> None:
    means = a_link(promises).means(sent())

    assert mode_of(means) is RecoveryMode.MANUAL


def test_a_way_holds_only_for_the_orders_that_it_is_for() -> None:
    order = sent().order
    assert order is not None
    link = a_link({RESEND_IS_SAFE: True})
    offer = next(iter(FakeVendor().operations.values()))
    way = Way(RecoveryMode.SAFE_RESEND, RESEND_IS_SAFE, only_for=lambda it: it.asked is None)

    assert not link.holds_for(way, offer, order)
    assert link.holds_for(way, offer, replace(order, asked=None))
    assert link.holds_for(replace(way, only_for=None), offer, order)


def test_another_target_allows_nothing_unless_keys_survive_the_change() -> None:
    moved = replace(sent(), target_hash=b"the target of before")
    stays = a_link({RESEND_IS_SAFE: True})
    survives = a_link({RESEND_IS_SAFE: True, "keys_survive_rotation": True})

    assert mode_of(stays.means(moved)) is RecoveryMode.MANUAL
    assert mode_of(survives.means(moved)) is RecoveryMode.SAFE_RESEND


def test_an_operation_that_is_no_longer_offered_is_a_persons() -> None:
    gone = replace(sent(), operation=Operation.REDEEM_POINTS)

    assert a_link({RESEND_IS_SAFE: True}).means(gone) == Means()


def test_refusals_count_as_replayed_only_where_that_was_proven() -> None:
    assert not a_link({}).means(sent()).declines_are_replayed
    assert a_link({"declines_are_replayed": True}).means(sent()).declines_are_replayed


@pytest.mark.parametrize(
    ("way", "is_keyless"),
    [
        (Way(RecoveryMode.SAFE_RESEND), True),
        (SAFE_RESEND, False),
        (Way(RecoveryMode.STATUS_QUERY), False),
    ],
)
def test_what_is_sent_again_without_a_promise_has_no_key_at_the_vendor(
    way: Way, is_keyless: bool
) -> None:
    offer = replace(RESENT, ways=(way,))
    vendor = FakeVendor(offers={Operation.DEBIT_BALANCE: offer})

    assert a_link({RESEND_IS_SAFE: True}, vendor).means(sent()).is_keyless is is_keyless


# --- whatever happens -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """One attempt's end, or (None) a crash that leaves it without one."""

    verdict: Verdict | None
    wait_s: float
    took_s: float
    means: Means


_MEANS = st.sampled_from(
    [RESENDS, ECHOES, UNDOES, replace(RESENDS, declines_are_replayed=True), BY_HAND]
)
_VERDICTS: list[Callable[[], Verdict]] = [
    executed,
    lambda: executed(replace(RECEIPT, echoed=Money("CHF", 400))),
    lambda: executed(replace(RECEIPT, echoed=Money("CHF", 4000))),
    refused,
    refused,
    lambda: refused(Proves.WHOLE_BOOKING),
    not_booked,
    not_booked,
    lambda: not_booked(Proves.WHOLE_BOOKING),
    lambda: not_booked(retry_after_s=30),
    lambda: UNKNOWN,
    lambda: UNKNOWN,
    lambda: CONTRADICTION,
]
_EVENTS = st.lists(
    st.builds(
        Event,
        st.one_of(st.none(), st.sampled_from(_VERDICTS).map(lambda make: make())),
        st.sampled_from([0.0, 1.0, 20.0, 59.0, 61.0, 600.0]),
        st.sampled_from([0.0, 0.5, 14.0]),
        _MEANS,
    ),
    min_size=1,
    max_size=12,
)
_NOTHING_HAPPENED = (State.DECLINED, State.RESERVED, State.NOT_EXECUTED)


@settings(max_examples=300, deadline=None)
@given(_EVENTS, st.booleans(), st.sampled_from(list(Intent)))
def test_whatever_the_attempts_end_with_no_effect_is_ever_forgotten(
    events: list[Event], allow_partial: bool, intent: Intent
) -> None:
    """Random lives of a booking, beside a plain account of which attempts are unproven."""
    booking = sent(allow_partial=allow_partial, intent=intent)
    now = 0.0
    unproven = 1
    last_doubt: float | None = None
    was_executed = False
    for event in events:
        assert booking.doubtful_attempts >= unproven >= 1
        verdict = event.verdict
        if verdict is None and booking.state is State.IN_DOUBT:
            # A crash during a resend: the claim stands, and its end is never known.
            now += event.took_s + event.wait_s
            last_doubt = now
            booking = replace(booking, doubt_time=at(now))
        else:
            verdict = verdict or UNKNOWN
            asked_at = now
            now += event.took_s
            before = booking
            booking = judge.after_attempt(before, verdict, at(now), event.means, POLICY)
            assert booking.state is before.state or (before.state, booking.state) in TRANSITIONS
            assert booking.epoch == before.epoch + 1
            assert booking.doubtful_attempts >= 0
            was_executed |= verdict.status.fate is Fate.EXECUTED
            fits = verdict.receipt is None or judge.echo_fits(before, verdict.receipt, event.means)
            if verdict.status.fate is Fate.NOT_EXECUTED:
                unproven -= 1
            if verdict.status.fate is Fate.UNKNOWN or not fits:
                last_doubt = now
            if booking.state in _NOTHING_HAPPENED:
                is_proven = (
                    unproven == 0
                    or verdict.status.proves is Proves.WHOLE_BOOKING
                    or (
                        verdict.status.is_refusal
                        and (
                            event.means.declines_are_replayed
                            or (last_doubt is not None and asked_at >= last_doubt + 60)
                        )
                    )
                )
                assert verdict.status.fate is Fate.NOT_EXECUTED and is_proven
                assert not was_executed
                assert booking.doubtful_attempts == 0
                unproven = 0
            if booking.state is State.SUCCEEDED:
                assert verdict.status.fate is Fate.EXECUTED and intent is Intent.EXECUTE and fits
            if booking.state is State.REVERSING:
                assert verdict.status.fate is Fate.EXECUTED and intent is Intent.CANCEL and fits
                assert booking.applied is not None or allow_partial
            if booking.state is State.IN_DOUBT:
                assert booking.next_attempt_time is not None
                assert booking.next_attempt_time > at(now)
                mode = judge.mode_now(booking, event.means, at(now), POLICY)
                assert mode is RecoveryMode.SAFE_RESEND
            if booking.state is State.NEEDS_REVIEW:
                assert booking.next_attempt_time is None
            now += event.wait_s
        if booking.state in FINAL or booking.state is State.REVERSING:
            return
        if booking.state is State.RESERVED:
            unproven = 1
            booking = replace(
                booking,
                state=State.SENDING,
                epoch=booking.epoch + 1,
                attempt_count=booking.attempt_count + 1,
                doubtful_attempts=1,
                sent_time=at(now),
            )
        else:
            # Recovery claims it, if need be after an operator asked for one more try.
            unproven += 1
            booking = _claimed(replace(booking, state=State.IN_DOUBT), at(now))


def test_a_tombstone_is_found_out_about_in_no_way() -> None:
    tombstone = replace(sent(), operation=None, order=None)

    assert a_link({RESEND_IS_SAFE: True}).means(tombstone) == Means()


@pytest.mark.parametrize("mode", [RecoveryMode.STATUS_QUERY, RecoveryMode.STATEMENT_MATCH])
def test_a_way_by_asking_needs_something_to_ask(mode: RecoveryMode) -> None:
    order = sent().order
    assert order is not None
    offer = Offer(FakeVendor()._book, ways=(Way(mode, RESEND_IS_SAFE),))

    assert not a_link({RESEND_IS_SAFE: True}).holds_for(offer.ways[0], offer, order)


@pytest.mark.parametrize("ways", [(RecoveryMode.MANUAL,), (RecoveryMode.REVERSE,)])
def test_a_way_that_no_machine_can_go_leaves_the_doubt_to_a_person(
    ways: tuple[RecoveryMode, ...],
) -> None:
    assert mode_of(Means(ways)) is RecoveryMode.MANUAL


@pytest.mark.parametrize(
    ("due", "retry_after_s"), [(None, 1.0), (-5.0, 1.0), (20.0, 20.0), (3_600.0, 60.0)]
)
@pytest.mark.parametrize("state", [State.SENDING, State.IN_DOUBT, State.REVERSING])
def test_a_caller_who_waits_for_a_machine_is_told_when_to_ask_again(
    state: State, due: float | None, retry_after_s: float
) -> None:
    """Never at once, and never beyond a minute: repeating may itself bring the next step."""
    waiting = replace(sent(), state=state, next_attempt_time=None if due is None else at(100 + due))
    error = error_for(waiting, now=at(100))

    assert error.retry_after_s == retry_after_s
    assert (error.fate, error.is_final) == (Fate.UNKNOWN, False)
