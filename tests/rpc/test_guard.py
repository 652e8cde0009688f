"""What reaches the booking room and what does not; nothing a caller sends shows our inside."""

import asyncio
import random
import time
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from loyalty.v1 import balance_pb2, bookings_pb2, points_pb2, types_pb2
from loyalty_gateway.booking.calls import AccountKey, BookingCall, BookingKey
from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.booking import Answer
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.domain.operations import InDoubtPolicy, Operation, Sale
from loyalty_gateway.rpc.catalog import join_catalog
from tests.rpc.conftest import Door
from tests.rpc.fakes import CARD, Reply, redeem, top_up

INVALID = grpc.StatusCode.INVALID_ARGUMENT
REDEEM = "Points/RedeemPoints"
TOP_UP = "Balance/TopUpBalance"
GET = "Balance/GetBalance"
ALL_METHODS = [rpc.name.removeprefix("loyalty.v1.") for rpc in join_catalog()]


async def test_a_booking_reaches_the_engine_with_everything_that_was_asked(door: Door) -> None:
    request = redeem(
        account=types_pb2.AccountRef(connection="connections/cashassist", id=CARD),
        money_value={"currency_code": "CHF", "units": 1, "nanos": 50_000_000},
        redemption_kind="VOUCHER",
        sale=types_pb2.Sale(order_id="A-1", cashier_id="9"),
        options=types_pb2.BookingOptions(
            in_doubt_policy=types_pb2.IN_DOUBT_POLICY_AUTO_REVERSE, validate_only=True
        ),
    )
    before = asyncio.get_running_loop().time()
    reply = await door.wire.call(REDEEM, request, timeout=5)
    after = asyncio.get_running_loop().time()

    assert reply.code is grpc.StatusCode.OK
    (call,) = door.engine.calls
    assert isinstance(call, BookingCall)
    assert call.tenant == "default"
    assert call.operation is Operation.REDEEM_POINTS
    assert call.request_id == "till-7-000123"
    assert call.account == AccountKey("cashassist", plain_id=CARD)
    assert call.asked == Points(100)
    assert call.money_value == Money("CHF", 105)
    assert call.redemption_kind == "VOUCHER"
    assert call.sale == Sale(order_id="A-1", cashier_id="9")
    assert call.in_doubt_policy is InDoubtPolicy.AUTO_REVERSE
    assert call.validate_only
    assert call.filled_fields >= {"sale.order_id", "sale.cashier_id", "money_value"}
    assert "sale.store_id" not in call.filled_fields
    assert before + 4.0 < call.deadline < after + 4.95, "100 ms before the caller's deadline"


@pytest.mark.parametrize("method", ALL_METHODS)
async def test_bytes_that_are_no_message_are_refused_with_a_fixed_text(
    door: Door, method: str
) -> None:
    whole = top_up().SerializeToString()
    hostile = {
        "an overlong varint": b"\x08" + b"\xff" * 11,
        "a cut length": b"\x0a\x7f\x01",
        "a cut message": whole[:-3] if method == TOP_UP else b"\x0a\x05ab",
        # In the first text of the first part; a page's first text has the number 2.
        "bad UTF-8": b"\x0a\x04\x12\x02\xc3\x28"
        if method == "Providers/ListConnections"
        else b"\x0a\x04\x0a\x02\xc3\x28",
        "an open group": b"\x0b\x08\x01",
        "deep nesting": b"\x0a\xff\x01" * 200,
    }
    for name, body in hostile.items():
        reply = await door.wire.call(method, body)
        assert reply.code is INVALID, f"{name}: {reply}"
        assert reply.info.reason == "REQUEST_INVALID", name
        assert "outcome" not in reply.info.metadata, "nothing was asked of the journal"
        assert not _shows_our_inside(reply.text), reply.text
    assert door.engine.calls == []


async def test_random_bytes_never_give_an_unknown_code_or_reach_the_engine_unread(
    door: Door,
) -> None:
    chance = random.Random(7)
    good = redeem(sale=types_pb2.Sale(order_id="A-1")).SerializeToString()
    for _ in range(400):
        body = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        if chance.random() < 0.3:
            body = bytearray(chance.randbytes(chance.randint(0, 60)))
        reply = await door.wire.call(REDEEM, bytes(body))
        assert reply.code in (grpc.StatusCode.OK, INVALID), reply
        assert not _shows_our_inside(reply.text), reply.text


def _shows_our_inside(text: str) -> bool:
    return any(
        word in text.lower()
        for word in ("traceback", "error parsing", "class", ".py", "decode", "exception", "google.")
    )


@pytest.mark.parametrize("where", ["request", "account", "sale"])
async def test_a_field_unknown_to_the_contract_refuses_a_booking(door: Door, where: str) -> None:
    unknown = b"\xf8\x07\x01"  # field 127, a number
    request = redeem(sale=types_pb2.Sale(order_id="A-1"))
    part: Message = request
    if where != "request":
        part = getattr(request, where)
    part.MergeFromString(unknown)

    reply = await door.wire.call(REDEEM, request)

    assert reply.code is INVALID
    assert list(reply.violations) == [""]
    assert door.engine.calls == []


async def test_a_field_unknown_to_the_contract_does_not_stop_a_read(door: Door) -> None:
    request = balance_pb2.GetBalanceRequest(
        account=types_pb2.AccountRef(connection="cashassist", id=CARD)
    )
    request.MergeFromString(b"\xf8\x07\x01")
    assert (await door.wire.call(GET, request)).code is grpc.StatusCode.OK


async def test_all_violations_are_told_at_once_and_none_repeats_a_value(door: Door) -> None:
    request = points_pb2.RedeemPointsRequest(
        account=types_pb2.AccountRef(connection="No Such!", id="%B4111111111111111^MUSTER"),
        points=types_pb2.PointsAmount(value=-5),
        money_value={"currency_code": "XYZ", "units": 1},
        redemption_kind="k" * 41,
        sale=types_pb2.Sale(order_id="a\r\nb"),
        request_id="4111-1111-1111-1111",
    )

    reply = await door.wire.call(REDEEM, request)

    assert reply.code is INVALID
    assert set(reply.violations) == {
        "account.connection",
        "account.id",
        "points.value",
        "money_value.currency_code",
        "redemption_kind",
        "sale.order_id",
        "request_id",
    }
    told = reply.text + "".join(reply.violations.values())
    for value in ("4111", "No Such", "XYZ", "kkkk", "MUSTER", "-5"):
        assert value not in told
    assert reply.info.metadata["field"] == next(iter(reply.violations))
    assert door.engine.calls == []


@pytest.mark.parametrize(
    ("request_id", "is_accepted"),
    [
        ("4111111111111111", False),
        ("4111-1111-1111-1111", False),
        ("4111.1111.1111.1111", False),
        ("378282246310005", False),
        ("4111111111111112", True),  # does not pass Luhn
        ("order-4111111111111111", True),  # not a number as a whole
        ("0192f5a0-0000-7000-8000-000000000001", True),
    ],
)
async def test_a_request_id_that_looks_like_a_card_number_is_refused(
    door: Door, request_id: str, is_accepted: bool
) -> None:
    reply = await door.wire.call(REDEEM, redeem(request_id=request_id))
    assert (reply.code is grpc.StatusCode.OK) == is_accepted
    assert list(reply.violations) == ([] if is_accepted else ["request_id"])


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ({"currency_code": "CHF", "units": 20}, Money("CHF", 2000)),
        ({"currency_code": "CHF", "units": 0, "nanos": 10_000_000}, Money("CHF", 1)),
        ({"currency_code": "JPY", "units": 500}, Money("JPY", 500)),
        ({"currency_code": "BHD", "units": 1, "nanos": 1_000_000}, Money("BHD", 1001)),
        ({"currency_code": "CHF", "units": 1, "nanos": 1_000_000}, None),
        ({"currency_code": "JPY", "units": 1, "nanos": 500_000_000}, None),
        ({"currency_code": "BHD", "units": 1, "nanos": 100_000}, None),
        ({"currency_code": "CHF", "units": 0}, None),
        ({"currency_code": "CHF", "units": -1}, None),
        ({"currency_code": "CHF", "units": 2**63 - 1}, None),
        ({"currency_code": "CHF", "units": 1, "nanos": 10**9}, None),
        ({"currency_code": "chf", "units": 1}, None),
        ({"currency_code": "ZZZ", "units": 1}, None),
        ({"currency_code": "", "units": 1}, None),
    ],
)
async def test_money_is_exact_or_refused(
    door: Door, amount: dict[str, Any], expected: Money | None
) -> None:
    reply = await door.wire.call(TOP_UP, top_up(amount=amount))
    if expected is not None:
        assert door.engine.calls[0].asked == expected
    else:
        assert reply.code is INVALID
        assert all(field.startswith("amount") for field in reply.violations)
        assert reply.violations
        assert door.engine.calls == []


async def test_an_exception_shows_a_fixed_text_and_an_id_that_the_log_knows(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    door.engine.fails(RuntimeError("db password=hunter2 for 4111111111111111"))

    reply = await door.wire.call(REDEEM, redeem())

    assert reply.code is grpc.StatusCode.INTERNAL
    assert reply.info.reason == "INTERNAL"
    assert "outcome" not in reply.info.metadata, "no outcome means unknown to the caller"
    assert "hunter2" not in reply.text
    assert b"hunter2" not in reply.trailers["grpc-status-details-bin"]
    (line,) = caplog.records
    assert line.__dict__["error_id"] == reply.info.metadata["error_id"]


async def test_a_stray_cancellation_is_answered_and_leaves_nobody_waiting(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    door.engine.fails(asyncio.CancelledError())
    started = time.monotonic()

    reply = await door.wire.call(REDEEM, redeem(), timeout=20)

    assert reply.code is grpc.StatusCode.INTERNAL
    assert reply.info.reason == "INTERNAL"
    assert time.monotonic() - started < 10


async def test_a_call_that_its_caller_gave_up_is_given_up_inside(door: Door) -> None:
    door.engine.hangs()
    call = door.wire.begin(REDEEM, redeem().SerializeToString())
    async with asyncio.timeout(10):
        await door.engine.came.wait()
        call.cancel()
        await door.engine.gone.wait()


@pytest.mark.parametrize(
    ("client_s", "budget_s"),
    [
        pytest.param(None, 29.8, id="none is 30 s"),
        pytest.param(300.0, 59.8, id="more than 60 s is 60 s"),
        pytest.param(10.0, 9.8, id="100 ms before the caller's own"),
        pytest.param(0.9, 0.81, id="a tenth before a short one"),
    ],
)
async def test_the_engine_gets_a_deadline_before_the_callers_own(
    door: Door, client_s: float | None, budget_s: float
) -> None:
    # The first call of a line takes longer.
    await door.wire.call(REDEEM, redeem())
    before = asyncio.get_running_loop().time()
    await door.wire.call(REDEEM, redeem(), timeout=client_s)
    after = asyncio.get_running_loop().time()
    # The library tells the remaining time in steps of its own, rounded up: from ten seconds on by
    # as much as a tenth. Hence the slack.
    deadline = door.engine.calls[-1].deadline
    assert before + budget_s - 0.05 < deadline < after + budget_s + 0.15


async def test_a_read_that_is_never_answered_ends_before_the_callers_deadline(
    door: Door,
) -> None:
    door.engine.hangs()
    request = balance_pb2.GetBalanceRequest(
        account=types_pb2.AccountRef(connection="cashassist", id=CARD)
    )
    reply = await answered(door, GET, request)
    assert reply.code is grpc.StatusCode.UNAVAILABLE
    assert reply.info.reason == "PROVIDER_UNREACHABLE", "the answer arrived with its details"
    await asyncio.wait_for(door.engine.gone.wait(), 5)


async def test_a_journal_read_that_is_never_answered_ends_too(door: Door) -> None:
    door.engine.hangs()
    request = bookings_pb2.GetBookingRequest(request_id="till-7-000123")
    reply = await answered(door, "Bookings/GetBooking", request)
    assert reply.info.reason == "JOURNAL_UNAVAILABLE"


async def answered(door: Door, method: str, request: Message) -> Reply:
    """What the door says before the deadline; a busy machine may cost one answer its way."""
    for _ in range(5):
        reply = await door.wire.call(method, request, timeout=1)
        if reply.status is not None:
            return reply
    raise AssertionError("the library's own error says nothing")


async def test_a_time_out_of_the_engines_own_is_a_bug_and_not_a_late_answer(door: Door) -> None:
    door.engine.fails(TimeoutError("inner"))
    request = bookings_pb2.GetBookingRequest(request_id="till-7-000123")
    reply = await door.wire.call("Bookings/GetBooking", request)
    assert reply.info.reason == "INTERNAL"


async def test_a_replay_gives_the_stored_bytes_and_says_so(door: Door) -> None:
    # Bytes that no encoder of ours would write: an unknown field, and fields out of order.
    stored = b"\xf8\x07\x01\x0a\x02\x40\x01"
    door.engine.answers(Answer(stored, "bookings/0192f5a0-0000-7000-8000-000000000001", True))

    reply = await door.wire.call(REDEEM, redeem())

    assert reply.body == stored
    assert reply.trailers["loyalty-replayed"] == "true"
    assert reply.trailers["loyalty-booking"] == "bookings/0192f5a0-0000-7000-8000-000000000001"


async def test_a_first_answer_names_its_booking_and_is_no_replay(door: Door) -> None:
    reply = await door.wire.call(REDEEM, redeem())
    assert "loyalty-booking" in reply.trailers
    assert "loyalty-replayed" not in reply.trailers


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("shop-42", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("with space", False),
        ("4111-1111-1111-1111", False),
    ],
)
async def test_a_sane_request_id_of_the_call_is_given_back_and_others_are_replaced(
    door: Door, given: str, is_kept: bool
) -> None:
    reply = await door.wire.call(REDEEM, redeem(), metadata=(("x-request-id", given),))
    assert (reply.trailers["x-request-id"] == given) == is_kept
    assert reply.trailers["x-request-id"]


async def test_each_call_without_one_gets_a_request_id_of_its_own(door: Door) -> None:
    seen = {(await door.wire.call(REDEEM, redeem())).trailers["x-request-id"] for _ in range(5)}
    assert len(seen) == 5


async def test_a_wish_for_a_fault_is_heard_in_the_sandbox_only(
    door: Door, sandbox_door: Door
) -> None:
    wish = (("x-sandbox-fault", "lost-after"),)
    await door.wire.call(REDEEM, redeem(), metadata=wish)
    await sandbox_door.wire.call(REDEEM, redeem(), metadata=wish)
    assert door.engine.calls[0].fault == ""
    assert sandbox_door.engine.calls[0].fault == "lost-after"


async def test_too_much_metadata_is_refused_by_the_library(door: Door) -> None:
    reply = await door.wire.call(REDEEM, redeem(), metadata=(("x-long", "a" * 20_000),))
    assert reply.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert door.engine.calls == []


async def test_too_large_a_request_is_refused_by_the_library(door: Door) -> None:
    reply = await door.wire.call(REDEEM, redeem(redemption_kind="a" * 70_000))
    assert reply.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert door.engine.calls == []


async def test_an_unknown_method_is_unimplemented(door: Door) -> None:
    assert (await door.wire.call("Points/Steal", b"")).code is grpc.StatusCode.UNIMPLEMENTED


async def test_the_key_of_a_booking_is_read_from_its_name_or_its_request_id(door: Door) -> None:
    name = "bookings/0192f5a0-0000-7000-8000-000000000001"
    await door.wire.call("Bookings/CancelBooking", bookings_pb2.CancelBookingRequest(name=name))
    await door.wire.call(
        "Bookings/GetBooking", bookings_pb2.GetBookingRequest(request_id="till-7-000123")
    )
    assert door.engine.calls[0][1] == BookingKey(booking_id=name.removeprefix("bookings/"))
    assert door.engine.calls[1][1] == BookingKey(request_id="till-7-000123")


async def test_an_expected_failure_is_no_line_in_the_log(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    door.engine.fails(LoyaltyError(Reason.ACCOUNT_NOT_FOUND, "No such card."))
    await door.wire.call(REDEEM, redeem())
    assert caplog.records == []


@pytest.mark.parametrize("is_of_operators", [True, False])
async def test_the_log_tells_an_operator_once_of_what_no_caller_can_mend(
    door: Door, caplog: pytest.LogCaptureFixture, is_of_operators: bool
) -> None:
    reason = Reason.PROVIDER_CREDENTIALS_REJECTED if is_of_operators else Reason.OVERLOADED

    door.engine.fails(LoyaltyError(reason, "Not today.", connection="cashassist"))
    for _ in range(3):
        await door.wire.call(REDEEM, redeem())

    lines = [record.getMessage() for record in caplog.records]
    expected = f"was told {reason.value} of cashassist: Not today."
    assert [expected in line for line in lines] == [True] * is_of_operators
