"""Translates the service Cards."""

from loyalty.v1 import cards_pb2
from loyalty_gateway.booking.calls import (
    BookingCall,
    CardSearch,
    OwnershipCall,
    ReadAnswer,
    ReadCall,
    SeenAccount,
    Verified,
)
from loyalty_gateway.domain.errors import Violation
from loyalty_gateway.domain.operations import (
    CardFacts,
    CardPage,
    ItemPage,
    Operation,
    Person,
    Transaction,
    TransactionItem,
    TransactionKind,
    TransactionPage,
)
from loyalty_gateway.rpc.codec.calls import (
    decode_booking,
    decode_mask,
    decode_new_account,
    decode_read,
    filled_fields,
)
from loyalty_gateway.rpc.codec.types import (
    ACCOUNT_KINDS,
    ENTRY_MODES,
    Envelope,
    account_status,
    decode_account,
    decode_date,
    decode_money,
    decode_number,
    fill_balance,
    fill_money,
    fill_seen_account,
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

_HOLDER_FIELDS = ("display_name", "given_name", "family_name")
# What a path of UpdateCard's mask means in the words of the domain, which knows one person.
CARD_PATHS: dict[str, tuple[str, ...]] = {
    "type": ("type",),
    "holder": _HOLDER_FIELDS,
    **{f"holder.{name}": (name,) for name in _HOLDER_FIELDS},
    "attributes": ("attributes",),
}


# --- reads --------------------------------------------------------------------------------------


def decode_search_cards(
    message: cards_pb2.SearchCardsRequest, envelope: Envelope, problems: list[Violation]
) -> ReadCall:
    """Cards.SearchCards."""
    search = CardSearch(
        scan_entry_mode=ENTRY_MODES.get(message.scan.entry_mode),
        scan_value=decode_number(message.scan.value, "scan.value", problems),
        phone=message.phone,
        email=message.email,
        attribute_name=message.attribute.name,
        attribute_value=message.attribute.value,
        group_id=message.group_id,
        store_id=message.store.store_id,
        point_of_sale_id=message.store.point_of_sale_id,
    )
    return decode_read(
        Operation.SEARCH_CARDS, message, envelope, problems, search=search, page=message.page
    )


def encode_search_cards(answer: ReadAnswer) -> cards_pb2.SearchCardsResponse:
    """One page of the cards that were found."""
    found = answer.found
    assert isinstance(found, CardPage), "SearchCards finds a page of cards"
    response = cards_pb2.SearchCardsResponse(next_page_token=answer.next_page_token)
    for facts in found.cards:
        card = response.cards.add()
        fill_seen_account(card.account, answer.accounts[facts.account_id])
        fill_card(card, facts)
        fill_card_holder(card, facts)
    return response


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
    fill_seen_account(response.card.account, seen_in(answer))
    fill_card(response.card, found)
    fill_card_holder(response.card, found)
    return response


def seen_in(answer: ReadAnswer) -> SeenAccount:
    """The one account that a read was about."""
    kind = answer.found.kind if isinstance(answer.found, CardFacts) else None
    return SeenAccount(answer.connection, answer.account_token, answer.masked_id, kind)


def fill_card(card: cards_pb2.Card, facts: CardFacts) -> None:
    """Writes what is known of a card, without anything personal."""
    if facts.kind is not None and not card.account.kind:
        card.account.kind = ACCOUNT_KINDS[facts.kind]
    card.type = facts.type
    card.status = account_status(facts.status)
    card.tier = facts.tier
    fill_time(card.expire_time, facts.expire_time)
    for balance in facts.balances:
        fill_balance(card.balances.add(), balance)


def fill_card_holder(card: cards_pb2.Card, facts: CardFacts) -> None:
    """Writes the personal part of a card; a holder stands in it only with a name."""
    for name in _HOLDER_FIELDS:
        text = getattr(facts.holder, name)
        if text:
            setattr(card.holder, name, text)
    card.attributes.update(facts.holder.attributes)
    card.attributes.update(facts.attributes)


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
        known = transaction.booked_as.value if transaction.booked_as else transaction.outbound_id
        booking = answer.booking_names.get(known, "")
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
    message.merchant = transaction.merchant
    message.store_id = transaction.store_id
    message.booking = booking


def decode_list_transaction_items(
    message: cards_pb2.ListTransactionItemsRequest, envelope: Envelope, problems: list[Violation]
) -> ReadCall:
    """Cards.ListTransactionItems."""
    return decode_read(
        Operation.LIST_TRANSACTION_ITEMS,
        message,
        envelope,
        problems,
        transaction_reference=message.transaction_reference,
        page=message.page,
    )


def encode_list_transaction_items(answer: ReadAnswer) -> cards_pb2.ListTransactionItemsResponse:
    """One page of what was bought."""
    found = answer.found
    assert isinstance(found, ItemPage), "ListTransactionItems finds a page of items"
    response = cards_pb2.ListTransactionItemsResponse(next_page_token=answer.next_page_token)
    for item in found.items:
        _fill_item(response.items.add(), item)
    return response


def _fill_item(message: cards_pb2.TransactionItem, item: TransactionItem) -> None:
    message.position = item.position
    message.sku = item.sku
    message.description = item.description
    # Never with an exponent: 2E+1 is no way to write twenty on a receipt.
    message.quantity = format(item.quantity, "f")
    if item.amount is not None:
        fill_money(message.amount, item.amount)


# --- bookings -----------------------------------------------------------------------------------


def decode_create_card(
    message: cards_pb2.CreateCardRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Cards.CreateCard."""
    return decode_booking(
        Operation.CREATE_CARD,
        message,
        envelope,
        problems,
        account=decode_new_account(message, problems),
        card_type=message.card.type,
        person=_person(message.card),
        proof_token=message.proof_token,
    )


def decode_update_card(
    message: cards_pb2.UpdateCardRequest, envelope: Envelope, problems: list[Violation]
) -> BookingCall:
    """Cards.UpdateCard."""
    filled = [field.name for field, _ in message.card.ListFields() if field.name in CARD_PATHS]
    if "holder" in filled:
        filled.remove("holder")
        filled += (f"holder.{field.name}" for field, _ in message.card.holder.ListFields())
    paths = decode_mask(list(message.update_mask.paths), filled, "card", problems)
    fields = [name for path in paths for name in CARD_PATHS.get(path, ())]
    return decode_booking(
        Operation.UPDATE_CARD,
        message,
        envelope,
        problems,
        card_type=message.card.type,
        person=_person(message.card),
        update_mask=tuple(dict.fromkeys(fields)),
    )


def _person(card: cards_pb2.Card) -> Person:
    holder = card.holder
    return Person(
        display_name=holder.display_name,
        given_name=holder.given_name,
        family_name=holder.family_name,
        attributes=tuple(sorted(card.attributes.items())),
    )


# --- proofs -------------------------------------------------------------------------------------


def decode_verify_card_ownership(
    message: cards_pb2.VerifyCardOwnershipRequest, envelope: Envelope, problems: list[Violation]
) -> OwnershipCall:
    """Cards.VerifyCardOwnership."""
    receipt = message.receipt
    day = amount = None
    if receipt.HasField("date"):
        day = decode_date(receipt.date, "receipt.date", problems)
    if receipt.HasField("amount"):
        amount = decode_money(receipt.amount, "receipt.amount", problems)
    return OwnershipCall(
        tenant=envelope.tenant,
        account=decode_account(message.account, "account", problems),
        receipt_number=receipt.number,
        receipt_date=day,
        receipt_amount=amount,
        deadline=envelope.deadline,
        fault=envelope.fault,
        filled_fields=filled_fields(message, problems),
    )


def encode_verify_card_ownership(verified: Verified) -> cards_pb2.VerifyCardOwnershipResponse:
    """Whether the receipt proves it."""
    response = cards_pb2.VerifyCardOwnershipResponse(
        verified=verified.is_verified, proof_token=verified.proof_token
    )
    fill_time(response.expire_time, verified.expire_time)
    return response
