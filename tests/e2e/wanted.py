"""What a booking request wants of the vendor's books; the same words for every vendor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message
from google.type.money_pb2 import Money

from loyalty.v1 import balance_pb2, cards_pb2, gift_pb2, points_pb2, types_pb2, wallets_pb2

BookingRequest = (
    balance_pb2.TopUpBalanceRequest
    | balance_pb2.DebitBalanceRequest
    | points_pb2.EarnPointsRequest
    | points_pb2.RedeemPointsRequest
    | points_pb2.ReversePointsRequest
    | gift_pb2.ActivateGiftCardRequest
    | gift_pb2.TopUpGiftCardRequest
    | gift_pb2.PayWithGiftCardRequest
    | gift_pb2.VoidGiftTransactionRequest
    | gift_pb2.AddGiftTipRequest
    | cards_pb2.CreateCardRequest
    | cards_pb2.UpdateCardRequest
    | wallets_pb2.CreateWalletRequest
    | wallets_pb2.UpdateWalletRequest
    | wallets_pb2.LinkAccountRequest
)
"""Every request of an rpc that books."""

ADDS: Final = frozenset({"TopUpBalance", "TopUpGiftCard", "EarnPoints"})
TAKES: Final = frozenset({"DebitBalance", "PayWithGiftCard", "AddGiftTip", "RedeemPoints"})
UNDOES: Final = frozenset({"ReversePoints", "VoidGiftTransaction"})
MOVES: Final = ADDS | TAKES
"""What moves value on an account; what is neither in here nor an undo changes records alone."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request in a vendor's terms: amounts are signed as the account sees them."""

    method: str
    connection: str = ""
    """Empty for an undo, whose account is the original's."""
    account: str = ""
    minor: int = 0
    points: int = 0
    purchase_minor: int = 0
    """The sale that earns points by the vendor's rules, which no caller can know."""
    allows_part: bool = False
    original: str = ""
    """The request_id of what is undone or added to."""
    mark: str = ""
    """The text that a change of records leaves behind, its own for every request."""

    @property
    def moves_value(self) -> bool:
        return self.method in MOVES

    @property
    def is_undo(self) -> bool:
        return self.method in UNDOES

    def is_met_by(self, minor: int, points: int) -> bool:
        """Whether an entry of these amounts is what was asked for."""
        if self.purchase_minor:
            return minor == 0 and points >= 0
        if self.allows_part and minor:
            return self.minor <= minor < 0 and points == self.points
        return (minor, points) == (self.minor, self.points)


def method_of(request: Message) -> str:
    """The rpc that a request belongs to."""
    return request.DESCRIPTOR.name.removesuffix("Request")


def ticket_of(request: Message) -> str:
    """What tells one content under a request_id from another; empty where there is no sale."""
    sale: types_pb2.Sale = getattr(request, "sale", types_pb2.Sale())
    return sale.ticket_number


def wanted_of(request: BookingRequest) -> Wanted:
    """What the request asks for."""
    method = method_of(request)
    sign = -1 if method in TAKES else 1
    match request:
        case (
            balance_pb2.TopUpBalanceRequest()
            | gift_pb2.TopUpGiftCardRequest()
            | balance_pb2.DebitBalanceRequest()
            | gift_pb2.PayWithGiftCardRequest()
        ):
            return Wanted(
                method,
                request.account.connection,
                request.account.id,
                minor=sign * minor_of(request.amount),
                allows_part=getattr(request, "allow_partial", False),
            )
        case gift_pb2.AddGiftTipRequest():
            return Wanted(
                method,
                request.account.connection,
                request.account.id,
                minor=sign * minor_of(request.amount),
                original=request.original.request_id,
            )
        case points_pb2.EarnPointsRequest() if request.HasField("purchase"):
            purchase_minor = minor_of(request.purchase.amount)
            account = request.account
            return Wanted(method, account.connection, account.id, purchase_minor=purchase_minor)
        case points_pb2.EarnPointsRequest() | points_pb2.RedeemPointsRequest():
            points = sign * request.points.value
            return Wanted(method, request.account.connection, request.account.id, points=points)
        case points_pb2.ReversePointsRequest() | gift_pb2.VoidGiftTransactionRequest():
            return Wanted(method, original=request.original.request_id)
        case gift_pb2.ActivateGiftCardRequest():
            return Wanted(method, request.account.connection, request.account.id)
        case cards_pb2.CreateCardRequest():
            mark = request.card.holder.display_name.rpartition(" ")[2]
            return Wanted(method, request.connection, request.account_id, mark=mark)
        case wallets_pb2.CreateWalletRequest():
            mark = request.profile.display_name.rpartition(" ")[2]
            return Wanted(method, request.connection, request.account_id, mark=mark)
        case wallets_pb2.UpdateWalletRequest():
            account, mark = request.account, request.profile.email
            return Wanted(method, account.connection, account.id, mark=mark)
        case cards_pb2.UpdateCardRequest():
            account = request.account
            mark = request.card.holder.family_name or "".join(request.card.attributes.values())
            return Wanted(method, account.connection, account.id, mark=mark)
        case wallets_pb2.LinkAccountRequest():
            account, external = request.account, request.external
            return Wanted(method, account.connection, account.id, mark=external.id)
    raise AssertionError(f"{method} books nothing that is known here")


def minor_of(money: Money) -> int:
    """An amount of the contract in minor units of two decimals."""
    return int(money.units * 100 + money.nanos // 10_000_000)


SERVICE_OF: Final[Mapping[str, str]] = {
    method.name: service.name
    for module in (balance_pb2, cards_pb2, gift_pb2, points_pb2, wallets_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""The service of each rpc."""
