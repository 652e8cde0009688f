"""What the end of an attempt means for the whole booking; pure, so that it can be read and tested.

The default is doubt: a booking is refused or repeatable only when each of its attempts is
itself proven to have done nothing, or one answer proves it for the whole booking.
"""

import zlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.booking import Booking, Intent, State
from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import Receipt, RecoveryMode
from loyalty_gateway.providers.port import StatusRow


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one attempt ended, by the tables. `receipt` is set when and only when EXECUTED."""

    status: StatusRow
    rule: str
    receipt: Receipt | None = None
    http_status: int | None = None
    provider_code: str = ""
    retry_after_s: float | None = None
    request_text: str = ""
    answer_text: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """The times that judging and recovery go by."""

    schedule_s: tuple[float, ...]
    then_every_s: float
    settle_s: float
    abandon_reserved_s: float

    def wait_s(self, tries: int, booking_id: str) -> float:
        """Seconds until the next step after `tries` steps of recovery.

        Spread by a fifth each way, by the booking's id: a flood of doubts that began together
        does not come back together, and the same booking always waits the same time.
        """
        base_s = self.schedule_s[tries] if tries < len(self.schedule_s) else self.then_every_s
        spread = zlib.crc32(f"{booking_id}/{tries}".encode()) % 401 - 200
        return base_s * (1000 + spread) / 1000


@dataclass(frozen=True, slots=True)
class Means:
    """What this connection allows at the moment for finding out about this booking."""

    mode: RecoveryMode
    resend_until: datetime | None = None
    """Resending stops here; None where it is not allowed at all."""
    declines_are_replayed: bool = False


def after_attempt(
    booking: Booking, verdict: Verdict, now: datetime, means: Means, policy: Policy
) -> Booking:
    """The booking after the attempt that was running has ended with this verdict.

    Works for the caller's own attempt (SENDING) and for recovery's (IN_DOUBT). Neither the
    answer's bytes nor the refusal's are made here.
    """
    assert booking.state in (State.SENDING, State.IN_DOUBT), "an attempt is running"
    assert booking.doubtful_attempts >= 1, "the running attempt counts as doubtful"
    status = verdict.status
    ended = replace(
        booking,
        epoch=booking.epoch + 1,
        owner="",
        attempt_open=False,
        lease_until=None,
        next_attempt_time=None,
        reason=status.reason,
        provider_code=verdict.provider_code,
    )
    if status.contradicts:
        return replace(ended, state=State.NEEDS_REVIEW, doubt_time=now)
    if status.fate is Fate.EXECUTED and verdict.receipt is not None:
        applied = applied_amount(booking, verdict.receipt)
        if applied is not None:
            return _succeeded(ended, verdict.receipt, applied, now)
        # The vendor applied an amount that was never asked for: only a person can judge that.
        return replace(
            ended,
            state=State.NEEDS_REVIEW,
            reason=Reason.PROVIDER_ANSWER_UNREADABLE,
            references=verdict.receipt.references,
            doubt_time=now,
        )
    if status.fate is Fate.NOT_EXECUTED:
        return _not_executed(booking, ended, verdict, now, means, policy)
    incident = booking.incident or incident_of(booking, status.reason.value, now)
    return in_doubt(replace(ended, doubt_time=now, incident=incident), now, means, policy)


def incident_of(booking: Booking, reason: str, now: datetime) -> str:
    """What a doubt belongs to: one connection's one trouble within one hour.

    Every replica computes the same name, so a flood has one name without anybody agreeing on it.
    """
    return f"{booking.connection}/{now:%Y-%m-%dT%H}/{reason}"


def _succeeded(ended: Booking, receipt: Receipt, applied: Amount, now: datetime) -> Booking:
    if ended.intent is Intent.CANCEL:
        # The caller gave up meanwhile: never a success, and the undo is not a machine's here.
        return replace(
            ended, state=State.NEEDS_REVIEW, references=receipt.references, doubt_time=now
        )
    return replace(
        ended,
        state=State.SUCCEEDED,
        reason=None,
        applied=applied,
        references=receipt.references,
        balances_after=receipt.balances_after,
        receipt_lines=receipt.receipt_lines,
        settle_time=now,
    )


def _not_executed(
    booking: Booking,
    ended: Booking,
    verdict: Verdict,
    now: datetime,
    means: Means,
    policy: Policy,
) -> Booking:
    if booking.references:
        # The vendor once said that it booked this: a "no" now contradicts it.
        return replace(ended, state=State.NEEDS_REVIEW, doubt_time=now)
    left = booking.doubtful_attempts - 1
    status = verdict.status
    is_whole = left == 0 or status.proves is Proves.WHOLE_BOOKING
    if status.is_refusal and not is_whole:
        # A refusal of a resend may be caused by the first attempt's own effect, unless the
        # vendor replays refusals or the first attempt has had ample time to take effect. The
        # vendor may have judged as soon as it was asked, however late its answer came.
        settled_time = booking.doubt_time and booking.doubt_time + timedelta(
            seconds=policy.settle_s
        )
        is_settled = settled_time is not None and (booking.sent_time or now) >= settled_time
        is_whole = means.declines_are_replayed or is_settled
    if not is_whole:
        # The doubt is still the earlier attempt's, and so are the words for it.
        left_over = replace(
            ended,
            doubtful_attempts=left,
            reason=booking.reason or status.reason,
            provider_code=booking.provider_code if booking.reason else verdict.provider_code,
        )
        doubted = in_doubt(left_over, now, means, policy)
        if doubted.next_attempt_time is None or verdict.retry_after_s is None:
            return doubted
        asked_for = now + timedelta(seconds=verdict.retry_after_s)
        return replace(doubted, next_attempt_time=max(doubted.next_attempt_time, asked_for))
    if status.is_refusal:
        return replace(ended, state=State.DECLINED, doubtful_attempts=0, settle_time=now)
    if booking.state is State.IN_DOUBT:
        # Proven for the whole booking by a later answer: nobody is waiting to repeat it.
        return replace(ended, state=State.NOT_EXECUTED, doubtful_attempts=0, settle_time=now)
    return replace(
        ended,
        state=State.RESERVED,
        doubtful_attempts=0,
        next_attempt_time=now + timedelta(seconds=policy.abandon_reserved_s),
    )


def in_doubt(ended: Booking, now: datetime, means: Means, policy: Policy) -> Booking:
    """The booking in doubt: with a next step where a machine can find out, else a person's."""
    tries = ended.recovery_tries + (1 if ended.state is State.IN_DOUBT else 0)
    wait = timedelta(seconds=policy.wait_s(tries, ended.booking_id))
    if not may_resend(means, now):
        return replace(ended, state=State.NEEDS_REVIEW, recovery_mode=means.mode)
    return replace(
        ended,
        state=State.IN_DOUBT,
        recovery_mode=means.mode,
        recovery_tries=tries,
        next_attempt_time=now + wait,
    )


def may_resend(means: Means, now: datetime) -> bool:
    """Whether the same booking may be sent again now, by the vendor's own rules."""
    return (
        means.mode is RecoveryMode.SAFE_RESEND
        and means.resend_until is not None
        and now < means.resend_until
    )


def applied_amount(booking: Booking, receipt: Receipt) -> Amount | None:
    """What was applied: as asked, unless a part was allowed and the vendor says which.

    None where the vendor's part cannot be: not positive, more than asked, another currency or
    kind of points.
    """
    asked = booking.asked
    assert booking.order is not None, "a tombstone is never sent"
    echoed = receipt.echoed
    if asked is None or not booking.order.allow_partial or echoed is None:
        return asked
    match asked, echoed:
        case Money(), Money():
            is_sane = asked.currency == echoed.currency and 0 < echoed.minor <= asked.minor
        case Points(), Points():
            is_sane = asked.unit == echoed.unit and 0 < echoed.value <= asked.value
        case _:
            is_sane = False
    return echoed if is_sane else None
