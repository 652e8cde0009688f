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

_OF_THE_REQUEST = frozenset(
    {
        Reason.REQUEST_INVALID,
        Reason.FIELD_REQUIRED_BY_PROVIDER,
        Reason.PROVIDER_REJECTED_ARGUMENT,
    }
)
"""Refusals of what is asked for, which every attempt would have met."""

PAUSE_S_MAX = 300.0
"""No vendor's wish for a pause keeps a booking for longer, whatever an adapter hands on."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one attempt ended, by the tables. `receipt` is set where it is EXECUTED, or shows that
    an earlier one was."""

    status: StatusRow
    rule: str
    receipt: Receipt | None = None
    http_status: int | None = None
    provider_code: str = ""
    retry_after_s: float | None = None
    """The pause that the vendor asked for; None where it asked for none."""
    request_text: str = ""
    answer_text: str = ""
    message: str = ""
    """The adapter's own words for it, which hold none of the vendor's."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The times that judging and recovery go by."""

    schedule_s: tuple[float, ...]
    then_every_s: float
    settle_s: float
    abandon_reserved_s: float
    not_found_waits_s: tuple[float, ...] = (300.0, 600.0)
    """Between one "not found" that counts and the next; one more than these is a proof."""
    give_up_s: float = 86_400.0
    """So long after it was first sent a machine asks for a booking, and tries to undo it."""

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

    ways: tuple[RecoveryMode, ...] = ()
    """The ways whose promises hold, best first."""
    resend_until: datetime | None = None
    """Resending stops here; None where it is not allowed at all."""
    settle_s: float = 0.0
    """How long after a lost answer the vendor may still carry a booking out; 0: the policy's."""
    declines_are_replayed: bool = False
    echo_is_exact: bool = False
    """Whether the amount in the vendor's answer is in the unit that it was asked in."""
    books_alone: bool = False
    """Whether nothing but this gateway books on the vendor's accounts."""
    is_held_in_doubt: bool = False
    is_keyless: bool = False
    """Whether it is sent again although the vendor does not know it again: what it does twice is
    what it does once, and a refusal says nothing of the attempts before."""
    is_same_target: bool = True
    """Whether it was sent to the target of today, or to one that shares its memory of our ids.
    Another one may show that it was executed; that it does not know it, or has nothing to undo,
    proves nothing."""
    may_undo: bool = False
    undoes_doubt: bool = False
    """Whether this booking undoes one that may never have been executed."""


def mode_now(booking: Booking, means: Means, now: datetime, policy: Policy) -> RecoveryMode:
    """The first way that is open now; MANUAL where none is.

    What the caller gave up is rather undone than found out, and is not sent again where an
    effect could not be undone.
    """
    may_reverse = means.may_undo and means.is_same_target
    if booking.cancel_requested and may_reverse and RecoveryMode.REVERSE in means.ways:
        return RecoveryMode.REVERSE
    ask_until = booking.first_sent_time and booking.first_sent_time + timedelta(
        seconds=policy.give_up_s
    )
    for way in means.ways:
        match way:
            case RecoveryMode.SAFE_RESEND:
                is_open = means.resend_until is not None and now < means.resend_until
                is_open = is_open and (means.may_undo or not booking.cancel_requested)
            case RecoveryMode.STATUS_QUERY | RecoveryMode.STATEMENT_MATCH:
                is_open = ask_until is not None and now < ask_until
            case RecoveryMode.REVERSE:
                is_open = may_reverse
            case RecoveryMode.MANUAL:
                is_open = False
        if is_open:
            return way
    return RecoveryMode.MANUAL


def settled_time(booking: Booking, means: Means, policy: Policy) -> datetime | None:
    """From when on nothing of what was sent can still be carried out; None where nothing was."""
    wait = timedelta(seconds=means.settle_s or policy.settle_s)
    return booking.doubt_time and booking.doubt_time + wait


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
        not_before=None,
        reason=status.reason,
        provider_code=verdict.provider_code,
    )
    if shows_earlier(booking, status):
        # What it was is asked for where possible; else the vendor's word is all there is.
        return executed(ended, verdict.receipt or Receipt(), now, means)
    if status.contradicts:
        intent = booking.intent_in_doubt
        return replace(ended, state=State.NEEDS_REVIEW, doubt_time=now, intent=intent)
    receipt = verdict.receipt
    if status.fate is Fate.EXECUTED and receipt is not None:
        if echo_fits(booking, receipt, means):
            return executed(ended, receipt, now, means)
        # The vendor tells of another amount than it was asked for, so it may speak of something
        # else: its word is kept as evidence, and proves nothing.
        unread = Reason.PROVIDER_ANSWER_UNREADABLE
        ended = replace(ended, reason=unread, references=receipt.references)
        status = StatusRow(unread)
    if status.fate is Fate.NOT_EXECUTED:
        return _not_executed(booking, ended, verdict, now, means, policy)
    incident = booking.incident or incident_of(booking, status.reason.value, now)
    doubted = in_doubt(replace(ended, doubt_time=now, incident=incident), now, means, policy)
    return _not_before(doubted, verdict.retry_after_s, now)


def shows_earlier(booking: Booking, status: StatusRow) -> bool:
    """Whether a refusal as a duplicate shows that an earlier attempt of this booking executed."""
    return status.shows_earlier and booking.doubtful_attempts >= 2


def incident_of(booking: Booking, reason: str, now: datetime) -> str:
    """What a doubt belongs to: one connection's one trouble within one hour.

    Every replica computes the same name, so a flood has one name without anybody agreeing on it.
    """
    return f"{booking.connection}/{now:%Y-%m-%dT%H}/{reason}"


def executed(ended: Booking, receipt: Receipt, now: datetime, means: Means) -> Booking:
    """The booking that was executed, with what the vendor tells of it."""
    known = replace(
        ended,
        reason=None,
        applied=applied_amount(ended, receipt, means),
        references=receipt.references or ended.references,
        balances_after=receipt.balances_after,
        receipt_lines=receipt.receipt_lines,
    )
    if ended.intent is not Intent.CANCEL:
        return replace(known, state=State.SUCCEEDED, settle_time=now)
    if means.may_undo and not ended.is_matched:
        return replace(known, state=State.REVERSING, recovery_tries=0, next_attempt_time=now)
    # The caller gave up: never a success, and nothing that a machine may or can undo.
    return replace(known, state=State.NEEDS_REVIEW, doubt_time=now)


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
        # vendor may have judged as soon as it was asked, however late its answer came. One that
        # the earlier attempt's effect would cause at any time is no proof ever.
        settled = settled_time(booking, means, policy)
        is_settled = settled is not None and (booking.sent_time or now) >= settled
        is_whole = means.declines_are_replayed or (is_settled and not status.may_be_own)
        # Without a key the vendor judges each attempt anew, by what its account is like then.
        is_whole = is_whole and (not means.is_keyless or status.reason in _OF_THE_REQUEST)
    if not is_whole:
        # The doubt is still the earlier attempt's, and so are the words for it.
        left_over = replace(
            ended,
            doubtful_attempts=left,
            reason=booking.reason or status.reason,
            provider_code=booking.provider_code if booking.reason else verdict.provider_code,
        )
        return _not_before(in_doubt(left_over, now, means, policy), verdict.retry_after_s, now)
    if status.is_refusal and means.undoes_doubt and status.reason is Reason.ORIGINAL_NOT_FOUND:
        return _nothing_to_undo(replace(ended, doubtful_attempts=0), now, policy)
    if status.is_refusal:
        return replace(ended, state=State.DECLINED, doubtful_attempts=0, settle_time=now)
    if booking.is_own_undo:
        return _not_before(sent_again(ended, now, policy), verdict.retry_after_s, now)
    if booking.state is State.IN_DOUBT or booking.cancel_requested:
        # Nobody is waiting to repeat it: proven by a later answer, or given up by its caller.
        return replace(ended, state=State.NOT_EXECUTED, doubtful_attempts=0, settle_time=now)
    # During a pause it cannot be repeated, so its caller's time begins when that ends.
    pause_end = _pause_end(verdict.retry_after_s, now)
    return replace(
        ended,
        state=State.RESERVED,
        doubtful_attempts=0,
        not_before=pause_end,
        next_attempt_time=(pause_end or now) + timedelta(seconds=policy.abandon_reserved_s),
    )


def sent_again(ended: Booking, now: datetime, policy: Policy) -> Booking:
    """An undo of the gateway's own that provably was not done: no caller repeats it, so recovery
    does, since what was to be undone must not stand for a lost request."""
    assert ended.is_own_undo, "what a caller asked for is the caller's to repeat"
    wait = timedelta(seconds=policy.wait_s(ended.recovery_tries, ended.booking_id))
    return replace(
        ended,
        state=State.RESERVED,
        doubtful_attempts=0,
        recovery_tries=ended.recovery_tries + 1,
        next_attempt_time=now + wait,
    )


def _nothing_to_undo(ended: Booking, now: datetime, policy: Policy) -> Booking:
    """The vendor does not know what is to be undone: a proof once it has said so often enough."""
    counted = counted_not_found(ended, now, policy)
    if len(counted.not_found_times) > len(policy.not_found_waits_s):
        return replace(counted, state=State.DECLINED, settle_time=now)
    wait = timedelta(seconds=policy.not_found_waits_s[len(counted.not_found_times) - 1])
    # What was in doubt once stays so: it looks like nothing that was never sent.
    state = State.RESERVED if ended.state is State.SENDING else State.IN_DOUBT
    return replace(counted, state=state, next_attempt_time=now + wait)


def counted_not_found(booking: Booking, now: datetime, policy: Policy) -> Booking:
    """One more "not found", unless the last one that counts is too fresh."""
    times = booking.not_found_times
    if times:
        wait = timedelta(seconds=policy.not_found_waits_s[len(times) - 1])
        if now < times[-1] + wait:
            return booking
    return replace(booking, not_found_times=(*times, now))


def _not_before(booking: Booking, retry_after_s: float | None, now: datetime) -> Booking:
    """The vendor asked for a pause, which callers who repeat must keep as well."""
    pause_end = _pause_end(retry_after_s, now)
    if booking.next_attempt_time is None or pause_end is None:
        return booking
    return replace(
        booking,
        not_before=pause_end,
        next_attempt_time=max(booking.next_attempt_time, pause_end),
    )


def _pause_end(retry_after_s: float | None, now: datetime) -> datetime | None:
    """Until when the vendor does not want to hear of a booking; None where it did not say so."""
    if retry_after_s is None:
        return None
    return now + timedelta(seconds=min(retry_after_s, PAUSE_S_MAX))


def in_doubt(ended: Booking, now: datetime, means: Means, policy: Policy) -> Booking:
    """The booking in doubt: with a next step where a machine can find out, else a person's."""
    # With the doubt itself, so that nobody hears of it before it is on disk.
    ended = replace(ended, intent=ended.intent_in_doubt)
    tries = ended.recovery_tries + (1 if ended.state is State.IN_DOUBT else 0)
    mode = mode_now(ended, means, now, policy)
    if mode is RecoveryMode.MANUAL:
        return replace(ended, state=State.NEEDS_REVIEW, recovery_mode=mode)
    due = now + timedelta(seconds=policy.wait_s(tries, ended.booking_id))
    if mode is RecoveryMode.REVERSE:
        due = max(due, settled_time(ended, means, policy) or due)
    return replace(
        ended,
        state=State.IN_DOUBT,
        recovery_mode=mode,
        recovery_tries=tries,
        next_attempt_time=due,
    )


def after_no_answer(
    booking: Booking, verdict: Verdict, now: datetime, means: Means, policy: Policy
) -> Booking:
    """The booking in doubt after a question that brought no answer: nothing is known better,
    unless what came instead is for a person to judge."""
    asked = replace(
        booking,
        epoch=booking.epoch + 1,
        owner="",
        attempt_open=False,
        lease_until=None,
        next_attempt_time=None,
        not_before=None,
    )
    if verdict.status.contradicts:
        return replace(
            asked,
            state=State.NEEDS_REVIEW,
            reason=verdict.status.reason,
            provider_code=verdict.provider_code,
        )
    return _not_before(in_doubt(asked, now, means, policy), verdict.retry_after_s, now)


# --- amounts ------------------------------------------------------------------------------------


def echo_fits(booking: Booking, receipt: Receipt, means: Means) -> bool:
    """Whether the amount that the vendor names can be the one that it was asked for.

    Compared only under the promise that it is in the same unit; an amount that is not named
    contradicts nothing.
    """
    asked, echoed = booking.asked, receipt.echoed
    if asked is None or echoed is None or not means.echo_is_exact:
        return True
    assert booking.order is not None, "a tombstone is never sent"
    if not booking.order.may_take_part:
        return echoed == asked
    match asked, echoed:
        case Money(), Money():
            return asked.currency == echoed.currency and 0 < echoed.minor <= asked.minor
        case Points(), Points():
            return asked.unit == echoed.unit and 0 < echoed.value <= asked.value
        case _:
            return False


def applied_amount(booking: Booking, receipt: Receipt, means: Means) -> Amount | None:
    """What was applied; None where that is not known.

    As asked, unless the vendor may take a part: then what it says that it took, where it can be
    trusted to say it. Where no amount was asked for, the points that it names.
    """
    assert booking.order is not None, "a tombstone is never sent"
    if booking.asked is None:
        return receipt.echoed if isinstance(receipt.echoed, Points) else None
    if not booking.order.may_take_part:
        return booking.asked
    return receipt.echoed if means.echo_is_exact else None
