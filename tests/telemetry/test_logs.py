"""One event is one line, with its ids and without secrets."""

import io
import json
import logging
from typing import Any

import pytest

from loyalty_gateway.telemetry.logs import JsonFormatter
from loyalty_gateway.telemetry.setup import Telemetry
from loyalty_gateway.telemetry.spans import booking_span, current_request_id, server_span
from tests.telemetry.conftest import Seen
from tests.telemetry.settings import Settings

log = logging.getLogger("loyalty_gateway.some.room")


def _lines(seen: Seen) -> list[dict[str, Any]]:
    return [json.loads(line) for line in seen.lines.getvalue().splitlines()]


async def test_a_line_carries_the_trace_the_booking_and_the_request(seen: Seen) -> None:
    token = current_request_id.set("shop-42")
    with server_span("loyalty.v1.Points/RedeemPoints") as span:
        with booking_span("booking", {"loyalty.booking": "bookings/x"}):
            log.warning("in doubt after %d ms", 12, extra={"connection": "cashassist"})
        trace_id = span.trace_parent.split("-")[1]
    current_request_id.reset(token)
    (line,) = _lines(seen)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "loyalty_gateway.some.room",
        "message": "in doubt after 12 ms",
        "trace_id": trace_id,
        "booking": "bookings/x",
        "request_id": "shop-42",
        "connection": "cashassist",
    }


async def test_a_line_outside_of_everything_has_no_empty_ids(seen: Seen) -> None:
    log.info("started")
    assert set(_lines(seen)[0]) == {"time", "level", "logger", "message"}


async def test_secrets_are_blotted_out_of_text_extras_and_tracebacks(seen: Seen) -> None:
    try:
        raise ValueError("card 4111111111111111")
    except ValueError:
        log.exception("key %s", "sk_live_abc", extra={"header": "Bearer abcdef123", "count": 3})
    text = seen.lines.getvalue()
    for secret in ("4111111111111111", "sk_live_abc", "abcdef123"):
        assert secret not in text
    (line,) = _lines(seen)
    assert line["count"] == 3
    assert "ValueError: card [redacted]" in line["exception"]


async def test_a_request_id_is_blotted_out_where_it_holds_a_card_number(seen: Seen) -> None:
    token = current_request_id.set("order-4111111111111111")
    log.warning("in doubt")
    current_request_id.reset(token)
    assert _lines(seen)[0]["request_id"] == "order-[redacted]"


async def test_a_forged_line_end_makes_no_second_line(seen: Seen) -> None:
    log.warning("name: %s", 'x\n{"level": "error"}\r\n\u2028')
    assert seen.lines.getvalue().count("\n") == 1


def test_arguments_that_do_not_fit_cost_nobody_the_line() -> None:
    record = logging.LogRecord("a", logging.WARNING, "a.py", 1, "%d bookings", ("many",), None)
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == "%d bookings (arguments do not fit the text)"


async def test_the_level_is_kept_and_libraries_stay_quiet(seen: Seen) -> None:
    log.debug("not at this level")
    logging.getLogger("httpx").info("GET https://vendor.example/?card=1")
    assert seen.lines.getvalue() == ""


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_a_person_reads_one_line_with_the_same_facts(log_format: Any) -> None:
    lines = io.StringIO()
    telemetry = Telemetry(log_stream=lines)
    telemetry.start(Settings(log_format=log_format))
    with booking_span("booking", {"loyalty.booking": "bookings/x"}):
        log.warning("in doubt\nfor now", extra={"connection": "cashassist"})
    await telemetry.stop()
    text = lines.getvalue()
    assert text.count("\n") == 1
    assert "bookings/x" in text
    assert "cashassist" in text
    assert (log_format == "json") == text.startswith("{")


async def test_after_the_stop_nothing_is_written() -> None:
    lines = io.StringIO()
    telemetry = Telemetry(log_stream=lines)
    telemetry.start(Settings())
    await telemetry.stop()
    log.warning("late")
    assert lines.getvalue() == ""


async def test_after_the_stop_every_level_is_as_it_was() -> None:
    """Whoever runs a gateway in their own process, as tests do, goes on hearing their own lines."""
    loggers = [logging.getLogger(name) for name in ("", "httpx", "grpc")]
    before = [logger.level for logger in loggers]
    telemetry = Telemetry(log_stream=io.StringIO())
    telemetry.start(Settings(log_level="error"))
    assert [logger.level for logger in loggers] == [logging.ERROR] * 3
    await telemetry.stop()
    assert [logger.level for logger in loggers] == before
