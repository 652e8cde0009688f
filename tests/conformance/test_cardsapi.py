"""CardAPI's adapter owes what every adapter owes, and gives it, against its player."""

import json

from loyalty_gateway.conformance import Accounts, Behaviour, ConformanceSuite, Subject
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.operations import Operation, Order, Sale
from loyalty_gateway.providers.cardsapi import open_adapter, status
from loyalty_gateway.sandbox.cardsapi.player import CardsapiPlayer
from loyalty_gateway.sandbox.faults import Answer

SALE = Sale(ticket_number="T-1", point_of_sale_id="65", device_id="till-1")
NO_PROMISE = frozenset({"ticket_id_dedupes"})


def refusal(code: str | int, text: str) -> Answer:
    if isinstance(code, int):
        return Answer(code, text.encode(), content_type="text/plain")
    body = json.dumps({"code": code, "message": text})
    return Answer(status.DOCUMENTED.get(code, 422), body.encode())


SUBJECT = Subject(
    open=open_adapter,
    player=CardsapiPlayer,
    accounts=Accounts(ordinary="30002", empty="30004", blocked="30005", unknown="39999"),
    status=status.STATUS,
    status_default=status.DEFAULT,
    refusal=refusal,
    settings={
        "auth_url": "{base_url}",
        "client_id": "demo-partner",
        "access_token": "at_test_demo",
        "group_id": 1,
        "proof_card": "10999",
        "proof_point_of_sale_id": 65,
    },
    refused_settings={"access_token": "at_test_wrong"},
    secrets=("at_test_demo",),
    token_path="/token",
    samples={
        Operation.DEBIT_BALANCE: Order(
            Operation.DEBIT_BALANCE, "30002", Money("EUR", 1000), sale=SALE
        )
    },
    behaviours={
        "a repeated ticket books again": Behaviour({}, NO_PROMISE),
        "a repeated ticket is refused": Behaviour({"repeat": "refuses"}, NO_PROMISE),
        "a repeated ticket is answered again": Behaviour({"repeat": "replays"}),
    },
)


class TestCardsapi(ConformanceSuite):
    subject = SUBJECT
