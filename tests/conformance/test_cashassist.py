"""CashAssist's adapter owes what every adapter owes, and gives it, against its player."""

import itertools

from loyalty_gateway.conformance import Accounts, Behaviour, ConformanceSuite, Subject
from loyalty_gateway.conformance.samples import PERSON
from loyalty_gateway.conformance.stage import Stage
from loyalty_gateway.domain.operations import (
    ChallengePurpose,
    Destination,
    Operation,
    Order,
    Person,
)
from loyalty_gateway.providers.cashassist import CashassistAdapter, open_adapter, status
from loyalty_gateway.providers.port import CodeCheck, CodeWish, Lookup, ReceiptCheck
from loyalty_gateway.sandbox.cashassist import wire
from loyalty_gateway.sandbox.cashassist.holders import SANDBOX_CODE
from loyalty_gateway.sandbox.cashassist.player import CashassistPlayer

ORDINARY = "10480"
NEW_CARD = "a new card has no number but its own, and that is an account"
NO_ANSWER_NO_FAILURE = "a receipt that does not belong to the card is an answer"
NO_KEY = "the vendor takes no key for a change of master data; it sets a state"
CREATIONS = (Operation.CREATE_CARD, Operation.CREATE_WALLET)
CHANGES = (Operation.UPDATE_CARD, Operation.UPDATE_WALLET)
PHONES = itertools.count(79_111_000)


async def signed_up(stage: Stage) -> Order:
    """A creation whose sign-up was confirmed; each with a phone number of its own."""
    adapter = stage.adapter
    assert isinstance(adapter, CashassistAdapter)
    to = Destination(phone=f"+41{next(PHONES)}0")
    wish = CodeWish(ChallengePurpose.SIGN_UP, to, "", PERSON)
    handle = (await adapter.holders.send_code(wish)).handle
    check = CodeCheck(ChallengePurpose.SIGN_UP, to, handle, SANDBOX_CODE)
    confirmed = await adapter.holders.check_code(check)
    return Order(
        Operation.CREATE_CARD,
        person=Person(display_name=PERSON.display_name),
        proof=confirmed.proof,
    )


async def code_sent(stage: Stage) -> CodeCheck:
    """The right code, not yet used."""
    adapter = stage.adapter
    assert isinstance(adapter, CashassistAdapter)
    to = Destination(phone="+41790000001")
    wish = CodeWish(ChallengePurpose.LINK_CARD, to, "")
    handle = (await adapter.holders.send_code(wish)).handle
    return CodeCheck(ChallengePurpose.LINK_CARD, to, handle, SANDBOX_CODE)


async def receipt_in_hand(stage: Stage) -> ReceiptCheck:
    """A receipt of the ordinary card."""
    (card,) = [it for it in stage.player.shown_cards() if it["card"] == ORDINARY]
    return ReceiptCheck(ORDINARY, card["receipts"][0]["number"])


async def sold_things(stage: Stage) -> Lookup:
    """The lines of the newest entry in the ordinary card's history, which is a seeded one."""
    adapter = stage.adapter
    assert isinstance(adapter, CashassistAdapter)
    history = Lookup(Operation.LIST_TRANSACTIONS, ORDINARY)
    newest = (await adapter.reads.list_transactions(history)).transactions[0]
    return Lookup(
        Operation.LIST_TRANSACTION_ITEMS, ORDINARY, transaction_reference=newest.reference
    )


SUBJECT = Subject(
    open=open_adapter,
    player=CashassistPlayer,
    accounts=Accounts(ordinary=ORDINARY, empty="10491", blocked="10490", unknown="99999"),
    status=status.STATUS,
    status_default=status.DEFAULT,
    refusal=lambda code, text: wire.encode_error(
        str(code), text, code if isinstance(code, int) else status.DOCUMENTED.get(code, 422)
    ),
    settings={"api_key": "sk_test_demo", "proof_card": "10999"},
    refused_settings={"api_key": "sk_test_wrong"},
    secrets=("sk_test_demo",),
    samples={
        Operation.CREATE_CARD: signed_up,
        Operation.CREATE_WALLET: signed_up,
        Operation.VERIFY_CHALLENGE: code_sent,
        Operation.VERIFY_CARD_OWNERSHIP: receipt_in_hand,
        Operation.LIST_TRANSACTION_ITEMS: sold_things,
    },
    exclusions={
        **{(it, "reference"): NEW_CARD for it in CREATIONS},
        **{(it, "reference"): NO_KEY for it in CHANGES},
        **{(it, "outbound-id"): NO_KEY for it in CHANGES},
        (Operation.VERIFY_CARD_OWNERSHIP, "listed-codes"): NO_ANSWER_NO_FAILURE,
    },
    behaviours={
        "a repeated key is replayed": Behaviour(),
        "a repeated key is refused": Behaviour(
            {"repeat": "refuses"}, frozenset({"resend_is_safe"})
        ),
        "a repeated key books again": Behaviour(
            {"repeat": "books_again"}, frozenset({"resend_is_safe"})
        ),
    },
)


class TestCashassist(ConformanceSuite):
    subject = SUBJECT
