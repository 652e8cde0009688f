"""What is usually asked of each operation: one sample each, the same for all vendors."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Final

from loyalty_gateway.conformance.subject import Content, Subject
from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.operations import (
    ChallengePurpose,
    Destination,
    EntryMode,
    External,
    Operation,
    Order,
    Person,
    Sale,
)
from loyalty_gateway.providers.port import (
    Adapter,
    CodeWish,
    Lookup,
    PasswordCheck,
    ReceiptCheck,
    Search,
)

MONEY_MINOR: Final = 1_000
POINTS: Final = 100
YEAR: Final = 2026
"""When the played vendors' accounts have their past."""

PERSON: Final = Person(
    display_name="Conny Canary",
    given_name="Conny",
    family_name="Canary",
    phone="+41791112233",
    email="conny.canary@example.org",
    birth_date=date(1990, 4, 1),
)
"""A person whose every part is easy to find again in a text where it does not belong."""

SALE: Final = Sale(
    order_id="order-4711",
    ticket_number="ticket-0815",
    store_id="store-1",
    point_of_sale_id="1",
    device_id="device-1",
    merchant_name="Conformance Store",
    cashier_id="7",
    caller_reference="caller-1",
)

ORIGINALS: Final[Mapping[Operation, Operation]] = {
    Operation.ADD_GIFT_TIP: Operation.PAY_WITH_GIFT_CARD,
}
"""What a booking adds to, where it is no undo; an undo's original is who names it as its undo."""


def sample_of(subject: Subject, adapter: Adapter, operation: Operation) -> Content:
    """The usual thing to ask of the operation, on the ordinary account.

    Raises:
        LookupError: the operation has none; the subject has to bring one.
    """
    make = _ORDERS.get(operation) or _QUESTIONS.get(operation)
    if make is None:
        raise LookupError(f"samples of the subject has to tell what to ask of {operation}")
    return make(operation, subject.accounts.ordinary, adapter)


Make = Callable[[Operation, str, Adapter], Content]


def _money(operation: Operation, account: str, adapter: Adapter) -> Order:
    return Order(operation, account, Money(adapter.currency, MONEY_MINOR), sale=SALE)


def _points(operation: Operation, account: str, adapter: Adapter) -> Order:
    return Order(
        operation,
        account,
        Points(POINTS, adapter.points_unit),
        money_value=Money(adapter.currency, MONEY_MINOR),
        sale=SALE,
    )


def _undo(operation: Operation, account: str, adapter: Adapter) -> Order:
    return Order(operation, account, sale=SALE)


def _new_account(operation: Operation, account: str, adapter: Adapter) -> Order:
    return Order(operation, person=PERSON, sale=SALE)


def _changed_account(operation: Operation, account: str, adapter: Adapter) -> Order:
    return Order(operation, account, person=PERSON, update_mask=("email", "phone"))


def _link(operation: Operation, account: str, adapter: Adapter) -> Order:
    return Order(operation, account, external=External("device", "canary-device-1"))


def _activate(operation: Operation, account: str, adapter: Adapter) -> Order:
    return Order(operation, account, activate=True, sale=SALE)


def _account(operation: Operation, account: str, adapter: Adapter) -> Lookup:
    return Lookup(operation, account)


def _search(operation: Operation, account: str, adapter: Adapter) -> Lookup:
    return Lookup(operation, search=Search(scan_entry_mode=EntryMode.KEYED, scan_value=account))


def _interval(operation: Operation, account: str, adapter: Adapter) -> Lookup:
    start, end = datetime(YEAR, 1, 1, tzinfo=UTC), datetime(YEAR + 1, 1, 1, tzinfo=UTC)
    return Lookup(operation, account, start=start, end=end)


def _year(operation: Operation, account: str, adapter: Adapter) -> Lookup:
    return Lookup(operation, account, year=YEAR)


_ORDERS: Final[Mapping[Operation, Make]] = {
    Operation.CREATE_CARD: _new_account,
    Operation.UPDATE_CARD: _changed_account,
    Operation.CREATE_WALLET: _new_account,
    Operation.UPDATE_WALLET: _changed_account,
    Operation.LINK_ACCOUNT: _link,
    Operation.TOP_UP_BALANCE: _money,
    Operation.DEBIT_BALANCE: _money,
    Operation.EARN_POINTS: _points,
    Operation.REDEEM_POINTS: _points,
    Operation.REVERSE_POINTS: _undo,
    Operation.ACTIVATE_GIFT_CARD: _activate,
    Operation.TOP_UP_GIFT_CARD: _money,
    Operation.PAY_WITH_GIFT_CARD: _money,
    Operation.VOID_GIFT_TRANSACTION: _undo,
    Operation.ADD_GIFT_TIP: _money,
}

_QUESTIONS: Final[Mapping[Operation, Make]] = {
    Operation.SEARCH_CARDS: _search,
    Operation.GET_CARD: _account,
    Operation.GET_WALLET: _account,
    Operation.GET_BALANCE: _account,
    Operation.GET_GIFT_CARD: _account,
    Operation.LIST_TRANSACTIONS: _account,
    Operation.LIST_LINKED_ACCOUNTS: _account,
    Operation.GET_POINTS_STATEMENT: _interval,
    Operation.LIST_EXPIRING_POINTS: _year,
    Operation.CREATE_CHALLENGE: lambda operation, account, adapter: CodeWish(
        ChallengePurpose.LINK_CARD, Destination(phone=PERSON.phone), outbound_id=""
    ),
    Operation.VERIFY_CARD_OWNERSHIP: lambda operation, account, adapter: ReceiptCheck(
        account, receipt_number="R-1"
    ),
    Operation.VERIFY_CREDENTIALS: lambda operation, account, adapter: PasswordCheck(
        account, password_hash="0" * 64, scheme="SHA-256"
    ),
}
