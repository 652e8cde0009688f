"""One trace per booking, whatever happens inside it, and nothing in it that must not be there."""

import asyncio

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from loyalty_gateway.telemetry.spans import (
    booking_span,
    current_booking,
    current_trace_parent,
    provider_span,
    server_span,
)
from tests.telemetry.conftest import Seen

METHOD = "loyalty.v1.Points/RedeemPoints"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C


async def _booking(trace_parent: str = "") -> str:
    """A booking as the rooms make it; gives the traceparent that the journal keeps."""
    with server_span(METHOD, trace_parent) as server:
        with booking_span("booking", {"loyalty.operation": "Points.RedeemPoints"}) as booking:
            kept = booking.trace_parent
            booking.event("booking.opened", {"loyalty.attempt": 1})

            async def send() -> None:
                with provider_span(
                    method="POST",
                    route="/withdraw/{card}",
                    address="vendor.example",
                    port=443,
                    attributes={"loyalty.connection": "cashassist"},
                ) as call:
                    call.set({"http.response.status_code": 200})

            await asyncio.create_task(send())
            booking.set({"loyalty.state": "SUCCEEDED", "loyalty.booking": "bookings/x"})
        server.set({"rpc.response.status_code": "OK"})
    return kept


async def test_a_booking_is_one_trace_from_the_door_to_the_provider(seen: Seen) -> None:
    kept = await _booking()
    server, booking = seen.spans[METHOD], seen.spans["booking"]
    call = seen.spans["POST /withdraw/{card}"]
    assert len({span.context.trace_id for span in (server, booking, call)}) == 1
    assert (server.parent, booking.parent, call.parent) == (None, server.context, booking.context)
    assert [span.kind for span in (server, booking, call)] == [
        SpanKind.SERVER,
        SpanKind.INTERNAL,
        SpanKind.CLIENT,
    ]
    assert dict(server.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "rpc.response.status_code": "OK",
    }
    assert dict(call.attributes or {}) == {
        "http.request.method": "POST",
        "url.template": "/withdraw/{card}",
        "server.address": "vendor.example",
        "server.port": 443,
        "loyalty.connection": "cashassist",
        "http.response.status_code": 200,
    }
    assert [event.name for event in booking.events] == ["booking.opened"]
    assert kept == f"00-{booking.context.trace_id:032x}-{booking.context.span_id:016x}-01"


async def test_a_callers_trace_goes_on(seen: Seen) -> None:
    await _booking(PARENT)
    server = seen.spans[METHOD]
    assert server.context.trace_id == TRACE_ID
    assert server.parent is not None
    assert server.parent.span_id == 0xB7AD6B7169203331


@pytest.mark.parametrize(
    "given",
    [
        "nonsense",
        PARENT[:-1],
        PARENT + "-more",
        PARENT.upper(),
        "ff" + PARENT[2:],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        PARENT + "\n",
        "٠" * 55,
    ],
)
async def test_a_traceparent_that_is_none_begins_a_trace_of_our_own(seen: Seen, given: str) -> None:
    await _booking(given)
    assert seen.spans[METHOD].parent is None
    assert seen.spans[METHOD].context.trace_id != TRACE_ID


async def test_a_later_versions_traceparent_is_understood(seen: Seen) -> None:
    await _booking("01" + PARENT[2:] + "-future")
    assert seen.spans[METHOD].context.trace_id == TRACE_ID


async def test_two_calls_one_after_the_other_are_two_traces(seen: Seen) -> None:
    with server_span(METHOD):
        pass
    with server_span(METHOD):
        pass
    first, second = seen.exporter.get_finished_spans()
    assert first.context.trace_id != second.context.trace_id
    assert second.parent is None


async def test_a_call_is_no_child_of_what_the_server_was_started_in(seen: Seen) -> None:
    with booking_span("start", {}), server_span(METHOD):
        pass
    assert seen.spans[METHOD].parent is None
    assert seen.spans[METHOD].context.trace_id != seen.spans["start"].context.trace_id


async def test_recovery_is_a_trace_of_its_own_that_links_to_the_first(seen: Seen) -> None:
    kept = await _booking()
    with booking_span("booking.recovery", {"loyalty.booking": "bookings/x"}, link_to=kept):
        pass
    recovery = seen.spans["booking.recovery"]
    assert recovery.parent is None
    assert recovery.links[0].context.trace_id == seen.spans["booking"].context.trace_id
    assert recovery.context.trace_id != seen.spans["booking"].context.trace_id


async def test_a_parent_may_be_given_where_it_is_not_the_current_span(seen: Seen) -> None:
    with booking_span("later", {}, trace_parent=PARENT):
        assert current_trace_parent().startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert seen.spans["later"].context.trace_id == TRACE_ID
    assert current_trace_parent() == ""


async def test_a_failure_is_told_by_its_type_and_our_words(seen: Seen) -> None:
    with booking_span("booking", {}) as span:
        span.fail("PROVIDER_INTERNAL", "answered 500 to card 4111111111111111")
    told = seen.spans["booking"]
    assert told.status.status_code is StatusCode.ERROR
    assert told.status.description == "answered 500 to card [redacted]"
    assert (told.attributes or {})["error.type"] == "PROVIDER_INTERNAL"


async def test_an_exception_leaves_its_class_and_never_its_text(seen: Seen) -> None:
    with pytest.raises(RuntimeError), booking_span("booking", {}):
        raise RuntimeError("password=hunter2")
    told = seen.spans["booking"]
    assert (told.attributes or {})["error.type"] == "RuntimeError"
    assert "hunter2" not in told.to_json()
    assert told.events == ()


async def test_secrets_in_attributes_and_events_are_blotted_out(seen: Seen) -> None:
    with booking_span("booking", {"a": "sk_test_demo"}) as span:
        span.set({"b": "4111111111111111", "c": 7})
        span.event("told", {"d": "Bearer abcdef123"})
    told = seen.spans["booking"].to_json()
    for secret in ("sk_test_demo", "4111111111111111", "abcdef123"):
        assert secret not in told
    assert (seen.spans["booking"].attributes or {})["c"] == 7


async def test_an_unsampled_booking_costs_no_span_and_keeps_its_trace_id(unseen: Seen) -> None:
    kept = await _booking()
    assert unseen.exporter.get_finished_spans() == ()
    assert kept.endswith("-00"), "the flag says that nothing was recorded"
    assert len(kept) == 55


async def test_a_caller_that_samples_is_followed_and_one_that_does_not_too(
    seen: Seen, unseen: Seen
) -> None:
    # `unseen` was started last, so it is the one that traces.
    await _booking(PARENT)
    assert set(unseen.spans) == {METHOD, "booking", "POST /withdraw/{card}"}
    unseen.exporter.clear()
    await _booking(UNSAMPLED)
    assert unseen.exporter.get_finished_spans() == ()


async def test_without_a_collector_a_callers_trace_id_still_reaches_the_journal(
    untraced: Seen,
) -> None:
    assert await _booking(PARENT) == PARENT
    assert await _booking() == ""


async def test_nothing_is_needed_to_be_started_for_spans_to_be_harmless() -> None:
    assert await _booking() == ""


async def test_a_booking_is_named_to_the_log_until_its_span_ends(untraced: Seen) -> None:
    with booking_span("booking", {}) as span:
        assert current_booking.get() == ""
        span.set({"loyalty.booking": "bookings/x"})
        assert current_booking.get() == "bookings/x"
        with booking_span("booking.recovery", {"loyalty.booking": "bookings/y"}):
            assert current_booking.get() == "bookings/y"
        assert current_booking.get() == "bookings/x"
    assert current_booking.get() == ""
