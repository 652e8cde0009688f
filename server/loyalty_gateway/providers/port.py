"""The port that every vendor's adapter fills: what it offers, and how it answers.

An adapter translates; it never decides about a booking, never retries and never stores.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final, Protocol

from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import (
    ChallengePurpose,
    Confirmed,
    CredentialsFacts,
    Destination,
    EntryMode,
    Found,
    Issued,
    Operation,
    Order,
    Person,
    Receipt,
    RecoveryMode,
    Support,
)


@dataclass(frozen=True, slots=True)
class StatusRow:
    """What one answer of a vendor means.

    `fate` and `proves` speak of a booking; a read only uses `reason`. `is_refusal` tells a
    documented business refusal (the booking is DECLINED) from an answer after which the same
    request may be sent again (the booking is RESERVED). `contradicts` marks an answer that
    only a person can judge (the booking goes to NEEDS_REVIEW). `shows_earlier` marks a refusal
    as a duplicate: to a later attempt it shows that an earlier one of this very booking was
    executed, and to the first attempt it is what the rest of the row says. `may_be_own` marks a
    refusal that what an earlier attempt did would cause as well: to a later attempt it is no proof,
    however much time has passed.
    """

    reason: Reason
    fate: Fate = Fate.UNKNOWN
    proves: Proves = Proves.THIS_ATTEMPT
    is_refusal: bool = False
    contradicts: bool = False
    shows_earlier: bool = False
    may_be_own: bool = False


class ProviderError(Exception):
    """A vendor call that did not succeed, already translated by the TRANSPORT or STATUS table.

    `rule` names the table row that was applied (for ExplainBooking), `request_text` and
    `answer_text` are redacted and short. The message is ours and free of vendor text. `receipt` is
    for a refusal that shows an earlier attempt, where what that one is called is known without
    asking.
    """

    def __init__(
        self,
        status: StatusRow,
        message: str,
        *,
        rule: str,
        http_status: int | None = None,
        provider_code: str = "",
        retry_after_s: float | None = None,
        request_text: str = "",
        answer_text: str = "",
        receipt: Receipt | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.rule = rule
        self.http_status = http_status
        self.provider_code = provider_code
        self.retry_after_s = retry_after_s
        self.request_text = request_text
        self.answer_text = answer_text
        self.receipt = receipt


class NotShown(LookupError):
    """A promise cannot be put to the proof on this connection, for example without a test account.

    It says nothing of the promise; what was known of it stays. The message is ours and holds no
    account.
    """


# --- bookings -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Executed:
    """A booking that the vendor says it executed, with what ExplainBooking shows of the call."""

    receipt: Receipt
    http_status: int
    rule: str
    request_text: str = ""
    answer_text: str = ""


@dataclass(frozen=True, slots=True)
class Send:
    """One attempt of a booking.

    `outbound_id` is the same for every attempt of a booking, and so is all of `order`. `fault`
    is the sandbox's wish for a fault and is empty outside it and on every attempt but the
    caller's first.
    """

    order: Order
    outbound_id: str
    attempt_number: int
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """Whether a booking happened, whose answer was lost.

    It can have happened from `first_sent_time` on (the database's clock).
    """

    order: Order
    outbound_id: str
    first_sent_time: datetime


CLOCK_OFF_MAX: Final = timedelta(minutes=15)
"""So far a vendor's clock may be from ours for its times to say which booking a line is."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A booking in the vendor's books that may be the one in question.

    `is_certain` when it carries our outbound id or our tag; else only account, amount and time
    speak for it. `is_unlike` when something of it speaks against it, so that it takes a person to
    say. Its first reference is the one that no two bookings may share.
    """

    receipt: Receipt
    time: datetime | None = None
    is_certain: bool = False
    is_unlike: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What the vendor answered to a question: what may be the booking, in its books today.

    `is_pending` when the vendor still works on it; `is_refused` when the vendor itself says that
    it took the booking and did not execute it. No candidate, not pending and not refused means
    "not found (yet)", which proves nothing before the settle time.
    """

    candidates: tuple[Candidate, ...] = ()
    is_pending: bool = False
    is_refused: bool = False
    http_status: int = 200
    rule: str = ""
    request_text: str = ""
    answer_text: str = ""


# --- reads --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for: exactly one of scan, phone, email and attribute is set."""

    scan_entry_mode: EntryMode | None = None
    scan_value: str = field(default="", repr=False)
    phone: str = field(default="", repr=False)
    email: str = field(default="", repr=False)
    attribute_name: str = ""
    attribute_value: str = field(default="", repr=False)
    group_id: str = ""
    store_id: str = ""
    point_of_sale_id: str = ""


@dataclass(frozen=True, slots=True)
class Lookup:
    """One read at a vendor; the fields beyond the account serve searches and histories."""

    operation: Operation
    account_id: str = field(default="", repr=False)
    start: datetime | None = None
    end: datetime | None = None
    page_size: int = 50
    cursor: str = field(default="", repr=False)
    entry_mode: EntryMode | None = None
    search: Search | None = None
    transaction_reference: str = ""
    year: int = 0
    fault: str = ""


# --- codes and proofs ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CodeWish:
    """CREATE_CHALLENGE: send a code. It is sent once and never again by us."""

    purpose: ChallengePurpose
    destination: Destination
    outbound_id: str
    person: Person | None = field(default=None, repr=False)
    fault: str = ""


@dataclass(frozen=True, slots=True)
class CodeCheck:
    """VERIFY_CHALLENGE: is this the code that was sent?"""

    purpose: ChallengePurpose
    destination: Destination
    handle: str = field(repr=False)
    code: str = field(repr=False)
    fault: str = ""


@dataclass(frozen=True, slots=True)
class ReceiptCheck:
    """VERIFY_CARD_OWNERSHIP: does this receipt belong to this card?"""

    account_id: str = field(repr=False)
    receipt_number: str
    receipt_date: date | None = None
    receipt_amount: Money | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """VERIFY_CREDENTIALS: is this the member's own password, hashed as the vendor wants it?"""

    account_id: str = field(repr=False)
    password_hash: str = field(repr=False)
    scheme: str
    fault: str = ""


Book = Callable[[Send], Awaitable[Executed]]
Read = Callable[[Lookup], Awaitable[Found]]
Ask = Callable[[Question], Awaitable[Finding]]
Prepare = Callable[[Order], Awaitable[tuple[tuple[str, str], ...]]]
SendCode = Callable[[CodeWish], Awaitable[Issued]]
CheckCode = Callable[[CodeCheck], Awaitable[Confirmed]]
CheckReceipt = Callable[[ReceiptCheck], Awaitable[Confirmed | None]]
"""None means that the vendor says no: the receipt does not belong to the card."""
CheckPassword = Callable[[PasswordCheck], Awaitable[CredentialsFacts]]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the truth, and the promise it rests on; an empty promise needs no proof.

    `any_of` names promises of which one is enough. `only_for` says of which orders it is a way,
    where it is not one of all: a vendor may undo one kind of booking by other means than another.
    It goes by what is journalled with an order in plain.
    """

    mode: RecoveryMode
    promise: str = ""
    any_of: tuple[str, ...] = ()
    only_for: Callable[[Order], bool] | None = None

    @property
    def promises(self) -> tuple[str, ...]:
        """Every promise that this way may rest on."""
        return (*((self.promise,) if self.promise else ()), *self.any_of)


@dataclass(frozen=True, slots=True)
class Offer:
    """One operation that an adapter offers.

    `call` is of the kind that the operation needs. `ways` are the recovery modes, best first;
    the first whose promise holds for the connection counts, and where none does the mode is
    MANUAL. `ask` serves STATUS_QUERY and STATEMENT_MATCH. `prepare` reads what the booking needs
    before it is journalled, and has no effect. `undo` names the operation that undoes it.
    `partial_promise` must hold before the vendor is told that it may take a part, `tag_promise`
    before a part of the outbound id is sent in a text that the vendor's statement shows.
    `is_held_in_doubt` keeps further bookings off the account while one is in doubt.
    `needed_fields` are proto field paths that this vendor cannot do without. `needs_handle` is of
    VERIFY_CHALLENGE: whether a code can be checked only with the handle that the answer to its
    sending gave. `note` tells people what to know of it.
    """

    call: Book | Read | SendCode | CheckCode | CheckReceipt | CheckPassword
    support: Support = Support.NATIVE
    ways: tuple[Way, ...] = ()
    ask: Ask | None = None
    prepare: Prepare | None = None
    undo: Operation | None = None
    partial_amounts: bool = False
    partial_promise: str = ""
    tag_promise: str = ""
    is_held_in_doubt: bool = False
    needed_fields: tuple[str, ...] = ()
    needs_handle: bool = True
    note: str = ""

    @property
    def promises(self) -> tuple[str, ...]:
        """Every promise that matters for this operation, each once."""
        named = [name for way in self.ways for name in way.promises]
        further = filter(None, [self.partial_promise, self.tag_promise])
        return tuple(dict.fromkeys([*named, *further]))


@dataclass(frozen=True, slots=True)
class PromiseFacts:
    """A promise in one sentence. What cannot be proven can only be declared by an operator."""

    meaning: str
    is_provable: bool = True


@dataclass(frozen=True, slots=True)
class Check:
    """How a vendor answered a harmless question. `clock_skew_s` is theirs less ours."""

    is_reachable: bool
    are_credentials_accepted: bool
    latency_s: float
    clock_skew_s: float | None = None
    error: ProviderError | None = None


class Adapter(Protocol):
    """A vendor's translation bound to one connection."""

    provider: str
    display_name: str
    operations: Mapping[Operation, Offer]
    unsupported_notes: Mapping[Operation, str]
    """Why an operation is not offered, where more than "the vendor has no such call" is known."""
    promises: Mapping[str, PromiseFacts]
    """Every promise that the offers rest on, by name."""
    currency: str
    points_unit: str
    key_lifetime_s: float
    """How long the vendor remembers an outbound id; resending stops at half of it."""
    settle_s: float
    """How long after a lost answer this vendor may still carry a booking out; 0: the engine's."""
    target: str
    """What the outbound ids belong to: base url, merchant and credential id, never a secret."""

    async def prove(self, promise: str) -> str:
        """Shows on a test account that the promise holds and returns the evidence in words.

        Raises:
            ProviderError: the vendor could not be asked.
            NotShown: it cannot be shown for this connection: no test account is named, say.
            LookupError: it was seen not to hold; the text is the evidence.
        """
        ...

    async def check(self) -> Check:
        """Asks the vendor something harmless that its credentials are needed for."""
        ...

    async def close(self) -> None:
        """Ends every connection to the vendor."""
        ...


class Factory(Protocol):
    """How app builds an adapter from its section of the configuration."""

    def __call__(self, connection: str, settings: Mapping[str, Any], profile: str) -> Adapter: ...
