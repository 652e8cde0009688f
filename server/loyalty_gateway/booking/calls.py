"""What the wire asks of the booking room, already validated and free of protobuf."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from loyalty_gateway.domain.amounts import Amount, Money
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate
from loyalty_gateway.domain.operations import (
    Found,
    InDoubtPolicy,
    Operation,
    RecoveryMode,
    Sale,
    Support,
)


@dataclass(frozen=True, slots=True)
class AccountKey:
    """An account as the caller named it: exactly one of the plain id and our token."""

    connection: str
    plain_id: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BookingCall:
    """One call of a booking RPC. `deadline` is event-loop time by which an answer must be given.

    `filled_fields` holds the proto paths of the optional fields that the caller filled, for the
    check of what a vendor cannot do without.
    """

    tenant: str
    operation: Operation
    request_id: str
    account: AccountKey
    asked: Amount
    deadline: float
    allow_partial: bool = False
    money_value: Money | None = None
    redemption_kind: str = ""
    sale: Sale = Sale()
    in_doubt_policy: InDoubtPolicy = InDoubtPolicy.RESOLVE
    validate_only: bool = False
    fault: str = ""
    filled_fields: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCall:
    """One call of a read RPC."""

    tenant: str
    operation: Operation
    account: AccountKey
    deadline: float
    start: datetime | None = None
    end: datetime | None = None
    page_size: int = 50
    page_token: str = field(default="", repr=False)
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAnswer:
    """What a read found, with the account as the caller may see it.

    `booking_names` maps the outbound ids in a history to the names of our own bookings.
    """

    connection: str
    account_token: str = field(repr=False)
    masked_id: str
    found: Found
    next_page_token: str = ""
    booking_names: Mapping[str, str] = field(default_factory=dict)


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
    """A property of a connection on which a recovery mode rests."""

    name: str
    value: bool
    source: PromiseSource
    time: datetime | None = None
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Capability:
    """What a connection can do for one operation; reads have no recovery mode."""

    operation: Operation
    support: Support
    recovery_mode: RecoveryMode | None = None
    promises: tuple[Promise, ...] = ()
    partial_amounts: bool = False
    needed_fields: tuple[str, ...] = ()
