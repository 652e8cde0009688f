"""Shows promises on the proof card by a few cents each; it never touches another card.

Every proof compares balances, so it holds only while nobody else books on the card.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import Money
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
    ProviderError,
    Question,
    Send,
)

PROOF_MINOR: Final = 1
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
    """A top-up and a payment, each sent twice with one number."""
    before = await _fund(prover)
    number = ""
    for operation, change in (
        (Operation.TOP_UP_GIFT_CARD, PROOF_MINOR),
        (Operation.PAY_WITH_GIFT_CARD, -PROOF_MINOR),
    ):
        order, number = _order(prover, operation, PROOF_MINOR), _number()
        first = (await prover.book(Send(order, number, 1))).receipt
        second = await _book_again(prover, Send(order, number, 2))
        after = await _balance(prover)
        if _checkout(first) != _checkout(second) or after - before != change:
            raise LookupError(
                f"the same order ({operation.method}, {order.asked}) sent twice with one number "
                f"was answered with {'one' if _checkout(first) == _checkout(second) else 'two'} "
                f"numbers of the vendor's, and moved {after - before} minor units"
            )
        before = after
    return (
        f"a top-up and a payment of {_money(prover, PROOF_MINOR)} on {_card(prover)} were each "
        f"sent twice with one number (the last was {number}): both answers named the same order "
        "of the vendor's, and the balance moved once"
    )


async def prove_order_query_answers(prover: Prover) -> str:
    """A payment that is asked for by our number, and a number that nobody ever used."""
    await _fund(prover)
    order, number = _order(prover, Operation.PAY_WITH_GIFT_CARD, PROOF_MINOR), _number()
    started = datetime.now(UTC)
    receipt = (await prover.book(Send(order, number, 1))).receipt
    found = await prover.ask(Question(order, number, started))
    known = [(_checkout(it.receipt), it.is_certain) for it in found.candidates]
    if known != [(_checkout(receipt), True)]:
        raise LookupError(
            f"a payment of {order.asked} was made, and the query by our number of it answered: "
            f"{found.rule}, {len(known)} orders, none of them by both its numbers"
        )
    unknown = await prover.ask(Question(order, _number(), started))
    if unknown.candidates or unknown.is_pending or unknown.is_refused:
        raise LookupError(f"the query of a number that was never sent answered: {unknown.rule}")
    return (
        f"a payment of {order.asked} on {_card(prover)} was found as done by our number {number} "
        "and under the vendor's number of it; a number that was never sent was not found"
    )


async def prove_void_takes_order_number(prover: Prover) -> str:
    """A payment that is voided by our own number, and a number that nobody ever used."""
    before = await _fund(prover)
    order, number = _order(prover, Operation.PAY_WITH_GIFT_CARD, PROOF_MINOR), _number()
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
    after = await _balance(prover)
    if after != before:
        raise LookupError(
            "a void by our own number of the payment was answered as a success, and left the "
            f"balance {after - before} minor units from where it was"
        )
    return (
        f"a payment of {order.asked} on {_card(prover)} was voided by our number {number} alone, "
        "which brought the balance back; a void of a number that was never sent was refused as "
        "unknown"
    )


async def prove_amount_echo_unit(prover: Prover) -> str:
    """A payment that is covered, and one that the card can only meet in part."""
    before = await _fund(prover)
    covered = _order(prover, Operation.PAY_WITH_GIFT_CARD, ECHO_MINOR)
    left = before - ECHO_MINOR
    beyond = _order(prover, Operation.PAY_WITH_GIFT_CARD, left + 1, may_take_part=True)
    for order, taken in ((covered, ECHO_MINOR), (beyond, left)):
        try:
            echoed = (await prover.book(Send(order, _number(), 1))).receipt.echoed
        except ProviderError as error:
            raise _disproof(error, f"a payment of {order.asked}") from error
        moved = before - await _balance(prover)
        before -= moved
        if echoed != _money(prover, taken) or moved != taken:
            raise LookupError(
                f"a payment of {order.asked} moved {moved} minor units and named "
                f"{echoed or 'no amount that can be read'}"
            )
    refill = _order(prover, Operation.TOP_UP_GIFT_CARD, left + ECHO_MINOR)
    await prover.book(Send(refill, _number(), 1))
    return (
        f"a payment of {covered.asked} on {_card(prover)}, and one of {beyond.asked} that the card "
        f"could meet with {_money(prover, left)} only, were each answered with what was taken"
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
    balance = await _balance(prover)
    if balance < KEPT_MINOR:
        order = _order(prover, Operation.TOP_UP_GIFT_CARD, KEPT_MINOR)
        await prover.book(Send(order, _number(), 1))
        balance = await _balance(prover)
    if balance < KEPT_MINOR:
        raise LookupError("the proof card was topped up and holds too little all the same")
    return balance


async def _balance(prover: Prover) -> int:
    card = await prover.get_card(Lookup(Operation.GET_GIFT_CARD, prover.proof_card))
    held = [
        it.amount.minor
        for it in card.balances
        if isinstance(it.amount, Money) and it.amount.currency == prover.currency
    ]
    if not held:
        raise LookupError(f"the proof card tells no balance in {prover.currency}")
    return held[0]


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


def _order(
    prover: Prover, operation: Operation, minor: int, *, may_take_part: bool = False
) -> Order:
    return Order(
        operation,
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


def _number() -> str:
    return str(uuid.uuid4())


def _checkout(receipt: Receipt) -> str:
    return next((it.value for it in receipt.references if it.kind == wire.CHECKOUT_ID), "")


def _card(prover: Prover) -> str:
    return mask_account_id(prover.proof_card)
