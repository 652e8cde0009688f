"""How CashAssist's promises are shown on a proof card; what was seen is told in words."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.operations import Operation, Order, Receipt, Sale
from loyalty_gateway.providers.cashassist.wire import HistoryPage
from loyalty_gateway.providers.port import Executed, NotShown, ProviderError, Send

PROOF_MINOR: Final = 1
_POINTS: Final = Points(1)


@dataclass(frozen=True, slots=True)
class Proofs:
    """The proof card, and the adapter's own verbs to book on it and to look at it."""

    card: str = field(repr=False)
    currency: str
    book: Callable[[Send], Awaitable[Executed]]
    read_history: Callable[[str], Awaitable[HistoryPage]]
    """The lines of the proof card's history that carry a key."""

    async def show_resend_is_safe(self) -> str:
        """Books each kind twice with one key and looks for one effect of it."""
        for order in self._orders():
            key = str(uuid.uuid4())
            first = (await self._book(order, key, 1)).receipt
            second = await self._book_again(Send(order, key, 2))
            history = await self.read_history(key)
            effects = [line.reference for line in history.page.transactions]
            number = first.references[0].value
            if not second.is_replay or second.references != first.references or effects != [number]:
                raise LookupError(
                    f"the same booking ({_words(order)}) sent twice with one key was answered "
                    f"with {number} and {second.references[0].value}, the second "
                    f"{'marked' if second.is_replay else 'not marked'} as a replay; "
                    f"the history holds {len(effects)} bookings of that key"
                )
        return (
            f"a top-up and a debit of {self._money()} and a redemption of {_POINTS} on "
            f"{mask_account_id(self.card)} were each sent twice with one key: both answers name "
            "one number, the second as a replay, and the history holds it once"
        )

    async def show_amount_echo_unit(self) -> str:
        """Books each kind with a key of its own: the answers name the amount that was asked for,
        and it is what lies between the balances that they name."""
        top_up, debit, redemption = self._orders()
        before: Receipt | None = None
        # The first tells only where the balance begins.
        for order in (top_up, top_up, debit, debit, redemption):
            asked = order.asked
            receipt = (await self._book(order, str(uuid.uuid4()), 1)).receipt
            moved = _moved(before, receipt, order) if before is not None else asked
            if receipt.echoed != asked or moved != asked:
                raise LookupError(
                    f"a booking ({_words(order)}) was answered with "
                    f"{receipt.echoed or 'no amount'}, and moved the balance by {moved}"
                )
            before = receipt
        return (
            f"top-ups and debits of {top_up.asked} and a redemption of {redemption.asked} on "
            f"{mask_account_id(self.card)} were answered with those amounts, and moved the "
            "balance by them"
        )

    def _orders(self) -> tuple[Order, Order, Order]:
        """A booking of each kind that relies on the promises; the second takes what the first
        brought."""
        sale = Sale(ticket_number="promise-proof")
        money = self._money()
        return (
            Order(Operation.TOP_UP_BALANCE, self.card, money, sale=sale),
            Order(Operation.DEBIT_BALANCE, self.card, money, sale=sale),
            Order(Operation.REDEEM_POINTS, self.card, _POINTS, sale=sale),
        )

    async def _book(self, order: Order, key: str, attempt_number: int) -> Executed:
        """Books what a proof is about. A card that cannot have it proves nothing either way."""
        try:
            return await self.book(Send(order, key, attempt_number))
        except ProviderError as error:
            if not error.status.is_refusal:
                raise
            raise NotShown(
                f"the proof card cannot have such a booking ({_words(order)}): {error.rule}"
            ) from error

    async def _book_again(self, send: Send) -> Receipt:
        try:
            return (await self.book(send)).receipt
        except ProviderError as error:
            if not error.status.is_refusal:
                raise
            raise LookupError(
                f"the same booking ({_words(send.order)}) sent again with its key was refused: "
                f"{error.rule}"
            ) from error

    def _money(self) -> Money:
        return Money(self.currency, PROOF_MINOR)


def _words(order: Order) -> str:
    return f"{order.operation.method}, {order.asked}"


def _moved(before: Receipt, after: Receipt, order: Order) -> Money | Points:
    """What lies between two balances of what the order moves, in the order's own direction."""
    (money, points), (money_after, points_after) = _balances(before), _balances(after)
    sign = 1 if order.operation is Operation.TOP_UP_BALANCE else -1
    if isinstance(order.asked, Points):
        return Points(sign * (points_after.value - points.value))
    return Money(money.currency, sign * (money_after.minor - money.minor))


def _balances(receipt: Receipt) -> tuple[Money, Points]:
    money, points = (balance.amount for balance in receipt.balances_after)
    assert isinstance(money, Money), "the money comes first"
    assert isinstance(points, Points), "the points come second"
    return money, points
