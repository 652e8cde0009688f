"""Every read of every vendor: the answer says what the vendor's books say, and nothing else."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest
from google.type.date_pb2 import Date

from loyalty.v1 import cards_pb2, types_pb2
from loyalty_gateway.domain.operations import Operation, kind_of
from tests.vendors.asking import FACTS, ask
from tests.vendors.house import House, Vendor
from tests.vendors.matrix import FILLED, Cell, cell_id

CARD, MEMBER = types_pb2.ACCOUNT_KIND_CARD, types_pb2.ACCOUNT_KIND_MEMBER
GIFT_CARD = types_pb2.ACCOUNT_KIND_GIFT_CARD
UNTOLD, ACTIVE = types_pb2.ACCOUNT_STATUS_UNSPECIFIED, types_pb2.ACCOUNT_STATUS_ACTIVE
READS: Final = tuple(cell for cell in FILLED if kind_of(Operation(cell[0])) == "READ")

Balances = list[tuple[str, int]]
Check = Callable[[Any, Vendor], None]


def balances_of(balances: Any) -> Balances:
    """Balances as (currency or `points`, minor units or points)."""
    found: Balances = []
    for balance in balances:
        assert balance.HasField("as_of"), "a balance without its moment"
        if balance.HasField("money"):
            assert balance.kind == types_pb2.BALANCE_KIND_STORED_VALUE
            minor = balance.money.units * 100 + balance.money.nanos // 10_000_000
            found.append((balance.money.currency_code, minor))
        else:
            assert balance.kind == types_pb2.BALANCE_KIND_POINTS
            found.append(("points", balance.points.value))
    return found


def check_account(account: types_pb2.Account, connection: str, masked: str, kind: int = 0) -> None:
    """An account as a caller may see it."""
    assert account.connection == connection
    assert account.token
    assert account.masked_id == masked
    assert account.kind == kind


def _balance(connection: str, masked: str, balances: Balances, kind: int = 0) -> Check:
    def check(response: Any, vendor: Vendor) -> None:
        check_account(response.account, connection, masked, kind)
        assert balances_of(response.balances) == balances

    return check


def _card(
    connection: str,
    masked: str,
    balances: Balances,
    *,
    kind: int,
    holder: Mapping[str, str],
    status: int = UNTOLD,
    type: str = "",
    tier: str = "",
    expires: bool = False,
    is_search: bool = False,
) -> Check:
    def check(response: Any, vendor: Vendor) -> None:
        if is_search:
            assert len(response.cards) == 1
            assert response.next_page_token == ""
        card = response.cards[0] if is_search else response.card
        check_account(card.account, connection, masked, kind)
        assert balances_of(card.balances) == balances
        assert (card.status, card.type, card.tier) == (status, type, tier)
        assert {it.name: value for it, value in card.holder.ListFields()} == dict(holder)
        assert card.HasField("expire_time") is expires

    return check


def _wallet(
    connection: str,
    masked: str,
    *,
    kind: int,
    profile: Mapping[str, str],
    status: int,
) -> Check:
    def check(response: Any, vendor: Vendor) -> None:
        wallet = response.wallet
        check_account(wallet.account, connection, masked, kind)
        assert wallet.status == status
        told = {it.name: value for it, value in wallet.profile.ListFields()}
        told.pop("attributes", None)
        assert told == dict(profile)

    return check


def _gift_card(response: Any, vendor: Vendor) -> None:
    card = response.gift_card
    check_account(card.account, "openloyaltypay", "•••72", GIFT_CARD)
    assert balances_of(card.balances) == [("USD", 4250), ("points", 1280)]
    assert (card.holder.given_name, card.holder.family_name) == ("Max", "Muster")


def _history(connection: str, kinds: Mapping[str, str]) -> Check:
    """The lines of the vendor's own books, newest first; `kinds` are its words for a line."""

    def check(response: Any, vendor: Vendor) -> None:
        account = FACTS[connection].read
        effects = vendor.player.ledger.effects(card_id=account)
        lines = response.transactions
        assert [_line(it) for it in lines] == [
            (kinds[it.kind], it.amount_minor, it.points) for it in effects
        ]
        assert all(it.reference for it in lines)
        assert {it.booking for it in lines} == {""}, "a booking of the till is none of ours"
        times = [it.time.ToDatetime() for it in lines]
        assert times == sorted(times, reverse=True)
        assert response.next_page_token == ""

    return check


def _line(line: cards_pb2.Transaction) -> tuple[str, int, int]:
    minor = line.money.units * 100 + line.money.nanos // 10_000_000
    return cards_pb2.TransactionKind.Name(line.kind), minor, line.points.value


def _items(response: Any, vendor: Vendor) -> None:
    assert [it.position for it in response.items] == list(range(1, len(response.items) + 1))
    for item in response.items:
        assert item.description and int(item.quantity) >= 1
        assert item.amount.currency_code == "CHF" and item.amount.units > 0


def _statement(connection: str, masked: str, sums: Mapping[str, int]) -> Check:
    def check(response: Any, vendor: Vendor) -> None:
        check_account(response.account, connection, masked)
        told = {
            field.name: value.value
            for field, value in response.ListFields()
            if isinstance(value, types_pb2.PointsAmount)
        }
        assert told == dict(sums)

    return check


def _schedule(response: Any, vendor: Vendor) -> None:
    check_account(response.account, "loyalife", "•••124")
    assert [
        (it.date, it.accrued.value, it.redeemed.value, it.blocked.value, it.available.value)
        for it in response.periods
    ] == [(Date(year=2027, month=3, day=31), 4225, 25, 0, 4200)]


def _no_links(response: Any, vendor: Vendor) -> None:
    assert list(response.linked_accounts) == []
    assert response.next_page_token == ""


_MAX: Final = {"display_name": "Max Muster"}
_MAX_PARTS: Final = {"given_name": "Max", "family_name": "Muster"}
_CAMILLE: Final = {"given_name": "Camille", "family_name": "Durand"}
_ASHA: Final = {"display_name": "Asha Rao"}
_MAX_BALANCES: Final[Balances] = [("CHF", 4250), ("points", 1280)]
_OLP_BALANCES: Final[Balances] = [("USD", 4250), ("points", 1280)]
_CAMILLE_BALANCE: Final[Balances] = [("EUR", 654)]
_ASHA_BALANCE: Final[Balances] = [("points", 4200)]

_CASHASSIST_KINDS: Final = {
    "refill": "TRANSACTION_KIND_TOP_UP",
    "purchase": "TRANSACTION_KIND_DEBIT",
    "correction": "TRANSACTION_KIND_CORRECTION",
}
_LOYALIFE_KINDS: Final = {
    "bonus": "TRANSACTION_KIND_EARN",
    "earn": "TRANSACTION_KIND_EARN",
    "redeem": "TRANSACTION_KIND_REDEEM",
}

CHECKS: Final[Mapping[Cell, Check]] = {
    ("Cards.SearchCards", "cashassist"): _card(
        "cashassist", "•••72", _MAX_BALANCES, kind=CARD, holder=_MAX, status=ACTIVE, is_search=True
    ),
    ("Cards.SearchCards", "cardsapi"): _card(
        "cardsapi",
        "•••01",
        _CAMILLE_BALANCE,
        kind=CARD,
        holder=_CAMILLE,
        type="CASHBACK",
        expires=True,
        is_search=True,
    ),
    ("Cards.SearchCards", "loyalife"): _card(
        "loyalife",
        "•••124",
        _ASHA_BALANCE,
        kind=MEMBER,
        holder=_ASHA,
        status=ACTIVE,
        tier="Gold",
        is_search=True,
    ),
    ("Cards.SearchCards", "openloyaltypay"): _card(
        "openloyaltypay",
        "•••72",
        _OLP_BALANCES,
        kind=GIFT_CARD,
        holder=_MAX_PARTS,
        is_search=True,
    ),
    ("Cards.GetCard", "cashassist"): _card(
        "cashassist", "•••72", _MAX_BALANCES, kind=CARD, holder=_MAX, status=ACTIVE
    ),
    ("Cards.GetCard", "cardsapi"): _card(
        "cardsapi",
        "•••01",
        _CAMILLE_BALANCE,
        kind=CARD,
        holder=_CAMILLE,
        type="CASHBACK",
        expires=True,
    ),
    ("Cards.GetCard", "loyalife"): _card(
        "loyalife", "•••124", _ASHA_BALANCE, kind=MEMBER, holder=_ASHA, status=ACTIVE, tier="Gold"
    ),
    ("Cards.GetCard", "openloyaltypay"): _card(
        "openloyaltypay", "•••72", _OLP_BALANCES, kind=GIFT_CARD, holder=_MAX_PARTS
    ),
    ("Cards.ListTransactions", "cashassist"): _history("cashassist", _CASHASSIST_KINDS),
    ("Cards.ListTransactions", "loyalife"): _history("loyalife", _LOYALIFE_KINDS),
    ("Cards.ListTransactionItems", "cashassist"): _items,
    ("Wallets.GetWallet", "cashassist"): _wallet(
        "cashassist", "•••72", kind=CARD, profile=_MAX, status=ACTIVE
    ),
    ("Wallets.GetWallet", "loyalife"): _wallet(
        "loyalife",
        "•••124",
        kind=MEMBER,
        status=ACTIVE,
        profile={**_ASHA, "email": "m8124@example.com", "phone": "+919876512345"},
    ),
    ("Wallets.ListLinkedAccounts", "loyalife"): _no_links,
    ("Balance.GetBalance", "cashassist"): _balance("cashassist", "•••72", _MAX_BALANCES, CARD),
    ("Balance.GetBalance", "cardsapi"): _balance("cardsapi", "•••01", _CAMILLE_BALANCE, CARD),
    ("Balance.GetBalance", "loyalife"): _balance("loyalife", "•••124", _ASHA_BALANCE),
    ("Balance.GetBalance", "openloyaltypay"): _balance(
        "openloyaltypay", "•••72", _OLP_BALANCES, GIFT_CARD
    ),
    ("Points.GetPointsStatement", "cashassist"): _statement(
        "cashassist",
        "•••72",
        {"opening": 0, "earned": 30, "redeemed": 0, "other": 1250, "closing": 1280},
    ),
    ("Points.GetPointsStatement", "loyalife"): _statement(
        "loyalife", "•••124", {"earned": 4125, "bonus": 100, "redeemed": 25, "closing": 4200}
    ),
    ("Points.ListExpiringPoints", "loyalife"): _schedule,
    ("Gift.GetGiftCard", "openloyaltypay"): _gift_card,
}
"""What each read has to answer, by hand: the played vendor's seeded account."""


def test_every_read_of_the_table_is_checked() -> None:
    assert set(CHECKS) == set(READS)


@pytest.mark.parametrize("cell", READS, ids=cell_id)
async def test_a_read_answers_what_the_vendors_books_say(house: House, cell: Cell) -> None:
    _, connection = cell
    vendor = house.vendors[connection]
    request = await ask(house, cell)
    before = vendor.books

    reply = await house.call(request)

    assert reply.is_ok, str(reply)
    CHECKS[cell](reply.response, vendor)
    assert vendor.books == before
    # The plain number is nowhere in an answer.
    assert FACTS[connection].read.encode() not in reply.body
