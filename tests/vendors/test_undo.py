"""What is booked upon a booking: voids, reversals and tips, linked with their original; parts."""

from typing import Any, Final

import grpc
import pytest

from loyalty.v1 import bookings_pb2, gift_pb2, points_pb2, types_pb2
from tests.e2e.caller import Reply, new_request_id
from tests.vendors.asking import FACTS, MINOR, POINTS, ask
from tests.vendors.house import House
from tests.vendors.test_bookings import amounts_of

UNDONE: Final = (
    ("Gift.PayWithGiftCard", "openloyaltypay", gift_pb2.VoidGiftTransactionRequest),
    ("Gift.TopUpGiftCard", "openloyaltypay", gift_pb2.VoidGiftTransactionRequest),
    ("Points.RedeemPoints", "loyalife", points_pb2.ReversePointsRequest),
    ("Points.EarnPoints", "loyalife", points_pb2.ReversePointsRequest),
)
"""What can be undone, and by which request."""

HOW: Final = ("booking", "request_id", "provider_reference")


async def _booked(house: House, rpc: str, connection: str) -> types_pb2.Booking:
    reply = await house.call(await ask(house, (rpc, connection)))
    assert reply.is_ok, str(reply)
    return reply.booking


def original_of(booking: types_pb2.Booking, how: str = "booking") -> types_pb2.Original:
    """The booking as an original, named in one of the three ways."""
    if how == "booking":
        return types_pb2.Original(booking=booking.name)
    if how == "request_id":
        return types_pb2.Original(request_id=booking.request_id)
    reference = booking.provider_references[0]
    return types_pb2.Original(
        provider_reference=types_pb2.OriginalReference(
            connection=booking.connection, kind=reference.kind, value=reference.value
        )
    )


async def _undo(
    house: House, request_class: Any, booking: types_pb2.Booking, how: str = "booking"
) -> Reply:
    return await house.call(
        request_class(original=original_of(booking, how), request_id=new_request_id())
    )


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("rpc", "connection", "request_class"), UNDONE, ids=[it[0] for it in UNDONE]
)
async def test_an_undo_takes_everything_back_and_is_linked_both_ways(
    house: House, rpc: str, connection: str, request_class: Any, how: str
) -> None:
    vendor = house.vendors[connection]
    held = vendor.player.ledger.find_card(FACTS[connection].booked)
    done = await _booked(house, rpc, connection)

    undone = await _undo(house, request_class, done, how)

    assert undone.is_ok, str(undone)
    assert undone.booking.original_booking == done.name
    assert amounts_of(undone.booking, "applied") == amounts_of(done, "applied")
    shown = await house.call(bookings_pb2.GetBookingRequest(name=done.name))
    original = shown.response.booking
    assert list(original.undo_bookings) == [undone.booking.name]
    assert done.reversible and not original.reversible
    now = vendor.player.ledger.find_card(FACTS[connection].booked)
    assert held is not None and now is not None
    assert (now.balance_minor, now.points) == (held.balance_minor, held.points)


@pytest.mark.parametrize(
    ("rpc", "connection", "request_class"), UNDONE, ids=[it[0] for it in UNDONE]
)
async def test_what_is_undone_is_not_undone_again(
    house: House, rpc: str, connection: str, request_class: Any
) -> None:
    vendor = house.vendors[connection]
    done = await _booked(house, rpc, connection)
    first = await _undo(house, request_class, done)
    assert first.is_ok, str(first)
    before = vendor.books

    second = await _undo(house, request_class, done)

    assert second.code is grpc.StatusCode.FAILED_PRECONDITION, str(second)
    assert second.reason == "ALREADY_REVERSED"
    assert vendor.books == before


@pytest.mark.parametrize(
    ("connection", "request_class"),
    [
        ("openloyaltypay", gift_pb2.VoidGiftTransactionRequest),
        ("loyalife", points_pb2.ReversePointsRequest),
    ],
)
async def test_an_original_that_never_was_is_not_found_and_not_asked_for(
    house: House, connection: str, request_class: Any
) -> None:
    nobody = types_pb2.Original(request_id=new_request_id())

    reply = await house.call(request_class(original=nobody, request_id=new_request_id()))

    assert (reply.code, reply.reason) == (grpc.StatusCode.NOT_FOUND, "ORIGINAL_NOT_FOUND")
    assert house.vendors[connection].recorder.seen == []


async def test_a_tip_belongs_to_its_payment_and_not_to_a_voided_one(house: House) -> None:
    vendor, facts = house.vendors["openloyaltypay"], FACTS["openloyaltypay"]

    def tip(paid: types_pb2.Booking) -> gift_pb2.AddGiftTipRequest:
        return gift_pb2.AddGiftTipRequest(
            original=original_of(paid),
            account=facts.account,
            amount=facts.money(50),
            request_id=new_request_id(),
        )

    paid = await _booked(house, "Gift.PayWithGiftCard", "openloyaltypay")
    voided = await _booked(house, "Gift.PayWithGiftCard", "openloyaltypay")
    await _undo(house, gift_pb2.VoidGiftTransactionRequest, voided)
    before = vendor.books

    given, refused = await house.call(tip(paid)), await house.call(tip(voided))

    assert given.is_ok, str(given)
    assert given.booking.original_booking == paid.name
    assert [(it.kind, it.amount_minor) for it in vendor.books.effects_since(before)] == [
        ("giftTip", -50)
    ]
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION, str(refused)
    assert refused.reason in ("ALREADY_REVERSED", "ORIGINAL_NOT_REVERSIBLE")
    # A tip undoes nothing, so the payment can still be voided.
    shown = await house.call(bookings_pb2.GetBookingRequest(name=paid.name))
    assert list(shown.response.booking.undo_bookings) == []
    assert shown.response.booking.reversible


async def test_a_tip_cannot_be_voided(house: House) -> None:
    tip = await _booked(house, "Gift.AddGiftTip", "openloyaltypay")
    vendor = house.vendors["openloyaltypay"]
    before = vendor.books

    reply = await _undo(house, gift_pb2.VoidGiftTransactionRequest, tip)

    assert (reply.code, reply.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "ORIGINAL_NOT_REVERSIBLE",
    )
    assert vendor.books == before


async def test_an_undo_is_answered_again_to_the_byte(house: House) -> None:
    done = await _booked(house, "Gift.PayWithGiftCard", "openloyaltypay")
    request = gift_pb2.VoidGiftTransactionRequest(
        original=original_of(done), request_id=new_request_id()
    )
    first = await house.call(request)
    house.vendors["openloyaltypay"].recorder.seen.clear()

    again = await house.call(request)

    assert again.is_replayed and again.body == first.body
    assert house.vendors["openloyaltypay"].recorder.seen == []


# --- parts --------------------------------------------------------------------------------------

NEARLY_EMPTY: Final = types_pb2.AccountRef(connection="openloyaltypay", id="10485")
HELD_MINOR: Final = 5


def _payment(minor: int, *, allow_partial: bool) -> gift_pb2.PayWithGiftCardRequest:
    return gift_pb2.PayWithGiftCardRequest(
        account=NEARLY_EMPTY,
        amount=FACTS["openloyaltypay"].money(minor),
        allow_partial=allow_partial,
        request_id=new_request_id(),
    )


async def test_a_part_is_taken_only_where_it_is_allowed_and_the_rest_is_told(house: House) -> None:
    vendor = house.vendors["openloyaltypay"]
    before = vendor.books

    demanded = await house.call(_payment(MINOR, allow_partial=False))
    allowed = await house.call(_payment(MINOR, allow_partial=True))

    assert demanded.reason == "INSUFFICIENT_BALANCE", str(demanded)
    assert allowed.is_ok, str(allowed)
    assert amounts_of(allowed.booking, "asked") == ("USD", MINOR)
    assert amounts_of(allowed.booking, "applied") == ("USD", HELD_MINOR)
    due = allowed.response.remaining_due
    assert (due.currency_code, due.units * 100 + due.nanos // 10_000_000) == (
        "USD",
        MINOR - HELD_MINOR,
    )
    assert [it.amount_minor for it in vendor.books.effects_since(before)] == [-HELD_MINOR]
    voided = await _undo(house, gift_pb2.VoidGiftTransactionRequest, allowed.booking)
    assert amounts_of(voided.booking, "applied") == ("USD", HELD_MINOR)


@pytest.mark.parametrize("connection", ["cashassist", "cardsapi"])
async def test_a_part_that_is_allowed_is_no_demand_to_a_vendor_that_takes_none(
    house: House, connection: str
) -> None:
    request = await ask(house, ("Balance.DebitBalance", connection))
    request.allow_partial = True  # type: ignore[attr-defined]

    reply = await house.call(request)

    assert reply.is_ok, str(reply)
    assert amounts_of(reply.booking, "applied") == (FACTS[connection].currency, MINOR)


async def test_points_that_are_not_there_are_refused(house: House) -> None:
    request = await ask(house, ("Points.RedeemPoints", "loyalife"))
    request.points.value = 900_000 + POINTS  # type: ignore[attr-defined]

    reply = await house.call(request)

    assert (reply.code, reply.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "INSUFFICIENT_BALANCE",
    )
    assert (reply.outcome, reply.is_final) == ("NOT_EXECUTED", True)
