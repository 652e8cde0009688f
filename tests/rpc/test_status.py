"""Every reason through the wire: its code, its details, its trailers."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from loyalty.v1 import balance_pb2, errors_pb2, types_pb2
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason, Violation
from loyalty_gateway.rpc.status import CODES, STATUS_BYTES_MAX, encode_status, wire_status
from tests.rpc.conftest import Door
from tests.rpc.fakes import redeem

REDEEM = "Points/RedeemPoints"


def test_every_reason_has_a_code_and_every_code_a_reason() -> None:
    assert set(CODES) == set(Reason)


def test_the_contract_and_the_domain_know_the_same_reasons() -> None:
    in_contract = {
        name.removeprefix("ERROR_REASON_")
        for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name
        if name != "ERROR_REASON_UNSPECIFIED"
    }
    assert in_contract == {reason.value for reason in Reason}


@pytest.mark.parametrize("reason", Reason)
async def test_a_reason_arrives_with_its_code_and_its_facts(door: Door, reason: Reason) -> None:
    door.engine.fails(
        LoyaltyError(
            reason,
            "What happened, and what to do next.",
            fate=Fate.UNKNOWN,
            booking="bookings/0192f5a0-0000-7000-8000-000000000001",
            request_id="till-7-000123",
            connection="cashassist",
            provider="cashassist",
            provider_code="CA-1",
            field="amount",
        )
    )

    reply = await door.wire.call(REDEEM, redeem())

    assert reply.code is CODES[reason]
    assert reply.text == "What happened, and what to do next."
    assert reply.status is not None
    assert reply.status.code == reply.code.value[0]
    assert reply.info.reason == reason.value
    assert reply.info.domain == "loyalty-gateway"
    assert dict(reply.info.metadata) == {
        "outcome": "UNKNOWN",
        "final": "false",
        "booking": "bookings/0192f5a0-0000-7000-8000-000000000001",
        "request_id": "till-7-000123",
        "connection": "cashassist",
        "provider": "cashassist",
        "provider_code": "CA-1",
        "field": "amount",
    }
    assert reply.trailers["loyalty-booking"] == "bookings/0192f5a0-0000-7000-8000-000000000001"
    is_absent = reply.code is grpc.StatusCode.NOT_FOUND
    assert (reply.detail(error_details_pb2.ResourceInfo) is not None) == is_absent
    is_poor = reason is Reason.INSUFFICIENT_BALANCE
    assert (reply.detail(error_details_pb2.PreconditionFailure) is not None) == is_poor
    assert reply.detail(error_details_pb2.RetryInfo) is None
    assert "grpc-retry-pushback-ms" not in reply.trailers


async def test_an_error_before_the_journal_was_asked_has_no_outcome_and_is_not_final(
    door: Door,
) -> None:
    door.engine.fails(LoyaltyError(Reason.OVERLOADED, "Too many calls."))
    reply = await door.wire.call(REDEEM, redeem())
    assert dict(reply.info.metadata) == {}


async def test_a_booking_worth_repeating_says_when_in_both_ways(door: Door) -> None:
    door.engine.fails(LoyaltyError(Reason.BOOKING_IN_DOUBT, "Wait.", retry_after_s=1.25))
    reply = await door.wire.call(REDEEM, redeem())
    delay = reply.detail(error_details_pb2.RetryInfo).retry_delay
    assert (delay.seconds, delay.nanos) == (1, 250_000_000)
    assert reply.trailers["grpc-retry-pushback-ms"] == "1250"


async def test_a_read_worth_repeating_leaves_the_pushback_to_the_library(door: Door) -> None:
    door.engine.fails(LoyaltyError(Reason.PROVIDER_RATE_LIMITED, "Slower.", retry_after_s=3))
    request = balance_pb2.GetBalanceRequest(
        account=types_pb2.AccountRef(connection="cashassist", id="10472")
    )
    reply = await door.wire.call("Balance/GetBalance", request)
    assert reply.detail(error_details_pb2.RetryInfo).retry_delay.seconds == 3
    assert "grpc-retry-pushback-ms" not in reply.trailers


async def test_a_booking_for_a_person_stops_the_libraries_retries(door: Door) -> None:
    door.engine.fails(
        LoyaltyError(Reason.BOOKING_NEEDS_REVIEW, "A person decides.", is_retry_forbidden=True)
    )
    reply = await door.wire.call(REDEEM, redeem())
    assert reply.trailers["grpc-retry-pushback-ms"] == "-1"
    assert reply.detail(error_details_pb2.RetryInfo) is None


async def test_a_stored_refusal_is_repeated_to_the_letter(door: Door) -> None:
    first = LoyaltyError(
        Reason.INSUFFICIENT_BALANCE, "Too few points.", fate=Fate.NOT_EXECUTED, is_final=True
    )
    # Bytes that today's encoder would not write: what was stored counts.
    stored = encode_status(first) + b"\xf8\x07\x01"
    again = LoyaltyError(Reason.INTERNAL, "unused", status_bytes=stored, is_replayed=True)
    door.engine.fails(again)

    reply = await door.wire.call(REDEEM, redeem())

    assert reply.code is grpc.StatusCode.FAILED_PRECONDITION
    assert reply.text == "Too few points."
    assert reply.trailers["grpc-status-details-bin"] == stored
    assert reply.trailers["loyalty-replayed"] == "true"
    assert reply.info.metadata["final"] == "true"


async def test_a_stored_refusal_that_is_damaged_is_data_loss(door: Door) -> None:
    door.engine.fails(LoyaltyError(Reason.INTERNAL, "unused", status_bytes=b"\x0a\xff"))
    reply = await door.wire.call(REDEEM, redeem())
    assert reply.code is grpc.StatusCode.DATA_LOSS
    assert reply.info.reason == "DATA_LOSS"


@pytest.mark.parametrize("count", [1, 30, 5_000])
async def test_any_number_of_violations_fits_into_the_trailers(door: Door, count: int) -> None:
    violations = tuple(Violation(f"sale.field_{n}", "must not be so") for n in range(count))
    door.engine.fails(LoyaltyError(Reason.REQUEST_INVALID, "x" * 10_000, violations=violations))

    reply = await door.wire.call(REDEEM, redeem())

    assert reply.code is grpc.StatusCode.INVALID_ARGUMENT
    size = len(reply.trailers["grpc-status-details-bin"])
    assert size <= STATUS_BYTES_MAX
    shown = reply.detail(error_details_pb2.BadRequest).field_violations
    left_out = count - len(shown)
    if left_out:
        assert shown[-1].description == f"and {left_out + 1} more violations"
    else:
        assert len(shown) == count


async def test_a_message_leaves_as_one_line(door: Door) -> None:
    door.engine.fails(LoyaltyError(Reason.REQUEST_INVALID, "one\r\ntwo\tthree\u2028four é"))
    assert (await door.wire.call(REDEEM, redeem())).text == "one two three four é"


def test_the_same_error_gives_the_same_bytes() -> None:
    def make() -> bytes:
        facts: dict[str, Any] = {"booking": "bookings/x", "connection": "c", "provider": "p"}
        return encode_status(
            LoyaltyError(Reason.PROVIDER_DECLINED, "No.", fate=Fate.UNKNOWN, **facts)
        )

    assert len({make() for _ in range(20)}) == 1
    assert status_pb2.Status.FromString(make()).code == 9


def test_what_the_vendor_calls_itself_cannot_flood_the_trailers() -> None:
    error = LoyaltyError(Reason.PROVIDER_DECLINED, "No.", provider_code="x" * 100_000)
    assert len(wire_status(error).status_bytes) < STATUS_BYTES_MAX
