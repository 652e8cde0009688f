"""Translates the service Points."""

from loyalty.v1 import points_pb2, types_pb2
from loyalty_gateway.booking.calls import BookingCall, ReadAnswer, ReadCall
from loyalty_gateway.domain.errors import Violation
from loyalty_gateway.domain.operations import (
    ExpirySchedule,
    Operation,
    PointsStatement,
    Purchase,
)
from loyalty_gateway.rpc.codec.calls import decode_booking, decode_original, decode_read
from loyalty_gateway.rpc.codec.cards import seen_in
from loyalty_gateway.rpc.codec.types import (
    Envelope,
    decode_money,
    decode_points,
    decode_time,
    fill_date,
    fill_seen_account,
)


def decode_earn_points(
    message: points_pb2.EarnPointsRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Points.EarnPoints; for a purchase no amount of points is asked for."""
    if not message.HasField("purchase"):
        return decode_booking(
            Operation.EARN_POINTS,
            message,
            envelope,
            problems,
            asked=decode_points(message.points),
        )
    return decode_booking(
        Operation.EARN_POINTS,
        message,
        envelope,
        problems,
        purchase=_decode_purchase(message.purchase, problems),
    )


def _decode_purchase(message: points_pb2.Purchase, problems: list[Violation]) -> Purchase:
    time = None
    if message.HasField("time"):
        time = decode_time(message.time, "purchase.time", problems)
    return Purchase(
        amount=decode_money(message.amount, "purchase.amount", problems),
        product_code=message.product_code,
        sub_product_code=message.sub_product_code,
        time=time,
        attributes=tuple(sorted(message.attributes.items())),
    )


def decode_reverse_points(
    message: points_pb2.ReversePointsRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Points.ReversePoints."""
    return decode_booking(
        Operation.REVERSE_POINTS,
        message,
        envelope,
        problems,
        original=decode_original(message.original),
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
        envelope,
        problems,
        asked=decode_points(message.points),
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
    fill_seen_account(response.account, seen_in(answer))
    return response


def decode_list_expiring_points(
    message: points_pb2.ListExpiringPointsRequest, envelope: Envelope, problems: list[Violation]
) -> ReadCall:
    """Points.ListExpiringPoints."""
    return decode_read(
        Operation.LIST_EXPIRING_POINTS, message, envelope, problems, year=message.year
    )


def encode_list_expiring_points(answer: ReadAnswer) -> points_pb2.ListExpiringPointsResponse:
    """The schedule; what the provider does not say stays absent."""
    found = answer.found
    assert isinstance(found, ExpirySchedule), "ListExpiringPoints finds a schedule"
    response = points_pb2.ListExpiringPointsResponse()
    fill_seen_account(response.account, seen_in(answer))
    for period in found.periods:
        shown = response.periods.add(
            accrued=_points(period.accrued),
            redeemed=_points(period.redeemed),
            blocked=_points(period.blocked),
            expired=_points(period.expired),
            available=_points(period.available),
        )
        fill_date(shown.date, period.date)
    return response


def _points(value: int | None) -> types_pb2.PointsAmount | None:
    return None if value is None else types_pb2.PointsAmount(value=value)
