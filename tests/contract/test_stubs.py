"""The stubs as a caller meets them: what they import, and how a booking is made with them."""

import ast
import json
import re
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from loyalty.v1 import bookings_pb2, bookings_pb2_grpc, points_pb2, points_pb2_grpc, types_pb2

GENERATED = Path(__file__).resolve().parents[2] / "generated"
# The distribution that brings each imported package.
BROUGHT_BY = {
    "google.api": "googleapis-common-protos",
    "google.protobuf": "protobuf",
    "google.rpc": "googleapis-common-protos",
    "google.type": "googleapis-common-protos",
    "grpc": "grpcio",
}
REQUEST_ID = "till-7-000123"


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_distribution_declares_what_its_modules_import() -> None:
    project = tomllib.loads((GENERATED / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=]", line)[0] for line in project["dependencies"]}
    needed = set()
    for path in GENERATED.rglob("*.py"):
        for name in imports_of(path):
            top, _, rest = name.partition(".")
            if top not in {*sys.stdlib_module_names, "loyalty", "buf"}:
                package = f"{top}.{rest.partition('.')[0]}" if top == "google" else top
                needed.add(BROUGHT_BY[package])
    assert needed == declared


def test_the_retry_rules_name_every_service_and_repeat_unavailable_only() -> None:
    config = json.loads((GENERATED / "loyalty/v1/service_config.json").read_text())
    _, rules = config["methodConfig"]
    services = ("Cards", "Wallets", "Balance", "Points", "Gift", "Bookings", "Providers")
    assert {name["service"] for name in rules["name"]} == {
        f"loyalty.v1.{name}" for name in services
    }
    assert rules["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert rules["retryPolicy"]["maxAttempts"] == 3
    assert config["retryThrottling"] == {"maxTokens": 10, "tokenRatio": 0.1}


def test_what_sends_or_checks_a_code_is_never_repeated() -> None:
    config = json.loads((GENERATED / "loyalty/v1/service_config.json").read_text())
    challenges, _ = config["methodConfig"]
    assert challenges.keys() == {"name"}
    assert {f"{name['service']}/{name['method']}" for name in challenges["name"]} == {
        "loyalty.v1.Cards/VerifyCardOwnership",
        "loyalty.v1.Wallets/CreateChallenge",
        "loyalty.v1.Wallets/VerifyChallenge",
        "loyalty.v1.Wallets/VerifyCredentials",
    }


class Gateway(points_pb2_grpc.PointsServicer, bookings_pb2_grpc.BookingsServicer):
    """Answers RedeemPoints with the errors it was given, in turn, and then with success."""

    def __init__(self) -> None:
        self.errors: list[tuple[grpc.StatusCode, dict[str, str]]] = []
        self.retry_s = 0.0
        self.seen: list[str] = []

    async def RedeemPoints(self, request: Any, context: Any) -> points_pb2.RedeemPointsResponse:
        self.seen.append(request.request_id)
        if self.errors:
            code, metadata = self.errors.pop(0)
            info = error_details_pb2.ErrorInfo(
                reason="ANY", domain="loyalty-gateway", metadata=metadata
            )
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMicroseconds(int(self.retry_s * 1_000_000))
            told = [any_pb2.Any(), any_pb2.Any()]
            told[0].Pack(retry)
            told[1].Pack(info)
            status = status_pb2.Status(code=code.value[0], message="no", details=told)
            details = (("grpc-status-details-bin", status.SerializeToString()),)
            await context.abort(code, "no", details)
        booking = types_pb2.Booking(
            request_id=request.request_id, state=types_pb2.BOOKING_STATE_SUCCEEDED
        )
        return points_pb2.RedeemPointsResponse(booking=booking)

    async def CancelBooking(self, request: Any, context: Any) -> bookings_pb2.CancelBookingResponse:
        booking = types_pb2.Booking(
            request_id=request.request_id, state=types_pb2.BOOKING_STATE_NOT_EXECUTED
        )
        return bookings_pb2.CancelBookingResponse(booking=booking)


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[Gateway, str]]:
    server = grpc.aio.server()
    servicer = Gateway()
    points_pb2_grpc.add_PointsServicer_to_server(servicer, server)
    bookings_pb2_grpc.add_BookingsServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


Redeem = Callable[[str, str, int, str, float], Awaitable[types_pb2.Booking]]


@pytest.fixture(scope="module")
def redeem() -> Redeem:
    """The function that the stubs' README shows."""
    (code,) = re.findall(r"```python\n(.*?)```", (GENERATED / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    return cast(Redeem, names["redeem"])


async def test_the_caller_of_the_readme_repeats_a_booking_in_doubt(
    gateway: tuple[Gateway, str], redeem: Redeem
) -> None:
    servicer, target = gateway
    doubt = {"outcome": "UNKNOWN", "final": "false"}
    servicer.errors = [(grpc.StatusCode.DEADLINE_EXCEEDED, doubt)] * 2
    booking = await redeem(target, "10472", 100, REQUEST_ID, 0.001)
    assert booking.state == types_pb2.BOOKING_STATE_SUCCEEDED
    assert servicer.seen == [REQUEST_ID] * 3


async def test_the_caller_of_the_readme_believes_a_final_refusal(
    gateway: tuple[Gateway, str], redeem: Redeem
) -> None:
    servicer, target = gateway
    refusal = {"outcome": "NOT_EXECUTED", "final": "true"}
    servicer.errors = [(grpc.StatusCode.FAILED_PRECONDITION, refusal)]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await redeem(target, "10472", 100, REQUEST_ID, 0.001)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert servicer.seen == [REQUEST_ID]


async def test_the_caller_of_the_readme_cancels_when_the_doubt_stays(
    gateway: tuple[Gateway, str], redeem: Redeem
) -> None:
    servicer, target = gateway
    doubt = {"outcome": "UNKNOWN", "final": "false"}
    servicer.errors = [(grpc.StatusCode.DEADLINE_EXCEEDED, doubt)] * 5
    booking = await redeem(target, "10472", 100, REQUEST_ID, 0.001)
    assert booking.state == types_pb2.BOOKING_STATE_NOT_EXECUTED


async def test_the_caller_of_the_readme_waits_as_long_as_it_is_told(
    gateway: tuple[Gateway, str], redeem: Redeem
) -> None:
    servicer, target = gateway
    refused = {"outcome": "NOT_EXECUTED", "final": "false"}
    servicer.errors, servicer.retry_s = [(grpc.StatusCode.RESOURCE_EXHAUSTED, refused)], 0.3
    began_s = time.monotonic()
    booking = await redeem(target, "10472", 100, REQUEST_ID, 0.001)
    assert booking.state == types_pb2.BOOKING_STATE_SUCCEEDED
    assert time.monotonic() - began_s >= 0.3


async def test_a_channel_with_the_retry_rules_repeats_unavailable_by_itself(
    gateway: tuple[Gateway, str],
) -> None:
    servicer, target = gateway
    servicer.errors = [(grpc.StatusCode.UNAVAILABLE, {})] * 2
    rules = (GENERATED / "loyalty/v1/service_config.json").read_text()
    async with grpc.aio.insecure_channel(target, [("grpc.service_config", rules)]) as channel:
        request = points_pb2.RedeemPointsRequest(request_id=REQUEST_ID)
        answer = await points_pb2_grpc.PointsStub(channel).RedeemPoints(request, timeout=10)
    assert answer.booking.state == types_pb2.BOOKING_STATE_SUCCEEDED
    assert servicer.seen == [REQUEST_ID] * 3
