"""Telemetry with its spans in memory and its lines in a text."""

import io
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loyalty_gateway.telemetry.setup import Telemetry
from tests.telemetry.settings import Settings


@dataclass(frozen=True)
class Seen:
    """What telemetry let out."""

    telemetry: Telemetry
    exporter: InMemorySpanExporter
    lines: io.StringIO

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """The finished spans by name."""
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
async def seen() -> AsyncIterator[Seen]:
    """Everything is sampled."""
    exporter, lines = InMemorySpanExporter(), io.StringIO()
    telemetry = Telemetry(exporter=exporter, log_stream=lines)
    telemetry.start(Settings())
    yield Seen(telemetry, exporter, lines)
    await telemetry.stop()


@pytest.fixture
async def unseen() -> AsyncIterator[Seen]:
    """Nothing is sampled unless a caller's trace is."""
    exporter, lines = InMemorySpanExporter(), io.StringIO()
    telemetry = Telemetry(exporter=exporter, log_stream=lines)
    telemetry.start(Settings(sample_ratio=0.0))
    yield Seen(telemetry, exporter, lines)
    await telemetry.stop()


@pytest.fixture
async def untraced() -> AsyncIterator[Seen]:
    """No collector is configured."""
    lines = io.StringIO()
    telemetry = Telemetry(log_stream=lines)
    telemetry.start(Settings())
    yield Seen(telemetry, InMemorySpanExporter(), lines)
    await telemetry.stop()
