"""Calls that end with an error leave a line in the log and count, by method and code."""

from __future__ import annotations

import structlog
from prometheus_client import CollectorRegistry, Counter

from common.rpc.gate import short_name

log = structlog.get_logger()


class FailedCalls:
    """Counts the failed calls of one service, `builder` or `runtime`, in its registry."""

    def __init__(self, service: str, registry: CollectorRegistry) -> None:
        what = "Calls that ended with an error, by method and code."
        name = f"sinkserve_{service}_failed_calls"
        self._counter = Counter(name, what, ("method", "code"), registry=registry)

    def note(self, method: str, code: str, reason: str, cause: str) -> None:
        """A call to /PACKAGE.SERVICE/METHOD ended with `code`."""
        name = short_name(method)
        self._counter.labels(name, code).inc()
        log.info("call.ended", method=name, code=code, reason=reason, cause=cause)
