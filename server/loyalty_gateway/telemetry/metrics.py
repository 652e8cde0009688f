"""The figures that operators watch; labels are bounded and never hold an id."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_RPC_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FLUSH_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_FLUSH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class _Metrics:
    """One set of metrics in a registry of its own, with their bound children kept.

    Looking a child up by its labels costs more than counting, hence the dictionaries.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rpc = Histogram(
            "loyalty_rpc_duration_seconds",
            "How long RPCs took, by method and gRPC code.",
            ("method", "code"),
            registry=self.registry,
            buckets=_RPC_SECONDS,
        )
        self.bookings = Counter(
            "loyalty_bookings",
            "Bookings that reached a state, by connection and operation.",
            ("connection", "operation", "state"),
            registry=self.registry,
        )
        self.provider = Histogram(
            "loyalty_provider_call_duration_seconds",
            "How long calls to a provider took, by what they proved.",
            ("connection", "operation", "result"),
            registry=self.registry,
            buckets=_RPC_SECONDS,
        )
        self.recovery = Counter(
            "loyalty_recovery_attempts",
            "Tries to find out what became of a booking, by result.",
            ("connection", "result"),
            registry=self.registry,
        )
        self.rejected = Counter(
            "loyalty_admission_rejected",
            "Calls refused before any work was done, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self.flush_seconds = Histogram(
            "loyalty_journal_flush_duration_seconds",
            "How long the journal took to commit one group.",
            ("kind",),
            registry=self.registry,
            buckets=_FLUSH_SECONDS,
        )
        self.flush_rows = Histogram(
            "loyalty_journal_flush_rows",
            "How many rows the journal committed in one group.",
            ("kind",),
            registry=self.registry,
            buckets=_FLUSH_ROWS,
        )
        self.in_doubt = Gauge(
            "loyalty_bookings_in_doubt",
            "Bookings whose outcome a machine is finding out.",
            registry=self.registry,
        )
        self.oldest_doubt = Gauge(
            "loyalty_bookings_in_doubt_oldest_age_seconds",
            "Age of the oldest booking in doubt; 0 when there is none.",
            registry=self.registry,
        )
        self.needs_review = Gauge(
            "loyalty_bookings_needs_review",
            "Bookings whose outcome only a person can decide.",
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "loyalty_bookings_in_flight",
            "Bookings that this process is working on.",
            registry=self.registry,
        )
        self.rpc_children: dict[tuple[str, str], Histogram] = {}
        self.booking_children: dict[tuple[str, str, str], Counter] = {}
        self.provider_children: dict[tuple[str, str, str], Histogram] = {}
        self.flush_children: dict[str, tuple[Histogram, Histogram]] = {}


# Set by Telemetry for the life of the process; None means that nothing is counted.
_metrics: _Metrics | None = None


def start_counting() -> None:
    """Begins with every figure at zero; only Telemetry calls it."""
    global _metrics
    _metrics = _Metrics()


def stop_counting() -> None:
    """Drops all figures; only Telemetry calls it."""
    global _metrics
    _metrics = None


def metrics_text() -> bytes:
    """All figures in the Prometheus text format, empty while nothing is counted."""
    return generate_latest(_metrics.registry) if _metrics is not None else b""


def rpc_finished(method: str, code: str, seconds: float) -> None:
    """An RPC was answered. `method` is a name of the contract, `code` a gRPC code's name."""
    if _metrics is None:
        return
    child = _metrics.rpc_children.get((method, code))
    if child is None:
        child = _metrics.rpc_children[method, code] = _metrics.rpc.labels(method, code)
    child.observe(seconds)


def booking_settled(connection: str, operation: str, state: str) -> None:
    """A booking reached a state, terminal or in doubt."""
    if _metrics is None:
        return
    key = (connection, operation, state)
    child = _metrics.booking_children.get(key)
    if child is None:
        child = _metrics.booking_children[key] = _metrics.bookings.labels(*key)
    child.inc()


def provider_called(connection: str, operation: str, fate_or_result: str, seconds: float) -> None:
    """A call to a provider ended: with a fate where it was a booking's, else with a result."""
    if _metrics is None:
        return
    key = (connection, operation, fate_or_result)
    child = _metrics.provider_children.get(key)
    if child is None:
        child = _metrics.provider_children[key] = _metrics.provider.labels(*key)
    child.observe(seconds)


def recovery_finished(connection: str, result: str) -> None:
    """One try to find out what became of a booking ended."""
    if _metrics is not None:
        _metrics.recovery.labels(connection, result).inc()


def admission_rejected(reason: str) -> None:
    """A call was refused before any work was done for it."""
    if _metrics is not None:
        _metrics.rejected.labels(reason).inc()


def journal_flushed(kind: str, rows: int, seconds: float) -> None:
    """The journal committed one group of rows; `kind` says of what."""
    if _metrics is None:
        return
    children = _metrics.flush_children.get(kind)
    if children is None:
        children = _metrics.flush_children[kind] = (
            _metrics.flush_seconds.labels(kind),
            _metrics.flush_rows.labels(kind),
        )
    children[0].observe(seconds)
    children[1].observe(rows)


def in_doubt(count: int, oldest_age_s: float) -> None:
    """How many bookings are in doubt now, and for how long the oldest has been."""
    if _metrics is not None:
        _metrics.in_doubt.set(count)
        _metrics.oldest_doubt.set(oldest_age_s)


def needs_review(count: int) -> None:
    """How many bookings wait for a person now."""
    if _metrics is not None:
        _metrics.needs_review.set(count)


def in_flight(count: int) -> None:
    """How many bookings this process works on now."""
    if _metrics is not None:
        _metrics.in_flight.set(count)
