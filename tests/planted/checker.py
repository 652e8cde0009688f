"""What callers heard, what the vendor did and what the journal says; it finds contradictions.

It looks from outside only: it knows no planted bug, and must never look at one.
"""

from collections import Counter, defaultdict
from collections.abc import Awaitable, Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from loyalty_gateway.domain.amounts import Amount
from loyalty_gateway.domain.booking import Answer, Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from tests.booking.vendor import Effect


class Kind(StrEnum):
    """One way in which the promise of exactly once is broken."""

    TWO_EFFECTS = "more than one effect for one request_id"
    OK_WITHOUT_EFFECT = "OK was told, and the vendor has no such booking"
    REFUSED_WITH_EFFECT = "finally refused was told, and the vendor has booked"
    CONTRADICTED = "OK and finally refused were told of one request_id"
    ANSWERS_DIFFER = "two different final answers were told of one request_id"
    JOURNAL_DISAGREES = "the journal's final state is not what the vendor did"
    FORGOTTEN = "the vendor has booked what the journal does not know"
    UNDONE_TWICE = "one booking was undone more than once"
    FOREIGN_ANSWER = "the answer of one request was taken for another's"
    OK_FORGOTTEN = "OK was told, and the journal does not hold it"
    ANOTHER_AMOUNT = "another amount was booked or told than was asked for"
    FOREIGN_BOOKING = "a tenant was shown another one's booking"
    FOREIGN_CARD = "a tenant came to a card by another one's token"
    INNER_TEXT = "the text of an exception was told to a caller"
    SENT_ELSEWHERE = "a request went where only an answer had led it"


@dataclass(frozen=True, slots=True)
class Told:
    """What one call of a booking ended with."""

    request_id: str
    asked: Amount
    answer: bytes | None = None
    is_refused_for_good: bool = False
    status: tuple[Reason, bytes | None] | None = None


@dataclass(slots=True)
class Callers:
    """The memory of all callers of one run."""

    told: list[Told] = field(default_factory=list)

    async def hear(
        self, request_id: str, asked: Amount, call: Awaitable[Answer]
    ) -> LoyaltyError | None:
        """Notes what a call ends with; gives the error, if it is one."""
        try:
            answer = await call
        except LoyaltyError as error:
            # A conflict speaks of another request, so it says nothing of this one's effect.
            is_final = error.is_final and error.fate is Fate.NOT_EXECUTED
            status = (error.reason, error.status_bytes) if is_final else None
            self.told.append(Told(request_id, asked, is_refused_for_good=is_final, status=status))
            return error
        self.told.append(Told(request_id, asked, answer.body))
        return None


def violations(
    callers: Callers, effects: Iterable[Effect], bookings: Collection[Booking]
) -> set[Kind]:
    """Every kind of contradiction. Each request_id's true amount is its own in the run."""
    done: Counter[Amount | None] = Counter(effect.asked for effect in effects)
    told: dict[str, list[Told]] = defaultdict(list)
    for one in callers.told:
        told[one.request_id].append(one)
    found: set[Kind] = set()
    if any(count > 1 for count in done.values()):
        found.add(Kind.TWO_EFFECTS)
    for calls in told.values():
        answers = {one.answer for one in calls if one.answer is not None}
        refusals = {one.status for one in calls if one.status is not None}
        if any(one.answer is not None and not done[one.asked] for one in calls):
            found.add(Kind.OK_WITHOUT_EFFECT)
        if any(one.is_refused_for_good and done[one.asked] for one in calls):
            found.add(Kind.REFUSED_WITH_EFFECT)
        if answers and refusals:
            found.add(Kind.CONTRADICTED)
        if len(answers) > 1 or len(refusals) > 1:
            found.add(Kind.ANSWERS_DIFFER)
    keep = (State.SUCCEEDED, State.REVERSING, State.REVERSED)
    kept = {booking.request_id for booking in bookings if booking.state in keep}
    if any(one.answer is not None and one.request_id not in kept for one in callers.told):
        found.add(Kind.OK_FORGOTTEN)
    known: set[Amount] = set()
    for booking in bookings:
        if booking.asked is None:
            continue
        known.add(booking.asked)
        has_effect = done[booking.asked] > 0
        if booking.is_final and has_effect is not (booking.state is State.SUCCEEDED):
            found.add(Kind.JOURNAL_DISAGREES)
    if set(done) - known:
        found.add(Kind.FORGOTTEN)
    return found
