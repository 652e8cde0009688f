"""openLoyaltyPay's adapter owes what every adapter owes, and gives it, against its player."""

from loyalty_gateway.conformance import Accounts, Behaviour, ConformanceSuite, Subject
from loyalty_gateway.domain.operations import Operation, Order
from loyalty_gateway.providers.openloyaltypay import open_adapter, status
from loyalty_gateway.sandbox.faults import Answer
from loyalty_gateway.sandbox.openloyaltypay import wire
from loyalty_gateway.sandbox.openloyaltypay.player import OpenLoyaltyPayPlayer

REPLAYS, QUERY, VOID = "order_number_replays", "order_query_answers", "void_takes_order_number"
ACTIVATE = Operation.ACTIVATE_GIFT_CARD


def refusal(code: str | int, text: str) -> Answer:
    if isinstance(code, int):
        return Answer(code, text.encode(), content_type="text/plain")
    return wire.encode_refusal(int(code), 0, text, as_status=True)


SUBJECT = Subject(
    open=open_adapter,
    player=OpenLoyaltyPayPlayer,
    accounts=Accounts(ordinary="10480", empty="10491", blocked="10490", unknown="99999"),
    status=status.STATUS,
    status_default=status.DEFAULT,
    refusal=refusal,
    settings={
        "client_id": wire.CLIENT_ID,
        "client_secret": wire.CLIENT_SECRET,
        "jwt_token": wire.JWT_TOKEN,
        "proof_card": "10999",
    },
    refused_settings={"client_secret": "another-secret"},
    secrets=(wire.CLIENT_SECRET, wire.JWT_TOKEN),
    samples={ACTIVATE: Order(ACTIVATE, "10495", activate=True)},
    behaviours={
        "an order number is refused the second time": Behaviour({}, frozenset({REPLAYS, VOID})),
        "an order number is answered again": Behaviour({"repeat": "replays"}, frozenset({VOID})),
        "an order number books again, and no query covers it": Behaviour(
            {"repeat": "books_again", "query_answers": False}, frozenset({REPLAYS, QUERY, VOID})
        ),
        "only a void understands an order number": Behaviour(
            {"query_answers": False, "void_takes_order_number": True}, frozenset({REPLAYS, QUERY})
        ),
    },
    exclusions={
        (ACTIVATE, "reference"): "the vendor gives an activation no number",
        (ACTIVATE, "outbound-id"): "the vendor takes no number of ours for an activation",
        (ACTIVATE, "pending"): "an activation is never left open",
    },
)


class TestOpenLoyaltyPay(ConformanceSuite):
    subject = SUBJECT
