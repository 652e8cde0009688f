"""What the tests of this adapter ask for and look at."""

from datetime import UTC, datetime
from typing import Any

import pytest

from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.errors import Fate
from loyalty_gateway.domain.operations import (
    Operation,
    Order,
    Original,
)
from loyalty_gateway.providers.openloyaltypay import OpenLoyaltyPayAdapter
from loyalty_gateway.providers.port import (
    ProviderError,
    Question,
    Send,
)
from loyalty_gateway.sandbox import OpenLoyaltyPayPlayer
from tests.providers.fault_server import Exchange, Script

CARD = "10472"
OTHER_CARD = "10480"
PROOF_CARD = "10999"
KEY = "2f1c0f6e-6c0b-4a43-9a0e-7e1f7a2f6a11"
VOID_KEY = "7d3a52a4-5a25-4ad4-8e4c-2d6f3b9c1a02"
SENT = datetime(2026, 1, 15, 10, tzinfo=UTC)
PAY = Operation.PAY_WITH_GIFT_CARD
TOP_UP = Operation.TOP_UP_GIFT_CARD
VOID = Operation.VOID_GIFT_TRANSACTION
TIP = Operation.ADD_GIFT_TIP
EARN = Operation.EARN_POINTS
REDEEM = Operation.REDEEM_POINTS
ACTIVATE = Operation.ACTIVATE_GIFT_CARD


def order(
    operation: Operation = PAY, asked: Amount | None = None, *, card: str = CARD, **more: Any
) -> Order:
    usual: Amount | None = Money("USD", 1250)
    if operation in (EARN, REDEEM):
        usual = Points(200)
    elif operation in (VOID, ACTIVATE):
        usual = None
    return Order(operation, card, asked or usual, **more)


def part(minor: int = 1250) -> Order:
    return order(asked=Money("USD", minor), allow_partial=True, may_take_part=True)


def turn(player: OpenLoyaltyPayPlayer, **settings: Any) -> None:
    player.stage.settings = player.stage.settings.changed(settings)


def effects(player: OpenLoyaltyPayPlayer, key: str = KEY) -> list[tuple[str, int, int]]:
    return [
        (effect.card_id, effect.amount_minor, effect.points)
        for effect in player.ledger.effects(idempotency_key=key, with_seed=False)
    ]


async def refused(adapter: OpenLoyaltyPayAdapter, send: Send) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await adapter.book(send)
    return caught.value


async def fate_of(adapter: OpenLoyaltyPayAdapter, send: Send) -> Fate:
    try:
        await adapter.book(send)
    except ProviderError as error:
        return error.status.fate
    return Fate.EXECUTED


async def paid(adapter: OpenLoyaltyPayAdapter, operation: Operation = PAY) -> Original:
    asked = order(operation)
    receipt = (await adapter.book(Send(asked, KEY, 1))).receipt
    return Original(asked, KEY, receipt.references, asked.asked)


def question(asked: Order | None = None, key: str = KEY) -> Question:
    return Question(asked or order(), key, SENT)


def envelope(data: Any, code: Any = 200) -> dict[str, Any]:
    return {"code": code, "msg": "success", "timestamp": "2026-01-15 10:01:00", "data": data}


def answering(body: bytes, *, status: str = "200 OK", extra: str = "") -> Script:
    async def script(exchange: Exchange) -> bool:
        await exchange.answer(body, status=status, extra=extra)
        return True

    return script


DONE = {"checkoutId": "933392815902294016", "amount": "12.50", "result": 0}
