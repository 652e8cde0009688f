"""Translates the service Cards."""

from loyalty.v1 import cards_pb2, types_pb2
from loyalty_gateway.booking.calls import ReadAnswer, ReadCall
from loyalty_gateway.domain.errors import Violation
from loyalty_gateway.domain.operations import (
    CardFacts,
    Operation,
    Transaction,
    TransactionKind,
    TransactionPage,
)
from loyalty_gateway.rpc.codec.calls import decode_read
from loyalty_gateway.rpc.codec.types import (
    Envelope,
    encode_account,
    encode_balance,
    encode_money,
    set_time,
)

TRANSACTION_KINDS: dict[TransactionKind, cards_pb2.TransactionKind.ValueType] = {
    TransactionKind.TOP_UP: cards_pb2.TRANSACTION_KIND_TOP_UP,
    TransactionKind.DEBIT: cards_pb2.TRANSACTION_KIND_DEBIT,
    TransactionKind.EARN: cards_pb2.TRANSACTION_KIND_EARN,
    TransactionKind.REDEEM: cards_pb2.TRANSACTION_KIND_REDEEM,
    TransactionKind.REVERSAL: cards_pb2.TRANSACTION_KIND_REVERSAL,
    TransactionKind.CORRECTION: cards_pb2.TRANSACTION_KIND_CORRECTION,
    TransactionKind.OTHER: cards_pb2.TRANSACTION_KIND_OTHER,
}

# The domain carries the status as a word; one that the contract does not have is not told.
CARD_STATUSES: dict[str, cards_pb2.CardStatus.ValueType] = {
    "ACTIVE": cards_pb2.CARD_STATUS_ACTIVE,
    "INACTIVE": cards_pb2.CARD_STATUS_INACTIVE,
    "SUSPENDED": cards_pb2.CARD_STATUS_SUSPENDED,
    "BLOCKED": cards_pb2.CARD_STATUS_BLOCKED,
    "CLOSED": cards_pb2.CARD_STATUS_CLOSED,
    "EXPIRED": cards_pb2.CARD_STATUS_EXPIRED,
}


def decode_get_card(
    message: cards_pb2.GetCardRequest, envelope: Envelope, problems: list[Violation]
) -> ReadCall:
    """Cards.GetCard."""
    return decode_read(Operation.GET_CARD, message, envelope, problems)


def encode_get_card(answer: ReadAnswer) -> cards_pb2.GetCardResponse:
    """The card; a holder stands in it only where the provider told a name."""
    found = answer.found
    assert isinstance(found, CardFacts), "GetCard finds a card"
    card = cards_pb2.Card(
        account=encode_account(answer.connection, answer.account_token, answer.masked_id),
        type=found.type,
        status=CARD_STATUSES.get(found.status.upper(), cards_pb2.CARD_STATUS_UNSPECIFIED),
        balances=[encode_balance(balance) for balance in found.balances],
    )
    if found.display_name:
        card.holder.display_name = found.display_name
    return cards_pb2.GetCardResponse(card=card)


def decode_list_transactions(
    message: cards_pb2.ListTransactionsRequest, envelope: Envelope, problems: list[Violation]
) -> ReadCall:
    """Cards.ListTransactions."""
    return decode_read(
        Operation.LIST_TRANSACTIONS,
        message,
        envelope,
        problems,
        interval=message.interval,
        page=message.page,
    )


def encode_list_transactions(answer: ReadAnswer) -> cards_pb2.ListTransactionsResponse:
    """One page of the history, each line with our own booking where one caused it."""
    found = answer.found
    assert isinstance(found, TransactionPage), "ListTransactions finds a page of transactions"
    return cards_pb2.ListTransactionsResponse(
        transactions=[
            _encode_transaction(line, answer.booking_names.get(line.outbound_id, ""))
            for line in found.transactions
        ],
        next_page_token=answer.next_page_token,
    )


def _encode_transaction(transaction: Transaction, booking: str) -> cards_pb2.Transaction:
    message = cards_pb2.Transaction(
        reference=transaction.reference,
        kind=TRANSACTION_KINDS[transaction.kind],
        provider_kind=transaction.provider_kind,
        balances_after=[encode_balance(balance) for balance in transaction.balances_after],
        narration=transaction.narration,
        booking=booking,
    )
    set_time(message.time, transaction.time)
    if transaction.money is not None:
        message.money.CopyFrom(encode_money(transaction.money))
    if transaction.points is not None:
        message.points.CopyFrom(types_pb2.PointsAmount(value=transaction.points))
    return message
