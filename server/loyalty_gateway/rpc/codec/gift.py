"""Translates the service Gift."""

from loyalty.v1 import gift_pb2, types_pb2
from loyalty_gateway.booking.calls import BookingCall, ReadAnswer, ReadCall
from loyalty_gateway.domain.errors import Violation
from loyalty_gateway.domain.operations import CardFacts, Operation
from loyalty_gateway.rpc.codec.calls import decode_booking, decode_original, decode_read
from loyalty_gateway.rpc.codec.cards import seen_in
from loyalty_gateway.rpc.codec.types import (
    Envelope,
    account_status,
    decode_money,
    decode_profile,
    fill_balance,
    fill_profile,
    fill_seen_account,
    fill_time,
)


def decode_activate_gift_card(
    message: gift_pb2.ActivateGiftCardRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Gift.ActivateGiftCard; a caller who does not say whether wants it active."""
    person = None
    if message.HasField("holder"):
        person = decode_profile(message.holder, "holder", problems)
    return decode_booking(
        Operation.ACTIVATE_GIFT_CARD,
        message,
        envelope,
        problems,
        activate=message.activate if message.HasField("activate") else True,
        person=person,
    )


def decode_top_up_gift_card(
    message: gift_pb2.TopUpGiftCardRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Gift.TopUpGiftCard."""
    return decode_booking(
        Operation.TOP_UP_GIFT_CARD,
        message,
        envelope,
        problems,
        asked=decode_money(message.amount, "amount", problems),
        activate=message.activate if message.HasField("activate") else None,
    )


def decode_pay_with_gift_card(
    message: gift_pb2.PayWithGiftCardRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Gift.PayWithGiftCard."""
    return decode_booking(
        Operation.PAY_WITH_GIFT_CARD,
        message,
        envelope,
        problems,
        asked=decode_money(message.amount, "amount", problems),
        allow_partial=message.allow_partial,
    )


def decode_void_gift_transaction(
    message: gift_pb2.VoidGiftTransactionRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Gift.VoidGiftTransaction."""
    return decode_booking(
        Operation.VOID_GIFT_TRANSACTION,
        message,
        envelope,
        problems,
        original=decode_original(message.original),
    )


def decode_add_gift_tip(
    message: gift_pb2.AddGiftTipRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Gift.AddGiftTip."""
    return decode_booking(
        Operation.ADD_GIFT_TIP,
        message,
        envelope,
        problems,
        asked=decode_money(message.amount, "amount", problems),
        original=decode_original(message.original),
    )


def decode_get_gift_card(
    message: gift_pb2.GetGiftCardRequest, envelope: Envelope, problems: list[Violation]
) -> ReadCall:
    """Gift.GetGiftCard."""
    return decode_read(Operation.GET_GIFT_CARD, message, envelope, problems)


def encode_get_gift_card(answer: ReadAnswer) -> gift_pb2.GetGiftCardResponse:
    """The gift card; a holder stands in it only where the provider told one."""
    found = answer.found
    assert isinstance(found, CardFacts), "GetGiftCard finds a card's facts"
    response = gift_pb2.GetGiftCardResponse()
    card = response.gift_card
    fill_seen_account(card.account, seen_in(answer))
    card.status = account_status(found.status)
    fill_time(card.expire_time, found.expire_time)
    for balance in found.balances:
        fill_balance(card.balances.add(), balance)
    holder = types_pb2.Profile()
    fill_profile(holder, found)
    if holder.ByteSize():
        card.holder.CopyFrom(holder)
    return response
