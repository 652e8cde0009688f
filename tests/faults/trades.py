"""What callers do with each vendor: every booking that it offers, on accounts with enough on them.

No two requests of a run ask for the same: the size of one tells it from every other, also in the
books of a vendor that keeps no id of ours.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loyalty.v1 import balance_pb2, cards_pb2, gift_pb2, points_pb2, types_pb2, wallets_pb2
from loyalty_gateway.sandbox.book import CardSeed, PastEffect
from loyalty_gateway.sandbox.bookings import _OWN_WORDS as OWN_WORDS
from loyalty_gateway.sandbox.cardsapi.cards import SandboxPass
from loyalty_gateway.sandbox.faults import Fault
from loyalty_gateway.sandbox.loyalife.cards import SandboxMember
from loyalty_gateway.sandbox.player import Player
from tests.e2e.caller import Caller, Reply, money
from tests.e2e.wanted import BookingRequest

ACCOUNTS: Final = tuple(str(number) for number in range(40_001, 40_025))
SPARE_ACCOUNTS: Final = tuple(str(number) for number in range(40_101, 40_173))
"""As rich as those; for what may leave an account on hold."""
SLEEPERS: Final = tuple(str(number) for number in range(41_001, 41_401))
"""Gift cards that are not active yet; each is activated by one request."""
BALANCE_MINOR: Final = 9_000_000_000
POINTS: Final = 1_900_000_000
# A vendor that asks for minutes is obeyed, also by recovery: that is no way to test in seconds.
FAR_OFF: Final = frozenset({"429-far", "429-date"})
# A vendor that books and then declines the very same booking breaks its own promise: nothing tells
# its word from the truth, so it is no fault that anybody can survive.
FALSE: Final = frozenset({"decline-on-repeat"})
SIGN_UP_CODE: Final = "000000"
_FIRST_DAY_S: Final = 1_767_600_000


@dataclass(slots=True)
class Desk:
    """Where a request is made: who asks, on which account, how much, under which id."""

    caller: Caller
    trade: "Trade"
    chance: random.Random
    request_id: str
    size: int
    account: str
    originals: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """What this caller has asked for, by method."""
    sleeper: str = ""
    """A gift card that nobody else activates; empty where none is left."""

    @property
    def reference(self) -> types_pb2.AccountRef:
        return types_pb2.AccountRef(connection=self.trade.connection, id=self.account)

    @property
    def sale(self) -> types_pb2.Sale:
        """The ticket is the request_id, so that it tells one content from another."""
        return types_pb2.Sale(ticket_number=self.request_id, **self.trade.sale)

    @property
    def amount(self) -> Any:
        return money(self.size, self.trade.currency)

    @property
    def mark(self) -> str:
        """A text that no other request leaves behind."""
        return f"M{self.request_id.replace('-', '')[:12]}"

    def find_original(self, *methods: str) -> Any:
        """One of the requests of these kinds, or None."""
        made = [it for method in methods for it in self.originals.get(method, ())]
        return self.chance.choice(made) if made else None


Make = Callable[[Desk], Awaitable[BookingRequest | None]]
"""Makes the request; None where nothing is there yet that it could belong to."""


def _plain(make: Callable[[Desk], BookingRequest | None]) -> Make:
    async def made(desk: Desk) -> BookingRequest | None:
        return make(desk)

    return made


def _top_up(desk: Desk) -> BookingRequest:
    return balance_pb2.TopUpBalanceRequest(
        account=desk.reference, amount=desk.amount, sale=desk.sale, request_id=desk.request_id
    )


def _debit(desk: Desk) -> BookingRequest:
    return balance_pb2.DebitBalanceRequest(
        account=desk.reference, amount=desk.amount, sale=desk.sale, request_id=desk.request_id
    )


def _redeem(desk: Desk) -> BookingRequest:
    request = points_pb2.RedeemPointsRequest(
        account=desk.reference,
        points=types_pb2.PointsAmount(value=desk.size),
        sale=desk.sale,
        request_id=desk.request_id,
    )
    if desk.trade.values_points:
        request.money_value.CopyFrom(desk.amount)
    return request


def _earn(desk: Desk) -> BookingRequest:
    return points_pb2.EarnPointsRequest(
        account=desk.reference,
        points=types_pb2.PointsAmount(value=desk.size),
        sale=desk.sale,
        request_id=desk.request_id,
    )


def _earn_by_purchase(desk: Desk) -> BookingRequest:
    return points_pb2.EarnPointsRequest(
        account=desk.reference,
        purchase=points_pb2.Purchase(amount=desk.amount, product_code="RETAIL001"),
        sale=desk.sale,
        request_id=desk.request_id,
    )


def _reverse(desk: Desk) -> BookingRequest | None:
    original = desk.find_original("RedeemPoints", "RedeemPoints", "EarnPoints")
    if original is None:
        return None
    return points_pb2.ReversePointsRequest(
        original=types_pb2.Original(request_id=original.request_id),
        sale=desk.sale,
        request_id=desk.request_id,
    )


def _top_up_gift(desk: Desk) -> BookingRequest:
    return gift_pb2.TopUpGiftCardRequest(
        account=desk.reference, amount=desk.amount, sale=desk.sale, request_id=desk.request_id
    )


def _pay(desk: Desk) -> BookingRequest:
    return gift_pb2.PayWithGiftCardRequest(
        account=desk.reference,
        amount=desk.amount,
        allow_partial=desk.chance.random() < 0.3,
        sale=desk.sale,
        request_id=desk.request_id,
    )


def _void(desk: Desk) -> BookingRequest | None:
    original = desk.find_original("PayWithGiftCard", "TopUpGiftCard")
    if original is None:
        return None
    return gift_pb2.VoidGiftTransactionRequest(
        original=types_pb2.Original(request_id=original.request_id),
        sale=desk.sale,
        request_id=desk.request_id,
    )


def _activate(desk: Desk) -> BookingRequest | None:
    if not desk.sleeper:
        return None
    account = types_pb2.AccountRef(connection=desk.trade.connection, id=desk.sleeper)
    return gift_pb2.ActivateGiftCardRequest(
        account=account, activate=True, sale=desk.sale, request_id=desk.request_id
    )


def _link(desk: Desk) -> BookingRequest:
    return wallets_pb2.LinkAccountRequest(
        account=desk.reference,
        external=wallets_pb2.LinkedAccount(kind="device", id=desk.mark),
        request_id=desk.request_id,
    )


def _update_wallet(desk: Desk) -> BookingRequest:
    return wallets_pb2.UpdateWalletRequest(
        account=desk.reference,
        profile=types_pb2.Profile(email=f"{desk.mark.lower()}@example.com"),
        request_id=desk.request_id,
    )


def _update_by_name(desk: Desk) -> BookingRequest:
    holder = cards_pb2.Holder(family_name=desk.mark)
    card = cards_pb2.Card(holder=holder)
    return cards_pb2.UpdateCardRequest(
        account=desk.reference, card=card, request_id=desk.request_id
    )


def _update_by_attribute(desk: Desk) -> BookingRequest:
    card = cards_pb2.Card(attributes={"nickname": desk.mark})
    return cards_pb2.UpdateCardRequest(
        account=desk.reference, card=card, request_id=desk.request_id
    )


def _phone(desk: Desk) -> str:
    return f"+4178{desk.size:07d}"


def _enrol_wallet(desk: Desk) -> BookingRequest:
    return wallets_pb2.CreateWalletRequest(
        connection=desk.trade.connection,
        account_id=f"m_{desk.mark}",
        profile=types_pb2.Profile(
            display_name=f"New {desk.mark}",
            email=f"{desk.mark.lower()}@example.com",
            phone=_phone(desk),
        ),
        request_id=desk.request_id,
    )


def _enrol_card(desk: Desk) -> BookingRequest:
    return cards_pb2.CreateCardRequest(
        connection=desk.trade.connection,
        account_id=f"m_{desk.mark}",
        card=cards_pb2.Card(
            holder=cards_pb2.Holder(display_name=f"New {desk.mark}"),
            attributes={
                "email_id": f"{desk.mark.lower()}@example.com",
                "mobile_number": _phone(desk),
            },
        ),
        request_id=desk.request_id,
    )


async def _sign_up(desk: Desk) -> str:
    """A proof for a card that is to be; empty where the code did not come through."""
    asked = wallets_pb2.CreateChallengeRequest(
        connection=desk.trade.connection,
        purpose=wallets_pb2.CHALLENGE_PURPOSE_SIGN_UP,
        phone=_phone(desk),
        profile=types_pb2.Profile(given_name="New", family_name=desk.mark),
        request_id=f"code-{desk.request_id}",
    )
    sent = await desk.caller.call(asked, timeout_s=3.0)
    if not sent.is_ok:
        return ""
    checked: Reply = await desk.caller.call(
        wallets_pb2.VerifyChallengeRequest(
            challenge_token=sent.response.challenge_token, code=SIGN_UP_CODE
        ),
        timeout_s=3.0,
    )
    return str(checked.response.proof_token) if checked.is_ok else ""


async def _create_wallet(desk: Desk) -> BookingRequest | None:
    proof = await _sign_up(desk)
    if not proof:
        return None
    return wallets_pb2.CreateWalletRequest(
        connection=desk.trade.connection,
        profile=types_pb2.Profile(display_name=f"New {desk.mark}"),
        proof_token=proof,
        request_id=desk.request_id,
    )


async def _create_card(desk: Desk) -> BookingRequest | None:
    proof = await _sign_up(desk)
    if not proof:
        return None
    return cards_pb2.CreateCardRequest(
        connection=desk.trade.connection,
        card=cards_pb2.Card(holder=cards_pb2.Holder(display_name=f"New {desk.mark}")),
        proof_token=proof,
        request_id=desk.request_id,
    )


def _tip(desk: Desk) -> BookingRequest | None:
    original = desk.find_original("PayWithGiftCard")
    if original is None:
        return None
    return gift_pb2.AddGiftTipRequest(
        original=types_pb2.Original(request_id=original.request_id),
        account=original.account,
        amount=desk.amount,
        sale=desk.sale,
        request_id=desk.request_id,
    )


@dataclass(frozen=True, slots=True)
class Trade:
    """One vendor as a caller sees it. Both weights and makers are by method."""

    connection: str
    currency: str
    seeds: Callable[[], Sequence[CardSeed]]
    makers: Mapping[str, tuple[int, Make]]
    odd_accounts: tuple[str, ...] = ()
    """Accounts that refuse: empty, blocked or unknown ones."""
    sale: Mapping[str, str] = field(default_factory=dict)
    values_points: bool = False
    sleepers: tuple[str, ...] = ()
    undoable: frozenset[str] = frozenset()
    """What can be undone, so that a doubt may be answered by an undo."""
    by_people: frozenset[str] = frozenset()
    """What only a person can find out about, as the connection says."""

    @property
    def methods(self) -> frozenset[str]:
        return frozenset(self.makers)


def _card_seeds() -> Sequence[CardSeed]:
    return [
        CardSeed(
            account,
            "Rich Caller",
            BALANCE_MINOR,
            POINTS,
            (PastEffect("refill", BALANCE_MINOR, POINTS, _FIRST_DAY_S),),
            detail={"firstName": "Rich", "lastName": "Caller"},
        )
        for account in (*ACCOUNTS, *SPARE_ACCOUNTS)
    ]


def _pass_seeds() -> Sequence[CardSeed]:
    return [
        CardSeed(
            account,
            "Rich Caller",
            BALANCE_MINOR,
            0,
            (PastEffect("credit", BALANCE_MINOR, 0, _FIRST_DAY_S),),
            detail=SandboxPass(account, "Rich", "Caller", BALANCE_MINOR, "").detail,
        )
        for account in (*ACCOUNTS, *SPARE_ACCOUNTS)
    ]


def _member_seeds() -> Sequence[CardSeed]:
    shown = SandboxMember("", "", 0, "")
    return [
        CardSeed(
            account,
            "Rich Caller",
            0,
            POINTS,
            (PastEffect("earn", 0, POINTS, _FIRST_DAY_S),),
            detail={
                "number": 900_000 + int(account),
                "email_id": f"rich{account}@example.com",
                "mobile_number": f"+9199999{account}",
                "status": shown.status,
                "tier": shown.tier,
                "password_hash": "",
                "enrolled": "2026-01-05T09:30:00",
            },
        )
        for account in (*ACCOUNTS, *SPARE_ACCOUNTS)
    ]


def _gift_seeds() -> Sequence[CardSeed]:
    detail = {"is_active": True, "declines": False}
    past = (
        PastEffect("giftIssuance", BALANCE_MINOR, 0, _FIRST_DAY_S),
        PastEffect("loyaltyIssuance", 0, POINTS, _FIRST_DAY_S),
    )
    return [
        *(
            CardSeed(it, "Rich Caller", BALANCE_MINOR, POINTS, past, detail=detail)
            for it in (*ACCOUNTS, *SPARE_ACCOUNTS)
        ),
        *(CardSeed(it, "", 0, 0, (), detail={**detail, "is_active": False}) for it in SLEEPERS),
    ]


TRADES: Final[Mapping[str, Trade]] = {
    it.connection: it
    for it in (
        Trade(
            "cashassist",
            "CHF",
            _card_seeds,
            {
                "TopUpBalance": (30, _plain(_top_up)),
                "DebitBalance": (30, _plain(_debit)),
                "RedeemPoints": (30, _plain(_redeem)),
                "CreateCard": (3, _create_card),
                "CreateWallet": (3, _create_wallet),
                "UpdateCard": (2, _plain(_update_by_name)),
                "UpdateWallet": (2, _plain(_update_wallet)),
            },
            odd_accounts=("10491", "10490", "99999"),
        ),
        Trade(
            "cardsapi",
            "EUR",
            _pass_seeds,
            {"DebitBalance": (1, _plain(_debit))},
            odd_accounts=("30004", "30005", "39999"),
            sale={"point_of_sale_id": "65", "device_id": "till-1"},
        ),
        Trade(
            "loyalife",
            "EUR",
            _member_seeds,
            {
                "EarnPoints": (25, _plain(_earn_by_purchase)),
                "RedeemPoints": (35, _plain(_redeem)),
                "ReversePoints": (20, _plain(_reverse)),
                "CreateCard": (4, _plain(_enrol_card)),
                "CreateWallet": (4, _plain(_enrol_wallet)),
                "UpdateCard": (3, _plain(_update_by_attribute)),
                "UpdateWallet": (3, _plain(_update_wallet)),
                "LinkAccount": (6, _plain(_link)),
            },
            odd_accounts=("m_8128", "m_8127", "m_0000"),
            values_points=True,
            undoable=frozenset({"RedeemPoints", "EarnPoints"}),
        ),
        Trade(
            "openloyaltypay",
            "USD",
            _gift_seeds,
            {
                "TopUpGiftCard": (20, _plain(_top_up_gift)),
                "PayWithGiftCard": (25, _plain(_pay)),
                "VoidGiftTransaction": (15, _plain(_void)),
                "AddGiftTip": (8, _plain(_tip)),
                "EarnPoints": (14, _plain(_earn)),
                "RedeemPoints": (14, _plain(_redeem)),
                "ActivateGiftCard": (4, _plain(_activate)),
            },
            odd_accounts=("10491", "10490", "10492", "99999"),
            sleepers=SLEEPERS,
            undoable=frozenset({"TopUpGiftCard", "PayWithGiftCard"}),
        ),
    )
}
"""Every vendor of the sandbox by the name of its connection."""


def has_words(player: type[Player], fault: Fault) -> bool:
    """Whether the vendor can play the fault at all."""
    if fault.kind == "pending":
        return player.leaves_open
    word = OWN_WORDS.get(fault.kind)
    return word is None or getattr(player, word) is not getattr(Player, word)
