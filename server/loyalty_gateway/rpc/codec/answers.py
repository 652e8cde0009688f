"""Makes the bytes that the journal stores as an answer; the same booking gives the same bytes.

Nothing personal is in the stored part. The personal part is a message of the same type, kept
sealed: one behind the other, both are the whole answer, because protobuf merges them.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from loyalty.v1 import balance_pb2, cards_pb2, gift_pb2, points_pb2, wallets_pb2
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import Booking
from loyalty_gateway.domain.errors import LoyaltyError
from loyalty_gateway.domain.operations import CardFacts, Operation, Receipt
from loyalty_gateway.rpc.codec.bookings import fill_booking, fill_booking_account
from loyalty_gateway.rpc.codec.cards import fill_card, fill_card_holder
from loyalty_gateway.rpc.codec.types import fill_money
from loyalty_gateway.rpc.codec.wallets import fill_wallet, fill_wallet_person
from loyalty_gateway.rpc.status import encode_status

Encode = Callable[[Booking, CardFacts | None], Message]


def _plain(response_class: Callable[[], Any]) -> Encode:
    """The answer that is the booking alone."""

    def encode(booking: Booking, facts: CardFacts | None) -> Message:
        response = response_class()
        fill_booking(response.booking, booking)
        return response  # type: ignore[no-any-return]

    return encode


def _paid(response_class: Callable[[], Any]) -> Encode:
    """The answer that also says what a till must still collect."""

    def encode(booking: Booking, facts: CardFacts | None) -> Message:
        response = response_class()
        fill_booking(response.booking, booking)
        remaining_minor = booking.remaining_due_minor
        if remaining_minor is not None:
            assert isinstance(booking.asked, Money), "a payment asks for money"
            fill_money(response.remaining_due, Money(booking.asked.currency, remaining_minor))
        return response  # type: ignore[no-any-return]

    return encode


def _card(response_class: Callable[[], Any]) -> Encode:
    """The answer that also shows the card, as far as it is not personal."""

    def encode(booking: Booking, facts: CardFacts | None) -> Message:
        response = response_class()
        fill_booking(response.booking, booking)
        if booking.booking_id:
            fill_booking_account(response.card.account, booking)
            if facts is not None:
                fill_card(response.card, facts)
        return response  # type: ignore[no-any-return]

    return encode


def _wallet(response_class: Callable[[], Any]) -> Encode:
    """The answer that also shows the wallet, as far as it is not personal."""

    def encode(booking: Booking, facts: CardFacts | None) -> Message:
        response = response_class()
        fill_booking(response.booking, booking)
        if booking.booking_id:
            fill_booking_account(response.wallet.account, booking)
            if facts is not None:
                fill_wallet(response.wallet, facts)
        return response  # type: ignore[no-any-return]

    return encode


ANSWERS: dict[Operation, Encode] = {
    Operation.CREATE_CARD: _card(cards_pb2.CreateCardResponse),
    Operation.UPDATE_CARD: _card(cards_pb2.UpdateCardResponse),
    Operation.CREATE_WALLET: _wallet(wallets_pb2.CreateWalletResponse),
    Operation.UPDATE_WALLET: _wallet(wallets_pb2.UpdateWalletResponse),
    Operation.LINK_ACCOUNT: _plain(wallets_pb2.LinkAccountResponse),
    Operation.TOP_UP_BALANCE: _plain(balance_pb2.TopUpBalanceResponse),
    Operation.DEBIT_BALANCE: _paid(balance_pb2.DebitBalanceResponse),
    Operation.EARN_POINTS: _plain(points_pb2.EarnPointsResponse),
    Operation.REDEEM_POINTS: _plain(points_pb2.RedeemPointsResponse),
    Operation.REVERSE_POINTS: _plain(points_pb2.ReversePointsResponse),
    Operation.ACTIVATE_GIFT_CARD: _plain(gift_pb2.ActivateGiftCardResponse),
    Operation.TOP_UP_GIFT_CARD: _plain(gift_pb2.TopUpGiftCardResponse),
    Operation.PAY_WITH_GIFT_CARD: _paid(gift_pb2.PayWithGiftCardResponse),
    Operation.VOID_GIFT_TRANSACTION: _plain(gift_pb2.VoidGiftTransactionResponse),
    Operation.ADD_GIFT_TIP: _plain(gift_pb2.AddGiftTipResponse),
}
"""The answer of every booking's own rpc."""


def _private_card(response_class: Callable[[], Any]) -> Callable[[CardFacts], Message]:
    def encode(facts: CardFacts) -> Message:
        response = response_class()
        fill_card_holder(response.card, facts)
        return response  # type: ignore[no-any-return]

    return encode


def _private_wallet(response_class: Callable[[], Any]) -> Callable[[CardFacts], Message]:
    def encode(facts: CardFacts) -> Message:
        response = response_class()
        fill_wallet_person(response.wallet, facts)
        return response  # type: ignore[no-any-return]

    return encode


PRIVATE: dict[Operation, Callable[[CardFacts], Message]] = {
    Operation.CREATE_CARD: _private_card(cards_pb2.CreateCardResponse),
    Operation.UPDATE_CARD: _private_card(cards_pb2.UpdateCardResponse),
    Operation.CREATE_WALLET: _private_wallet(wallets_pb2.CreateWalletResponse),
    Operation.UPDATE_WALLET: _private_wallet(wallets_pb2.UpdateWalletResponse),
}
"""The personal part of an answer, for the rpcs that have one."""


class WireAnswerCodec:
    """The AnswerCodec of this wire: what it encodes is stored once and sent ever after."""

    def encode_answer(self, booking: Booking, receipt: Receipt | None = None) -> bytes:
        """The serialised response message of the booking's rpc, without personal data."""
        assert booking.operation is not None, "a tombstone has no answer"
        facts = receipt.card if receipt is not None else None
        answer = ANSWERS[booking.operation](booking, facts)
        return answer.SerializeToString(deterministic=True)

    def encode_private(self, booking: Booking, receipt: Receipt) -> bytes:
        """The personal part of that message; empty where there is none."""
        assert booking.operation is not None, "a tombstone has no answer"
        encode = PRIVATE.get(booking.operation)
        if encode is None or receipt.card is None:
            return b""
        return encode(receipt.card).SerializeToString(deterministic=True)

    def encode_error(self, error: LoyaltyError) -> bytes:
        """The serialised google.rpc.Status of a refusal."""
        return encode_status(error)
