"""The figures that operators get, by their names; none has an id for a label."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loyalty_gateway.telemetry import metrics
from tests.telemetry.conftest import Seen


def _samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_every_event_is_counted_under_its_name(untraced: Seen) -> None:
    for _ in range(2):
        metrics.rpc_finished("loyalty.v1.Points/RedeemPoints", "OK", 0.02)
        metrics.booking_settled("cashassist", "Points.RedeemPoints", "SUCCEEDED")
        metrics.provider_called("cashassist", "Points.RedeemPoints", "EXECUTED", 0.01)
        metrics.recovery_finished("cashassist", "SUCCEEDED")
        metrics.admission_rejected("OVERLOADED")
        metrics.journal_flushed("open", 7, 0.001)
    metrics.in_doubt(3, 12.5)
    metrics.needs_review(1)
    metrics.in_flight(9)

    samples = _samples(untraced.telemetry.metrics_text())

    rpc = (("code", "OK"), ("method", "loyalty.v1.Points/RedeemPoints"))
    booking = (("connection", "cashassist"), ("operation", "Points.RedeemPoints"))
    assert samples["loyalty_rpc_duration_seconds_count", rpc] == 2
    assert samples["loyalty_rpc_duration_seconds_sum", rpc] == pytest.approx(0.04)
    assert samples["loyalty_bookings_total", (*booking, ("state", "SUCCEEDED"))] == 2
    called = "loyalty_provider_call_duration_seconds_count"
    assert samples[called, (*booking, ("result", "EXECUTED"))] == 2
    recovered = (("connection", "cashassist"), ("result", "SUCCEEDED"))
    assert samples["loyalty_recovery_attempts_total", recovered] == 2
    assert samples["loyalty_admission_rejected_total", (("reason", "OVERLOADED"),)] == 2
    assert samples["loyalty_journal_flush_rows_sum", (("kind", "open"),)] == 14
    assert samples["loyalty_journal_flush_duration_seconds_count", (("kind", "open"),)] == 2
    assert samples["loyalty_bookings_in_doubt", ()] == 3
    assert samples["loyalty_bookings_in_doubt_oldest_age_seconds", ()] == 12.5
    assert samples["loyalty_bookings_needs_review", ()] == 1
    assert samples["loyalty_bookings_in_flight", ()] == 9


async def test_gauges_are_there_before_anything_happened(untraced: Seen) -> None:
    samples = _samples(untraced.telemetry.metrics_text())
    assert samples["loyalty_bookings_in_doubt", ()] == 0
    assert samples["loyalty_bookings_needs_review", ()] == 0


def test_without_a_start_nothing_is_counted_and_nothing_breaks() -> None:
    metrics.rpc_finished("a", "OK", 1)
    metrics.in_doubt(1, 1)
    metrics.journal_flushed("open", 1, 1)
    metrics.booking_settled("a", "b", "c")
    metrics.provider_called("a", "b", "c", 1)
    metrics.recovery_finished("a", "b")
    metrics.admission_rejected("a")
    metrics.needs_review(1)
    metrics.in_flight(1)
    assert metrics.metrics_text() == b""
