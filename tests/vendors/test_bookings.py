"""Every booking of every vendor: one effect in its books, told whole, and again to the byte."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest

from loyalty.v1 import bookings_pb2, types_pb2
from loyalty_gateway.conformance.books import Books
from loyalty_gateway.conformance.recorder import Seen
from loyalty_gateway.domain.operations import Operation, kind_of
from loyalty_gateway.sandbox.book import Effect
from loyalty_gateway.sandbox.faults import Answer
from tests.e2e.caller import new_request_id
from tests.vendors.asking import MINOR, POINTS, ask, new_person
from tests.vendors.house import House
from tests.vendors.matrix import FILLED, Cell, cell_id
from tests.vendors.rows import FIRST_CALL_S, OUTAGE

BOOKINGS: Final = tuple(cell for cell in FILLED if kind_of(Operation(cell[0])) == "BOOKING")

Amounts = tuple[str, int] | None
"""Money by its currency, or points, in minor units and points; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """What one booking leaves behind, and what is told of it.

    `effect` is the entry in the vendor's books, by the vendor's own word, signed as the account
    sees it; None where no value moves and the account's own record changes instead.
    """

    asked: Amounts = None
    applied: Amounts = None
    effect: tuple[str, int, int] | None = None
    references: tuple[str, ...] = ()
    receipt_labels: tuple[str, ...] = ()
    is_due: bool = False
    has_original: bool = False
    tells_balances: bool = False


def _money(currency: str, minor: int) -> Amounts:
    return (currency, minor)


def _points(value: int) -> Amounts:
    return ("points", value)


_TX: Final = ("transaction_id",)
_ORDER: Final = ("checkout_id", "trans_index_code", "paywizard_id", "mid")

BOOKED: Final[Mapping[Cell, Booked]] = {
    ("Cards.CreateCard", "cashassist"): Booked(),
    ("Cards.CreateCard", "loyalife"): Booked(references=("member_number",)),
    ("Cards.UpdateCard", "cashassist"): Booked(),
    ("Cards.UpdateCard", "loyalife"): Booked(),
    ("Wallets.CreateWallet", "cashassist"): Booked(),
    ("Wallets.CreateWallet", "loyalife"): Booked(references=("member_number",)),
    ("Wallets.UpdateWallet", "cashassist"): Booked(),
    ("Wallets.UpdateWallet", "loyalife"): Booked(),
    ("Wallets.LinkAccount", "loyalife"): Booked(),
    ("Balance.TopUpBalance", "cashassist"): Booked(
        asked=_money("CHF", MINOR),
        applied=_money("CHF", MINOR),
        effect=("refill", MINOR, 0),
        references=_TX,
        tells_balances=True,
    ),
    ("Balance.DebitBalance", "cashassist"): Booked(
        asked=_money("CHF", MINOR),
        applied=_money("CHF", MINOR),
        effect=("withdraw", -MINOR, 0),
        references=_TX,
        is_due=True,
        tells_balances=True,
    ),
    ("Balance.DebitBalance", "cardsapi"): Booked(
        asked=_money("EUR", MINOR),
        applied=_money("EUR", MINOR),
        effect=("debit", -MINOR, 0),
        references=("ticket_id", "payment_row_id"),
        receipt_labels=("balance before", "Cashback", "balance after"),
        is_due=True,
        tells_balances=True,
    ),
    ("Points.EarnPoints", "loyalife"): Booked(
        effect=("earn", 0, 12), references=("transaction_id",)
    ),
    ("Points.EarnPoints", "openloyaltypay"): Booked(
        asked=_points(POINTS),
        applied=_points(POINTS),
        effect=("loyaltyIssuance", 0, POINTS),
        references=_ORDER,
    ),
    ("Points.RedeemPoints", "cashassist"): Booked(
        asked=_points(POINTS),
        applied=_points(POINTS),
        effect=("withdraw", 0, -POINTS),
        references=_TX,
        tells_balances=True,
    ),
    ("Points.RedeemPoints", "loyalife"): Booked(
        asked=_points(POINTS),
        applied=_points(POINTS),
        effect=("redeem", 0, -POINTS),
        references=("external_reference", "merchant_name"),
    ),
    ("Points.RedeemPoints", "openloyaltypay"): Booked(
        asked=_points(POINTS),
        applied=_points(POINTS),
        effect=("loyaltyRedemption", 0, -POINTS),
        references=_ORDER,
    ),
    ("Points.ReversePoints", "loyalife"): Booked(
        asked=_points(POINTS),
        applied=_points(POINTS),
        effect=("reversal", 0, POINTS),
        references=("reversal_of",),
        has_original=True,
    ),
    ("Gift.ActivateGiftCard", "openloyaltypay"): Booked(tells_balances=True),
    ("Gift.TopUpGiftCard", "openloyaltypay"): Booked(
        asked=_money("USD", MINOR),
        applied=_money("USD", MINOR),
        effect=("giftIssuance", MINOR, 0),
        references=_ORDER,
    ),
    ("Gift.PayWithGiftCard", "openloyaltypay"): Booked(
        asked=_money("USD", MINOR),
        applied=_money("USD", MINOR),
        effect=("giftTransaction", -MINOR, 0),
        references=_ORDER,
        is_due=True,
    ),
    ("Gift.VoidGiftTransaction", "openloyaltypay"): Booked(
        asked=_money("USD", MINOR),
        applied=_money("USD", MINOR),
        effect=("giftVoid", MINOR, 0),
        references=_ORDER,
        has_original=True,
    ),
    ("Gift.AddGiftTip", "openloyaltypay"): Booked(
        asked=_money("USD", 50),
        applied=_money("USD", 50),
        effect=("giftTip", -50, 0),
        references=_ORDER,
        has_original=True,
    ),
}
"""What each booking leaves behind, by hand."""


def test_every_booking_of_the_table_is_checked() -> None:
    assert set(BOOKED) == set(BOOKINGS)


@pytest.mark.parametrize("cell", BOOKINGS, ids=cell_id)
async def test_a_booking_has_one_effect_and_is_answered_with_it(house: House, cell: Cell) -> None:
    rpc, connection = cell
    expected = BOOKED[cell]
    vendor = house.vendors[connection]
    request = await ask(house, cell)
    things = vendor.things()
    before = vendor.books

    reply = await house.call(request)

    assert reply.is_ok, str(reply)
    booking = reply.booking
    assert f"{booking.service}.{booking.method}" == rpc
    assert booking.connection == booking.account.connection == connection
    assert booking.state == types_pb2.BOOKING_STATE_SUCCEEDED
    assert booking.outcome == types_pb2.OUTCOME_EXECUTED
    assert booking.final
    assert booking.attempt_count == 1
    assert (amounts_of(booking, "asked"), amounts_of(booking, "applied")) == (
        expected.asked,
        expected.applied,
    )
    assert tuple(it.kind for it in booking.provider_references) == expected.references
    assert all(it.value for it in booking.provider_references)
    assert tuple(it.label for it in booking.receipt_lines) == expected.receipt_labels
    assert bool(booking.balances_after) is expected.tells_balances
    assert bool(booking.original_booking) is expected.has_original
    if expected.is_due:
        assert reply.response.remaining_due.units == reply.response.remaining_due.nanos == 0
        assert reply.response.remaining_due.currency_code == amounts_of(booking, "asked")[0]  # type: ignore[index]
    assert _changes(before, vendor.books, things != vendor.things()) == (
        [expected.effect] if expected.effect else "the account's record"
    )
    await _check_replay(house, cell, request, reply.body)


def amounts_of(booking: types_pb2.Booking, name: str) -> Amounts:
    """Money or points of a field, or None where it is absent."""
    if not booking.HasField(name):  # type: ignore[arg-type]
        return None
    amount = getattr(booking, name)
    if amount.HasField("points"):
        return ("points", amount.points.value)
    return (amount.money.currency_code, amount.money.units * 100 + amount.money.nanos // 10_000_000)


def _changes(before: Books, after: Books, has_things: bool) -> object:
    """The entries that were made; where there are none, whether anything changed at all."""
    effects = after.effects_since(before)
    if effects:
        return [_entry(it) for it in effects]
    is_changed = after.accounts != before.accounts or has_things
    return "the account's record" if is_changed else "nothing"


def _entry(effect: Effect) -> tuple[str, int, int]:
    return effect.kind, effect.amount_minor, effect.points


async def _check_replay(house: House, cell: Cell, request: Any, body: bytes) -> None:
    """The same request_id again: the same bytes, no request, and GetBooking says the same."""
    vendor = house.vendors[cell[1]]
    after = vendor.books
    vendor.recorder.seen.clear()

    again = await house.caller.call(request)

    assert again.is_ok, str(again)
    assert again.is_replayed
    assert again.body == body
    assert vendor.recorder.seen == []
    assert vendor.books == after
    found = await house.call(bookings_pb2.GetBookingRequest(request_id=request.request_id))
    shown, answered = found.response.booking, again.booking
    assert shown.name == answered.name
    assert (shown.state, shown.outcome, shown.final) == (
        answered.state,
        answered.outcome,
        answered.final,
    )
    assert list(shown.provider_references) == list(answered.provider_references)


@pytest.mark.parametrize("rpc", ["Cards.CreateCard", "Wallets.CreateWallet"])
async def test_an_account_that_another_booking_made_exists_already(house: House, rpc: str) -> None:
    """The refusal is lost, and the account that is found then was made by the first booking."""
    request: Any = await ask(house, (rpc, "loyalife"))
    again = type(request)()
    again.CopyFrom(request)
    again.request_id = new_request_id()
    first = await house.call(request)
    before = house.vendors["loyalife"].books

    second = await house.call(again, fault="lost-after")

    assert first.is_ok, str(first)
    assert (second.code, second.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "ACCOUNT_ALREADY_EXISTS",
    )
    assert (second.outcome, second.is_final) == ("NOT_EXECUTED", True)
    found = await house.call(bookings_pb2.GetBookingRequest(request_id=request.request_id))
    assert found.response.booking.state == types_pb2.BOOKING_STATE_SUCCEEDED
    assert list(found.response.booking.provider_references)
    assert house.vendors["loyalife"].books == before
    story = await house.caller.explain(again.request_id)
    kinds = [step.attempt.kind for step in story.steps if step.HasField("attempt")]
    assert len(kinds) == 2, "it was asked for"


async def test_an_earning_that_a_duplicate_proves_has_the_number_that_it_was_given(
    house: House,
) -> None:
    """Its first answer is lost and the repeat is refused, so no answer ever named it."""
    request = await ask(house, ("Points.EarnPoints", "loyalife"))
    before = house.vendors["loyalife"].books

    reply = await house.call(request, fault="lost-after")

    assert reply.is_ok, str(reply)
    assert len(house.vendors["loyalife"].books.effects_since(before)) == 1
    story = await house.caller.explain(request.request_id)  # type: ignore[attr-defined]
    attempts = [step.attempt for step in story.steps if step.HasField("attempt")]
    assert [it.provider_code for it in attempts] == ["", "E201"]
    [reference] = reply.booking.provider_references
    assert reference.kind == "transaction_id" and reference.value.startswith("LG-")
    found = await house.call(bookings_pb2.GetBookingRequest(name=reply.booking.name))
    assert list(found.booking.provider_references) == [reference]


STATES: Final[Mapping[Cell, str]] = {
    ("Gift.ActivateGiftCard", "openloyaltypay"): "/openLoyaltyPay/giftActivate",
    ("Cards.UpdateCard", "loyalife"): "/api/Member/UpdateProfileWithAttributes",
    ("Wallets.UpdateWallet", "loyalife"): "/api/Member/UpdateProfileWithAttributes",
    ("Cards.UpdateCard", "cashassist"): "/loyalty-cards/update",
    ("Wallets.UpdateWallet", "cashassist"): "/loyalty-cards/update",
}
"""Bookings that set a state and are sent again without a key; and where to."""


def _otherwise(request: Any) -> Any:
    """The same booking, which sets something else."""
    other = type(request)()
    other.CopyFrom(request)
    other.request_id = new_request_id()
    if "activate" in request.DESCRIPTOR.fields_by_name:
        other.activate = not request.activate
    elif "profile" in request.DESCRIPTOR.fields_by_name:
        other.profile.email = new_person().email
    elif request.card.holder.display_name:
        other.card.holder.display_name = "Jane Otherwise"
    else:
        other.card.holder.given_name = "Otto"
    return other


@pytest.mark.parametrize("cell", STATES, ids=cell_id)
async def test_what_sets_a_state_is_not_sent_again_after_the_next_that_sets_it(
    house: House, cell: Cell
) -> None:
    vendor = house.vendors[cell[1]]
    first: Any = await ask(house, cell)
    other = _otherwise(first)
    sent: list[bytes] = []

    def lose_the_first(seen: Seen) -> Answer | None:
        if not seen.route[1].endswith(STATES[cell]):
            return None
        sent.append(seen.body)
        return OUTAGE if seen.body == sent[0] else None

    house.play(cell[1], lose_the_first)
    doubted = await house.call(first, timeout_s=FIRST_CALL_S)
    held = await house.call(other, timeout_s=FIRST_CALL_S)
    house.play(cell[1], None)
    vendor.recorder.seen.clear()
    ended = await house.end(first.request_id)
    booked = await house.call(other)

    assert doubted.reason == "BOOKING_IN_DOUBT", str(doubted)
    assert held.reason == "ACCOUNT_ON_HOLD", str(held)
    assert ended.state == types_pb2.BOOKING_STATE_SUCCEEDED
    assert booked.is_ok, str(booked)
    writes = [it.body for it in vendor.recorder.seen if it.route[1].endswith(STATES[cell])]
    assert len(writes) == 2 and writes[0] == sent[0] != writes[1]
