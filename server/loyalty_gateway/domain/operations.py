"""What can be asked of a vendor, and what a booking carries; never how it is asked."""

from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from loyalty_gateway.domain.amounts import Amount, Money


class Kind(StrEnum):
    """How an RPC behaves: bookings have an effect and are journalled, reads have none.

    A challenge sends a code or asks whether one is right: it is never sent twice by us.
    """

    READ = "READ"
    BOOKING = "BOOKING"
    CHALLENGE = "CHALLENGE"
    CONTROL = "CONTROL"


class Operation(StrEnum):
    """An RPC that reaches a vendor, spelt `Service.Method` as in the contract."""

    SEARCH_CARDS = "Cards.SearchCards"
    GET_CARD = "Cards.GetCard"
    CREATE_CARD = "Cards.CreateCard"
    UPDATE_CARD = "Cards.UpdateCard"
    VERIFY_CARD_OWNERSHIP = "Cards.VerifyCardOwnership"
    LIST_TRANSACTIONS = "Cards.ListTransactions"
    LIST_TRANSACTION_ITEMS = "Cards.ListTransactionItems"
    CREATE_CHALLENGE = "Wallets.CreateChallenge"
    VERIFY_CHALLENGE = "Wallets.VerifyChallenge"
    CREATE_WALLET = "Wallets.CreateWallet"
    GET_WALLET = "Wallets.GetWallet"
    UPDATE_WALLET = "Wallets.UpdateWallet"
    LINK_ACCOUNT = "Wallets.LinkAccount"
    LIST_LINKED_ACCOUNTS = "Wallets.ListLinkedAccounts"
    VERIFY_CREDENTIALS = "Wallets.VerifyCredentials"
    GET_BALANCE = "Balance.GetBalance"
    TOP_UP_BALANCE = "Balance.TopUpBalance"
    DEBIT_BALANCE = "Balance.DebitBalance"
    EARN_POINTS = "Points.EarnPoints"
    REDEEM_POINTS = "Points.RedeemPoints"
    REVERSE_POINTS = "Points.ReversePoints"
    GET_POINTS_STATEMENT = "Points.GetPointsStatement"
    LIST_EXPIRING_POINTS = "Points.ListExpiringPoints"
    ACTIVATE_GIFT_CARD = "Gift.ActivateGiftCard"
    GET_GIFT_CARD = "Gift.GetGiftCard"
    TOP_UP_GIFT_CARD = "Gift.TopUpGiftCard"
    PAY_WITH_GIFT_CARD = "Gift.PayWithGiftCard"
    VOID_GIFT_TRANSACTION = "Gift.VoidGiftTransaction"
    ADD_GIFT_TIP = "Gift.AddGiftTip"

    @property
    def service(self) -> str:
        return self.value.partition(".")[0]

    @property
    def method(self) -> str:
        return self.value.partition(".")[2]


BOOKING_OPERATIONS: frozenset[Operation] = frozenset(
    {
        Operation.CREATE_CARD,
        Operation.UPDATE_CARD,
        Operation.CREATE_WALLET,
        Operation.UPDATE_WALLET,
        Operation.LINK_ACCOUNT,
        Operation.TOP_UP_BALANCE,
        Operation.DEBIT_BALANCE,
        Operation.EARN_POINTS,
        Operation.REDEEM_POINTS,
        Operation.REVERSE_POINTS,
        Operation.ACTIVATE_GIFT_CARD,
        Operation.TOP_UP_GIFT_CARD,
        Operation.PAY_WITH_GIFT_CARD,
        Operation.VOID_GIFT_TRANSACTION,
        Operation.ADD_GIFT_TIP,
    }
)

CHALLENGE_OPERATIONS: frozenset[Operation] = frozenset(
    {
        Operation.VERIFY_CARD_OWNERSHIP,
        Operation.CREATE_CHALLENGE,
        Operation.VERIFY_CHALLENGE,
        Operation.VERIFY_CREDENTIALS,
    }
)

UNDO_OPERATIONS: frozenset[Operation] = frozenset(
    {Operation.REVERSE_POINTS, Operation.VOID_GIFT_TRANSACTION}
)
"""Bookings that undo another one, whole and once."""

CREATE_OPERATIONS: frozenset[Operation] = frozenset(
    {Operation.CREATE_CARD, Operation.CREATE_WALLET}
)
"""Bookings that bring an account into being."""


def kind_of(operation: Operation) -> Kind:
    """How an operation behaves; the contract's own option says the same."""
    if operation in BOOKING_OPERATIONS:
        return Kind.BOOKING
    return Kind.CHALLENGE if operation in CHALLENGE_OPERATIONS else Kind.READ


class Support(StrEnum):
    """NATIVE: one call of the vendor's; EMULATED: built from other calls; else UNSUPPORTED."""

    NATIVE = "NATIVE"
    EMULATED = "EMULATED"
    UNSUPPORTED = "UNSUPPORTED"


class RecoveryMode(StrEnum):
    """How the truth is found when the answer to a booking was lost.

    SAFE_RESEND sends the same booking again under the same outbound id. STATUS_QUERY asks for
    that id. STATEMENT_MATCH looks for the booking in the account's history. REVERSE undoes it by
    its outbound id, whatever happened. MANUAL leaves it to a person.
    """

    SAFE_RESEND = "SAFE_RESEND"
    STATUS_QUERY = "STATUS_QUERY"
    STATEMENT_MATCH = "STATEMENT_MATCH"
    REVERSE = "REVERSE"
    MANUAL = "MANUAL"


class InDoubtPolicy(StrEnum):
    """What the caller wants of a doubt: find the truth, or undo whatever happened."""

    RESOLVE = "RESOLVE"
    AUTO_REVERSE = "AUTO_REVERSE"


class EntryMode(StrEnum):
    """How an account's id was read."""

    BARCODE = "BARCODE"
    KEYED = "KEYED"
    MAGNETIC = "MAGNETIC"
    PROXIMITY = "PROXIMITY"
    ONLINE = "ONLINE"


class AccountKind(StrEnum):
    """What an account is, where the vendor's product tells."""

    CARD = "CARD"
    MEMBER = "MEMBER"
    GIFT_CARD = "GIFT_CARD"


# --- what a booking carries ---------------------------------------------------------------------


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
class Person:
    """Personal data: sealed wherever it is kept, and shown with the scope for it only."""

    display_name: str = field(default="", repr=False)
    """The whole name where a vendor has only one; it is never split."""
    given_name: str = field(default="", repr=False)
    family_name: str = field(default="", repr=False)
    phone: str = field(default="", repr=False)
    email: str = field(default="", repr=False)
    birth_date: date | None = field(default=None, repr=False)
    attributes: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """A vendor's further fields by name."""


@dataclass(frozen=True, slots=True)
class External:
    """An account elsewhere that is linked to one of ours: a device, a social login, a card."""

    kind: str
    id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Purchase:
    """A sale that earns points by the vendor's own rules."""

    amount: Money
    product_code: str
    sub_product_code: str = ""
    time: datetime | None = None
    """When it was bought; the time of the booking where absent."""
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """A number that the vendor gave to a booking."""

    kind: str
    value: str


OPERATOR_EVIDENCE = "operator-evidence"
"""The kind of a reference that is no vendor's: what a person said that a booking rests on."""


@dataclass(frozen=True, slots=True)
class Original:
    """The booking that an undo undoes or a tip adds to, as the journal knows it.

    `references` is empty where its answer was lost; then only `outbound_id` names it.
    """

    order: "Order"
    outbound_id: str
    references: tuple[Reference, ...] = ()
    applied: Amount | None = None

    def find_reference(self, kind: str) -> str:
        """The vendor's number of that kind, or empty."""
        return next((it.value for it in self.references if it.kind == kind), "")


@dataclass(frozen=True, slots=True)
class Order:
    """The exact business content of one booking, as journalled before the first byte leaves.

    `asked` is None where no amount is asked for: a profile, an activation, a purchase whose
    points the vendor's rules make. `person`, `external`, `proof` and `prepared` are kept sealed.
    """

    operation: Operation
    account_id: str = field(default="", repr=False)
    """Empty where the vendor chooses the id of the account that is to be."""
    asked: Amount | None = None
    allow_partial: bool = False
    may_take_part: bool = False
    """Whether the vendor is told that it may take less: a part is allowed, and its answer can
    be trusted to say which. Decided once, so that every attempt says the same."""
    carries_tag: bool = False
    """Whether a part of the outbound id travels in a text that the vendor's statement shows.
    Decided once, like the above."""
    money_value: Money | None = None
    redemption_kind: str = ""
    sale: Sale = Sale()
    in_doubt_policy: InDoubtPolicy = InDoubtPolicy.RESOLVE
    entry_mode: EntryMode | None = None
    activate: bool | None = None
    """Whether a gift card shall be active afterwards; None where the caller does not say."""
    card_type: str = ""
    purchase: Purchase | None = None
    original: Original | None = None
    """Filled from the journal for every attempt, and never stored with the order itself."""
    update_mask: tuple[str, ...] = ()
    """Field names of Person (and `type`) that an update sets; everything else stays."""
    person: Person | None = field(default=None, repr=False)
    external: External | None = field(default=None, repr=False)
    proof: str = field(default="", repr=False)
    """The vendor's own proof that a person may have the account, opened from our proof_token."""
    prepared: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What was read at the vendor before the booking and belongs to it, by the adapter's names."""

    def find_prepared(self, name: str) -> str:
        """What the preparation read under this name, or empty."""
        return next((value for key, value in self.prepared if key == name), "")


# --- what a vendor answers ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account held at `as_of`, by the vendor's word."""

    amount: Amount
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """A line that a till must print."""

    label: str
    text: str = ""
    amount: Money | None = None


@dataclass(frozen=True, slots=True)
class CardFacts:
    """A card, member or wallet as the vendor describes it; personal fields need cards:read."""

    account_id: str = field(repr=False)
    kind: AccountKind | None = None
    type: str = ""
    status: str = ""
    """A word of the contract's CardStatus, or empty where the vendor does not tell."""
    holder: Person = Person()
    balances: tuple[Balance, ...] = ()
    tier: str = ""
    expire_time: datetime | None = None
    attributes: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    wallet_links: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Links that put the card into a phone's wallet, by `apple` and `google`."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the vendor answered to a booking that it executed.

    `echoed` is the amount that the vendor names: evidence, and only where the connection
    promises `amount_echo_unit` more than that. `card` is the account as it stands after a
    booking that made or changed one.
    """

    references: tuple[Reference, ...] = ()
    echoed: Amount | None = None
    balances_after: tuple[Balance, ...] = ()
    receipt_lines: tuple[ReceiptLine, ...] = ()
    is_replay: bool = False
    card: CardFacts | None = field(default=None, repr=False)


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
    merchant: str = ""
    store_id: str = ""
    outbound_id: str = field(default="", repr=False)
    """Our own id of the booking, where the vendor lists it."""
    booked_as: Reference | None = None
    """The first reference of the booking, where the vendor lists that and not our id."""


@dataclass(frozen=True, slots=True)
class TransactionPage:
    """A page of history, newest first; an empty cursor means that nothing follows."""

    transactions: tuple[Transaction, ...]
    next_cursor: str = ""


@dataclass(frozen=True, slots=True)
class TransactionItem:
    """One line of the sale behind a transaction; `quantity` is exact."""

    position: int
    sku: str = ""
    description: str = ""
    quantity: Decimal = Decimal(1)
    amount: Money | None = None


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A page of a transaction's items; an empty cursor means that nothing follows."""

    items: tuple[TransactionItem, ...]
    next_cursor: str = ""


@dataclass(frozen=True, slots=True)
class CardPage:
    """A page of cards that a search found; an empty cursor means that nothing follows."""

    cards: tuple[CardFacts, ...]
    next_cursor: str = ""


@dataclass(frozen=True, slots=True)
class LinkedAccounts:
    """What is linked to an account; an empty cursor means that nothing follows."""

    externals: tuple[External, ...]
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


@dataclass(frozen=True, slots=True)
class ExpiringPeriod:
    """The points of one period that end on `date`; None means that the vendor does not say."""

    date: date
    accrued: int | None = None
    redeemed: int | None = None
    blocked: int | None = None
    expired: int | None = None
    available: int | None = None


@dataclass(frozen=True, slots=True)
class ExpirySchedule:
    """When points end, earliest first."""

    periods: tuple[ExpiringPeriod, ...]


Found = (
    CardFacts
    | CardPage
    | TransactionPage
    | ItemPage
    | PointsStatement
    | ExpirySchedule
    | LinkedAccounts
)
"""What a read at a vendor brings back."""


# --- codes and proofs ---------------------------------------------------------------------------


class ChallengePurpose(StrEnum):
    """What a code is for."""

    LINK_CARD = "LINK_CARD"
    SIGN_UP = "SIGN_UP"
    LOG_IN = "LOG_IN"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a code goes: exactly one of the three is set."""

    phone: str = field(default="", repr=False)
    email: str = field(default="", repr=False)
    account_id: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Issued:
    """A code that was sent. `handle` is the vendor's name for it, empty where it has none."""

    handle: str = field(default="", repr=False)
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What a right code, or a right receipt, gives: the accounts, and the vendor's proof."""

    account_ids: tuple[str, ...] = field(default=(), repr=False)
    kind: AccountKind | None = None
    proof: str = field(default="", repr=False)
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class CredentialsFacts:
    """Whether a member's own credentials are right; the facts are told only when they are."""

    is_verified: bool
    is_activated: bool | None = None
    must_change_password: bool | None = None
    last_login_time: datetime | None = None
    failed_attempts: int | None = None


AMOUNT_ECHO_UNIT = "amount_echo_unit"
"""The promise that the amount in a vendor's answer is in the unit that it was asked in."""
