"""Opens the gRPC ports with every limit set; a port is taken whole or not at all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

_SECOND_MS = 1000


@dataclass(frozen=True, slots=True)
class WireLimits:
    """What one connection and one message may cost."""

    request_bytes_max: int = 256 * 1024
    answer_bytes_max: int = 1024 * 1024
    metadata_bytes_max: int = 8 * 1024
    concurrent_streams_max: int = 100
    connection_idle_s: int = 5 * 60
    connection_age_s: int = 30 * 60
    connection_age_grace_s: int = 60
    handshake_s: int = 10
    ping_interval_min_s: int = 30


class AddressTaken(OSError):
    """A port that is to be opened belongs to another process, or cannot be had."""


@dataclass(frozen=True, slots=True)
class OpenServer:
    """A started server and the port that it got."""

    server: grpc.aio.Server
    port: int


def server_options(limits: WireLimits) -> list[tuple[str, Any]]:
    """The channel arguments of a server."""
    return [
        ("grpc.max_receive_message_length", limits.request_bytes_max),
        ("grpc.max_send_message_length", limits.answer_bytes_max),
        # Between the two the library refuses at random, above the second always.
        ("grpc.max_metadata_size", limits.metadata_bytes_max),
        ("grpc.absolute_max_metadata_size", 2 * limits.metadata_bytes_max),
        # With the default a second process could open the same port and take half the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", limits.concurrent_streams_max),
        ("grpc.max_connection_idle_ms", limits.connection_idle_s * _SECOND_MS),
        ("grpc.max_connection_age_ms", limits.connection_age_s * _SECOND_MS),
        ("grpc.max_connection_age_grace_ms", limits.connection_age_grace_s * _SECOND_MS),
        ("grpc.server_handshake_timeout_ms", limits.handshake_s * _SECOND_MS),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            limits.ping_interval_min_s * _SECOND_MS,
        ),
        (
            "grpc.http2.min_recv_ping_interval_without_data_ms",
            limits.ping_interval_min_s * _SECOND_MS,
        ),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_permit_without_calls", 0),
    ]


async def open_server(
    address: str,
    handlers: Sequence[grpc.GenericRpcHandler],
    limits: WireLimits | None = None,
    *,
    register: Callable[[grpc.aio.Server], None] | None = None,
) -> OpenServer:
    """A started server on `host:port`; port 0 takes any free one.

    `register` adds a library's own servicer, such as Health.add_to, before the start.

    Raises:
        AddressTaken: the address cannot be listened on; the text names it.
    """
    server = grpc.aio.server(options=server_options(limits or WireLimits()))
    server.add_generic_rpc_handlers(tuple(handlers))
    if register is not None:
        register(server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise AddressTaken(
            f"cannot listen on {address}: another process has the port, "
            "or the host does not have the address"
        ) from error
    await server.start()
    return OpenServer(server, port)
