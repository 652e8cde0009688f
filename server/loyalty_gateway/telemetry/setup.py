"""Starts and stops what the other files of this room use; nothing happens at import."""

import asyncio
import logging
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import IO, Literal, Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
)
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from loyalty_gateway.telemetry import logs, metrics, spans

EXPORT_TIMEOUT_S = 5
STOP_TIMEOUT_S = 8.0

_log = logging.getLogger(__name__)


class TelemetrySettings(Protocol):
    """The part of the settings that this room needs: the section `telemetry`."""

    @property
    def otlp_endpoint(self) -> str: ...
    @property
    def trace_file(self) -> Path | None: ...
    @property
    def sample_ratio(self) -> float: ...
    @property
    def log_level(self) -> str: ...
    @property
    def log_format(self) -> Literal["json", "text"]: ...


class Telemetry:
    """Spans, figures and log lines of one process.

    Args:
        exporter: takes every span at once in place of an OTLP collector; for tests.
        log_stream: where log lines go, stderr when None.
    """

    def __init__(
        self, *, exporter: SpanExporter | None = None, log_stream: IO[str] | None = None
    ) -> None:
        self._exporter = exporter
        self._log_stream = log_stream
        self._trace_file: IO[str] | None = None
        self._provider: TracerProvider | None = None
        self._stop_logging: Callable[[], None] | None = None

    def start(self, settings: TelemetrySettings) -> None:
        """Begins to log, count and trace. With no place for spans nothing is traced."""
        assert self._stop_logging is None, "telemetry is started once"
        self._stop_logging = logs.start_logging(
            settings.log_level, settings.log_format, self._log_stream
        )
        metrics.start_counting()
        exporters: list[SpanExporter] = []
        if settings.otlp_endpoint:
            exporters.append(_otlp(settings.otlp_endpoint))
        if settings.trace_file is not None:
            self._trace_file = settings.trace_file.open("a", encoding="utf-8")
            exporters.append(
                ConsoleSpanExporter(
                    out=self._trace_file, formatter=lambda span: f"{span.to_json(indent=None)}\n"
                )
            )
        if self._exporter is None and not exporters:
            return
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=Resource.create(
                {"service.name": "loyalty-gateway", "service.version": _version()}
            ),
            span_limits=SpanLimits(
                max_attributes=64, max_events=64, max_links=8, max_attribute_length=512
            ),
            shutdown_on_exit=False,
        )
        if self._exporter is not None:
            provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        for exporter in exporters:
            provider.add_span_processor(BatchSpanProcessor(exporter))
        self._provider = provider
        spans.use_tracer(provider.get_tracer("loyalty_gateway", _version()))

    async def stop(self) -> None:
        """Sends what is left to the collector, within a time limit, and ends everything."""
        spans.use_tracer(None)
        provider, self._provider = self._provider, None
        if provider is not None:
            try:
                await asyncio.wait_for(asyncio.to_thread(provider.shutdown), STOP_TIMEOUT_S)
            except TimeoutError:
                _log.warning("the last spans were not taken by the collector in time")
        trace_file, self._trace_file = self._trace_file, None
        if trace_file is not None:
            trace_file.close()
        metrics.stop_counting()
        stop_logging, self._stop_logging = self._stop_logging, None
        if stop_logging is not None:
            stop_logging()

    def metrics_text(self) -> bytes:
        """All figures in the Prometheus text format."""
        return metrics.metrics_text()


def _otlp(endpoint: str) -> SpanExporter:
    # Imported here because it takes a second and most newcomers have no collector.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(
        endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=EXPORT_TIMEOUT_S
    )


def _version() -> str:
    try:
        return metadata.version("loyalty-gateway")
    except metadata.PackageNotFoundError:
        return "unknown"
