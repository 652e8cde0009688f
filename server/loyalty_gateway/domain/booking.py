"""A journalled operation: its states, the moves between them and what each state means.

This module decides nothing at run time; it is the table that the engine and the journal obey.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from loyalty_gateway.domain.amounts import Amount, Points
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Proves, Reason
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


class State(StrEnum):
    """Where a booking stands, durably. The meaning of each is in the contract's BookingState."""

    RESERVED = "RESERVED"
    SENDING = "SENDING"
    IN_DOUBT = "IN_DOUBT"
    REVERSING = "REVERSING"
    NEEDS_REVIEW = "NEEDS_REVIEW"
    SUCCEEDED = "SUCCEEDED"
    DECLINED = "DECLINED"
    NOT_EXECUTED = "NOT_EXECUTED"
    REVERSED = "REVERSED"


class Intent(StrEnum):
    """What recovery drives the booking to."""

    EXECUTE = "EXECUTE"
    CANCEL = "CANCEL"


OUTCOMES: dict[State, Fate] = {
    State.RESERVED: Fate.NOT_EXECUTED,
    State.SENDING: Fate.UNKNOWN,
    State.IN_DOUBT: Fate.UNKNOWN,
    State.REVERSING: Fate.UNKNOWN,
    State.NEEDS_REVIEW: Fate.UNKNOWN,
    State.SUCCEEDED: Fate.EXECUTED,
    State.DECLINED: Fate.NOT_EXECUTED,
    State.NOT_EXECUTED: Fate.NOT_EXECUTED,
    State.REVERSED: Fate.NOT_EXECUTED,
}
"""Today's net effect at the vendor, by state."""

FINAL: frozenset[State] = frozenset(
    {State.SUCCEEDED, State.DECLINED, State.NOT_EXECUTED, State.REVERSED}
)
"""The states that nothing but an undo of the booking itself may leave."""

TRANSITIONS: dict[tuple[State | None, State], str] = {
    (None, State.SENDING): "opened: the intent to send is on disk",
    (None, State.NOT_EXECUTED): "cancelled before the original arrived",
    (State.RESERVED, State.SENDING): "sent again by the caller",
    (State.SENDING, State.RESERVED): "nothing was sent, or nothing was booked; may be repeated",
    (State.SENDING, State.SUCCEEDED): "the vendor confirmed the booking",
    (State.SENDING, State.DECLINED): "the vendor refused the booking",
    (State.SENDING, State.IN_DOUBT): "the answer is missing or proves nothing",
    (State.SENDING, State.NEEDS_REVIEW): "no machine can judge it or find out; a person must"
    " decide",
    (State.RESERVED, State.NOT_EXECUTED): "abandoned or cancelled before anything was booked",
    (State.SENDING, State.NOT_EXECUTED): "nothing was booked, and the caller had given it up",
    (State.SENDING, State.REVERSING): "the vendor confirmed what the caller had given up; it is to"
    " be undone",
    (State.IN_DOUBT, State.IN_DOUBT): "recovery works on it",
    (State.SENDING, State.SENDING): "recovery took it up, since its owner was silent",
    (State.RESERVED, State.RESERVED): "recovery took it up",
    (State.REVERSING, State.REVERSING): "recovery took it up",
    (State.IN_DOUBT, State.SUCCEEDED): "found to have been booked",
    (State.IN_DOUBT, State.DECLINED): "found to have been refused",
    (State.IN_DOUBT, State.NOT_EXECUTED): "found not to have been booked",
    (State.IN_DOUBT, State.NEEDS_REVIEW): "no machine can find out; a person must decide",
    (State.IN_DOUBT, State.REVERSING): "it is to be undone, whatever happened",
    (State.IN_DOUBT, State.RESERVED): "an undo of the gateway's own was not done; it is sent again",
    (State.SUCCEEDED, State.REVERSING): "it is to be undone",
    (State.REVERSING, State.REVERSED): "it was undone, or there was nothing to undo",
    (State.REVERSING, State.SUCCEEDED): "its undo came to nothing, so it stands",
    (State.REVERSING, State.NEEDS_REVIEW): "no machine can tell what became of it and its undo",
    (State.SUCCEEDED, State.NEEDS_REVIEW): "another booking turned out to have the same reference"
    " at the vendor",
    (State.NEEDS_REVIEW, State.IN_DOUBT): "an operator asked for one more try",
    (State.NEEDS_REVIEW, State.SUCCEEDED): "an operator found it booked",
    (State.NEEDS_REVIEW, State.NOT_EXECUTED): "an operator found it not booked",
    (State.NEEDS_REVIEW, State.REVERSING): "an operator found it booked; since the caller gave it"
    " up, it is to be undone",
}
"""Every move that the journal accepts, with the words ExplainBooking uses for it."""


OWN_UNDO = "~undo/"
"""What the request_ids of undos begin with that the gateway itself decided on; no caller can name
one."""


@dataclass(frozen=True, slots=True)
class CreatedAccount:
    """The account that a booking brought into being, as the caller may see it."""

    token: str = field(repr=False)
    masked_id: str
    account_hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """One row of the journal. `operation` is None for a tombstone, which carries nothing else.

    `doubtful_attempts` counts the attempts that are not themselves proven NOT_EXECUTED; it is
    raised before an attempt is sent. `epoch` rises with every change, and a change is written
    only over the epoch it was computed from.
    """

    tenant: str
    booking_id: str
    request_id: str
    state: State
    create_time: datetime
    operation: Operation | None = None
    connection: str = ""
    provider: str = ""
    account_hash: bytes = field(default=b"", repr=False)
    account_sealed: bytes | None = field(default=None, repr=False)
    account_token: str = field(default="", repr=False)
    masked_id: str = ""
    fingerprint: bytes = field(default=b"", repr=False)
    order: Order | None = field(default=None, repr=False)
    """The order as journalled: its account_id and all personal parts are empty, and stand sealed
    beside it."""
    private_sealed: bytes | None = field(default=None, repr=False)
    """The order's person, external account, proof and preparation; None where it has none."""
    outbound_id: str = ""
    target_hash: bytes = field(default=b"", repr=False)
    recovery_mode: RecoveryMode = RecoveryMode.MANUAL
    trace_parent: str = ""
    original_booking: str = ""
    intent: Intent = Intent.EXECUTE
    epoch: int = 1
    owner: str = ""
    lease_until: datetime | None = None
    attempt_count: int = 0
    doubtful_attempts: int = 0
    attempt_open: bool = False
    """Whether an attempt was begun whose end is not recorded."""
    recovery_tries: int = 0
    reason: Reason | None = None
    provider_code: str = ""
    incident: str = ""
    """What a doubt belongs to: the same for all that one trouble caused."""
    applied: Amount | None = None
    balances_after: tuple[Balance, ...] = ()
    references: tuple[Reference, ...] = ()
    receipt_lines: tuple[ReceiptLine, ...] = ()
    created: CreatedAccount | None = None
    not_found_times: tuple[datetime, ...] = ()
    """When the vendor was asked and did not know the booking, as often as that proves something."""
    is_matched: bool = False
    """Whether account, amount and time alone told that a line of the vendor's history is it."""
    not_before: datetime | None = None
    """The vendor does not want to hear of it again before."""
    answer_bytes: bytes | None = field(default=None, repr=False)
    """The stored answer, free of personal data. While the booking is not settled it is kept for
    the day that it stands, and told to nobody."""
    answer_sealed: bytes | None = field(default=None, repr=False)
    """The personal part of the answer, sealed; what is answered is both, one behind the other."""
    status_bytes: bytes | None = field(default=None, repr=False)
    first_sent_time: datetime | None = None
    sent_time: datetime | None = None
    doubt_time: datetime | None = None
    """When the last attempt that proved nothing ended."""
    settle_time: datetime | None = None
    next_attempt_time: datetime | None = None
    # Not columns: read from other rows, and from what the connection can do today.
    undo_bookings: tuple[str, ...] = ()
    """Names of the bookings that undo this one, oldest first."""
    is_reversible: bool = False
    """Whether an undo could be asked for today."""

    @property
    def name(self) -> str:
        return f"bookings/{self.booking_id}"

    @property
    def outcome(self) -> Fate:
        return OUTCOMES[self.state]

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def is_answered(self) -> bool:
        """Whether a stored answer may have been told, and so is told for ever."""
        return self.answer_bytes is not None and self.settle_time is not None

    @property
    def is_own_undo(self) -> bool:
        """Whether the gateway itself decided on this undo, so that no caller repeats it."""
        return self.request_id.startswith(OWN_UNDO)

    @property
    def is_tombstone(self) -> bool:
        return self.operation is None

    @property
    def cancel_requested(self) -> bool:
        return self.intent is Intent.CANCEL

    @property
    def intent_in_doubt(self) -> Intent:
        """What it is driven to from the moment on in which its caller hears of a doubt: under
        AUTO_REVERSE that caller relies on the undo."""
        is_given_up = self.in_doubt_policy is InDoubtPolicy.AUTO_REVERSE
        return Intent.CANCEL if is_given_up else self.intent

    @property
    def asked(self) -> Amount | None:
        return self.order.asked if self.order else None

    @property
    def in_doubt_policy(self) -> InDoubtPolicy:
        return self.order.in_doubt_policy if self.order else InDoubtPolicy.RESOLVE

    @property
    def trace_id(self) -> str:
        """The hex id of the trace the booking began in, or empty when it was not traced."""
        parts = self.trace_parent.split("-")
        return parts[1] if len(parts) == 4 else ""

    @property
    def remaining_due_minor(self) -> int | None:
        """What a till must still collect: asked less applied; None while applied is unknown."""
        asked, applied = self.asked, self.applied
        if asked is None or isinstance(asked, Points) or applied is None:
            return None
        assert not isinstance(applied, Points), "money was asked for, and money was applied"
        return asked.minor - applied.minor


class AttemptKind(StrEnum):
    """SEND is the caller's own; RESEND is recovery's, with the same outbound id; ASK is a
    question to the vendor that has no effect."""

    SEND = "SEND"
    RESEND = "RESEND"
    ASK = "ASK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at the vendor. Begun before the first byte leaves; without an end it proves nothing.

    The texts are redacted and short; they are for people.
    """

    number: int
    kind: AttemptKind
    start_time: datetime
    end_time: datetime | None = None
    fate: Fate = Fate.UNKNOWN
    proves: Proves = Proves.THIS_ATTEMPT
    reason: Reason | None = None
    http_status: int | None = None
    provider_code: str = ""
    rule: str = ""
    request_text: str = ""
    answer_text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One move of a booking's state; `sequence` has no gaps."""

    sequence: int
    from_state: State | None
    to_state: State
    actor: str
    time: datetime
    note: str = ""


class WhoseFault(StrEnum):
    """Who caused a booking's trouble, as far as the journal can tell."""

    NOBODY = "NOBODY"
    CALLER = "CALLER"
    GATEWAY = "GATEWAY"
    PROVIDER = "PROVIDER"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a booking's story; `attempt` is set where the step is a try at the vendor."""

    time: datetime
    text: str
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """What ExplainBooking tells: what happened, whose fault it is and what happens next."""

    booking: Booking
    steps: tuple[Step, ...]
    whose_fault: WhoseFault
    next_step: str
    next_time: datetime | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes that answer a booking call; `is_replayed` when they were stored before it."""

    body: bytes
    booking_name: str
    is_replayed: bool


class AnswerCodec(Protocol):
    """Turns a booking into the bytes that write 2 stores; the wire room's, handed in by app."""

    def encode_answer(self, booking: Booking, receipt: Receipt | None = None) -> bytes:
        """The serialised response message of the booking's method, without personal data.

        `receipt` is the vendor's own word where the answer is its; a person's decision has none.
        """
        ...

    def encode_private(self, booking: Booking, receipt: Receipt) -> bytes:
        """The personal part of that message, which is answered behind it; empty where none."""
        ...

    def encode_error(self, error: LoyaltyError) -> bytes:
        """The serialised google.rpc.Status of a refusal."""
        ...


class AccountKeyring(Protocol):
    """Tokens for account ids: ours, opaque, per tenant and connection."""

    def token(self, tenant: str, connection: str, account_id: str) -> str:
        """The token of an account; the same account always has the same token under one key."""
        ...

    def open_token(self, tenant: str, connection: str, token: str) -> str:
        """The account id in a token. Raises LookupError for a token that is not ours."""
        ...
