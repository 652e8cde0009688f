"""Log lines: one event, one line, with its trace and booking; never a secret or a card number."""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Literal

from loyalty_gateway.telemetry.redaction import redact
from loyalty_gateway.telemetry.spans import (
    current_booking,
    current_request_id,
    current_trace_id,
)

LINE_LENGTH_MAX = 16_384

# What logging itself puts on a record; everything else was given with `extra`.
_OWN_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_IDS = ("trace_id", "booking", "request_id")
# These speak of every request or connection at INFO, and some of them name whole urls.
_TALKATIVE = ("httpx", "httpcore", "grpc", "asyncio", "opentelemetry", "aiohttp", "alembic")


class _StampFilter(logging.Filter):
    """Adds the ids of the moment to a record, while it is still on the thread that wrote it."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in (
            ("trace_id", current_trace_id()),
            ("booking", current_booking.get()),
            ("request_id", current_request_id.get()),
        ):
            if value and not hasattr(record, name):
                setattr(record, name, value)
        return True


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):  # a wrong format string must not cost the line
        text = f"{record.msg} (arguments do not fit the text)"
    return redact(text)[:LINE_LENGTH_MAX]


def _shown_id(name: str, value: object) -> str:
    # The trace id is ours and hexadecimal; by chance it may look like a card number.
    return str(value) if name == "trace_id" else redact(str(value))


def _given(record: logging.LogRecord) -> dict[str, str | int | float | bool | None]:
    """What the writer gave with `extra`, as plain values."""
    fields: dict[str, str | int | float | bool | None] = {}
    for name, value in record.__dict__.items():
        if name in _OWN_FIELDS or name in _IDS or name.startswith("_"):
            continue
        plain = value is None or isinstance(value, int | float | bool)
        fields[name] = value if plain else redact(str(value))[:LINE_LENGTH_MAX]
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        for name in _IDS:
            value = getattr(record, name, "")
            if value:
                line[name] = _shown_id(name, value)
        line.update(_given(record))
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))[-LINE_LENGTH_MAX:]
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """One line for people; a traceback follows indented."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        ids = {name: _shown_id(name, getattr(record, name, "")) for name in _IDS}
        facts = {**ids, **_given(record)}
        tail = "".join(f" {name}={value}" for name, value in facts.items() if value != "")
        line = f"{time} {record.levelname:<7} {_message(record)}{tail}"
        # A line end inside a message would let a caller forge the line after it.
        line = "".join(c if c.isprintable() else " " for c in line)
        if record.exc_info:
            trace = redact(self.formatException(record.exc_info))
            line += "".join(f"\n    {row}" for row in trace.splitlines())
        return line


def start_logging(
    level: str, line_format: Literal["json", "text"], stream: IO[str] | None = None
) -> Callable[[], None]:
    """Sends every logger's lines to stderr in one format.

    Returns:
        What ends it: the lines go, and the levels are, as they were before.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if line_format == "json" else TextFormatter())
    handler.addFilter(_StampFilter())
    root = logging.getLogger()
    libraries = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [(logger, logger.level) for logger in (root, *libraries)]
    root.addHandler(handler)
    root.setLevel(level.upper())
    for logger in libraries:
        logger.setLevel(max(logging.WARNING, root.level))

    def stop() -> None:
        root.removeHandler(handler)
        for logger, before in levels:
            logger.setLevel(before)
        handler.flush()

    return stop
