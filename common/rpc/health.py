"""`grpc.health.v1` with a Watch that never misses a change: each watcher has an event of its own.

The servicer of grpcio-health-checking shares one condition between watchers and forgets the others when one
disconnects (grpc/grpc pull request 43403).

Names: "" and "readiness" say whether to send traffic here, as does every service's full name; "liveness" says
whether the process is worth keeping, and stays SERVING while it drains.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.errors import NotFound, Reason

LIVENESS = "liveness"
READINESS = "readiness"
STARTED = "started"
"""A condition of readiness: all is loaded, and it does not stop yet."""

_Status = health_pb2.HealthCheckResponse.ServingStatus


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # untyped package
    """Starts NOT_SERVING. What is not ready for one cause or several becomes so when the last of them is gone."""

    def __init__(self) -> None:
        self._ready_names = {"", READINESS}
        self._watchers: set[asyncio.Event] = set()
        self._unready = {STARTED}

    @property
    def ready(self) -> bool:
        """Whether to send traffic here."""
        return not self._unready

    def serve(self, services: Iterable[str]) -> None:
        """Answer for these services, by their full names, as for readiness."""
        self._ready_names |= set(services)

    def set_ready(self, ready: bool, condition: str = STARTED) -> None:
        """Set one condition for traffic to be sent here, and report to all watchers whether it should be."""
        (self._unready.discard if ready else self._unready.add)(condition)
        for changed in self._watchers:
            changed.set()

    def _status_of(self, name: str) -> int:
        if name == LIVENESS:
            return int(_Status.SERVING)
        if name not in self._ready_names:
            return int(_Status.SERVICE_UNKNOWN)
        return int(_Status.SERVING if self.ready else _Status.NOT_SERVING)

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> health_pb2.HealthCheckResponse:
        status = self._status_of(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            raise NotFound(Reason.INVALID_FIELD, f"no service {request.service!r} here", field="service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            async for status in self._changes(request.service, changed):
                yield health_pb2.HealthCheckResponse(status=status)
        finally:
            self._watchers.discard(changed)

    async def _changes(self, service: str, changed: asyncio.Event) -> AsyncIterator[int]:
        sent = None
        while True:
            changed.clear()
            status = self._status_of(service)
            if status != sent:
                yield status
                sent = status
            await changed.wait()
