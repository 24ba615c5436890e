"""Requests that ended: a line in the log, and a count by route and status."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Counter, Histogram

from common.rpc.metrics_server import new_registry

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PROBES = ("/livez", "/readyz")
_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_LEFT = 499
"""Status of a request whose client left before it was answered."""

log = structlog.get_logger()


class RequestLog:
    """Counts of one process, in a registry of their own; probes are not counted."""

    def __init__(self) -> None:
        self.registry = new_registry()
        labels = ("method", "route")
        what = "Requests that ended, by method, route and status; probes are not counted."
        self._requests = Counter("sinkserve_web_requests", what, (*labels, "status"), registry=self.registry)
        what = "From a request's head to the end of its answer, streams included."
        name = "sinkserve_web_request_seconds"
        self._seconds = Histogram(name, what, labels, buckets=_SECONDS, registry=self.registry)

    def ended(self, scope: Scope, status: int, seconds: float) -> None:
        """Routes are patterns, and methods those of a route, so that no client makes a series."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if route != "none" and status != 405 else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        peer = ":".join(map(str, scope.get("client") or ()))
        log.info("request.ended", method=method, route=route, status=status, seconds=round(seconds, 4), peer=peer)


class RequestLogMiddleware:
    """Outermost, so that it sees what the others refuse, too."""

    def __init__(self, app: ASGIApp, requests: RequestLog) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), _LEFT

        async def heard(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, heard)
        finally:
            self._requests.ended(scope, status, time.monotonic() - began)
