"""What is asked of each vendor: one request for every rpc, and the accounts it is asked about.

A request of a rpc is made the same way for all vendors; where one needs something else it has a
row of its own, and where something must have happened before, a row that makes it happen.
"""

import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from loyalty.v1 import (
    balance_pb2,
    cards_pb2,
    gift_pb2,
    points_pb2,
    types_pb2,
    wallets_pb2,
)
from tests.e2e.caller import new_request_id
from tests.vendors.house import House
from tests.vendors.matrix import Cell

MINOR: Final = 125
POINTS: Final = 7
RIGHT_CODE: Final[Mapping[str, str]] = {"cashassist": "000000", "loyalife": "0"}
"""The code that the played vendors send, as their documentation says."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Facts:
    """Accounts of a played vendor: one to book on, and one that nobody books on."""

    connection: str
    currency: str
    booked: str
    read: str
    entry_mode: types_pb2.EntryMode.ValueType = types_pb2.ENTRY_MODE_UNSPECIFIED
    sale: types_pb2.Sale | None = None

    @property
    def account(self) -> types_pb2.AccountRef:
        """The account that is booked on."""
        return self._account(self.booked)

    @property
    def seen(self) -> types_pb2.AccountRef:
        """The account that is only read."""
        return self._account(self.read)

    def money(self, minor: int = MINOR) -> Money:
        return Money(
            currency_code=self.currency, units=minor // 100, nanos=minor % 100 * 10_000_000
        )

    def _account(self, id: str) -> types_pb2.AccountRef:
        return types_pb2.AccountRef(connection=self.connection, id=id, entry_mode=self.entry_mode)


FACTS: Final[Mapping[str, Facts]] = {
    "cashassist": Facts("cashassist", "CHF", "10480", "10472"),
    "cardsapi": Facts(
        "cardsapi",
        "EUR",
        "30002",
        "30001",
        sale=types_pb2.Sale(ticket_number="T-1", point_of_sale_id="65", device_id="till-1"),
    ),
    "loyalife": Facts(
        "loyalife", "EUR", "m_8125", "m_8124", sale=types_pb2.Sale(merchant_name="Corner Shop")
    ),
    "openloyaltypay": Facts("openloyaltypay", "USD", "10480", "10472"),
}

Make = Callable[[Facts], Message]


def _interval() -> types_pb2.Interval:
    """The last year, which the seeded past lies in."""
    now = datetime.now(UTC)
    start, end = Timestamp(), Timestamp()
    start.FromDatetime(now - timedelta(days=365))
    end.FromDatetime(now + timedelta(minutes=1))
    return types_pb2.Interval(start_time=start, end_time=end)


def _booking(request_class: Any, **fixed: Callable[[Facts], Any] | Any) -> Make:
    """Makes a booking on the account that is booked on, with a new request_id each time."""

    def make(facts: Facts) -> Message:
        filled = {name: it(facts) if callable(it) else it for name, it in fixed.items()}
        if "account" in request_class.DESCRIPTOR.fields_by_name:
            filled.setdefault("account", facts.account)
        if "sale" in request_class.DESCRIPTOR.fields_by_name and facts.sale is not None:
            filled.setdefault("sale", facts.sale)
        request: Message = request_class(request_id=new_request_id(), **filled)
        return request

    return make


def _money(facts: Facts) -> Money:
    return facts.money()


def _profile(facts: Facts) -> types_pb2.Profile:
    return new_person()


def _nobody(facts: Facts) -> types_pb2.Original:
    """An earlier booking that never was."""
    return types_pb2.Original(
        provider_reference=types_pb2.OriginalReference(
            connection=facts.connection, kind="transaction_id", value="none-of-ours"
        )
    )


def new_person() -> types_pb2.Profile:
    """A person whom no vendor has seen, with a number and an address of their own."""
    number = next(_numbers)
    return types_pb2.Profile(
        given_name="Conny",
        family_name="Canary",
        phone=f"+4179555{number:04d}",
        email=f"conny.canary{number}@example.org",
    )


REQUESTS: Final[Mapping[str, Make]] = {
    "Cards.SearchCards": lambda facts: cards_pb2.SearchCardsRequest(
        connection=facts.connection,
        scan=cards_pb2.Scan(entry_mode=types_pb2.ENTRY_MODE_KEYED, value=facts.read),
    ),
    "Cards.GetCard": lambda facts: cards_pb2.GetCardRequest(account=facts.seen),
    "Cards.CreateCard": _booking(
        cards_pb2.CreateCardRequest, connection=lambda facts: facts.connection
    ),
    "Cards.UpdateCard": _booking(
        cards_pb2.UpdateCardRequest,
        card=lambda facts: cards_pb2.Card(
            holder=cards_pb2.Holder(given_name="Erika", family_name="Canary")
        ),
        update_mask=FieldMask(paths=["holder.given_name", "holder.family_name"]),
    ),
    "Cards.VerifyCardOwnership": lambda facts: cards_pb2.VerifyCardOwnershipRequest(
        account=facts.seen, receipt=cards_pb2.PurchaseReceipt(number="2026-000001")
    ),
    "Cards.ListTransactions": lambda facts: cards_pb2.ListTransactionsRequest(account=facts.seen),
    "Cards.ListTransactionItems": lambda facts: cards_pb2.ListTransactionItemsRequest(
        account=facts.seen, transaction_reference="tx_90001"
    ),
    "Wallets.CreateChallenge": lambda facts: wallets_pb2.CreateChallengeRequest(
        connection=facts.connection,
        purpose=wallets_pb2.CHALLENGE_PURPOSE_LINK_CARD,
        account=facts.seen,
        request_id=new_request_id(),
    ),
    "Wallets.VerifyChallenge": lambda facts: wallets_pb2.VerifyChallengeRequest(
        challenge_token="none-of-ours", code="000000"
    ),
    "Wallets.CreateWallet": _booking(
        wallets_pb2.CreateWalletRequest,
        connection=lambda facts: facts.connection,
        profile=_profile,
    ),
    "Wallets.GetWallet": lambda facts: wallets_pb2.GetWalletRequest(account=facts.seen),
    "Wallets.UpdateWallet": _booking(
        wallets_pb2.UpdateWalletRequest,
        profile=lambda facts: types_pb2.Profile(email=new_person().email),
    ),
    "Wallets.LinkAccount": _booking(
        wallets_pb2.LinkAccountRequest,
        external=lambda facts: wallets_pb2.LinkedAccount(
            kind="device", id=f"device-{next(_numbers)}"
        ),
    ),
    "Wallets.ListLinkedAccounts": lambda facts: wallets_pb2.ListLinkedAccountsRequest(
        account=facts.account
    ),
    "Wallets.VerifyCredentials": lambda facts: wallets_pb2.VerifyCredentialsRequest(
        account=facts.seen, password_hash="eb8b704149f7e7a4488a7d218de6da3e", scheme="md5"
    ),
    "Balance.GetBalance": lambda facts: balance_pb2.GetBalanceRequest(account=facts.seen),
    "Balance.TopUpBalance": _booking(balance_pb2.TopUpBalanceRequest, amount=_money),
    "Balance.DebitBalance": _booking(balance_pb2.DebitBalanceRequest, amount=_money),
    "Points.EarnPoints": _booking(
        points_pb2.EarnPointsRequest, points=types_pb2.PointsAmount(value=POINTS)
    ),
    "Points.RedeemPoints": _booking(
        points_pb2.RedeemPointsRequest, points=types_pb2.PointsAmount(value=POINTS)
    ),
    "Points.ReversePoints": _booking(points_pb2.ReversePointsRequest, original=_nobody),
    "Points.GetPointsStatement": lambda facts: points_pb2.GetPointsStatementRequest(
        account=facts.seen, interval=_interval()
    ),
    "Points.ListExpiringPoints": lambda facts: points_pb2.ListExpiringPointsRequest(
        account=facts.seen, year=2027
    ),
    "Gift.ActivateGiftCard": _booking(gift_pb2.ActivateGiftCardRequest, activate=True),
    "Gift.GetGiftCard": lambda facts: gift_pb2.GetGiftCardRequest(account=facts.seen),
    "Gift.TopUpGiftCard": _booking(gift_pb2.TopUpGiftCardRequest, amount=_money),
    "Gift.PayWithGiftCard": _booking(gift_pb2.PayWithGiftCardRequest, amount=_money),
    "Gift.VoidGiftTransaction": _booking(gift_pb2.VoidGiftTransactionRequest, original=_nobody),
    "Gift.AddGiftTip": _booking(gift_pb2.AddGiftTipRequest, original=_nobody, amount=_money),
}
"""One request of every rpc, for a vendor that wants nothing in particular."""

_LOYALIFE_REDEMPTION: Final = _booking(
    points_pb2.RedeemPointsRequest,
    points=types_pb2.PointsAmount(value=POINTS),
    money_value=_money,
    redemption_kind="gift-card",
)

VENDORS_OWN: Final[Mapping[Cell, Make]] = {
    ("Cards.SearchCards", "loyalife"): lambda facts: cards_pb2.SearchCardsRequest(
        connection=facts.connection,
        attribute=cards_pb2.Attribute(name="email_id", value="m8124@example.com"),
    ),
    ("Cards.CreateCard", "loyalife"): _booking(
        cards_pb2.CreateCardRequest,
        connection="loyalife",
        account_id=lambda facts: f"m_new_{next(_numbers)}",
        card=lambda facts: cards_pb2.Card(
            holder=cards_pb2.Holder(display_name="Conny Canary"),
            attributes={
                "email_id": (person := new_person()).email,
                "mobile_number": person.phone,
            },
        ),
    ),
    ("Cards.UpdateCard", "loyalife"): _booking(
        cards_pb2.UpdateCardRequest,
        card=lambda facts: cards_pb2.Card(holder=cards_pb2.Holder(display_name="Jane Canary")),
        update_mask=FieldMask(paths=["holder.display_name"]),
    ),
    ("Wallets.CreateChallenge", "cashassist"): lambda facts: wallets_pb2.CreateChallengeRequest(
        connection=facts.connection,
        purpose=wallets_pb2.CHALLENGE_PURPOSE_LINK_CARD,
        phone="+41790000000",
        request_id=new_request_id(),
    ),
    ("Wallets.CreateChallenge", "loyalife"): lambda facts: wallets_pb2.CreateChallengeRequest(
        connection=facts.connection,
        purpose=wallets_pb2.CHALLENGE_PURPOSE_LOG_IN,
        email="m8124@example.com",
        request_id=new_request_id(),
    ),
    ("Wallets.CreateWallet", "loyalife"): _booking(
        wallets_pb2.CreateWalletRequest,
        connection="loyalife",
        account_id=lambda facts: f"m_new_{next(_numbers)}",
        profile=_profile,
    ),
    ("Points.EarnPoints", "loyalife"): _booking(
        points_pb2.EarnPointsRequest,
        purchase=lambda facts: points_pb2.Purchase(
            amount=facts.money(1250), product_code="RETAIL001"
        ),
    ),
    ("Points.RedeemPoints", "loyalife"): _LOYALIFE_REDEMPTION,
    ("Gift.ActivateGiftCard", "openloyaltypay"): _booking(
        gift_pb2.ActivateGiftCardRequest,
        activate=True,
        account=types_pb2.AccountRef(connection="openloyaltypay", id="10495"),
        holder=lambda facts: types_pb2.Profile(given_name="Nora", family_name="Canary"),
    ),
}
"""Requests that a vendor wants otherwise."""


async def _of(house: House, rpc: str, connection: str) -> types_pb2.Booking:
    """A booking that has just succeeded."""
    reply = await house.call(await ask(house, (rpc, connection)))
    assert reply.is_ok, str(reply)
    return reply.booking


async def _receipt(house: House, facts: Facts) -> Message:
    """A receipt that really belongs to the card."""
    receipt = receipt_of(house, facts.read)
    return cards_pb2.VerifyCardOwnershipRequest(
        account=facts.seen, receipt=cards_pb2.PurchaseReceipt(number=receipt["number"])
    )


def receipt_of(house: House, card: str) -> dict[str, Any]:
    """What the played vendor prints of the first receipt of a card."""
    cards = house.vendors["cashassist"].player.shown_cards()
    receipts = next(it["receipts"] for it in cards if it["card"] == card)
    found: dict[str, Any] = receipts[0]
    return found


async def _items(house: House, facts: Facts) -> Message:
    """The last purchase in the card's history."""
    reply = await house.call(REQUESTS["Cards.ListTransactions"](facts))
    assert reply.is_ok, str(reply)
    purchase = next(it for it in reply.response.transactions if it.provider_kind == "purchase")
    return cards_pb2.ListTransactionItemsRequest(
        account=facts.seen, transaction_reference=purchase.reference
    )


async def _code(house: House, facts: Facts) -> Message:
    """A right code for a challenge that was just sent."""
    issued = await house.call(await ask(house, ("Wallets.CreateChallenge", facts.connection)))
    assert issued.is_ok, str(issued)
    return wallets_pb2.VerifyChallengeRequest(
        challenge_token=issued.response.challenge_token, code=RIGHT_CODE[facts.connection]
    )


async def sign_up(house: House, connection: str, person: types_pb2.Profile) -> str:
    """The proof_token of a person who has shown a number to be theirs."""
    issued = await house.call(
        wallets_pb2.CreateChallengeRequest(
            connection=connection,
            purpose=wallets_pb2.CHALLENGE_PURPOSE_SIGN_UP,
            phone=person.phone,
            profile=person,
            request_id=new_request_id(),
        )
    )
    assert issued.is_ok, str(issued)
    verified = await house.call(
        wallets_pb2.VerifyChallengeRequest(
            challenge_token=issued.response.challenge_token, code=RIGHT_CODE[connection]
        )
    )
    assert verified.is_ok, str(verified)
    return str(verified.response.proof_token)


async def _signed_up_wallet(house: House, facts: Facts) -> Message:
    person = new_person()
    return wallets_pb2.CreateWalletRequest(
        connection=facts.connection,
        profile=types_pb2.Profile(given_name=person.given_name, family_name=person.family_name),
        proof_token=await sign_up(house, facts.connection, person),
        request_id=new_request_id(),
    )


async def _signed_up_card(house: House, facts: Facts) -> Message:
    return cards_pb2.CreateCardRequest(
        connection=facts.connection,
        card=cards_pb2.Card(holder=cards_pb2.Holder(given_name="Conny", family_name="Canary")),
        proof_token=await sign_up(house, facts.connection, new_person()),
        request_id=new_request_id(),
    )


def _undo(request_class: Any, of: str) -> Callable[[House, Facts], Awaitable[Message]]:
    """Makes the undo of a booking that has just succeeded."""

    async def make(house: House, facts: Facts) -> Message:
        done = await _of(house, of, facts.connection)
        request: Message = request_class(
            original=types_pb2.Original(booking=done.name), request_id=new_request_id()
        )
        return request

    return make


async def _tip(house: House, facts: Facts) -> Message:
    paid = await _of(house, "Gift.PayWithGiftCard", facts.connection)
    return gift_pb2.AddGiftTipRequest(
        original=types_pb2.Original(booking=paid.name),
        account=facts.account,
        amount=facts.money(50),
        request_id=new_request_id(),
    )


PREPARED: Final[Mapping[Cell, Callable[[House, Facts], Awaitable[Message]]]] = {
    ("Cards.VerifyCardOwnership", "cashassist"): _receipt,
    ("Cards.ListTransactionItems", "cashassist"): _items,
    ("Cards.CreateCard", "cashassist"): _signed_up_card,
    ("Wallets.CreateWallet", "cashassist"): _signed_up_wallet,
    ("Wallets.VerifyChallenge", "cashassist"): _code,
    ("Wallets.VerifyChallenge", "loyalife"): _code,
    ("Points.ReversePoints", "cashassist"): _undo(
        points_pb2.ReversePointsRequest, "Balance.DebitBalance"
    ),
    ("Points.ReversePoints", "cardsapi"): _undo(
        points_pb2.ReversePointsRequest, "Balance.DebitBalance"
    ),
    ("Points.ReversePoints", "loyalife"): _undo(
        points_pb2.ReversePointsRequest, "Points.RedeemPoints"
    ),
    ("Points.ReversePoints", "openloyaltypay"): _undo(
        points_pb2.ReversePointsRequest, "Points.EarnPoints"
    ),
    ("Gift.VoidGiftTransaction", "cashassist"): _undo(
        gift_pb2.VoidGiftTransactionRequest, "Balance.DebitBalance"
    ),
    ("Gift.VoidGiftTransaction", "cardsapi"): _undo(
        gift_pb2.VoidGiftTransactionRequest, "Balance.DebitBalance"
    ),
    ("Gift.VoidGiftTransaction", "loyalife"): _undo(
        gift_pb2.VoidGiftTransactionRequest, "Points.RedeemPoints"
    ),
    ("Gift.VoidGiftTransaction", "openloyaltypay"): _undo(
        gift_pb2.VoidGiftTransactionRequest, "Gift.PayWithGiftCard"
    ),
    ("Gift.AddGiftTip", "openloyaltypay"): _tip,
}
"""Requests before which something has to happen: a code sent, a booking made, a number seen."""


async def ask(house: House, cell: Cell) -> Message:
    """One request of the cell's rpc to the cell's vendor, ready to be sent."""
    rpc, connection = cell
    facts = FACTS[connection]
    if (prepare := PREPARED.get(cell)) is not None:
        return await prepare(house, facts)
    make = VENDORS_OWN.get(cell) or REQUESTS[rpc]
    return make(facts)
