"""Makes the bytes that the journal stores as an answer; the same booking gives the same bytes."""

from collections.abc import Callable

from google.protobuf.message import Message

from loyalty.v1 import balance_pb2, points_pb2
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import Booking
from loyalty_gateway.domain.errors import LoyaltyError
from loyalty_gateway.domain.operations import Operation, Receipt
from loyalty_gateway.rpc.codec.bookings import fill_booking
from loyalty_gateway.rpc.codec.types import fill_money
from loyalty_gateway.rpc.status import encode_status


def _encode_top_up_balance(booking: Booking) -> balance_pb2.TopUpBalanceResponse:
    response = balance_pb2.TopUpBalanceResponse()
    fill_booking(response.booking, booking)
    return response


def _encode_debit_balance(booking: Booking) -> balance_pb2.DebitBalanceResponse:
    response = balance_pb2.DebitBalanceResponse()
    fill_booking(response.booking, booking)
    remaining_minor = booking.remaining_due_minor
    if remaining_minor is not None:
        assert isinstance(booking.asked, Money), "a debit asks for money"
        fill_money(response.remaining_due, Money(booking.asked.currency, remaining_minor))
    return response


def _encode_redeem_points(booking: Booking) -> points_pb2.RedeemPointsResponse:
    response = points_pb2.RedeemPointsResponse()
    fill_booking(response.booking, booking)
    return response


ANSWERS: dict[Operation, Callable[[Booking], Message]] = {
    Operation.TOP_UP_BALANCE: _encode_top_up_balance,
    Operation.DEBIT_BALANCE: _encode_debit_balance,
    Operation.REDEEM_POINTS: _encode_redeem_points,
}
"""The answer of every booking's own rpc."""


class WireAnswerCodec:
    """The AnswerCodec of this wire: what it encodes is stored once and sent ever after."""

    def encode_answer(self, booking: Booking, receipt: Receipt | None = None) -> bytes:
        """The serialised response message of the booking's rpc, without personal data."""
        assert booking.operation is not None, "a tombstone has no answer"
        return ANSWERS[booking.operation](booking).SerializeToString(deterministic=True)

    def encode_private(self, booking: Booking, receipt: Receipt) -> bytes:
        """The personal part of that message: none of these rpcs has one."""
        return b""

    def encode_error(self, error: LoyaltyError) -> bytes:
        """The serialised google.rpc.Status of a refusal."""
        return encode_status(error)
