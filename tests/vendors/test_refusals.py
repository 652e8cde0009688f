"""What the vendors refuse of their own accord, and what their adapters refuse before them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from google.type.money_pb2 import Money

from loyalty.v1 import gift_pb2, points_pb2, types_pb2
from loyalty_gateway.conformance.subject import Accounts
from tests.e2e.caller import Reply, new_request_id
from tests.vendors.asking import FACTS, ask
from tests.vendors.house import House
from tests.vendors.matrix import CONNECTIONS
from tests.vendors.rows import BOOKING_OF, READ_OF, SUBJECTS

PREPARES: Final = frozenset({"cardsapi"})
"""Vendors that are asked about the account before the booking is written down: what they refuse
then was never a booking, so it may be asked for again under its request_id."""

NOT_FOUND: Final = grpc.StatusCode.NOT_FOUND
STATE: Final = grpc.StatusCode.FAILED_PRECONDITION
INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT


async def _on(house: House, connection: str, rpc: str, account: str) -> tuple[Any, Reply]:
    request: Any = await ask(house, (rpc, connection))
    request.account.id = account
    return request, await house.call(request)


def _accounts(connection: str) -> Accounts:
    return SUBJECTS[connection].accounts


def _detail(reply: Reply, kind: Any) -> Any:
    for packed in status_pb2.Status.FromString(reply.status_bytes).details:
        if packed.Is(kind.DESCRIPTOR):
            found = kind()
            packed.Unpack(found)
            return found
    raise AssertionError(f"no {kind.DESCRIPTOR.name} in {reply}")


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_an_account_that_is_not_there_is_not_found(house: House, connection: str) -> None:
    vendor, unknown = house.vendors[connection], _accounts(connection).unknown
    before = vendor.books

    _, read = await _on(house, connection, READ_OF[connection], unknown)
    _, booked = await _on(house, connection, BOOKING_OF[connection], unknown)

    for reply in (read, booked):
        assert (reply.code, reply.reason) == (NOT_FOUND, "ACCOUNT_NOT_FOUND"), str(reply)
        resource = _detail(reply, error_details_pb2.ResourceInfo)
        assert resource.resource_type == "loyalty.v1.Account"
        # An account has no name that may be shown: its connection stands for it.
        assert resource.resource_name == f"connections/{connection}"
    assert read.outcome == ""
    assert (booked.outcome, booked.is_final) == ("NOT_EXECUTED", connection not in PREPARES)
    assert read.retry_delay_s is booked.retry_delay_s is None
    assert vendor.books == before


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_an_account_that_is_not_active_is_not_booked_on(
    house: House, connection: str
) -> None:
    vendor = house.vendors[connection]
    before = vendor.books

    _, reply = await _on(house, connection, BOOKING_OF[connection], _accounts(connection).blocked)

    assert (reply.code, reply.reason) == (STATE, "ACCOUNT_NOT_ACTIVE"), str(reply)
    assert (reply.outcome, reply.is_final) == ("NOT_EXECUTED", connection not in PREPARES)
    assert reply.retry_delay_s is None
    assert vendor.books == before


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_an_account_that_holds_too_little_is_told_as_such(
    house: House, connection: str
) -> None:
    vendor = house.vendors[connection]
    before = vendor.books

    request, reply = await _on(
        house, connection, BOOKING_OF[connection], _accounts(connection).empty
    )

    assert (reply.code, reply.reason) == (STATE, "INSUFFICIENT_BALANCE"), str(reply)
    assert (reply.outcome, reply.is_final) == ("NOT_EXECUTED", True)
    violation = _detail(reply, error_details_pb2.PreconditionFailure).violations[0]
    assert violation.type == "INSUFFICIENT_BALANCE"
    booking = await house.caller.get(request.request_id)
    assert booking is not None
    assert violation.subject == booking.name
    assert vendor.books == before


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_another_currency_is_refused_before_anybody_is_asked(
    house: House, connection: str
) -> None:
    request: Any = await ask(house, (BOOKING_OF[connection], connection))
    money = request.money_value if connection == "loyalife" else request.amount
    money.CopyFrom(Money(currency_code="JPY", units=100))

    reply = await house.call(request)

    assert (reply.code, reply.reason) == (STATE, "CURRENCY_NOT_ACCEPTED"), str(reply)
    assert house.vendors[connection].recorder.seen == []


@pytest.mark.parametrize("connection", ["cashassist", "loyalife", "openloyaltypay"])
async def test_points_are_booked_in_the_vendors_unit_whether_it_is_named_or_not(
    house: House, connection: str
) -> None:
    request: Any = await ask(house, ("Points.RedeemPoints", connection))

    for unit in ("", "points"):
        request.request_id = new_request_id()
        request.points.unit = unit
        reply = await house.call(request)
        assert reply.is_ok, str(reply)
        assert reply.booking.applied.points == types_pb2.PointsAmount(value=request.points.value)

    request.points.unit = ""
    again = await house.call(request)
    assert again.is_ok, str(again)
    assert again.booking == reply.booking, "the same request, with its unit unnamed"


@pytest.mark.parametrize("connection", ["cashassist", "loyalife", "openloyaltypay"])
async def test_points_of_another_unit_are_refused_before_anybody_is_asked(
    house: House, connection: str
) -> None:
    request: Any = await ask(house, ("Points.RedeemPoints", connection))
    request.points.unit = "miles"

    reply = await house.call(request)

    assert (reply.code, reply.reason) == (INVALID, "REQUEST_INVALID"), str(reply)
    assert [it.field for it in _detail(reply, error_details_pb2.BadRequest).field_violations] == [
        "points.unit"
    ]
    assert house.vendors[connection].recorder.seen == []


# --- refused by the adapter, before anything with an effect was sent ----------------------------


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that a vendor could not take, and what is said of it."""

    rpc: str
    connection: str
    spoil: Callable[[Any], None]
    code: grpc.StatusCode
    reason: str
    word: str
    """What has to be mended, in the message."""


def _without(*names: str) -> Callable[[Any], None]:
    def spoil(request: Any) -> None:
        for name in names:
            part = request
            *path, last = name.split(".")
            for step in path:
                part = getattr(part, step)
            part.ClearField(last)

    return spoil


def _voucher(request: Any) -> None:
    request.account.id = "30005"


def _till_by_name(request: Any) -> None:
    request.sale.point_of_sale_id = "till"


def _unheard_of_kind(request: Any) -> None:
    request.redemption_kind = "moon-rocket"


def _purchase(request: Any) -> None:
    request.ClearField("points")
    money = FACTS["openloyaltypay"].money()
    request.purchase.CopyFrom(points_pb2.Purchase(amount=money, product_code="RETAIL001"))


def _points(request: Any) -> None:
    request.ClearField("purchase")
    request.points.value = 5


def _unheard_of_attribute(request: Any) -> None:
    request.holder.attributes["shoeSize"] = "44"


def _phone_of_a_new_card(request: Any) -> None:
    request.profile.phone = "+41791112233"


def _unheard_of_link(request: Any) -> None:
    request.external.kind = "PARROT"


REFUSED: Final[Mapping[str, Refused]] = {
    "a pass that is no cashback": Refused(
        "Balance.DebitBalance",
        "cardsapi",
        _voucher,
        STATE,
        "ACCOUNT_NOT_ACTIVE",
        "not active",
    ),
    "a till that is no number": Refused(
        "Balance.DebitBalance",
        "cardsapi",
        _till_by_name,
        INVALID,
        "REQUEST_INVALID",
        "sale.point_of_sale_id",
    ),
    "a debit without a device": Refused(
        "Balance.DebitBalance",
        "cardsapi",
        _without("sale.device_id"),
        INVALID,
        "FIELD_REQUIRED_BY_PROVIDER",
        "sale.device_id",
    ),
    "a redemption without its value": Refused(
        "Points.RedeemPoints",
        "loyalife",
        _without("money_value"),
        INVALID,
        "FIELD_REQUIRED_BY_PROVIDER",
        "money_value",
    ),
    "a redemption of a kind that nobody has": Refused(
        "Points.RedeemPoints",
        "loyalife",
        _unheard_of_kind,
        INVALID,
        "REQUEST_INVALID",
        "redemption_kind",
    ),
    "points that rules do not make": Refused(
        "Points.EarnPoints",
        "loyalife",
        _points,
        INVALID,
        "FIELD_REQUIRED_BY_PROVIDER",
        "purchase",
    ),
    "a member without a number": Refused(
        "Wallets.CreateWallet",
        "loyalife",
        _without("account_id"),
        INVALID,
        "FIELD_REQUIRED_BY_PROVIDER",
        "account_id",
    ),
    "a member without an address": Refused(
        "Wallets.CreateWallet",
        "loyalife",
        _without("profile.email"),
        INVALID,
        "FIELD_REQUIRED_BY_PROVIDER",
        "email",
    ),
    "a link of a kind that nobody has": Refused(
        "Wallets.LinkAccount",
        "loyalife",
        _unheard_of_link,
        INVALID,
        "REQUEST_INVALID",
        "device",
    ),
    "a purchase where points are numbers": Refused(
        "Points.EarnPoints",
        "openloyaltypay",
        _purchase,
        INVALID,
        "FIELD_REQUIRED_BY_PROVIDER",
        "points",
    ),
    "a customer with a field that nobody has": Refused(
        "Gift.ActivateGiftCard",
        "openloyaltypay",
        _unheard_of_attribute,
        INVALID,
        "REQUEST_INVALID",
        "attributes",
    ),
    "a new card with another number than signed up": Refused(
        "Wallets.CreateWallet",
        "cashassist",
        _phone_of_a_new_card,
        INVALID,
        "REQUEST_INVALID",
        "phone",
    ),
    "a new card without a proof": Refused(
        "Wallets.CreateWallet",
        "cashassist",
        _without("proof_token"),
        INVALID,
        "FIELD_REQUIRED_BY_PROVIDER",
        "proof_token",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_a_vendor_cannot_take_is_refused_before_it_has_an_effect(
    house: House, what: str
) -> None:
    refused = REFUSED[what]
    vendor = house.vendors[refused.connection]
    request: Any = await ask(house, (refused.rpc, refused.connection))
    refused.spoil(request)
    before = vendor.books
    vendor.recorder.seen.clear()

    reply = await house.call(request)

    assert (reply.code, reply.reason) == (refused.code, refused.reason), str(reply)
    assert refused.word in reply.message, reply.message
    assert vendor.books == before
    assert {it.method for it in vendor.recorder.seen} <= {"GET"}, "only looked"
    if refused.reason == "FIELD_REQUIRED_BY_PROVIDER":
        assert _detail(reply, error_details_pb2.BadRequest).field_violations[0].field
    # Whatever was said: a repaired request is another request.
    booking = await house.caller.get(request.request_id)
    assert booking is None or booking.final


async def test_what_is_only_checked_is_neither_sent_nor_written(house: House) -> None:
    for connection in CONNECTIONS:
        vendor = house.vendors[connection]
        request: Any = await ask(house, (BOOKING_OF[connection], connection))
        request.options.CopyFrom(types_pb2.BookingOptions(validate_only=True))
        before = vendor.books

        reply = await house.call(request)

        assert reply.is_ok, str(reply)
        assert reply.booking.name == "" and reply.booking.state == 0
        assert vendor.books == before
        assert await house.caller.get(request.request_id) is None


async def test_a_doubt_is_undone_only_where_there_is_an_undo(house: House) -> None:
    options = types_pb2.BookingOptions(in_doubt_policy=types_pb2.IN_DOUBT_POLICY_AUTO_REVERSE)
    for rpc, connection, can_be_undone in (
        ("Balance.DebitBalance", "cashassist", False),
        ("Balance.DebitBalance", "cardsapi", False),
        ("Points.RedeemPoints", "openloyaltypay", False),
        ("Points.RedeemPoints", "loyalife", True),
        ("Gift.PayWithGiftCard", "openloyaltypay", True),
    ):
        request: Any = await ask(house, (rpc, connection))
        request.options.CopyFrom(options)

        reply = await house.call(request)

        assert reply.is_ok is can_be_undone, str(reply)
        if not can_be_undone:
            assert reply.reason == "CAPABILITY_NOT_SUPPORTED"
            assert house.vendors[connection].recorder.seen == []


async def test_a_request_id_means_one_request_at_one_vendor(house: House) -> None:
    request_id = new_request_id()
    first: Any = await ask(house, ("Gift.PayWithGiftCard", "openloyaltypay"))
    first.request_id = request_id
    assert (await house.call(first)).is_ok
    other = gift_pb2.TopUpGiftCardRequest(
        account=first.account, amount=first.amount, request_id=request_id
    )
    house.vendors["openloyaltypay"].recorder.seen.clear()

    reply = await house.call(other)

    assert (reply.code, reply.reason) == (STATE, "REQUEST_ID_REUSED")
    assert house.vendors["openloyaltypay"].recorder.seen == []
