"""What the door tells about a call, and what it never tells."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from loyalty.v1 import balance_pb2, points_pb2, types_pb2
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.rpc.catalog import join_catalog
from loyalty_gateway.telemetry.setup import Telemetry
from loyalty_gateway.telemetry.spans import booking_span
from tests.rpc.conftest import Door
from tests.rpc.fakes import redeem

METHOD = "loyalty.v1.Points/RedeemPoints"
REDEEM = "Points/RedeemPoints"
CARD_NUMBER = "4111111111111111"


@dataclass(frozen=True)
class Settings:
    """The section `telemetry`."""

    otlp_endpoint: str = ""
    trace_file: Path | None = None
    sample_ratio: float = 1.0
    log_level: str = "info"
    log_format: Literal["json", "text"] = "json"


@dataclass(frozen=True)
class Told:
    """All that telemetry let out."""

    telemetry: Telemetry
    exporter: InMemorySpanExporter
    lines: io.StringIO

    def span(self, name: str) -> ReadableSpan:
        (span,) = (it for it in self.exporter.get_finished_spans() if it.name == name)
        return span

    def everything(self) -> str:
        spans = "".join(span.to_json() for span in self.exporter.get_finished_spans())
        return spans + self.lines.getvalue() + self.telemetry.metrics_text().decode()


@pytest.fixture
async def told() -> AsyncIterator[Told]:
    exporter, lines = InMemorySpanExporter(), io.StringIO()
    telemetry = Telemetry(exporter=exporter, log_stream=lines)
    telemetry.start(Settings())
    yield Told(telemetry, exporter, lines)
    await telemetry.stop()


async def test_a_call_is_a_server_span_in_the_callers_trace(told: Told, door: Door) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await door.wire.call(REDEEM, redeem(), metadata=(("traceparent", parent),))
    span = told.span(METHOD)
    assert span.kind is SpanKind.SERVER
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert dict(span.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "rpc.response.status_code": "OK",
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_the_engines_span_is_the_calls_child(told: Told, door: Door) -> None:
    async def plan() -> None:
        with booking_span("booking", {}):
            raise LoyaltyError(Reason.DRAINING, "The server stops.")

    door.engine.plan = plan
    await door.wire.call(REDEEM, redeem())
    assert told.span("booking").parent == told.span(METHOD).context


@pytest.mark.parametrize(
    ("reason", "code", "is_error"),
    [
        (Reason.BOOKING_IN_DOUBT, "DEADLINE_EXCEEDED", True),
        (Reason.PROVIDER_UNREACHABLE, "UNAVAILABLE", True),
        (Reason.CAPABILITY_NOT_SUPPORTED, "UNIMPLEMENTED", True),
        (Reason.INSUFFICIENT_BALANCE, "FAILED_PRECONDITION", False),
        (Reason.ACCOUNT_NOT_FOUND, "NOT_FOUND", False),
    ],
)
async def test_a_failure_tells_its_code_and_whether_it_is_the_servers_trouble(
    told: Told, door: Door, reason: Reason, code: str, is_error: bool
) -> None:
    door.engine.fails(LoyaltyError(reason, "Why.", fate=Fate.UNKNOWN, booking="bookings/x"))
    await door.wire.call(REDEEM, redeem())
    span = told.span(METHOD)
    attributes = dict(span.attributes or {})
    assert attributes["rpc.response.status_code"] == code
    assert attributes["loyalty.reason"] == reason.value
    assert attributes["loyalty.outcome"] == "UNKNOWN"
    assert attributes["loyalty.booking"] == "bookings/x"
    assert (span.status.status_code is StatusCode.ERROR) == is_error
    assert (attributes.get("error.type") == code) == is_error
    counted = f'loyalty_rpc_duration_seconds_count{{code="{code}",method="{METHOD}"}} 1.0'
    assert counted in told.telemetry.metrics_text().decode()


async def test_a_bug_is_one_line_with_its_ids_and_a_span_that_failed(
    told: Told, door: Door
) -> None:
    door.engine.fails(RuntimeError("db password=hunter2"))
    reply = await door.wire.call(REDEEM, redeem(), metadata=(("x-request-id", "shop-42"),))
    (line,) = map(json.loads, told.lines.getvalue().splitlines())
    assert line["level"] == "error"
    assert line["error_id"] == reply.info.metadata["error_id"]
    assert line["request_id"] == "shop-42"
    assert line["trace_id"] == f"{told.span(METHOD).context.trace_id:032x}"
    assert "RuntimeError" in line["exception"]
    assert "hunter2" not in told.everything()
    assert told.span(METHOD).status.status_code is StatusCode.ERROR


async def test_a_call_that_its_caller_gave_up_is_counted_as_cancelled(
    told: Told, door: Door
) -> None:
    door.engine.hangs()
    call = door.wire.begin(REDEEM, redeem().SerializeToString())
    await door.engine.came.wait()
    call.cancel()
    await door.engine.gone.wait()
    attributes = dict(told.span(METHOD).attributes or {})
    assert attributes["rpc.response.status_code"] == "CANCELLED"


async def test_a_call_whose_deadline_passed_is_counted_so(told: Told, door: Door) -> None:
    door.engine.hangs()
    counted = ""
    for _ in range(5):
        # The server's deadline is a moment after the caller's, who may be faster to say so.
        told.exporter.clear()
        door.engine.came.clear()
        door.engine.gone.clear()
        reply = await door.wire.call(REDEEM, redeem(), timeout=1.0)
        assert reply.code.name == "DEADLINE_EXCEEDED"
        if not door.engine.came.is_set():
            continue
        await asyncio.wait_for(door.engine.gone.wait(), 10)
        counted = str(dict(told.span(METHOD).attributes or {})["rpc.response.status_code"])
        if counted == "DEADLINE_EXCEEDED":
            break
    assert counted == "DEADLINE_EXCEEDED"


async def test_a_successful_booking_is_no_line_in_the_log(told: Told, door: Door) -> None:
    await door.wire.call(REDEEM, redeem())
    assert told.lines.getvalue() == ""


async def test_no_card_number_is_told_by_any_rpc_however_it_fails(told: Told, door: Door) -> None:
    account = types_pb2.AccountRef(connection="cashassist", id=CARD_NUMBER)
    good = {
        REDEEM: redeem(account=account),
        "Balance/GetBalance": balance_pb2.GetBalanceRequest(account=account),
        "Points/GetPointsStatement": points_pb2.GetPointsStatementRequest(account=account),
    }
    failures = (
        None,
        RuntimeError(f"no such card {CARD_NUMBER}"),
        LoyaltyError(Reason.ACCOUNT_NOT_FOUND, "The card is not known."),
    )
    for failure in failures:
        if failure is not None:
            door.engine.fails(failure)
        for method, request in good.items():
            await door.wire.call(method, request)
        for rpc in join_catalog():
            # The same bytes mean something else, or nothing, to every other rpc.
            body = redeem(account=account, request_id=CARD_NUMBER).SerializeToString()
            reply = await door.wire.call(rpc.name.removeprefix("loyalty.v1."), body)
            assert CARD_NUMBER not in reply.text
            assert CARD_NUMBER.encode() not in bytes(
                reply.trailers.get("grpc-status-details-bin", b"")  # type: ignore[arg-type]
            )
    assert CARD_NUMBER not in told.everything()
