"""Spans reach a collector over OTLP, and one that is not there holds nobody up."""

import asyncio
import io
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2,
    trace_service_pb2_grpc,
)

from loyalty_gateway.telemetry.setup import STOP_TIMEOUT_S, Telemetry
from loyalty_gateway.telemetry.spans import server_span
from tests.telemetry.settings import Settings


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.services: set[str] = set()

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            self.services |= {
                it.value.string_value
                for it in resource.resource.attributes
                if it.key == "service.name"
            }
            self.names += [span.name for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield collector, f"http://127.0.0.1:{port}"
    await server.stop(0)


async def test_the_last_spans_reach_the_collector_at_the_stop(
    collector: tuple[Collector, str],
) -> None:
    kept, endpoint = collector
    telemetry = Telemetry(log_stream=io.StringIO())
    telemetry.start(Settings(otlp_endpoint=endpoint))
    with server_span("loyalty.v1.Points/RedeemPoints"):
        pass
    await telemetry.stop()
    assert kept.names == ["loyalty.v1.Points/RedeemPoints"]
    assert kept.services == {"loyalty-gateway"}


async def test_a_collector_that_is_not_there_does_not_hold_up_the_stop() -> None:
    lines = io.StringIO()
    telemetry = Telemetry(log_stream=lines)
    telemetry.start(Settings(otlp_endpoint="http://127.0.0.1:1"))
    started = time.monotonic()
    with server_span("loyalty.v1.Points/RedeemPoints"):
        pass
    assert time.monotonic() - started < 4, "a call never waits for the collector"
    await asyncio.wait_for(telemetry.stop(), STOP_TIMEOUT_S + 2)


def test_importing_the_room_starts_nothing() -> None:
    program = (
        "import threading, logging;"
        "import loyalty_gateway.telemetry.setup;"
        "assert threading.active_count() == 1;"
        "assert not logging.getLogger().handlers"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": "server"})
