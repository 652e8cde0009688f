"""The booking's life as a reader of the contract would tell it: no journal, no tasks, no clock.

It knows the promises only, and nothing of how they are kept.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from loyalty_gateway.domain.booking import OUTCOMES, State
from loyalty_gateway.domain.errors import Fate

RESEND_FOR_S = 12 * 3600
"""Half of the time for which the vendor remembers our id."""
SETTLE_S = 60
ABANDON_S = 900

FINAL = (State.SUCCEEDED, State.DECLINED, State.NOT_EXECUTED)


class Act(Enum):
    """What the vendor does with one attempt, and what it lets us see of it."""

    BOOKS = auto()
    BOOKS_AND_IS_SILENT = auto()
    DOES_NOTHING_AND_IS_SILENT = auto()
    BREAKS_THE_ADAPTER = auto()
    IS_NOT_REACHED = auto()
    LIMITS_THE_RATE = auto()
    REFUSES = auto()
    REFUSES_THE_WHOLE = auto()
    CONTRADICTS = auto()


SILENT = (Act.BOOKS_AND_IS_SILENT, Act.DOES_NOTHING_AND_IS_SILENT, Act.BREAKS_THE_ADAPTER)
_EFFECT = (Act.BOOKS, Act.BOOKS_AND_IS_SILENT, Act.BREAKS_THE_ADAPTER)


@dataclass(slots=True)
class Life:
    """One request_id. `state` is None while nobody has used it."""

    state: State | None = None
    amount: int = 0
    attempts: int = 0
    doubtful: int = 0
    has_effect: bool = False
    is_tombstone: bool = False
    first_sent_s: int = 0
    doubt_s: int = 0
    reserved_s: int = 0
    told: set[bytes] = field(default_factory=set)

    @property
    def outcome(self) -> Fate | None:
        return None if self.state is None else OUTCOMES[self.state]

    def may_resend(self, now_s: int) -> bool:
        return now_s - self.first_sent_s < RESEND_FOR_S

    def honest(self, act: Act, now_s: int) -> Act:
        """A vendor that remembers our id does not deny for ever what it has booked."""
        is_late = now_s - self.doubt_s >= SETTLE_S
        if self.has_effect and (act is Act.REFUSES_THE_WHOLE or (act is Act.REFUSES and is_late)):
            return Act.BOOKS
        return act

    def sent_by_caller(self, act: Act, amount: int, now_s: int) -> None:
        """The first attempt, or a repeat of what provably did nothing."""
        assert self.state in (None, State.RESERVED)
        self.amount, self.state = amount, State.SENDING
        self.attempts += 1
        self.doubtful, self.first_sent_s = 1, now_s
        self._ended(act, now_s)

    def sent_again(self, act: Act, now_s: int) -> None:
        """A step of recovery on a doubt."""
        assert self.state is State.IN_DOUBT
        if not self.may_resend(now_s):
            self.state = State.NEEDS_REVIEW
            return
        self.attempts += 1
        self.doubtful += 1
        self._ended(act, now_s)

    def crashed_while_sending(self, has_effect: bool, amount: int, now_s: int) -> None:
        self.amount, self.state = amount, State.SENDING
        self.attempts += 1
        self.doubtful, self.first_sent_s = 1, now_s
        self.has_effect |= has_effect
        self._doubt(now_s, is_new=True)

    def crashed_while_resending(self, has_effect: bool, now_s: int) -> None:
        """The next process finds an attempt without an end; it is one more doubt."""
        self.attempts += 1
        self.doubtful += 1
        self.has_effect |= has_effect
        self.doubt_s = now_s

    def time_passed(self, act: Act, now_s: int) -> None:
        """Long enough for every step of recovery to be due once."""
        if self.state is State.IN_DOUBT:
            self.sent_again(self.honest(act, now_s), now_s)
        elif self.state is State.RESERVED and now_s - self.reserved_s >= ABANDON_S:
            self.state = State.NOT_EXECUTED

    def cancelled(self) -> bool:
        """Whether CancelBooking is answered OK."""
        if self.state is None:
            self.is_tombstone = True
        if self.state in (None, State.RESERVED):
            self.state = State.NOT_EXECUTED
        return self.state in (State.NOT_EXECUTED, State.DECLINED)

    def resolved(self, is_executed: bool) -> bool:
        """Whether a person's decision is taken."""
        decided = Fate.EXECUTED if is_executed else Fate.NOT_EXECUTED
        if self.state in FINAL:
            return self.outcome is decided
        if self.state not in (State.IN_DOUBT, State.NEEDS_REVIEW):
            return False
        self.state = State.SUCCEEDED if is_executed else State.NOT_EXECUTED
        return True

    def _ended(self, act: Act, now_s: int) -> None:
        is_first = self.state is State.SENDING
        self.has_effect |= act in _EFFECT
        if act is Act.BOOKS:
            self.state = State.SUCCEEDED
        elif act is Act.CONTRADICTS:
            self.state, self.doubt_s = State.NEEDS_REVIEW, now_s
        elif act in SILENT:
            self._doubt(now_s, is_new=True)
        else:
            is_refusal = act in (Act.REFUSES, Act.REFUSES_THE_WHOLE)
            is_settled = not is_first and now_s - self.doubt_s >= SETTLE_S
            is_whole = self.doubtful == 1 or act is Act.REFUSES_THE_WHOLE
            if is_refusal and (is_whole or is_settled):
                self.state, self.doubtful = State.DECLINED, 0
            elif is_whole:
                self.state, self.doubtful, self.reserved_s = State.RESERVED, 0, now_s
            else:
                self.doubtful -= 1
                self._doubt(now_s, is_new=False)

    def _doubt(self, now_s: int, *, is_new: bool) -> None:
        if is_new:
            self.doubt_s = now_s
        self.state = State.IN_DOUBT if self.may_resend(now_s) else State.NEEDS_REVIEW
