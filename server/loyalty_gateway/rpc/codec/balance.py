"""Translates the service Balance."""

from loyalty.v1 import balance_pb2
from loyalty_gateway.booking.calls import BookingCall, ReadAnswer, ReadCall
from loyalty_gateway.domain.errors import Violation
from loyalty_gateway.domain.operations import CardFacts, Operation
from loyalty_gateway.rpc.codec.calls import decode_booking, decode_read
from loyalty_gateway.rpc.codec.cards import seen_in
from loyalty_gateway.rpc.codec.types import (
    Envelope,
    decode_money,
    fill_balance,
    fill_seen_account,
)


def decode_get_balance(
    message: balance_pb2.GetBalanceRequest, envelope: Envelope, problems: list[Violation]
) -> ReadCall:
    """Balance.GetBalance."""
    return decode_read(Operation.GET_BALANCE, message, envelope, problems)


def encode_get_balance(answer: ReadAnswer) -> balance_pb2.GetBalanceResponse:
    """The account's balances."""
    found = answer.found
    assert isinstance(found, CardFacts), "GetBalance finds a card's facts"
    response = balance_pb2.GetBalanceResponse()
    fill_seen_account(response.account, seen_in(answer))
    for balance in found.balances:
        fill_balance(response.balances.add(), balance)
    return response


def decode_top_up_balance(
    message: balance_pb2.TopUpBalanceRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Balance.TopUpBalance."""
    return decode_booking(
        Operation.TOP_UP_BALANCE,
        message,
        envelope,
        problems,
        asked=decode_money(message.amount, "amount", problems),
    )


def decode_debit_balance(
    message: balance_pb2.DebitBalanceRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Balance.DebitBalance."""
    return decode_booking(
        Operation.DEBIT_BALANCE,
        message,
        envelope,
        problems,
        asked=decode_money(message.amount, "amount", problems),
        allow_partial=message.allow_partial,
    )
