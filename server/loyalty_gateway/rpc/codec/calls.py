"""Decodes what every booking and every read has in common."""

from typing import TypedDict, Unpack

from google.protobuf.message import Message

from loyalty.v1 import balance_pb2, cards_pb2, gift_pb2, points_pb2, types_pb2, wallets_pb2
from loyalty_gateway.booking.calls import (
    AccountKey,
    BookingCall,
    CardSearch,
    OriginalKey,
    ReadCall,
)
from loyalty_gateway.domain.accounts import looks_like_payment_card
from loyalty_gateway.domain.amounts import Amount, Money
from loyalty_gateway.domain.errors import Violation
from loyalty_gateway.domain.operations import (
    External,
    InDoubtPolicy,
    Operation,
    Person,
    Purchase,
    Sale,
)
from loyalty_gateway.rpc.codec.types import (
    Envelope,
    booking_id,
    connection_id,
    decode_account,
    decode_interval,
    decode_number,
    decode_page_size,
    decode_request_id,
    decode_sale,
)

BookingRequest = (
    cards_pb2.CreateCardRequest
    | cards_pb2.UpdateCardRequest
    | wallets_pb2.CreateWalletRequest
    | wallets_pb2.UpdateWalletRequest
    | wallets_pb2.LinkAccountRequest
    | balance_pb2.TopUpBalanceRequest
    | balance_pb2.DebitBalanceRequest
    | points_pb2.EarnPointsRequest
    | points_pb2.RedeemPointsRequest
    | points_pb2.ReversePointsRequest
    | gift_pb2.ActivateGiftCardRequest
    | gift_pb2.TopUpGiftCardRequest
    | gift_pb2.PayWithGiftCardRequest
    | gift_pb2.VoidGiftTransactionRequest
    | gift_pb2.AddGiftTipRequest
)
CreateRequest = cards_pb2.CreateCardRequest | wallets_pb2.CreateWalletRequest
ReadRequest = (
    cards_pb2.SearchCardsRequest
    | cards_pb2.GetCardRequest
    | cards_pb2.ListTransactionsRequest
    | cards_pb2.ListTransactionItemsRequest
    | wallets_pb2.GetWalletRequest
    | wallets_pb2.ListLinkedAccountsRequest
    | balance_pb2.GetBalanceRequest
    | points_pb2.GetPointsStatementRequest
    | points_pb2.ListExpiringPointsRequest
    | gift_pb2.GetGiftCardRequest
)

_NO_SALE = Sale()

# The parts of a request whose own fields a vendor may need, and whose texts are kept or sent.
_PARTS = frozenset(
    {
        "attribute",
        "card",
        "external",
        "holder",
        "points",
        "profile",
        "purchase",
        "receipt",
        "sale",
        "scan",
        "store",
    }
)
# Texts with rules of their own: ids, tokens and numbers that are no free texts.
_NO_FREE_TEXTS = frozenset(
    {
        "account_id",
        "connection",
        "email",
        "id",
        "number",
        "phone",
        "proof_token",
        "request_id",
        "transaction_reference",
        "value",
    }
)


class Business(TypedDict, total=False):
    """What an rpc's booking carries beside what all have; see BookingCall."""

    account: AccountKey
    asked: Amount
    allow_partial: bool
    money_value: Money | None
    redemption_kind: str
    activate: bool | None
    card_type: str
    purchase: Purchase | None
    original: OriginalKey
    person: Person | None
    update_mask: tuple[str, ...]
    external: External
    proof_token: str


def decode_booking(
    operation: Operation,
    message: BookingRequest,
    envelope: Envelope,
    problems: list[Violation],
    **business: Unpack[Business],
) -> BookingCall:
    """A booking's call; what cannot be accepted is added to `problems`.

    Without an `account` it is the one of the message; a message without one has an original.
    """
    if "account" not in business:
        business["account"] = _account_of(message, problems)
    sale = _NO_SALE
    if not isinstance(message, _WITHOUT_SALE) and message.HasField("sale"):
        sale = decode_sale(message.sale)
    reverses = message.options.in_doubt_policy == types_pb2.IN_DOUBT_POLICY_AUTO_REVERSE
    return BookingCall(
        tenant=envelope.tenant,
        operation=operation,
        request_id=decode_request_id(message.request_id, problems),
        deadline=envelope.deadline,
        sale=sale,
        in_doubt_policy=InDoubtPolicy.AUTO_REVERSE if reverses else InDoubtPolicy.RESOLVE,
        validate_only=message.options.validate_only,
        fault=envelope.fault,
        filled_fields=filled_fields(message, problems),
        **business,
    )


_WITHOUT_SALE = (
    cards_pb2.CreateCardRequest,
    cards_pb2.UpdateCardRequest,
    wallets_pb2.CreateWalletRequest,
    wallets_pb2.UpdateWalletRequest,
    wallets_pb2.LinkAccountRequest,
)
_WITHOUT_ACCOUNT = (
    cards_pb2.CreateCardRequest,
    wallets_pb2.CreateWalletRequest,
    points_pb2.ReversePointsRequest,
    gift_pb2.VoidGiftTransactionRequest,
)


def _account_of(message: BookingRequest, problems: list[Violation]) -> AccountKey:
    if isinstance(message, _WITHOUT_ACCOUNT):
        return AccountKey("")
    return decode_account(message.account, "account", problems)


def decode_new_account(message: CreateRequest, problems: list[Violation]) -> AccountKey:
    """The account that shall be; without an id where the vendor chooses it."""
    return AccountKey(
        connection_id(message.connection),
        decode_number(message.account_id, "account_id", problems),
    )


def decode_original(message: types_pb2.Original) -> OriginalKey:
    """The earlier booking that a new one undoes or adds to."""
    reference = message.provider_reference
    return OriginalKey(
        booking_id=booking_id(message.booking),
        request_id=message.request_id,
        reference_connection=connection_id(reference.connection),
        reference_kind=reference.kind,
        reference_value=reference.value,
    )


def decode_mask(
    paths: list[str], filled: list[str], of: str, problems: list[Violation]
) -> tuple[str, ...]:
    """The fields that an update sets: those that the mask names, else those that are filled."""
    names = tuple(dict.fromkeys(paths or filled))
    if not names:
        problems.append(Violation("update_mask", f"must name what to change, or {of} must fill it"))
    return names


def filled_fields(message: Message, problems: list[Violation]) -> frozenset[str]:
    """The paths of the fields that the caller filled, spelt as in Capability.needed_fields.

    A card number in a free text is a violation: such texts are kept and sent in plain.
    """
    filled: list[str] = []
    _walk(message, "", filled, problems)
    return frozenset(filled)


def _walk(message: Message, path: str, filled: list[str], problems: list[Violation]) -> None:
    for field, value in message.ListFields():
        name = path + field.name
        filled.append(name)
        if field.name in _PARTS:
            _walk(value, f"{name}.", filled, problems)
        elif field.name == "attributes":
            filled += (f"{name}.{key}" for key in value)
            for text in (*value.keys(), *value.values()):
                _refuse_card_number(name, text, problems)
        elif field.name == "account":
            if value.entry_mode:
                filled.append(f"{name}.entry_mode")
        elif isinstance(value, str) and field.name not in _NO_FREE_TEXTS:
            _refuse_card_number(name, value, problems)


def _refuse_card_number(field: str, text: str, problems: list[Violation]) -> None:
    if looks_like_payment_card(text):
        problems.append(Violation(field, "must not hold a card number"))


def decode_read(
    operation: Operation,
    message: ReadRequest,
    envelope: Envelope,
    problems: list[Violation],
    *,
    interval: types_pb2.Interval | None = None,
    page: types_pb2.Page | None = None,
    search: CardSearch | None = None,
    transaction_reference: str = "",
    year: int = 0,
) -> ReadCall:
    """A read's call; what cannot be accepted is added to `problems`."""
    start, end = decode_interval(interval, "interval", problems) if interval else (None, None)
    page = page if page is not None else types_pb2.Page()
    if isinstance(message, cards_pb2.SearchCardsRequest):
        account = AccountKey(connection_id(message.connection))
    else:
        account = decode_account(message.account, "account", problems)
    return ReadCall(
        tenant=envelope.tenant,
        operation=operation,
        account=account,
        deadline=envelope.deadline,
        search=search,
        transaction_reference=transaction_reference,
        year=year,
        start=start,
        end=end,
        page_size=decode_page_size(page),
        page_token=page.page_token,
        fault=envelope.fault,
        filled_fields=filled_fields(message, problems),
    )
