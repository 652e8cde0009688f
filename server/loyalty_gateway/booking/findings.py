"""What a vendor's answer to a question means for a booking in doubt; pure, like judge.py.

A question has no effect, so it never adds to the doubt; and what is not found proves nothing
until everything that was sent has had its time, nor where it was sent to another target.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from loyalty_gateway.booking.judge import (
    Means,
    Policy,
    counted_not_found,
    echo_fits,
    executed,
    in_doubt,
    sent_again,
    settled_time,
)
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import CREATE_OPERATIONS, Reference
from loyalty_gateway.providers.port import CLOCK_OFF_MAX, Candidate, Finding


def after_finding(
    booking: Booking,
    finding: Finding,
    began: datetime,
    now: datetime,
    means: Means,
    policy: Policy,
    *,
    taken: Collection[Reference] = (),
) -> Booking:
    """The booking in doubt after the vendor was asked for it, from `began` on.

    `taken` are the references that belong to other bookings of ours.
    """
    assert booking.state is State.IN_DOUBT, "a question is asked about a doubt"
    asked = replace(
        booking,
        epoch=booking.epoch + 1,
        owner="",
        attempt_open=False,
        lease_until=None,
        next_attempt_time=None,
        not_before=None,
    )
    settled = settled_time(booking, means, policy)
    is_settled = settled is not None and began >= settled
    certain = [it for it in finding.candidates if it.is_certain]
    free = [it for it in finding.candidates if not set(it.receipt.references[:1]) & set(taken)]
    if len(certain) == 1:
        is_anothers = bool(set(certain[0].receipt.references[:1]) & set(taken))
        return _anothers(asked, now) if is_anothers else _found(asked, certain[0], now, means)
    assert booking.order is not None, "a tombstone is never asked for"
    if certain or (free and _is_ambiguous(booking, free, means, settled, is_settled=is_settled)):
        return replace(asked, state=State.NEEDS_REVIEW)
    if free and not booking.order.carries_tag:
        return _found(replace(asked, is_matched=True), free[0], now, means)
    if finding.is_pending or free:
        return in_doubt(asked, now, means, policy)
    if booking.references or not means.is_same_target:
        # The vendor once said that it booked this, and does not know it now; or it was sent to
        # another target, of which this one knows nothing.
        return (
            replace(asked, state=State.NEEDS_REVIEW)
            if is_settled
            else _later(asked, now, means, policy, settled)
        )
    if finding.is_refused:
        is_whole = booking.doubtful_attempts <= 1 or means.declines_are_replayed or is_settled
        if not is_whole:
            return _later(asked, now, means, policy, settled)
        declined = replace(asked, doubtful_attempts=0, settle_time=now)
        return replace(declined, state=State.DECLINED, reason=Reason.PROVIDER_DECLINED)
    if not is_settled:
        return _later(asked, now, means, policy, settled)
    return _not_found(asked, now, means, policy)


def _is_ambiguous(
    booking: Booking,
    free: Sequence[Candidate],
    means: Means,
    settled: datetime | None,
    *,
    is_settled: bool,
) -> bool:
    """Whether what looks like the booking, without naming it, is a person's to judge."""
    assert booking.order is not None, "a tombstone is never asked for"
    if booking.order.carries_tag:
        # Somebody else's, it seems: ours would show its tag, if it is there at all by now.
        return is_settled
    is_one = len(free) == 1 and means.books_alone and not free[0].is_unlike
    return not (is_one and _is_of_its_time(booking, free[0], settled))


def _is_of_its_time(booking: Booking, candidate: Candidate, settled: datetime | None) -> bool:
    """Whether a line is of the time in which the booking may have been carried out.

    Another may be of an earlier booking of ours, which need not have its number in the journal:
    a person may have said that it was executed.
    """
    began = booking.first_sent_time
    if candidate.time is None or began is None or settled is None:
        return False
    return began - CLOCK_OFF_MAX <= candidate.time <= settled + CLOCK_OFF_MAX


def _anothers(asked: Booking, now: datetime) -> Booking:
    """What was found is another booking of ours, which keeps its number.

    An account that another made cannot be made again; of anything else a person has to say what
    became of it.
    """
    if asked.operation not in CREATE_OPERATIONS or asked.references:
        return replace(asked, state=State.NEEDS_REVIEW)
    return replace(
        asked,
        state=State.DECLINED,
        reason=Reason.ACCOUNT_ALREADY_EXISTS,
        doubtful_attempts=0,
        settle_time=now,
    )


def _found(asked: Booking, candidate: Candidate, now: datetime, means: Means) -> Booking:
    receipt = candidate.receipt
    if echo_fits(asked, receipt, means):
        return executed(asked, receipt, now, means)
    # The very booking, with another amount: only a person can judge that.
    unread = Reason.PROVIDER_ANSWER_UNREADABLE
    return replace(asked, state=State.NEEDS_REVIEW, reason=unread, references=receipt.references)


def _later(
    asked: Booking, now: datetime, means: Means, policy: Policy, settled: datetime | None
) -> Booking:
    """Asked again by the schedule, and once more as soon as the answer can prove something."""
    doubted = in_doubt(asked, now, means, policy)
    due = doubted.next_attempt_time
    if due is None or settled is None or due <= settled or now >= settled:
        return doubted
    return replace(doubted, next_attempt_time=settled)


def _not_found(asked: Booking, now: datetime, means: Means, policy: Policy) -> Booking:
    """Not there, although everything that was sent has had its time."""
    counted = counted_not_found(asked, now, policy)
    times = counted.not_found_times
    if len(times) > len(policy.not_found_waits_s):
        if asked.is_own_undo:
            # What counts from now on is counted anew: it may be there when it is sent again.
            return sent_again(replace(counted, not_found_times=()), now, policy)
        return replace(counted, state=State.NOT_EXECUTED, doubtful_attempts=0, settle_time=now)
    doubted = in_doubt(counted, now, means, policy)
    if doubted.state is not State.IN_DOUBT:
        return doubted
    counts_again = times[-1] + timedelta(seconds=policy.not_found_waits_s[len(times) - 1])
    return replace(doubted, next_attempt_time=max(counts_again, now))
