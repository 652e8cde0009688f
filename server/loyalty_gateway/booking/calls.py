"""What the wire asks of the booking room, already validated and free of protobuf."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import StrEnum

from loyalty_gateway.domain.amounts import Amount, Money
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, LoyaltyError
from loyalty_gateway.domain.operations import (
    AccountKind,
    ChallengePurpose,
    EntryMode,
    External,
    Found,
    InDoubtPolicy,
    Operation,
    Person,
    Purchase,
    RecoveryMode,
    Sale,
    Support,
)


@dataclass(frozen=True, slots=True)
class AccountKey:
    """An account as the caller named it: exactly one of the plain id and our token.

    Neither is set where the vendor chooses the id of an account that is to be created, and all
    are empty for an undo, whose account is the original's.
    """

    connection: str
    plain_id: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    entry_mode: EntryMode | None = None


@dataclass(frozen=True, slots=True)
class SeenAccount:
    """An account as a caller may see it, without its plain id."""

    connection: str
    token: str = field(repr=False)
    masked_id: str
    kind: AccountKind | None = None


@dataclass(frozen=True, slots=True)
class OriginalKey:
    """The booking to be undone or added to: exactly one of the three ways to name it is set.

    A vendor's reference is looked for among the bookings of this gateway only.
    """

    booking_id: str = ""
    request_id: str = ""
    reference_connection: str = ""
    reference_kind: str = ""
    reference_value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BookingCall:
    """One call of a booking RPC. `deadline` is event-loop time by which an answer must be given.

    `asked` is None where no amount is asked for. `original` is set for undo and tips.
    `proof_token` is ours and opened by the engine. `filled_fields` holds the proto paths of the
    optional fields that the caller filled, for the check of what a vendor cannot do without.
    """

    tenant: str
    operation: Operation
    request_id: str
    account: AccountKey
    deadline: float
    asked: Amount | None = None
    allow_partial: bool = False
    money_value: Money | None = None
    redemption_kind: str = ""
    activate: bool | None = None
    card_type: str = ""
    purchase: Purchase | None = None
    original: OriginalKey | None = None
    person: Person | None = field(default=None, repr=False)
    update_mask: tuple[str, ...] = ()
    external: External | None = None
    proof_token: str = field(default="", repr=False)
    sale: Sale = Sale()
    in_doubt_policy: InDoubtPolicy = InDoubtPolicy.RESOLVE
    validate_only: bool = False
    fault: str = ""
    filled_fields: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CardSearch:
    """What to look for: exactly one of scan, phone, email and attribute is set.

    `group_id`, or `store_id` and `point_of_sale_id`, narrow the search.
    """

    scan_entry_mode: EntryMode | None = None
    scan_value: str = field(default="", repr=False)
    phone: str = field(default="", repr=False)
    email: str = field(default="", repr=False)
    attribute_name: str = ""
    attribute_value: str = field(default="", repr=False)
    group_id: str = ""
    store_id: str = ""
    point_of_sale_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCall:
    """One call of a read RPC. A search has an account key with the connection alone."""

    tenant: str
    operation: Operation
    account: AccountKey
    deadline: float
    search: CardSearch | None = None
    transaction_reference: str = ""
    year: int = 0
    start: datetime | None = None
    end: datetime | None = None
    page_size: int = 50
    page_token: str = field(default="", repr=False)
    fault: str = ""
    filled_fields: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAnswer:
    """What a read found, with the account as the caller may see it.

    `booking_names` maps the outbound ids, or the references, in a history to the names of our own
    bookings.
    `accounts` holds each account of a search by its plain id; `account_token` and `masked_id`
    are empty there.
    """

    connection: str
    account_token: str = field(repr=False)
    masked_id: str
    found: Found
    next_page_token: str = ""
    booking_names: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, SeenAccount] = field(default_factory=dict, repr=False)


# --- codes and proofs -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeCall:
    """Wallets.CreateChallenge: exactly one of phone, email and account is set."""

    tenant: str
    connection: str
    purpose: ChallengePurpose
    request_id: str
    deadline: float
    phone: str = field(default="", repr=False)
    email: str = field(default="", repr=False)
    account: AccountKey | None = None
    person: Person | None = field(default=None, repr=False)
    fault: str = ""
    filled_fields: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ChallengeIssued:
    """A code was sent, or was sent before under the same request_id."""

    challenge_token: str = field(repr=False)
    expire_time: datetime | None
    masked_destination: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeCall:
    """Wallets.VerifyChallenge. The token is bound to the tenant and names the connection."""

    tenant: str
    challenge_token: str = field(repr=False)
    code: str = field(repr=False)
    deadline: float
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnershipCall:
    """Cards.VerifyCardOwnership: a receipt that only the card's holder would have."""

    tenant: str
    account: AccountKey
    receipt_number: str
    deadline: float
    receipt_date: date | None = None
    receipt_amount: Money | None = None
    fault: str = ""
    filled_fields: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verified:
    """What VerifyChallenge and VerifyCardOwnership answer. The proof_token is ours, sealed for
    tenant and connection, and empty where the vendor gives no proof or did not verify."""

    is_verified: bool
    accounts: tuple[SeenAccount, ...] = ()
    proof_token: str = field(default="", repr=False)
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsCall:
    """Wallets.VerifyCredentials: a member's own login, never stored and never logged."""

    tenant: str
    account: AccountKey
    password_hash: str = field(repr=False)
    scheme: str
    deadline: float
    fault: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionCheck:
    """What CheckConnection found. `error` says why where something is wrong."""

    is_reachable: bool
    are_credentials_accepted: bool
    latency_s: float
    clock_skew_s: float | None = None
    error: LoyaltyError | None = None


@dataclass(frozen=True, slots=True)
class BookingKey:
    """A booking as the caller named it: exactly one of its id and its request_id."""

    booking_id: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person found out about a booking; `outcome` is EXECUTED or NOT_EXECUTED."""

    outcome: Fate
    evidence: str
    reason: str


class SortOrder(StrEnum):
    """How a list of bookings is sorted."""

    CREATE_DESC = "CREATE_DESC"
    SETTLE_ASC = "SETTLE_ASC"


@dataclass(frozen=True, slots=True, kw_only=True)
class BookingFilter:
    """Which bookings to list; an empty field does not restrict. Intervals are [start, end)."""

    states: tuple[State, ...] = ()
    connection: str = ""
    incident: str = ""
    operation: Operation | None = None
    account: AccountKey | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    settled_from: datetime | None = None
    settled_before: datetime | None = None
    order: SortOrder = SortOrder.CREATE_DESC
    page_size: int = 50
    page_token: str = ""


class ConnectionState(StrEnum):
    """How a connection does, by what its calls met."""

    OK = "OK"
    DEGRADED = "DEGRADED"
    CREDENTIALS_REJECTED = "CREDENTIALS_REJECTED"
    PAUSED = "PAUSED"


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    """A connection as ListConnections shows it."""

    connection: str
    provider: str
    display_name: str
    state: ConnectionState
    unresolved_count: int


class PromiseSource(StrEnum):
    """Who says that a promise holds."""

    PROVEN = "PROVEN"
    DECLARED = "DECLARED"
    DEFAULT = "DEFAULT"


@dataclass(frozen=True, slots=True)
class Promise:
    """A property of a connection on which a recovery mode rests.

    `not_shown` says why it could not be put to the proof just now, and is empty everywhere but
    in the answer to a wish for a proof; all else is then what held before.
    """

    name: str
    value: bool
    source: PromiseSource
    time: datetime | None = None
    evidence: str = ""
    not_shown: str = ""

    def but_not_shown(self, why: str) -> "Promise":
        """The promise as it stood, with the reason why nothing was found out about it."""
        return replace(self, not_shown=why)


@dataclass(frozen=True, slots=True)
class Capability:
    """What a connection can do for one operation; reads have no recovery mode."""

    operation: Operation
    support: Support
    recovery_mode: RecoveryMode | None = None
    promises: tuple[Promise, ...] = ()
    partial_amounts: bool = False
    needed_fields: tuple[str, ...] = ()
    note: str = ""
    """Why it is emulated or unsupported, or what to know of it; for people."""
