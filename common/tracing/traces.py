"""Traces by OpenTelemetry. Off by default, and then nothing of OpenTelemetry is imported.

Nothing is measured for them alone, and contents of turns are never in one.
"""

from __future__ import annotations

from typing import Protocol

from common.errors import InvalidArgument, Reason
from common.tracing.span import Span


class Traces(Protocol):
    """Where spans go."""

    @property
    def on(self) -> bool:
        """Whether anybody wants them."""

    def record(self, span: Span, parent: str = "") -> None:
        """Take a span with its children, as a child of the caller's `parent`, or as a trace of its own."""

    def close(self) -> None:
        """Send what is left; takes a few seconds at most."""


class NoTraces:
    """Nobody wants spans."""

    on = False

    def record(self, span: Span, parent: str = "") -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def open_traces(service: str, endpoint: str, share: float = 1.0) -> Traces:
    """Traces to the collector at `endpoint`, an OTLP address such as http://127.0.0.1:4317; empty: none.

    Raises InvalidArgument where the SDK is not installed.
    """
    if not endpoint:
        return NoTraces()
    try:
        from common.tracing.collector import open_collector  # noqa: PLC0415 - its packages are needed for this alone
    except ImportError:
        what = "SINKSERVE_TRACES_ENDPOINT is set, and OpenTelemetry is not installed: pip install 'sinkserve[traces]'"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field="SINKSERVE_TRACES_ENDPOINT") from None
    return open_collector(service, endpoint, share)
