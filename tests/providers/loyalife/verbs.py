"""Orders as callers make them, and calls through an adapter's own table of offers."""

import dataclasses
from typing import Any

import pytest

from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.operations import (
    Operation,
    Order,
    Original,
    Purchase,
    Receipt,
    Sale,
)
from loyalty_gateway.providers.loyalife import LoyalifeAdapter
from loyalty_gateway.providers.port import Executed, ProviderError, Send
from loyalty_gateway.sandbox import LoyalifePlayer

MEMBER = "m_8124"
HELD = 4200
KEY = "2f1c0f6e-6c0b-4a43-9a0e-7e1f7a2f6a11"
UNDO_KEY = "11111111-6c0b-4a43-9a0e-7e1f7a2f6a11"


def redemption(points: int = 1000, *, member: str = MEMBER, **changes: Any) -> Order:
    """A redemption of a gift card worth 12.50."""
    usual = Order(
        Operation.REDEEM_POINTS,
        member,
        Points(points),
        money_value=Money("EUR", 1250),
        redemption_kind="gift-card",
        sale=Sale(merchant_name="Amazon"),
    )
    return dataclasses.replace(usual, **changes)


def purchase(minor: int = 1250, *, member: str = MEMBER, product: str = "RETAIL001") -> Order:
    """A purchase, prepared as the engine prepares one."""
    return Order(
        Operation.EARN_POINTS,
        member,
        purchase=Purchase(Money("EUR", minor), product),
        prepared=(("transaction_day", "2026-05-11"),),
    )


def reversal(order: Order, receipt: Receipt, key: str = KEY) -> Order:
    """The undo of a booking, as the engine makes it from the journal."""
    original = Original(order, key, receipt.references, order.asked)
    return Order(
        Operation.REVERSE_POINTS,
        order.account_id,
        order.asked,
        original=original,
        prepared=(("transaction_day", "2026-05-12"),),
    )


async def call(adapter: LoyalifeAdapter, operation: Operation, *asked: Any) -> Any:
    """What the adapter's offer for an operation answers."""
    return await adapter.operations[operation].call(*asked)


async def prepared(adapter: LoyalifeAdapter, order: Order) -> Order:
    """The order as the engine journals it: prepared once, unless it was before."""
    prepare = adapter.operations[order.operation].prepare
    if prepare is None or order.prepared:
        return order
    return dataclasses.replace(order, prepared=await prepare(order))


async def book(
    adapter: LoyalifeAdapter, order: Order, key: str = KEY, attempt: int = 1, fault: str = ""
) -> Executed:
    """Prepares and books through the offer of the order's operation."""
    order = await prepared(adapter, order)
    executed = await call(adapter, order.operation, Send(order, key, attempt, fault))
    assert isinstance(executed, Executed)
    return executed


async def refused(
    adapter: LoyalifeAdapter, order: Order, key: str = KEY, attempt: int = 1, fault: str = ""
) -> ProviderError:
    """The error of a booking that is no success."""
    with pytest.raises(ProviderError) as caught:
        await book(adapter, order, key, attempt, fault)
    return caught.value


def effects(player: LoyalifePlayer, member: str = MEMBER) -> list[tuple[str, int]]:
    """What the vendor has booked on a member since the test began, oldest first."""
    found = player.ledger.effects(card_id=member, with_seed=False)
    return [(effect.kind, effect.points) for effect in reversed(found)]


def points_of(player: LoyalifePlayer, member: str = MEMBER) -> int:
    """What the vendor says the member holds."""
    card = player.ledger.find_card(member)
    assert card is not None
    return card.points
