"""What a booking that goes well shows: its reference, its id on the wire, its exact amount."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from loyalty_gateway.conformance.books import STATE_OPERATIONS, amount_of
from loyalty_gateway.conformance.duties.duty import Duty, to_bookings
from loyalty_gateway.conformance.recorder import Seen
from loyalty_gateway.conformance.samples import MONEY_MINOR, POINTS, sample_of
from loyalty_gateway.conformance.stage import Ask, Stage
from loyalty_gateway.conformance.subject import Subject
from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.operations import CREATE_OPERATIONS, Operation, Order
from loyalty_gateway.providers.port import Adapter, Executed, ProviderError

AMOUNTS: Final = 24
SEED: Final = 4711


async def yields_a_reference(stage: Stage, operation: Operation) -> None:
    first = await stage.ask(operation)
    done = await first.send()
    assert isinstance(done, Executed), "a booking's call returns Executed"
    assert first.effects == 1, f"an executed booking has {first.effects} effects"
    assert done.receipt.references, "an executed booking has no reference of the vendor's"
    reference = done.receipt.references[0]
    assert reference.kind and reference.value, "a reference has a kind and a value"
    assert done.rule, "ExplainBooking is told by which rule it counts as executed"
    if operation in STATE_OPERATIONS or first.order.original is not None:
        return
    other = await stage.ask(operation)
    again = await other.send()
    assert isinstance(again, Executed) and again.receipt.references
    assert again.receipt.references[0] != reference, "two bookings share their first reference"


async def sends_the_outbound_id(stage: Stage, operation: Operation) -> None:
    ask = await stage.ask(operation)
    await ask.send()
    (request,) = ask.requests
    bare = ask.outbound_id.replace("-", "")
    assert ask.outbound_id in request.text or bare in request.text, (
        "the outbound id is nowhere in the request, so the vendor cannot know a resend"
    )


async def resends_the_same(stage: Stage, operation: Operation) -> None:
    ask = await stage.ask(operation)
    for attempt_number in (1, 2, 3):
        try:
            await ask.send(attempt_number=attempt_number)
        except ProviderError:
            # What the vendor makes of it is another duty; here only the request counts.
            assert attempt_number > 1, "the first attempt goes well"
    said = {_said(request, ask) for request in ask.requests}
    assert len(ask.requests) == 3, "every attempt sends one request"
    assert len(said) == 1, "a resend says something else than the first attempt"


async def amounts_go_exactly(stage: Stage, operation: Operation) -> None:
    order = (await stage.ask(operation)).order
    usual = _amount(order)
    assert usual is not None, "an operation with amounts has one in its sample"
    for amount in _amounts(usual):
        # Fresh each time, so that a sum cannot hide two mistakes and no account runs dry.
        await stage.fresh()
        ask = await stage.ask(operation, **_with_amount(order, amount))
        await ask.send()
        booked = stage.books().effects_since(ask.before)
        assert [amount_of(effect, amount) for effect in booked] == [_units(amount)], (
            f"{amount} was asked for, and the vendor booked"
            f" {[amount_of(effect, amount) for effect in booked]} in its smallest unit"
        )


def _amount(order: Order) -> Amount | None:
    """What a booking is about: points or money, or the money of a purchase that earns."""
    return order.asked if order.purchase is None else order.purchase.amount


def _with_amount(order: Order, amount: Amount) -> dict[str, Any]:
    if order.purchase is None:
        return {"asked": amount}
    assert isinstance(amount, Money), "a purchase is of money"
    return {"purchase": replace(order.purchase, amount=amount)}


def _said(request: Seen, ask: Ask) -> tuple[object, ...]:
    """What makes a request the same booking; a signature and a token are of their moment."""
    keys = tuple((name, value) for name, value in request.headers if ask.outbound_id in value)
    return request.route, request.target, keys, request.body


def _amounts(usual: Amount) -> Iterator[Amount]:
    """The corners where a float would show, and many between, up to the usual amount."""
    chance = random.Random(SEED)
    match usual:
        case Money(currency, most):
            # 0.29 and 0.57 are less than themselves as binary floats times a hundred.
            corners = [1, 9, 10, 29, 57, 58, 99, 100, 101, 115, most - 1, most]
        case Points(most, _):
            corners = [1, 9, 10, 99, most - 1, most]
    more = [chance.randint(1, most) for _ in range(AMOUNTS - len(corners))]
    for units in sorted({it for it in (*corners, *more) if 0 < it <= most}):
        yield Money(currency, units) if isinstance(usual, Money) else Points(units, usual.unit)


def _units(amount: Amount) -> int:
    return amount.minor if isinstance(amount, Money) else amount.value


def _has_amount(subject: Subject, adapter: Adapter, operation: Operation) -> bool:
    is_about_value = operation not in CREATE_OPERATIONS | STATE_OPERATIONS
    if not is_about_value or not to_bookings(subject, adapter, operation):
        return False
    sample = subject.samples.get(operation)
    content = sample_of(subject, adapter, operation) if sample is None else sample
    # A sample that has to be found out first is taken to have one: then the check tells.
    return not isinstance(content, Order) or _amount(content) is not None


assert MONEY_MINOR >= 100 and POINTS >= 100, "the corners lie below the usual amount"

DUTIES: Final = (
    Duty(
        "reference",
        "a success yields the vendor's reference, and no two bookings share it",
        to_bookings,
        yields_a_reference,
    ),
    Duty(
        "outbound-id",
        "the outbound id of a booking reaches the wire",
        to_bookings,
        sends_the_outbound_id,
    ),
    Duty(
        "same-request",
        "a resend sends the same id and the same body, to the byte",
        to_bookings,
        resends_the_same,
    ),
    Duty(
        "exact-amount",
        "every amount arrives exactly, as the vendor's own books say",
        _has_amount,
        amounts_go_exactly,
    ),
)
