"""An OTLP collector that keeps every span it is sent, so that a test can look at the traces."""

from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

SERVER, INTERNAL, CLIENT = (
    trace_pb2.Span.SPAN_KIND_SERVER,
    trace_pb2.Span.SPAN_KIND_INTERNAL,
    trace_pb2.Span.SPAN_KIND_CLIENT,
)


@dataclass(slots=True)
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Listens on loopback from `start` to `stop`; `raw` is everything as it came."""

    spans: list[trace_pb2.Span] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    endpoint: str = ""
    _server: grpc.aio.Server | None = None

    async def start(self) -> Self:
        self._server = grpc.aio.server()
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def stop(self) -> None:
        assert self._server is not None, "it was not started"
        await self._server.stop(0)

    async def Export(self, request: Any, context: Any) -> Any:
        """Takes what an exporter sends."""
        self.raw.append(request.SerializeToString())
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def trace(self, trace_id: str) -> list[trace_pb2.Span]:
        """The spans of one trace, by its hex id."""
        return [span for span in self.spans if span.trace_id.hex() == trace_id]

    def of_booking(self, name: str) -> list[trace_pb2.Span]:
        """The spans that name this booking."""
        return [span for span in self.spans if attributes(span).get("loyalty.booking") == name]


def attributes(span: Any) -> dict[str, Any]:
    """The attributes of a span or of an event, as plain values."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in span.attributes
    }
