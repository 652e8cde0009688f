"""Tells orchestrators whether the process lives and takes calls; never anything of a provider."""

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

READINESS = "loyalty.v1"
"""The name to probe for readiness; the empty name is liveness."""

SERVICE = "grpc.health.v1.Health"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.aio.HealthServicer):
    """The health service: the empty name is serving while the process answers at all.

    Args:
        services: the full names of the services whose readiness is told beside READINESS.
        is_ready: asked at every check; it must not block and must not ask a provider.
    """

    def __init__(self, services: Sequence[str], is_ready: Callable[[], bool]) -> None:
        super().__init__()
        self._names = (READINESS, *services)
        self._is_ready = is_ready
        self._told: bool | None = None

    async def refresh(self) -> None:
        """Tells those who watch what holds now; called by itself at every check."""
        is_ready = self._is_ready()
        if is_ready is self._told:
            return
        self._told = is_ready
        for name in self._names:
            await self.set(name, _SERVING if is_ready else _NOT_SERVING)

    async def drain(self) -> None:
        """Not serving from now on, whatever is_ready says; the process still lives."""
        self._is_ready = lambda: False
        await self.refresh()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        await self.refresh()
        return await super().Check(request, context)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers the service with a server that was not started yet."""
        health_pb2_grpc.add_HealthServicer_to_server(self, server)
