"""Shows on a test member whether Loyalife keeps a promise; each proof says what it has seen."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.operations import (
    Operation,
    Order,
    Original,
    Purchase,
    Receipt,
    Sale,
)
from loyalty_gateway.providers.loyalife.points import PointBookings
from loyalty_gateway.providers.loyalife.settings import Settings
from loyalty_gateway.providers.loyalife.wire.history import Line
from loyalty_gateway.providers.port import (
    CLOCK_OFF_MAX,
    NotShown,
    ProviderError,
    Question,
    Send,
)

MERCHANT_NAME_MAY_CARRY_TAG: Final = "merchant_name_may_carry_tag"
REVERSAL_RUNS_ONCE: Final = "reversal_runs_once"
IDEMPOTENCY_KEY_DEDUPES: Final = "idempotency_key_dedupes"
NO_OTHER_CHANNEL_BOOKS: Final = "no_other_channel_books"

PROOF_MERCHANT: Final = "Promise & proof, café Ж, of the loyalty gateway, as long as a name may be"
"""Longer than the limit, and with letters that need more room where they are stored as bytes or
escaped, so that a vendor which keeps less of a name than we send is found out."""

PROOF_POINTS: Final = 1
PROOF_AMOUNT: Final = Decimal(10)
"""Whole units of money, so that the common rule of a point a unit gives some."""

LATE_LINE_S: Final = 3.0
"""How much later than the first a second line of one purchase is still looked for."""


async def prove(points: PointBookings, settings: Settings, promise: str) -> str:
    """Shows that a promise holds and returns the evidence in words.

    Raises:
        ProviderError: the vendor could not be asked.
        NotShown: it cannot be shown on this connection.
        LookupError: it does not hold.
    """
    proof = PROOFS.get(promise)
    if proof is None:
        raise NotShown(f"{promise} can only be declared by somebody who knows it")
    if not settings.proof_member:
        raise NotShown("the setting proof_member names no member to prove this on")
    return await proof(points, settings)


async def _prove_tag(points: PointBookings, settings: Settings) -> str:
    """Redeems a point under a tag, looks for it as recovery would, and gives it back."""
    order = await _redemption(points, settings, carries_tag=True)
    key = str(uuid.uuid4())
    started = datetime.now(UTC)
    receipt = (await points.redeem(Send(order, key, 1))).receipt
    try:
        finding = await points.ask_redemption(Question(order, key, started))
    finally:
        await points.reverse(_reversal(order, key, receipt))
    certain = [found for found in finding.candidates if found.is_certain]
    numbers = [found.receipt.references[0].value for found in certain]
    if numbers != [receipt.references[0].value]:
        raise LookupError(
            f"a redemption of {order.asked} under a tagged name was answered with "
            f"{receipt.references[0].value}, and the statement shows {len(numbers)} lines with "
            "that tag"
        )
    shown = certain[0].time
    if shown is None or abs(shown - started) > CLOCK_OFF_MAX:
        raise LookupError(
            f"the statement shows the redemption of {started:%H:%M} UTC at a time that is not it "
            f"in {settings.time_zone}; the setting time_zone or a clock is wrong"
        )
    return (
        f"a redemption of {order.asked} on {mask_account_id(settings.proof_member)} was found in "
        f"the statement by its tag, under {numbers[0]} and at the right time, and was reversed"
    )


async def _prove_reversal(points: PointBookings, settings: Settings) -> str:
    """Redeems a point and reverses it twice: the second must be refused as a duplicate."""
    member = settings.proof_member
    order = await _redemption(points, settings, carries_tag=False)
    key = str(uuid.uuid4())
    before = await points.find_points(member, Operation.GET_BALANCE)
    receipt = (await points.redeem(Send(order, key, 1))).receipt
    undo = _reversal(order, key, receipt)
    await points.reverse(undo)
    try:
        await points.reverse(replace(undo, attempt_number=2))
        second = "accepted"
    except ProviderError as error:
        if not error.status.shows_earlier:
            raise
        second = f"refused with {error.provider_code}"
    after = await points.find_points(member, Operation.GET_BALANCE)
    number = receipt.references[0].value
    if second == "accepted" or after != before:
        raise LookupError(
            f"redemption {number} was reversed twice: the second was {second}, and the account "
            f"holds {after} points where it held {before}"
        )
    return (
        f"redemption {number} on {mask_account_id(member)} was reversed twice: the second was "
        f"{second}, and the account holds {after} points as before"
    )


async def _prove_key(points: PointBookings, settings: Settings) -> str:
    """Hands one purchase in twice under one key and looks for one new line; then once more under
    another key, which has to make a second line.

    Without that a cap, or a member who earns nothing a second time, looks like a key that counts.
    """
    if not settings.proof_product:
        raise NotShown("the setting proof_product names no purchase that earns a point")
    member, key = settings.proof_member, str(uuid.uuid4())
    amount = Money.from_decimal(settings.currency, PROOF_AMOUNT)
    order = Order(
        Operation.EARN_POINTS,
        member,
        purchase=Purchase(amount, settings.proof_product, time=datetime.now(UTC)),
    )
    order = replace(order, prepared=await points.prepare_day(order))
    lines_before = await _lines(points, member)
    await points.earn(Send(order, key, 1))
    second = await _earn_again(points, Send(order, key, 2))
    new = await _lines(points, member) - lines_before
    if second == "accepted" and len(new) == 1:
        # One line so far: that of a second purchase may be on its way.
        await asyncio.sleep(LATE_LINE_S)
        new = await _lines(points, member) - lines_before
    if len(new) != 1:
        raise LookupError(
            f"a purchase of {amount} was handed in twice under key {key}: the second was "
            f"{second}, and the statement has {len(new)} new lines"
        )
    third = await _earn_again(points, Send(order, str(uuid.uuid4()), 1))
    if third != "accepted":
        raise LookupError(
            f"a purchase of {amount} was handed in under key {key} and under another: that was "
            f"{third}, so it is not the key that counts"
        )
    new = await _lines(points, member) - lines_before
    if len(new) == 1:
        await asyncio.sleep(LATE_LINE_S)
        new = await _lines(points, member) - lines_before
    if len(new) == 1:
        raise NotShown(
            f"a purchase of {amount} under another key made no line either, so that one line "
            "does not show that the key counts"
        )
    if len(new) != 2:
        raise LookupError(
            f"a purchase of {amount} was handed in twice under key {key} and once under another: "
            f"the statement has {len(new)} new lines"
        )
    return (
        f"a purchase of {amount} on {mask_account_id(member)} was handed in twice under key "
        f"{key}: the second was {second}, and the statement has one new line; under another key "
        "it made a second line"
    )


async def _earn_again(points: PointBookings, send: Send) -> str:
    """What became of a purchase that was handed in before, in a word or two."""
    try:
        await points.earn(send)
    except ProviderError as error:
        if not error.status.shows_earlier:
            raise
        return f"refused with {error.provider_code}"
    return "accepted"


async def _lines(points: PointBookings, member: str) -> set[Line]:
    now, day = datetime.now(UTC), timedelta(days=2)
    found = await points.find_lines(Operation.LIST_TRANSACTIONS, member, now - day, now + day)
    return set(found.value)


async def _redemption(points: PointBookings, settings: Settings, *, carries_tag: bool) -> Order:
    order = Order(
        Operation.REDEEM_POINTS,
        settings.proof_member,
        Points(PROOF_POINTS),
        carries_tag=carries_tag,
        money_value=Money(settings.currency, 1),
        redemption_kind=settings.redemption_kind or next(iter(settings.kinds)),
        sale=Sale(merchant_name=PROOF_MERCHANT),
    )
    return replace(order, prepared=await points.prepare_redemption(order))


def _reversal(order: Order, key: str, receipt: Receipt) -> Send:
    original = Original(order, key, receipt.references, order.asked)
    undo = Order(Operation.REVERSE_POINTS, order.account_id, order.asked, original=original)
    return Send(undo, str(uuid.uuid4()), 1)


PROOFS: Final[Mapping[str, Callable[[PointBookings, Settings], Awaitable[str]]]] = {
    MERCHANT_NAME_MAY_CARRY_TAG: _prove_tag,
    REVERSAL_RUNS_ONCE: _prove_reversal,
    IDEMPOTENCY_KEY_DEDUPES: _prove_key,
}
"""What can be shown; that nobody else books can only be declared."""
