"""The spans of a booking's trace; never a card number, a secret or a query string in them."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)

from loyalty_gateway.telemetry.redaction import redact

Attributes = Mapping[str, str | int | bool]

BOOKING_ATTRIBUTE = "loyalty.booking"
"""The attribute that names the booking; log lines inside its span carry it too."""

current_booking: ContextVar[str] = ContextVar("loyalty_booking", default="")
current_request_id: ContextVar[str] = ContextVar("loyalty_request_id", default="")

_TRACE_PARENT = re.compile(
    "(?P<version>[0-9a-f]{2})-(?P<trace_id>[0-9a-f]{32})-(?P<span_id>[0-9a-f]{16})"
    "-(?P<flags>[0-9a-f]{2})(?P<more>-.{0,200})?"
)

# Set by Telemetry for the life of the process; None means that nothing is traced.
_tracer: Tracer | None = None


def use_tracer(tracer: Tracer | None) -> None:
    """Sets the tracer of this process; only Telemetry calls it."""
    global _tracer
    _tracer = tracer


def _clean(attributes: Attributes) -> dict[str, str | int | bool]:
    return {
        name: redact(value) if isinstance(value, str) else value
        for name, value in attributes.items()
    }


class SpanHandle:
    """A span as the rooms see it. Every call is free of cost when nothing is recorded."""

    __slots__ = ("_span", "is_recording")

    def __init__(self, span: Span | None) -> None:
        self._span = span
        self.is_recording = span is not None and span.is_recording()

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """Notes a moment inside the span, for example a move of the journal."""
        if self.is_recording:
            assert self._span is not None
            self._span.add_event(name, _clean(attributes) if attributes else None)

    def set(self, attributes: Attributes) -> None:
        """Adds attributes, for example {"loyalty.state": "SUCCEEDED"}.

        One that names the booking is on the log lines from here on, traced or not.
        """
        booking = attributes.get(BOOKING_ATTRIBUTE)
        if isinstance(booking, str):
            current_booking.set(booking)
        if self.is_recording:
            assert self._span is not None
            self._span.set_attributes(_clean(attributes))

    def fail(self, error_type: str, description: str = "") -> None:
        """Marks the span as failed. The description is ours and free of secrets."""
        if self.is_recording:
            assert self._span is not None
            self._span.set_attribute("error.type", error_type)
            self._span.set_status(Status(StatusCode.ERROR, redact(description) or None))

    @property
    def trace_parent(self) -> str:
        """This span as a W3C traceparent, "" when there is none."""
        return _trace_parent(self._span)


_NOTHING = SpanHandle(None)


def _trace_parent(span: Span | None) -> str:
    if span is None:
        return ""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}"


def _span_context(trace_parent: str) -> SpanContext | None:
    """What a traceparent names, or None when it is not one; anything may come from a caller."""
    match = _TRACE_PARENT.fullmatch(trace_parent)
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
        return None
    context = SpanContext(
        int(match["trace_id"], 16),
        int(match["span_id"], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match["flags"], 16) & TraceFlags.SAMPLED),
    )
    return context if context.is_valid else None


class server_span:
    """The SERVER span of one RPC; `method` is `package.Service/Method`.

    A class and not a generator, because it stands in the way of every call. A `trace_parent`
    that is not one starts a trace of its own; baggage is never taken from a caller.
    """

    __slots__ = ("_method", "_span", "_token", "_trace_parent")

    def __init__(self, method: str, trace_parent: str = "") -> None:
        self._method = method
        self._trace_parent = trace_parent
        self._span: Span | None = None
        self._token: object | None = None

    def __enter__(self) -> SpanHandle:
        parent = _span_context(self._trace_parent) if self._trace_parent else None
        if _tracer is None:
            if parent is None:
                return _NOTHING
            # Nothing is recorded here, yet the caller's trace id reaches the journal.
            self._attach(NonRecordingSpan(parent))
            return SpanHandle(self._span)
        context = otel_context.Context()
        if parent is not None:
            context = trace.set_span_in_context(NonRecordingSpan(parent), context)
        span = _tracer.start_span(
            self._method,
            context=context,
            kind=SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": self._method},
        )
        self._attach(span)
        return SpanHandle(span)

    def _attach(self, span: Span) -> None:
        self._span = span
        self._token = otel_context.attach(trace.set_span_in_context(span, otel_context.Context()))

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            otel_context.detach(self._token)  # type: ignore[arg-type]
        if self._span is not None:
            self._span.end()


@contextmanager
def booking_span(
    name: str, attributes: Attributes, *, trace_parent: str = "", link_to: str = ""
) -> Iterator[SpanHandle]:
    """The INTERNAL span of one piece of work on a booking.

    Args:
        trace_parent: the parent where it is not the current span, "" for the current one.
        link_to: the traceparent of the trace the booking began in, for work done later.
    """
    booking = attributes.get(BOOKING_ATTRIBUTE, "")
    booking_token = current_booking.set(booking if isinstance(booking, str) else "")
    try:
        with _child(name, SpanKind.INTERNAL, attributes, trace_parent, link_to) as handle:
            yield handle
    finally:
        current_booking.reset(booking_token)


@contextmanager
def provider_span(
    *, method: str, route: str, address: str, port: int, attributes: Attributes
) -> Iterator[SpanHandle]:
    """The CLIENT span of one HTTP exchange with a provider.

    `route` is the path's template, never the path: ids stand in paths. The caller sets
    `http.response.status_code`, and fails the span where there was no answer.
    """
    shape: dict[str, str | int | bool] = {
        "http.request.method": method,
        "url.template": route,
        "server.address": address,
        "server.port": port,
        **attributes,
    }
    with _child(f"{method} {route}", SpanKind.CLIENT, shape, "", "") as handle:
        yield handle


@contextmanager
def _child(
    name: str, kind: SpanKind, attributes: Attributes, trace_parent: str, link_to: str
) -> Iterator[SpanHandle]:
    parent = _span_context(trace_parent) if trace_parent else None
    current = trace.get_current_span()
    if _tracer is None or (parent is None and _is_left_out(current)):
        # The trace is not recorded: its id is handed on without the price of a span.
        yield SpanHandle(NonRecordingSpan(parent) if parent is not None else current)
        return
    context = None
    if parent is not None:
        context = trace.set_span_in_context(NonRecordingSpan(parent), otel_context.Context())
    linked = _span_context(link_to) if link_to else None
    span = _tracer.start_span(
        name,
        context=context,
        kind=kind,
        attributes=_clean(attributes),
        links=(Link(linked),) if linked is not None else (),
    )
    token = otel_context.attach(trace.set_span_in_context(span, context))
    handle = SpanHandle(span)
    try:
        yield handle
    except BaseException as error:
        # The class alone: an exception's text may hold what must not be written down.
        handle.fail(type(error).__qualname__)
        raise
    finally:
        otel_context.detach(token)
        span.end()


def _is_left_out(current: Span) -> bool:
    return current.get_span_context().is_valid and not current.is_recording()


def current_trace_parent() -> str:
    """The current span as a W3C traceparent, "" when there is none."""
    return _trace_parent(trace.get_current_span())


def current_trace_id() -> str:
    """The 32 hex digits of the current trace, "" when there is none."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""
