"""One trace per booking, from the caller's own trace to the vendor, and recovery linked to it."""

from collections.abc import AsyncIterator

import pytest
from opentelemetry.proto.trace.v1 import trace_pb2

from loyalty.v1 import types_pb2
from tests.e2e.caller import top_up
from tests.e2e.collector import CLIENT, INTERNAL, SERVER, Collector, attributes
from tests.e2e.conftest import QUICK, open_house
from tests.e2e.house import House, until
from tests.e2e.truth import assert_booked_once, until_final

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLERS_SPAN_ID = "00f067aa0ba902b7"
METHOD = "loyalty.v1.Balance/TopUpBalance"
ROUTE = "/cashassist/loyalty-cards/refill"


@pytest.fixture(scope="module")
async def collector() -> AsyncIterator[Collector]:
    collector = await Collector().start()
    yield collector
    await collector.stop()


@pytest.fixture(scope="module")
async def house(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    settings = {
        **QUICK,
        "TELEMETRY__OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    folder = tmp_path_factory.mktemp("e2e") / "house"
    async with open_house(folder, settings=settings) as house:
        yield house


async def trace_of(collector: Collector, trace_id: str, size: int) -> list[trace_pb2.Span]:
    """The spans of a trace by the time at which they began, once there are so many."""

    async def find() -> bool:
        return len(collector.trace(trace_id)) >= size

    await until(find, f"{size} spans of trace {trace_id}")
    return sorted(collector.trace(trace_id), key=lambda span: span.start_time_unix_nano)


def events(span: trace_pb2.Span) -> list[str]:
    return [event.name for event in span.events]


async def test_a_booking_is_one_trace_of_three_spans(house: House, collector: Collector) -> None:
    request = top_up(310)

    reply = await house.caller.call(
        request, metadata=[("traceparent", f"00-{TRACE_ID}-{CALLERS_SPAN_ID}-01")]
    )

    booking = await assert_booked_once(house, request, reply)
    assert booking.trace_id == TRACE_ID, "the caller's own trace goes on"
    spans = await trace_of(collector, TRACE_ID, 3)
    assert [(span.name, span.kind) for span in spans] == [
        (METHOD, SERVER),
        ("booking", INTERNAL),
        (f"POST {ROUTE}", CLIENT),
    ]
    server, work, client = spans
    assert server.parent_span_id.hex() == CALLERS_SPAN_ID
    assert work.parent_span_id == server.span_id
    assert client.parent_span_id == work.span_id
    assert events(work) == ["booking.opened", "booking.sending", "booking.settled"]
    assert attributes(server)["rpc.method"] == METHOD
    assert attributes(server)["rpc.response.status_code"] == "OK"
    told = attributes(work)
    assert told["loyalty.booking"] == booking.name
    assert told["loyalty.request_id"] == request.request_id
    assert (told["loyalty.state"], told["loyalty.outcome"]) == ("SUCCEEDED", "EXECUTED")
    assert attributes(client)["http.request.method"] == "POST"
    assert attributes(client)["url.template"] == ROUTE
    assert attributes(client)["http.response.status_code"] == 200
    assert all(span.status.code != trace_pb2.Status.STATUS_CODE_ERROR for span in spans)


async def test_recovery_is_a_trace_of_its_own_that_links_to_the_first(
    house: House, collector: Collector
) -> None:
    request = top_up(320, "20002")

    reply = await house.caller.call(request)

    booking = await assert_booked_once(house, request, reply)
    first = await trace_of(collector, booking.trace_id, 3)
    work = next(span for span in first if span.name == "booking")
    assert len(first) == 3
    assert attributes(work)["loyalty.outcome"] == "UNKNOWN"
    assert work.status.code == trace_pb2.Status.STATUS_CODE_ERROR

    async def find() -> list[trace_pb2.Span]:
        named = collector.of_booking(booking.name)
        return [span for span in named if span.name == "booking.recovery"]

    [recovery] = await until(find, "the span of recovery")
    [link] = recovery.links
    assert (link.trace_id, link.span_id) == (work.trace_id, work.span_id)
    assert recovery.trace_id != work.trace_id
    later = await trace_of(collector, recovery.trace_id.hex(), 2)
    assert [(span.name, span.kind) for span in later] == [
        ("booking.recovery", INTERNAL),
        (f"POST {ROUTE}", CLIENT),
    ]
    assert events(recovery) == ["booking.sending", "booking.settled"]


async def test_recovery_after_a_kill_still_links_to_the_trace_of_the_dead_server(
    house: House, collector: Collector
) -> None:
    request = top_up(330)
    await house.vendor.hold("after-effect")
    assert not (await house.caller.call(request, timeout_s=2.5)).is_ok
    before = await house.caller.get(request.request_id)
    assert before is not None and before.state == types_pb2.BOOKING_STATE_SENDING
    await house.kill_server()
    await house.vendor.let_go()
    await house.start_server()

    booking = await until_final(house, request.request_id)

    assert booking.trace_id == before.trace_id

    async def find() -> list[trace_pb2.Span]:
        named = collector.of_booking(booking.name)
        return [span for span in named if span.name == "booking.recovery"]

    [recovery] = await until(find, "the span of recovery")
    assert [link.trace_id.hex() for link in recovery.links] == [booking.trace_id]
