"""Calls that ended: a line in the log, a count by method and code, and an audit of what changed something."""

from __future__ import annotations

import time

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from common.auth.quotas import Quotas
from common.errors import Reason, SinkServeError
from common.rpc.calls.call import Call

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_NOT_AUDITED = ("Get", "List", "Watch", "Check", "Verify", "ServerReflection", "Converse", "RunTurn")
"""How the names of methods begin that look, or talk: every turn has a line of its own."""
_PROBES = ("Health.", "ServerReflection.")

log = structlog.get_logger()


class CallLog:
    """Of one service, `builder` or `runtime`, with counts in its registry."""

    def __init__(self, service: str, registry: CollectorRegistry) -> None:
        name = f"sinkserve_{service}_call"
        what = "Calls that ended, by method and code; probes are not counted."
        self._calls = Counter(f"{name}s", what, ("method", "code"), registry=registry)
        what = "How long calls of one answer took, by method."
        self._seconds = Histogram(f"{name}_seconds", what, ("method",), buckets=SECONDS, registry=registry)
        what = "What quotas have refused, by quota: calls, turns of a stream, snapshots that were not kept."
        self._refused = Counter(f"sinkserve_{service}_quota_refusals", what, ("quota",), registry=registry)
        for quota in Quotas.model_fields:
            self._refused.labels(quota)

    def refused(self, error: SinkServeError) -> None:
        """Count what a quota has refused; of another error nothing."""
        if error.reason is Reason.QUOTA_EXCEEDED:
            self._refused.labels(error.metadata["quota"]).inc()

    def ended(self, call: Call, code: str, reason: str = "", cause: str = "", *, streams: bool = False) -> None:
        """A call ended with `code`, and if that is an error, with a reason and a cause."""
        if call.method.startswith(_PROBES):
            return
        seconds = time.monotonic() - call.began
        self._calls.labels(call.method, code).inc()
        if not streams:
            self._seconds.labels(call.method).observe(seconds)
        said = {"method": call.method, "code": code, "principal": call.principal.name}
        said |= {"resource": call.resource} if call.resource else {}
        failed = {"reason": reason, "cause": cause} if reason else {}
        moved = {"received": call.received_bytes, "sent": call.sent_bytes}
        log.info("call.ended", **said, **failed, peer=call.peer, seconds=round(seconds, 4), **moved)
        if not call.method.partition(".")[2].startswith(_NOT_AUDITED):
            log.info("audit", **said)
