"""Translates the service Cards."""

from loyalty.v1 import cards_pb2
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
    fill_account,
    fill_balance,
    fill_money,
    fill_time,
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
    response = cards_pb2.GetCardResponse()
    card = response.card
    fill_account(card.account, answer.connection, answer.account_token, answer.masked_id)
    card.type = found.type
    card.status = CARD_STATUSES.get(found.status.upper(), cards_pb2.CARD_STATUS_UNSPECIFIED)
    for balance in found.balances:
        fill_balance(card.balances.add(), balance)
    if found.holder.display_name:
        card.holder.display_name = found.holder.display_name
    return response


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
    response = cards_pb2.ListTransactionsResponse(next_page_token=answer.next_page_token)
    for transaction in found.transactions:
        booking = answer.booking_names.get(transaction.outbound_id, "")
        _fill_transaction(response.transactions.add(), transaction, booking)
    return response


def _fill_transaction(
    message: cards_pb2.Transaction, transaction: Transaction, booking: str
) -> None:
    message.reference = transaction.reference
    fill_time(message.time, transaction.time)
    message.kind = TRANSACTION_KINDS[transaction.kind]
    message.provider_kind = transaction.provider_kind
    if transaction.money is not None:
        fill_money(message.money, transaction.money)
    if transaction.points is not None:
        message.points.value = transaction.points
    for balance in transaction.balances_after:
        fill_balance(message.balances_after.add(), balance)
    message.narration = transaction.narration
    message.booking = booking
