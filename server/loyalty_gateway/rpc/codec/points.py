"""Translates the service Points."""

from loyalty.v1 import points_pb2, types_pb2
from loyalty_gateway.booking.calls import BookingCall, ReadAnswer, ReadCall
from loyalty_gateway.domain.errors import Violation
from loyalty_gateway.domain.operations import Operation, PointsStatement
from loyalty_gateway.rpc.codec.calls import decode_booking, decode_read
from loyalty_gateway.rpc.codec.types import (
    Envelope,
    decode_money,
    decode_points,
    fill_account,
)


def decode_redeem_points(
    message: points_pb2.RedeemPointsRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Points.RedeemPoints."""
    money_value = None
    if message.HasField("money_value"):
        money_value = decode_money(message.money_value, "money_value", problems)
    return decode_booking(
        Operation.REDEEM_POINTS,
        message,
        decode_points(message.points),
        envelope,
        problems,
        money_value=money_value,
        redemption_kind=message.redemption_kind,
    )


def decode_get_points_statement(
    message: points_pb2.GetPointsStatementRequest, envelope: Envelope, problems: list[Violation]
) -> ReadCall:
    """Points.GetPointsStatement."""
    return decode_read(
        Operation.GET_POINTS_STATEMENT, message, envelope, problems, interval=message.interval
    )


def encode_get_points_statement(answer: ReadAnswer) -> points_pb2.GetPointsStatementResponse:
    """The sums; what the provider does not say stays absent."""
    found = answer.found
    assert isinstance(found, PointsStatement), "GetPointsStatement finds a statement"
    response = points_pb2.GetPointsStatementResponse(
        opening=_points(found.opening),
        earned=_points(found.earned),
        bonus=_points(found.bonus),
        redeemed=_points(found.redeemed),
        expired=_points(found.expired),
        other=_points(found.other),
        closing=_points(found.closing),
        by_category=[
            points_pb2.PointsCategory(category=category, points=_points(value))
            for category, value in found.by_category
        ],
    )
    fill_account(response.account, answer.connection, answer.account_token, answer.masked_id)
    return response


def _points(value: int | None) -> types_pb2.PointsAmount | None:
    return None if value is None else types_pb2.PointsAmount(value=value)
