"""Translates the service Providers."""

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from loyalty.v1 import providers_pb2, types_pb2
from loyalty_gateway.booking.calls import (
    Capability,
    ConnectionCheck,
    ConnectionFacts,
    ConnectionState,
    Promise,
    PromiseSource,
)
from loyalty_gateway.domain.errors import Violation
from loyalty_gateway.domain.operations import Support
from loyalty_gateway.rpc.codec.bookings import RECOVERY_MODES
from loyalty_gateway.rpc.codec.types import (
    Envelope,
    connection_id,
    decode_page_size,
    fill_time,
)
from loyalty_gateway.rpc.status import build_status

CONNECTION_STATES: dict[ConnectionState, providers_pb2.ConnectionState.ValueType] = {
    ConnectionState.OK: providers_pb2.CONNECTION_STATE_OK,
    ConnectionState.DEGRADED: providers_pb2.CONNECTION_STATE_DEGRADED,
    ConnectionState.CREDENTIALS_REJECTED: providers_pb2.CONNECTION_STATE_CREDENTIALS_REJECTED,
    ConnectionState.PAUSED: providers_pb2.CONNECTION_STATE_PAUSED,
}
SUPPORTS: dict[Support, providers_pb2.Support.ValueType] = {
    Support.NATIVE: providers_pb2.SUPPORT_NATIVE,
    Support.EMULATED: providers_pb2.SUPPORT_EMULATED,
    Support.UNSUPPORTED: providers_pb2.SUPPORT_UNSUPPORTED,
}
PROMISE_SOURCES: dict[PromiseSource, providers_pb2.PromiseSource.ValueType] = {
    PromiseSource.PROVEN: providers_pb2.PROMISE_SOURCE_PROVEN,
    PromiseSource.DECLARED: providers_pb2.PROMISE_SOURCE_DECLARED,
    PromiseSource.DEFAULT: providers_pb2.PROMISE_SOURCE_DEFAULT,
}


@dataclass(frozen=True, slots=True)
class ConnectionPage:
    """Which part of the connections is asked for: at most `size`, after the one named `after`."""

    size: int
    after: str


def decode_list_connections(
    message: providers_pb2.ListConnectionsRequest, envelope: Envelope, problems: list[Violation]
) -> ConnectionPage:
    """Providers.ListConnections. The token holds the last connection of the page before."""
    after = ""
    if message.page.page_token:
        try:
            token = message.page.page_token.encode()
            after = b64decode(token, altchars=b"-_", validate=True).decode()
        except ValueError:
            problems.append(
                Violation("page.page_token", "must be a next_page_token of this request")
            )
    return ConnectionPage(decode_page_size(message.page), after)


def cut_page(
    page: ConnectionPage, connections: Sequence[ConnectionFacts]
) -> tuple[Sequence[ConnectionFacts], str]:
    """The page's connections, by name, and the token of the next page."""
    following = sorted(
        (facts for facts in connections if facts.connection > page.after),
        key=lambda facts: facts.connection,
    )
    shown = following[: page.size]
    is_last = len(shown) == len(following)
    token = "" if is_last else urlsafe_b64encode(shown[-1].connection.encode()).decode()
    return shown, token


def encode_list_connections(
    page: tuple[Sequence[ConnectionFacts], str],
) -> providers_pb2.ListConnectionsResponse:
    """One page of connections and the token of the next."""
    connections, next_page_token = page
    return providers_pb2.ListConnectionsResponse(
        connections=[
            providers_pb2.Connection(
                name=f"connections/{facts.connection}",
                provider=facts.provider,
                display_name=facts.display_name,
                state=CONNECTION_STATES[facts.state],
                unresolved_count=facts.unresolved_count,
            )
            for facts in connections
        ],
        next_page_token=next_page_token,
    )


def decode_get_capabilities(
    message: providers_pb2.GetCapabilitiesRequest, envelope: Envelope, problems: list[Violation]
) -> str:
    """Providers.GetCapabilities: the connection's id."""
    return connection_id(message.connection)


def encode_capability(capability: Capability) -> providers_pb2.Capability:
    """What a connection can do for one rpc."""
    mode = capability.recovery_mode
    return providers_pb2.Capability(
        service=capability.operation.service,
        method=capability.operation.method,
        support=SUPPORTS[capability.support],
        recovery_mode=(
            types_pb2.RECOVERY_MODE_UNSPECIFIED if mode is None else RECOVERY_MODES[mode]
        ),
        promises=[_encode_promise(promise) for promise in capability.promises],
        partial_amounts=capability.partial_amounts,
        needed_fields=capability.needed_fields,
        note=capability.note,
    )


def decode_check_connection(
    message: providers_pb2.CheckConnectionRequest, envelope: Envelope, problems: list[Violation]
) -> str:
    """Providers.CheckConnection: the connection's id."""
    return connection_id(message.connection)


def encode_check_connection(check: ConnectionCheck) -> providers_pb2.CheckConnectionResponse:
    """How a connection does now; who was not reached has not judged our credentials."""
    response = providers_pb2.CheckConnectionResponse(reachable=check.is_reachable)
    if check.is_reachable:
        response.credentials_accepted = check.are_credentials_accepted
        response.latency.FromTimedelta(timedelta(seconds=check.latency_s))
        if check.clock_skew_s is not None:
            response.clock_skew.FromTimedelta(timedelta(seconds=check.clock_skew_s))
    if check.error is not None:
        response.error.CopyFrom(build_status(check.error))
    return response


def decode_prove_connection(
    message: providers_pb2.ProveConnectionRequest, envelope: Envelope, problems: list[Violation]
) -> str:
    """Providers.ProveConnection: the connection's id."""
    return connection_id(message.connection)


def encode_prove_connection(
    promises: tuple[Promise, ...],
) -> providers_pb2.ProveConnectionResponse:
    """The promises as they stand now, by name."""
    shown = sorted(promises, key=lambda promise: promise.name)
    return providers_pb2.ProveConnectionResponse(
        promises=[_encode_promise(promise) for promise in shown]
    )


def _encode_promise(promise: Promise) -> providers_pb2.Promise:
    message = providers_pb2.Promise(
        name=promise.name,
        value="yes" if promise.value else "no",
        source=PROMISE_SOURCES[promise.source],
        evidence=promise.evidence,
        not_shown=promise.not_shown,
    )
    fill_time(message.time, promise.time)
    return message
