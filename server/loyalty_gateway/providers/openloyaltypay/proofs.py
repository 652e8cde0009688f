"""Shows promises on the proof card by a few cents each; it never touches another card.

Every proof compares balances, so it holds only while nobody else books on the card.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import (
    AMOUNT_ECHO_UNIT,
    CardFacts,
    Operation,
    Order,
    Original,
    Receipt,
)
from loyalty_gateway.providers.openloyaltypay import wire
from loyalty_gateway.providers.openloyaltypay.promises import (
    ORDER_NUMBER_REPLAYS,
    ORDER_QUERY_ANSWERS,
    VOID_TAKES_ORDER_NUMBER,
)
from loyalty_gateway.providers.port import (
    Executed,
    Finding,
    Lookup,
    NotShown,
    ProviderError,
    Question,
    Send,
)

PROOF_MINOR: Final = 1
PROOF_POINTS: Final = 1
ECHO_MINOR: Final = 7
KEPT_MINOR: Final = 100
"""What the card must hold before a proof; it is topped up to that where it holds less."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An order of one kind, and what it does to the balance that it is about."""

    operation: Operation
    asked: int | None
    change: int
    is_in_points: bool = False


_TRIALS: Final = (
    # What the others take, and the payments that the tip and the void need.
    Trial(Operation.TOP_UP_GIFT_CARD, 3 * PROOF_MINOR, 3 * PROOF_MINOR),
    Trial(Operation.PAY_WITH_GIFT_CARD, PROOF_MINOR, -PROOF_MINOR),
    Trial(Operation.ADD_GIFT_TIP, PROOF_MINOR, -PROOF_MINOR),
    Trial(Operation.VOID_GIFT_TRANSACTION, None, PROOF_MINOR),
    Trial(Operation.EARN_POINTS, PROOF_POINTS, PROOF_POINTS, is_in_points=True),
    Trial(Operation.REDEEM_POINTS, PROOF_POINTS, -PROOF_POINTS, is_in_points=True),
)
"""Every kind of order that carries a number of ours; together they leave the card as it was."""

_NO_EVIDENCE: Final = frozenset(
    {
        Reason.PROVIDER_INTERNAL,
        Reason.PROVIDER_RATE_LIMITED,
        Reason.PROVIDER_CREDENTIALS_REJECTED,
    }
)


class Prover(Protocol):
    """What a proof needs of the adapter."""

    currency: str
    proof_card: str

    async def book(self, send: Send) -> Executed: ...

    async def ask(self, question: Question) -> Finding: ...

    async def get_card(self, lookup: Lookup) -> CardFacts: ...


async def prove_order_number_replays(prover: Prover) -> str:
    """Every kind of order that carries a number, each sent twice with one number."""
    await _fund(prover)
    for trial in _TRIALS:
        order, number = await _order(prover, trial), _number()
        like = _like(order, prover)
        before = await _held(prover, like)
        first = await _book_first(prover, order, number)
        second = await _book_again(prover, Send(order, number, 2))
        moved = await _held(prover, like) - before
        is_one = _checkout(first) == _checkout(second)
        if not is_one or moved != trial.change:
            raise LookupError(
                f"the same order ({_words(order)}) sent twice with one number was "
                f"answered with {'one' if is_one else 'two'} numbers of the vendor's, and moved "
                f"the balance by {moved} where {trial.change} was asked for"
            )
    return (
        f"a top-up, a payment, a tip and a void of {_money(prover, PROOF_MINOR)} or a little more, "
        f"and {Points(PROOF_POINTS)} earned and redeemed on {_card(prover)}, were each sent twice "
        "with one number: both answers named the same order of the vendor's, and the balance "
        "moved once"
    )


async def prove_order_query_answers(prover: Prover) -> str:
    """Every kind of order, asked for by our number of it, and a number nobody ever used."""
    await _fund(prover)
    for trial in _TRIALS:
        order, number = await _order(prover, trial), _number()
        started = datetime.now(UTC)
        receipt = await _book_first(prover, order, number)
        found = await prover.ask(Question(order, number, started))
        known = [(_checkout(it.receipt), it.is_certain) for it in found.candidates]
        if known != [(_checkout(receipt), True)]:
            raise LookupError(
                f"an order ({_words(order)}) was made, and the query by our number "
                f"of it answered: {found.rule}; it did not name the order by both its numbers"
            )
        unknown = await prover.ask(Question(order, _number(), started))
        if unknown.candidates or unknown.is_pending or unknown.is_refused:
            raise LookupError(f"the query of a number that was never sent answered: {unknown.rule}")
    return (
        f"a top-up, a payment, a tip, a void and {Points(PROOF_POINTS)} earned and redeemed on "
        f"{_card(prover)} were found as done by our numbers and under the vendor's numbers of "
        "them; numbers that were never sent were not found"
    )


async def prove_void_takes_order_number(prover: Prover) -> str:
    """A top-up and a payment that are voided by our numbers, and a number nobody ever used."""
    await _fund(prover)
    asked = _money(prover, PROOF_MINOR)
    for operation in (Operation.TOP_UP_GIFT_CARD, Operation.PAY_WITH_GIFT_CARD):
        order, number = Order(operation, prover.proof_card, asked), _number()
        before = await _held(prover, asked)
        try:
            await prover.book(_void(prover, order, _number()))
        except ProviderError as error:
            if error.status.reason is not Reason.ORIGINAL_NOT_FOUND:
                raise
        else:
            raise LookupError("a void of a number that was never sent was answered as a success")
        await _book_first(prover, order, number)
        try:
            await prover.book(_void(prover, order, number))
        except ProviderError as error:
            raise _disproof(error, f"a void by our own number ({_words(order)})") from error
        off = await _held(prover, asked) - before
        if off:
            raise LookupError(
                f"a void by our own number ({_words(order)}) was answered as a success, and left "
                f"the balance {off} minor units from where it was"
            )
    return (
        f"a top-up and a payment of {asked} on {_card(prover)} were voided by our numbers alone, "
        "which brought the balance back; voids of numbers that were never sent were refused as "
        "unknown"
    )


async def prove_amount_echo_unit(prover: Prover) -> str:
    """A payment that is covered, one that the card can only meet in part, and both back again."""
    left = await _fund(prover) - ECHO_MINOR
    covered = _payment(prover, ECHO_MINOR)
    beyond = _payment(prover, left + 1, may_take_part=True)
    back = Order(Operation.TOP_UP_GIFT_CARD, prover.proof_card, _money(prover, left + ECHO_MINOR))
    earned = Order(Operation.EARN_POINTS, prover.proof_card, Points(PROOF_POINTS))
    for order, change in (
        (covered, -ECHO_MINOR),
        (beyond, -left),
        (back, left + ECHO_MINOR),
        (earned, PROOF_POINTS),
    ):
        asked = order.asked
        assert asked is not None, "each of these asks for an amount"
        before = await _held(prover, asked)
        try:
            echoed = (await prover.book(Send(order, _number(), 1))).receipt.echoed
        except ProviderError as error:
            raise _disproof(error, f"an order of {asked}") from error
        moved = await _held(prover, asked) - before
        if moved != change or echoed != _as(asked, abs(change)):
            raise LookupError(
                f"an order ({order.operation.method}, {asked}) moved the balance by {moved} and "
                f"was answered with {echoed or 'no amount that can be read'}"
            )
    return (
        f"a payment of {covered.asked} on {_card(prover)}, one of {beyond.asked} that the card "
        f"could meet with {_money(prover, left)} only, a top-up of {back.asked} and "
        f"{earned.asked} earned were each answered with what the balance moved by"
    )


PROOFS: Final[Mapping[str, Callable[[Prover], Awaitable[str]]]] = {
    ORDER_NUMBER_REPLAYS: prove_order_number_replays,
    ORDER_QUERY_ANSWERS: prove_order_query_answers,
    VOID_TAKES_ORDER_NUMBER: prove_void_takes_order_number,
    AMOUNT_ECHO_UNIT: prove_amount_echo_unit,
}
"""How each promise is shown; a coroutine that returns the evidence or raises LookupError."""


async def _fund(prover: Prover) -> int:
    """What the proof card holds, in minor units, after a top-up where that was too little."""
    kept = _money(prover, KEPT_MINOR)
    balance = await _held(prover, kept)
    if balance < KEPT_MINOR:
        order = Order(Operation.TOP_UP_GIFT_CARD, prover.proof_card, kept)
        await prover.book(Send(order, _number(), 1))
        balance = await _held(prover, kept)
    if balance < KEPT_MINOR:
        raise NotShown("the proof card was topped up and holds too little all the same")
    return balance


async def _order(prover: Prover, trial: Trial) -> Order:
    """The order to try; for a tip and a void there is a payment first."""
    asked: Amount | None = None
    if trial.asked is not None:
        asked = Points(trial.asked) if trial.is_in_points else _money(prover, trial.asked)
    original: Original | None = None
    if trial.operation in (Operation.ADD_GIFT_TIP, Operation.VOID_GIFT_TRANSACTION):
        paid, number = _payment(prover, PROOF_MINOR), _number()
        original = Original(paid, number, (await _book_first(prover, paid, number)).references)
    return Order(trial.operation, prover.proof_card, asked, original=original)


async def _book_first(prover: Prover, order: Order, number: str) -> Receipt:
    """Books what a proof is about. A card that cannot have it proves nothing either way."""
    try:
        return (await prover.book(Send(order, number, 1))).receipt
    except ProviderError as error:
        if not error.status.is_refusal:
            raise
        raise NotShown(
            f"the proof card cannot have such an order ({_words(order)}): {error.rule}"
        ) from error


async def _held(prover: Prover, like: Amount) -> int:
    """What the proof card holds of the same currency, or of points."""
    card = await prover.get_card(Lookup(Operation.GET_GIFT_CARD, prover.proof_card))
    for balance in card.balances:
        match balance.amount, like:
            case (Money(currency, minor), Money(wanted, _)) if currency == wanted:
                return minor
            case Points(value, _), Points():
                return value
    raise NotShown("the proof card tells no such balance as was to be moved")


async def _book_again(prover: Prover, send: Send) -> Receipt:
    try:
        return (await prover.book(send)).receipt
    except ProviderError as error:
        raise _disproof(error, "the same order sent again with its number") from error


def _disproof(error: ProviderError, what: str) -> Exception:
    """What the vendor says of the order is evidence; anything else stays the error that it was."""
    if error.http_status != 200 or error.status.reason in _NO_EVIDENCE:
        return error
    return LookupError(f"{what} was answered with: {error.rule}")


def _payment(prover: Prover, minor: int, *, may_take_part: bool = False) -> Order:
    return Order(
        Operation.PAY_WITH_GIFT_CARD,
        prover.proof_card,
        _money(prover, minor),
        allow_partial=may_take_part,
        may_take_part=may_take_part,
    )


def _void(prover: Prover, original: Order, number: str) -> Send:
    order = Order(
        Operation.VOID_GIFT_TRANSACTION, prover.proof_card, original=Original(original, number)
    )
    return Send(order, _number(), 1)


def _money(prover: Prover, minor: int) -> Money:
    return Money(prover.currency, minor)


def _as(asked: Amount, value: int) -> Amount:
    return Money(asked.currency, value) if isinstance(asked, Money) else Points(value)


def _like(order: Order, prover: Prover) -> Amount:
    """An amount of what the order moves; a void, which asks for none, moves money here."""
    return order.asked if order.asked is not None else _money(prover, PROOF_MINOR)


def _words(order: Order) -> str:
    return (
        order.operation.method
        if order.asked is None
        else f"{order.operation.method}, {order.asked}"
    )


def _number() -> str:
    return str(uuid.uuid4())


def _checkout(receipt: Receipt) -> str:
    return next((it.value for it in receipt.references if it.kind == wire.CHECKOUT_ID), "")


def _card(prover: Prover) -> str:
    return mask_account_id(prover.proof_card)
