"""Decodes what every booking and every read has in common."""

from loyalty.v1 import balance_pb2, cards_pb2, points_pb2, types_pb2
from loyalty_gateway.booking.calls import BookingCall, ReadCall
from loyalty_gateway.domain.accounts import looks_like_payment_card
from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.errors import Violation
from loyalty_gateway.domain.operations import InDoubtPolicy, Operation, Sale
from loyalty_gateway.rpc.codec.types import (
    Envelope,
    decode_account,
    decode_interval,
    decode_page_size,
    decode_request_id,
    decode_sale,
)

BookingRequest = (
    balance_pb2.TopUpBalanceRequest
    | balance_pb2.DebitBalanceRequest
    | points_pb2.RedeemPointsRequest
)
ReadRequest = (
    cards_pb2.GetCardRequest
    | cards_pb2.ListTransactionsRequest
    | balance_pb2.GetBalanceRequest
    | points_pb2.GetPointsStatementRequest
)

_NO_SALE = Sale()


def decode_booking(
    operation: Operation,
    message: BookingRequest,
    asked: Amount,
    envelope: Envelope,
    problems: list[Violation],
    *,
    allow_partial: bool = False,
    money_value: Money | None = None,
    redemption_kind: str = "",
) -> BookingCall:
    """A booking's call; what cannot be accepted is added to `problems`."""
    has_sale = message.HasField("sale")
    texts = {"redemption_kind": redemption_kind}
    if isinstance(asked, Points):
        texts["points.unit"] = asked.unit
    if has_sale:
        texts.update((f"sale.{field.name}", text) for field, text in message.sale.ListFields())
    # These are kept and sent in plain, so a card number has no place in them.
    problems += (
        Violation(path, "must not hold a card number")
        for path, text in texts.items()
        if text and looks_like_payment_card(text)
    )
    options = message.options
    reverses = options.in_doubt_policy == types_pb2.IN_DOUBT_POLICY_AUTO_REVERSE
    return BookingCall(
        tenant=envelope.tenant,
        operation=operation,
        request_id=decode_request_id(message.request_id, problems),
        account=decode_account(message.account, "account", problems),
        asked=asked,
        deadline=envelope.deadline,
        allow_partial=allow_partial,
        money_value=money_value,
        redemption_kind=redemption_kind,
        sale=decode_sale(message.sale) if has_sale else _NO_SALE,
        in_doubt_policy=InDoubtPolicy.AUTO_REVERSE if reverses else InDoubtPolicy.RESOLVE,
        validate_only=options.validate_only,
        fault=envelope.fault,
        filled_fields=_filled_fields(message, has_sale),
    )


def _filled_fields(message: BookingRequest, has_sale: bool) -> frozenset[str]:
    """The paths of the fields that the caller filled, spelt as in Capability.needed_fields."""
    names = [field.name for field, _ in message.ListFields()]
    if has_sale:
        names += [f"sale.{field.name}" for field, _ in message.sale.ListFields()]
    return frozenset(names)


def decode_read(
    operation: Operation,
    message: ReadRequest,
    envelope: Envelope,
    problems: list[Violation],
    *,
    interval: types_pb2.Interval | None = None,
    page: types_pb2.Page | None = None,
) -> ReadCall:
    """A read's call; what cannot be accepted is added to `problems`."""
    start, end = decode_interval(interval, "interval", problems) if interval else (None, None)
    page = page if page is not None else types_pb2.Page()
    return ReadCall(
        tenant=envelope.tenant,
        operation=operation,
        account=decode_account(message.account, "account", problems),
        deadline=envelope.deadline,
        start=start,
        end=end,
        page_size=decode_page_size(page),
        page_token=page.page_token,
        fault=envelope.fault,
    )
