"""CashAssist's adapter owes what every adapter owes, and gives it, against its player."""

from loyalty_gateway.conformance import Accounts, Behaviour, ConformanceSuite, Subject
from loyalty_gateway.providers.cashassist import open_adapter, status
from loyalty_gateway.sandbox.cashassist import wire
from loyalty_gateway.sandbox.cashassist.player import CashassistPlayer

SUBJECT = Subject(
    open=open_adapter,
    player=CashassistPlayer,
    accounts=Accounts(ordinary="10480", empty="10491", blocked="10490", unknown="99999"),
    status=status.STATUS,
    status_default=status.DEFAULT,
    refusal=lambda code, text: wire.encode_error(
        str(code), text, code if isinstance(code, int) else status.DOCUMENTED.get(code, 422)
    ),
    settings={"api_key": "sk_test_demo", "proof_card": "10999"},
    refused_settings={"api_key": "sk_test_wrong"},
    secrets=("sk_test_demo",),
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
