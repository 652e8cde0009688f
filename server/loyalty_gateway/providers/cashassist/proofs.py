"""How CashAssist's promises are shown on a proof card; what was seen is told in words."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.operations import Operation, Order, Receipt, Sale
from loyalty_gateway.providers.cashassist.wire import HistoryPage
from loyalty_gateway.providers.port import Executed, Send

PROOF_MINOR: Final = 1


@dataclass(frozen=True, slots=True)
class Proofs:
    """The proof card, and the adapter's own verbs to book on it and to look at it."""

    card: str = field(repr=False)
    currency: str
    book: Callable[[Send], Awaitable[Executed]]
    read_history: Callable[[str], Awaitable[HistoryPage]]
    """The lines of the proof card's history that carry a key."""

    async def show_resend_is_safe(self) -> str:
        """Books 0.01 twice with one key and looks for one effect."""
        order = self._order()
        key = str(uuid.uuid4())
        first = (await self.book(Send(order, key, 1))).receipt
        second = (await self.book(Send(order, key, 2))).receipt
        history = await self.read_history(key)
        effects = [line.reference for line in history.page.transactions]
        number = first.references[0].value
        if not second.is_replay or second.references != first.references or effects != [number]:
            raise LookupError(
                f"the same top-up sent twice with one key was answered with {number} and "
                f"{second.references[0].value}, the second "
                f"{'marked' if second.is_replay else 'not marked'} as a replay; "
                f"the history holds {len(effects)} bookings of that key"
            )
        return (
            f"a top-up of {order.asked} on {mask_account_id(self.card)} was sent twice "
            f"with key {key}: both answers name {number}, the second as a replay, and the "
            "history holds it once"
        )

    async def show_amount_echo_unit(self) -> str:
        """Books 0.01 twice, each with a key of its own: the answers name that amount, and it is
        what lies between the balances that they name."""
        order = self._order()
        receipts = [(await self.book(Send(order, str(uuid.uuid4()), 1))).receipt for _ in range(2)]
        first, second = (_balance(receipt) for receipt in receipts)
        moved = Money(self.currency, second.minor - first.minor)
        echoes = [receipt.echoed for receipt in receipts]
        if echoes != [order.asked, order.asked] or moved != order.asked:
            raise LookupError(
                f"top-ups of {order.asked} were answered with "
                f"{' and '.join(str(echo or 'no amount') for echo in echoes)}, "
                f"and moved the balance by {moved}"
            )
        return (
            f"two top-ups of {order.asked} on {mask_account_id(self.card)} were answered with "
            f"that amount, and moved the balance by {moved}"
        )

    def _order(self) -> Order:
        return Order(
            Operation.TOP_UP_BALANCE,
            self.card,
            Money(self.currency, PROOF_MINOR),
            sale=Sale(ticket_number="promise-proof"),
        )


def _balance(receipt: Receipt) -> Money:
    balance = receipt.balances_after[0].amount
    assert isinstance(balance, Money), "the money comes first"
    return balance
