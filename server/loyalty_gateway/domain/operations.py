"""What can be asked of a vendor, and what a booking carries; never how it is asked."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from loyalty_gateway.domain.amounts import Amount, Money


class Kind(StrEnum):
    """How an RPC behaves: bookings have an effect and are journalled, reads have none."""

    READ = "READ"
    BOOKING = "BOOKING"
    CHALLENGE = "CHALLENGE"
    CONTROL = "CONTROL"


class Operation(StrEnum):
    """An RPC that reaches a vendor, spelt `Service.Method` as in the contract."""

    GET_CARD = "Cards.GetCard"
    LIST_TRANSACTIONS = "Cards.ListTransactions"
    GET_BALANCE = "Balance.GetBalance"
    TOP_UP_BALANCE = "Balance.TopUpBalance"
    DEBIT_BALANCE = "Balance.DebitBalance"
    REDEEM_POINTS = "Points.RedeemPoints"
    GET_POINTS_STATEMENT = "Points.GetPointsStatement"

    @property
    def service(self) -> str:
        return self.value.partition(".")[0]

    @property
    def method(self) -> str:
        return self.value.partition(".")[2]


BOOKING_OPERATIONS = frozenset(
    {Operation.TOP_UP_BALANCE, Operation.DEBIT_BALANCE, Operation.REDEEM_POINTS}
)


class Support(StrEnum):
    """NATIVE: one call of the vendor's; EMULATED: built from other calls; else UNSUPPORTED."""

    NATIVE = "NATIVE"
    EMULATED = "EMULATED"
    UNSUPPORTED = "UNSUPPORTED"


class RecoveryMode(StrEnum):
    """How the truth is found when the answer to a booking was lost."""

    SAFE_RESEND = "SAFE_RESEND"
    STATUS_QUERY = "STATUS_QUERY"
    STATEMENT_MATCH = "STATEMENT_MATCH"
    REVERSE = "REVERSE"
    MANUAL = "MANUAL"


class InDoubtPolicy(StrEnum):
    """What the caller wants of a doubt: find the truth, or undo whatever happened."""

    RESOLVE = "RESOLVE"
    AUTO_REVERSE = "AUTO_REVERSE"


@dataclass(frozen=True, slots=True)
class Sale:
    """The till's side of a booking; every field is optional unless a capability names it."""

    order_id: str = ""
    ticket_number: str = ""
    store_id: str = ""
    point_of_sale_id: str = ""
    device_id: str = ""
    merchant_name: str = ""
    cashier_id: str = ""
    caller_reference: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """The exact business content of one booking, as journalled before the first byte leaves."""

    operation: Operation
    account_id: str = field(repr=False)
    asked: Amount
    allow_partial: bool = False
    money_value: Money | None = None
    redemption_kind: str = ""
    sale: Sale = Sale()
    in_doubt_policy: InDoubtPolicy = InDoubtPolicy.RESOLVE


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account held at `as_of`, by the vendor's word."""

    amount: Amount
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A number that the vendor gave to a booking."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """A line that a till must print."""

    label: str
    text: str = ""
    amount: Money | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the vendor answered to a booking that it executed."""

    references: tuple[Reference, ...]
    applied: Amount | None
    balances_after: tuple[Balance, ...] = ()
    receipt_lines: tuple[ReceiptLine, ...] = ()
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class CardFacts:
    """A card as the vendor describes it; personal fields need the scope cards:read."""

    account_id: str = field(repr=False)
    type: str = ""
    status: str = ""
    display_name: str = field(default="", repr=False)
    balances: tuple[Balance, ...] = ()


class TransactionKind(StrEnum):
    """What a line of a vendor's history did to the account."""

    TOP_UP = "TOP_UP"
    DEBIT = "DEBIT"
    EARN = "EARN"
    REDEEM = "REDEEM"
    REVERSAL = "REVERSAL"
    CORRECTION = "CORRECTION"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class Transaction:
    """One line of a vendor's history; amounts are signed, a debit is negative."""

    reference: str
    time: datetime
    kind: TransactionKind
    provider_kind: str
    money: Money | None = None
    points: int | None = None
    balances_after: tuple[Balance, ...] = ()
    narration: str = ""
    outbound_id: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TransactionPage:
    """A page of history, newest first; an empty cursor means that nothing follows."""

    transactions: tuple[Transaction, ...]
    next_cursor: str = ""


@dataclass(frozen=True, slots=True)
class PointsStatement:
    """Sums over an interval, all non-negative; None means that the vendor does not say."""

    opening: int | None = None
    earned: int | None = None
    bonus: int | None = None
    redeemed: int | None = None
    expired: int | None = None
    other: int | None = None
    closing: int | None = None
    by_category: tuple[tuple[str, int], ...] = ()


Found = CardFacts | TransactionPage | PointsStatement
"""What a read at a vendor brings back."""
