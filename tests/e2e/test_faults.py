"""Every fault of the played vendor, on every kind of booking: the truth in the end, one effect."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest

from loyalty.v1 import balance_pb2, bookings_pb2, cards_pb2, types_pb2
from loyalty_gateway.sandbox.faults import FAULTS, Fault
from tests.e2e.caller import BOOKINGS, Reply, chf, debit, learn, redeem, top_up
from tests.e2e.conftest import open_house
from tests.e2e.house import House
from tests.e2e.truth import assert_booked_once, assert_not_booked, effects_of
from tests.e2e.wanted import BookingRequest

FIRST_CALL_S = 3.0
# The first step of recovery comes after the first caller's deadline, so that it is seen in doubt;
# a slow vendor is slower than an attempt may be, and that is slower than any answer in a hurry.
SETTINGS = {
    "RECOVERY__SCHEDULE_S": "[7, 7, 7, 7]",
    "RECOVERY__THEN_EVERY_S": "7",
    "PROVIDER__ATTEMPT_TOTAL_S": "1.5",
    "PROVIDER__CONNECT_S": "1.0",
}
SLOW_S = "3.5"
APART_S = 0.25
# What an answer must have left of the deadline when it arrives on a machine with nothing to do.
ON_ITS_WAY_S = 0.05
ORDINARY_CARD = "10480"
UNKNOWN, NOT_EXECUTED = types_pb2.OUTCOME_UNKNOWN, types_pb2.OUTCOME_NOT_EXECUTED


@dataclass(frozen=True, slots=True)
class Seen:
    """What the first attempt looked like from the gateway: status and code of the vendor."""

    http_status: int
    provider_code: str = ""
    fate: types_pb2.Outcome.ValueType = UNKNOWN


SEEN = {
    "lost-before": Seen(0),
    "lost-after": Seen(0),
    "slow-before": Seen(0),
    "slow-after": Seen(0),
    "500-before": Seen(500, "internal_error"),
    "500-after": Seen(500, "internal_error"),
    "503-after": Seen(503),
    "garbage-before": Seen(200),
    "garbage-after": Seen(200),
    "truncated-after": Seen(0),
    "429": Seen(429, "rate_limited", NOT_EXECUTED),
}
assert set(SEEN) == {fault.name for fault in FAULTS}, (
    "every fault is expected to look like something"
)

# PROVIDER_UNREACHABLE is said only where no request left, which none of these can claim.
READ_REASONS = {
    "lost": "PROVIDER_INTERNAL",
    "slow": "PROVIDER_INTERNAL",
    "500": "PROVIDER_INTERNAL",
    "page": "PROVIDER_INTERNAL",
    "garbage": "PROVIDER_ANSWER_UNREADABLE",
    "truncated": "PROVIDER_ANSWER_UNREADABLE",
    "429": "PROVIDER_RATE_LIMITED",
}


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A house in which an attempt ends soon and recovery does not begin before the caller left."""
    folder = tmp_path_factory.mktemp("e2e") / "house"
    options = ["--slow-s", SLOW_S]
    async with open_house(folder, settings=SETTINGS, player_options=options) as house:
        yield house


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_ends_in_one_effect_however_it_was_wished_for(
    house: House, fault: Fault
) -> None:
    by_card = [(make(13, fault.card), "") for make in BOOKINGS.values()]
    by_header = [(make(17, ORDINARY_CARD), fault.name) for make in BOOKINGS.values()]

    told = await asyncio.gather(
        *(
            meet(house, fault, request, header, timeout_s=FIRST_CALL_S + number * APART_S)
            for number, (request, header) in enumerate(by_card + by_header)
        )
    )

    # A busy machine may lose an answer that leaves just before its deadline, but not all.
    assert sum(told) >= 2


async def meet(
    house: House, fault: Fault, request: BookingRequest, header: str, *, timeout_s: float
) -> bool:
    """One booking's way through a fault to its end; whether the doubt was told in time."""
    first = await house.caller.call(request, timeout_s=timeout_s, fault=header)
    is_told = bool(first.reason)
    if fault.kind == "429":
        await assert_told_to_wait(house, request, first)
    elif is_told:
        assert_told_of_doubt(first)
        if fault.kind != "slow":
            assert len(await effects_of(house, request)) == int(fault.has_effect)

    last = await learn(house.caller, request)

    assert last.is_ok, str(last)
    booking = await assert_booked_once(house, request, last)
    await assert_fault_fired_once(house, fault, request)
    await assert_explained(house, fault, request, booking)
    return is_told


def assert_told_of_doubt(reply: Reply) -> None:
    """Design 6: not known, not final, and worth repeating after a while."""
    assert reply.code is grpc.StatusCode.DEADLINE_EXCEEDED, str(reply)
    assert reply.reason == "BOOKING_IN_DOUBT", str(reply)
    assert (reply.outcome, reply.is_final) == ("UNKNOWN", False)
    assert reply.retry_delay_s is not None and reply.retry_delay_s > 0
    assert int(reply.trailers["grpc-retry-pushback-ms"]) > 0
    assert reply.info.metadata["booking"] == reply.trailers["loyalty-booking"]


async def assert_told_to_wait(house: House, request: BookingRequest, reply: Reply) -> None:
    """A rate limit is proof that nothing was booked; its Retry-After is handed on."""
    assert (reply.code, reply.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "PROVIDER_RATE_LIMITED",
    )
    assert (reply.outcome, reply.is_final) == ("NOT_EXECUTED", False)
    assert reply.info.metadata["provider_code"] == "rate_limited"
    assert reply.retry_delay_s in (1.0, 2.0)
    assert reply.trailers["grpc-retry-pushback-ms"] == str(round(reply.retry_delay_s * 1000))
    await assert_not_booked(house, request)
    booking = await house.caller.get(request.request_id)
    assert booking is not None
    assert booking.state == types_pb2.BOOKING_STATE_RESERVED
    assert not booking.final


async def assert_fault_fired_once(house: House, fault: Fault, request: BookingRequest) -> None:
    [effect] = await effects_of(house, request)
    exchanges = await house.vendor.exchanges(effect.idempotency_key)
    assert [exchange.fault for exchange in exchanges][:1] == [fault.name]
    assert all(exchange.fault is None for exchange in exchanges[1:]), "recovery carries no fault"
    assert len(exchanges) >= 2


async def assert_explained(
    house: House, fault: Fault, request: BookingRequest, booking: types_pb2.Booking
) -> None:
    story = await house.caller.explain(request.request_id)
    attempts = [step.attempt for step in story.steps if step.HasField("attempt")]
    first, last, seen = attempts[0], attempts[-1], SEEN[fault.name]
    assert (first.http_status, first.provider_code, first.fate) == (
        seen.http_status,
        seen.provider_code,
        seen.fate,
    )
    assert (last.http_status, last.fate) == (200, types_pb2.OUTCOME_EXECUTED)
    is_repeat_of_callers = fault.kind == "429"
    assert last.kind == (
        bookings_pb2.ATTEMPT_KIND_SEND if is_repeat_of_callers else bookings_pb2.ATTEMPT_KIND_RESEND
    )
    assert len(attempts) == booking.attempt_count


async def test_a_caller_with_time_hears_the_truth_at_once(house: House) -> None:
    request = redeem(21, "20002")

    reply = await house.caller.call(request, timeout_s=15.0)

    assert reply.is_ok, str(reply)
    await assert_booked_once(house, request, reply)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_of_a_read_has_its_code_and_says_nothing_of_effects(
    house: House, fault: Fault
) -> None:
    account = types_pb2.AccountRef(connection="cashassist", id=ORDINARY_CARD)
    reads = [
        balance_pb2.GetBalanceRequest(account=account),
        cards_pb2.GetCardRequest(account=account),
        cards_pb2.ListTransactionsRequest(account=account),
    ]

    replies = await asyncio.gather(
        *(house.caller.call(read, fault=fault.name, timeout_s=30.0) for read in reads)
    )

    code = (
        grpc.StatusCode.RESOURCE_EXHAUSTED if fault.kind == "429" else grpc.StatusCode.UNAVAILABLE
    )
    for reply in replies:
        assert (reply.code, reply.reason) == (code, READ_REASONS[fault.kind])
        assert reply.outcome == ""
        assert reply.retry_delay_s is not None
    for read in reads:
        assert (await house.caller.call(read)).is_ok


# On the wire a deadline is rounded up, from ten seconds on by as much as a tenth of a second, so
# that the server believes in more time than there is.
@pytest.mark.parametrize("deadline_s", [1.0, 10.03])
async def test_a_doubt_is_told_before_the_deadline_however_long_that_is(
    house: House, deadline_s: float
) -> None:
    # A refusal after a doubt proves nothing for a while, so this one stays in doubt.
    request = debit(5, "10491")
    await house.caller.call(request, timeout_s=FIRST_CALL_S, fault="500-before")

    async def timed() -> tuple[float, Reply]:
        began = time.monotonic()
        reply = await house.caller.call(request, timeout_s=deadline_s)
        return time.monotonic() - began, reply

    calls: list[asyncio.Task[tuple[float, Reply]]] = []
    for _ in range(5):
        calls.append(asyncio.create_task(timed()))
        # One after the other: a crowd is sent late, and then there is less to round up.
        await asyncio.wait(calls, timeout=0.5)
    replies = await asyncio.gather(*calls)

    # A machine that is busy for a moment may cost a single answer its way, but not all of them.
    told = [reply for _, reply in replies if reply.reason]
    assert len(told) >= 3, f"{5 - len(told)} of 5 calls ended with the library's own error"
    soonest_s = min(seconds for seconds, _ in replies)
    assert soonest_s <= deadline_s - ON_ITS_WAY_S, f"answered after {soonest_s:.3f} s"
    for reply in told:
        assert_told_of_doubt(reply)
    await assert_not_booked(house, request)


REFUSALS: dict[str, tuple[BookingRequest, str, str]] = {
    "empty card": (debit(1, "10491"), "INSUFFICIENT_BALANCE", "insufficient_balance"),
    "no points": (redeem(2, "10485"), "INSUFFICIENT_BALANCE", "insufficient_points"),
    "blocked card": (top_up(1, "10490"), "ACCOUNT_NOT_ACTIVE", "card_blocked"),
    "unknown card": (top_up(1, "10499"), "ACCOUNT_NOT_FOUND", "card_not_found"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_is_final_and_named_and_has_no_effect(house: House, name: str) -> None:
    request, reason, provider_code = REFUSALS[name]

    first = await house.caller.call(request)
    again = await house.caller.call(request)

    code = (
        grpc.StatusCode.NOT_FOUND
        if reason == "ACCOUNT_NOT_FOUND"
        else grpc.StatusCode.FAILED_PRECONDITION
    )
    for reply in (first, again):
        assert (reply.code, reply.reason) == (code, reason)
        assert (reply.outcome, reply.is_final) == ("NOT_EXECUTED", True)
        assert reply.info.metadata["provider_code"] == provider_code
        assert reply.retry_delay_s is None
        assert "grpc-retry-pushback-ms" not in reply.trailers
    assert again.status_bytes == first.status_bytes
    booking = await house.caller.get(request.request_id)
    assert booking is not None
    assert booking.state == types_pb2.BOOKING_STATE_DECLINED
    await assert_not_booked(house, request)


@pytest.mark.parametrize("method", BOOKINGS)
async def test_a_vendor_that_cannot_be_reached_is_no_doubt(house: House, method: str) -> None:
    request = BOOKINGS[method](60, connection="cashassist-down")

    for _ in range(2):
        reply = await house.caller.call(request)
        assert (reply.code, reply.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "PROVIDER_UNREACHABLE",
        )
        assert (reply.outcome, reply.is_final) == ("NOT_EXECUTED", False)
        assert reply.retry_delay_s is not None and reply.retry_delay_s > 0
        assert reply.trailers["grpc-retry-pushback-ms"] == str(round(reply.retry_delay_s * 1000))
        booking = await house.caller.get(request.request_id)
        assert booking is not None
        assert booking.state == types_pb2.BOOKING_STATE_RESERVED
        assert booking.outcome == NOT_EXECUTED

    closed = await house.caller.cancel(request.request_id)
    assert closed.is_ok
    assert closed.booking.final
    late = await house.caller.call(request)
    assert (late.code, late.reason) == (grpc.StatusCode.ABORTED, "BOOKING_NOT_EXECUTED")
    assert (late.outcome, late.is_final) == ("NOT_EXECUTED", True)
    await assert_not_booked(house, request)


async def test_a_booking_cancelled_before_it_arrives_never_happens(house: House) -> None:
    request = top_up(70)

    tombstone = await house.caller.cancel(request.request_id)
    late = await house.caller.call(request)

    assert tombstone.booking.state == types_pb2.BOOKING_STATE_NOT_EXECUTED
    assert (late.code, late.reason) == (grpc.StatusCode.ABORTED, "CANCELLED_BEFORE_ARRIVAL")
    assert (late.outcome, late.is_final) == ("NOT_EXECUTED", True)
    await assert_not_booked(house, request)


async def test_cancelling_what_the_vendor_cannot_undo_tells_the_true_outcome(house: House) -> None:
    done, doubtful = top_up(80), top_up(81, "20002")
    reply = await house.caller.call(done)
    await house.caller.call(doubtful, timeout_s=FIRST_CALL_S)

    refusals = [await house.caller.cancel(request.request_id) for request in (done, doubtful)]

    assert {(refusal.code, refusal.reason) for refusal in refusals} == {
        (grpc.StatusCode.FAILED_PRECONDITION, "CANCEL_NOT_POSSIBLE")
    }
    assert [(refusal.outcome, refusal.is_final) for refusal in refusals] == [
        ("EXECUTED", True),
        ("UNKNOWN", False),
    ]
    await assert_booked_once(house, done, reply)
    await assert_booked_once(house, doubtful, await learn(house.caller, doubtful))


async def test_validate_only_sends_and_keeps_nothing(house: House) -> None:
    request = debit(15)
    request.options.validate_only = True
    before = await house.vendor.balances()

    reply = await house.caller.call(request)

    assert reply.is_ok
    assert reply.booking.name == ""
    assert reply.booking.asked.money == chf(15)
    assert await house.caller.get(request.request_id) is None
    assert await house.vendor.balances() == before
