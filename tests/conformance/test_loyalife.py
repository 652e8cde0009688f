"""Loyalife's adapter owes what every adapter owes, and gives it, against its player."""

import itertools
import json

from loyalty_gateway.conformance import Accounts, Behaviour, ConformanceSuite, Subject
from loyalty_gateway.conformance.samples import PERSON, SALE
from loyalty_gateway.conformance.stage import Stage
from loyalty_gateway.conformance.subject import Sample
from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.operations import (
    ChallengePurpose,
    Destination,
    Operation,
    Order,
    Purchase,
)
from loyalty_gateway.providers.loyalife import open_adapter, status
from loyalty_gateway.providers.port import CodeCheck, CodeWish, PasswordCheck
from loyalty_gateway.sandbox.faults import Answer
from loyalty_gateway.sandbox.loyalife.cards import PASSWORD_HASH
from loyalty_gateway.sandbox.loyalife.player import LoyalifePlayer

UPDATES = (Operation.UPDATE_CARD, Operation.UPDATE_WALLET)
CREATIONS = (Operation.CREATE_CARD, Operation.CREATE_WALLET)
MEMBER, NEW_MEMBERS = "m_8124", itertools.count(9001)
WISH = CodeWish(ChallengePurpose.LOG_IN, Destination(account_id=MEMBER), outbound_id="")
TAG, KEY, REVERSAL = (
    "merchant_name_may_carry_tag idempotency_key_dedupes reversal_runs_once".split()
)


def refusal(code: str | int, text: str) -> Answer:
    if isinstance(code, int):
        return Answer(code, text.encode(), content_type="text/plain")
    envelope = {"IsSucessful": False, "ErrorCode": code, "ExceptionMessage": text}
    return Answer(200, json.dumps({"results": {**envelope, "ReturnObject": None}}).encode())


def enrolled(operation: Operation) -> Sample:
    """A new member each time, since a member is enrolled once."""

    async def order(stage: Stage) -> Order:
        return Order(operation, f"m_{next(NEW_MEMBERS)}", person=PERSON)

    return order


async def sent_code(stage: Stage) -> CodeCheck:
    await (await stage.ask(Operation.CREATE_CHALLENGE)).send()
    return CodeCheck(WISH.purpose, WISH.destination, handle="", code="000000")


SUBJECT = Subject(
    open=open_adapter,
    player=LoyalifePlayer,
    accounts=Accounts(ordinary=MEMBER, empty="m_8128", blocked="m_8126", unknown="m_0000"),
    status={**status.STATUS, **{(None, code): row for code, row in status.HTTP.items()}},
    status_default=status.DEFAULT,
    refusal=refusal,
    settings={
        "client_id": "demo_client",
        "client_secret": "demo_secret",
        "program_id": 19,
        "currency": "EUR",
        "time_zone": "Asia/Kolkata",
        "redemption_kind": "gift-card",
        "proof_member": "10999",
        "proof_product": "RETAIL001",
    },
    refused_settings={"client_secret": "another_secret"},
    secrets=("demo_secret",),
    token_path="/lbms-ingress/oauth/api/Auth/Token",
    samples={
        Operation.EARN_POINTS: Order(
            Operation.EARN_POINTS, MEMBER, purchase=Purchase(Money("EUR", 1000), "RETAIL001")
        ),
        Operation.REDEEM_POINTS: Order(
            Operation.REDEEM_POINTS,
            MEMBER,
            Points(100),
            money_value=Money("EUR", 1000),
            redemption_kind="gift-card",
            sale=SALE,
        ),
        Operation.CREATE_CARD: enrolled(Operation.CREATE_CARD),
        Operation.CREATE_WALLET: enrolled(Operation.CREATE_WALLET),
        Operation.CREATE_CHALLENGE: WISH,
        Operation.VERIFY_CHALLENGE: sent_code,
        Operation.VERIFY_CREDENTIALS: PasswordCheck(MEMBER, PASSWORD_HASH, "MD5"),
    },
    originals={Operation.REVERSE_POINTS: Operation.REDEEM_POINTS},
    behaviours={
        "a repeated key is refused, and a reversal runs once": Behaviour(),
        "nothing is recognised, and a name is cut": Behaviour(
            {"repeat": "books_again", "reversal": "again", "accepts_merchant_tag": False},
            frozenset({TAG, KEY, REVERSAL}),
        ),
    },
    exclusions={
        **{
            (operation, "outbound-id"): "the vendor takes no id of ours for a profile"
            for operation in (*CREATIONS, *UPDATES, Operation.LINK_ACCOUNT)
        },
        **{
            (operation, "reference"): "the vendor gives a change of a profile no number"
            for operation in (*UPDATES, Operation.LINK_ACCOUNT)
        },
        (Operation.REDEEM_POINTS, "outbound-id"): (
            "the vendor takes no id of ours; a part of it travels in the merchant's name, where"
            " the statement was shown to keep it"
        ),
        (Operation.REVERSE_POINTS, "outbound-id"): (
            "a reversal is known by the number of its redemption, which is reversed once"
        ),
        **{
            (operation, "blocked-account"): "the vendor lets a member that is not active have it"
            for operation in (*UPDATES, Operation.EARN_POINTS, Operation.LINK_ACCOUNT)
        },
        **{
            (Operation.VERIFY_CREDENTIALS, duty): (
                "HTTP 401 is a wrong password as well, which is an answer and no error"
            )
            for duty in ("listed-codes", "token-renewed", "credential-once")
        },
    },
)


class TestLoyalife(ConformanceSuite):
    subject = SUBJECT
