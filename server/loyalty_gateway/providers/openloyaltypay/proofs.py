"""Shows promises on the proof card by a few cents each; it never touches another card.

Every proof compares balances, so it holds only while nobody else books on the card.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping
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
    """A top-up, a payment and points both ways, each sent twice with one number."""
    await _fund(prover)
    money, points = _money(prover, PROOF_MINOR), Points(PROOF_POINTS)
    for operation, asked, change in (
        (Operation.TOP_UP_GIFT_CARD, money, PROOF_MINOR),
        (Operation.PAY_WITH_GIFT_CARD, money, -PROOF_MINOR),
        (Operation.EARN_POINTS, points, PROOF_POINTS),
        (Operation.REDEEM_POINTS, points, -PROOF_POINTS),
    ):
        order, number = Order(operation, prover.proof_card, asked), _number()
        before = await _held(prover, asked)
        first = (await prover.book(Send(order, number, 1))).receipt
        second = await _book_again(prover, Send(order, number, 2))
        moved = await _held(prover, asked) - before
        is_one = _checkout(first) == _checkout(second)
        if not is_one or moved != change:
            raise LookupError(
                f"the same order ({operation.method}, {asked}) sent twice with one number was "
                f"answered with {'one' if is_one else 'two'} numbers of the vendor's, and moved "
                f"the balance by {moved} where {change} was asked for"
            )
    return (
        f"a top-up and a payment of {money} and {points} earned and redeemed on {_card(prover)} "
        "were each sent twice with one number: both answers named the same order of the "
        "vendor's, and the balance moved once"
    )


async def prove_order_query_answers(prover: Prover) -> str:
    """A payment and a point that are asked for by our number, and a number nobody ever used."""
    await _fund(prover)
    money, points = _money(prover, PROOF_MINOR), Points(PROOF_POINTS)
    for operation, asked in (
        (Operation.PAY_WITH_GIFT_CARD, money),
        (Operation.EARN_POINTS, points),
    ):
        order, number = Order(operation, prover.proof_card, asked), _number()
        started = datetime.now(UTC)
        receipt = (await prover.book(Send(order, number, 1))).receipt
        found = await prover.ask(Question(order, number, started))
        known = [(_checkout(it.receipt), it.is_certain) for it in found.candidates]
        if known != [(_checkout(receipt), True)]:
            raise LookupError(
                f"an order ({operation.method}, {asked}) was made, and the query by our number "
                f"of it answered: {found.rule}; it did not name the order by both its numbers"
            )
        unknown = await prover.ask(Question(order, _number(), started))
        if unknown.candidates or unknown.is_pending or unknown.is_refused:
            raise LookupError(f"the query of a number that was never sent answered: {unknown.rule}")
    return (
        f"a payment of {money} and {points} earned on {_card(prover)} were found as done by our "
        "numbers and under the vendor's numbers of them; numbers that were never sent were not "
        "found"
    )


async def prove_void_takes_order_number(prover: Prover) -> str:
    """A payment that is voided by our own number, and a number that nobody ever used."""
    before = await _fund(prover)
    order, number = _payment(prover, PROOF_MINOR), _number()
    try:
        await prover.book(_void(prover, order, _number()))
    except ProviderError as error:
        if error.status.reason is not Reason.ORIGINAL_NOT_FOUND:
            raise
    else:
        raise LookupError("a void of a number that was never sent was answered as a success")
    await prover.book(Send(order, number, 1))
    try:
        await prover.book(_void(prover, order, number))
    except ProviderError as error:
        raise _disproof(error, "a void by our own number of the payment") from error
    off = await _held(prover, _money(prover, before)) - before
    if off:
        raise LookupError(
            "a void by our own number of the payment was answered as a success, and left the "
            f"balance {off} minor units from where it was"
        )
    return (
        f"a payment of {order.asked} on {_card(prover)} was voided by our number {number} alone, "
        "which brought the balance back; a void of a number that was never sent was refused as "
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
        if moved != change or echoed != _like(asked, abs(change)):
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


def _like(asked: Amount, value: int) -> Amount:
    return Money(asked.currency, value) if isinstance(asked, Money) else Points(value)


def _number() -> str:
    return str(uuid.uuid4())


def _checkout(receipt: Receipt) -> str:
    return next((it.value for it in receipt.references if it.kind == wire.CHECKOUT_ID), "")


def _card(prover: Prover) -> str:
    return mask_account_id(prover.proof_card)
