"""Spans to a collector of OpenTelemetry, by the official SDK. Imported where somebody wants them only."""

from __future__ import annotations

from importlib.metadata import version
from threading import Timer

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common.tracing.span import PARENT, Span

NANOSECONDS = 10**9
CLOSE_S = 2.0
"""How long what is left at the end may take to be sent; the SDK would try each of its batches for as long as it can."""


def open_collector(service: str, endpoint: str, share: float) -> CollectedTraces:
    """Traces of a service to the collector at an OTLP address."""
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=5)
    return CollectedTraces(service, version("sinkserve"), exporter, share)


class CollectedTraces:
    """Sends spans through the official SDK, in a thread of its own; what a collector does not take in time is lost."""

    on = True

    def __init__(self, service: str, release: str, exporter: SpanExporter, share: float) -> None:
        """`share` of the traces that begin here are kept; of others the caller has decided."""
        resource = Resource.create({"service.name": service, "service.version": release})
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(share), resource=resource, shutdown_on_exit=False
        )
        self._exporter = exporter
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("sinkserve", release)

    def record(self, span: Span, parent: str = "") -> None:
        """Take a span, and let it be sent later."""
        self._record(span, TraceContextTextMapPropagator().extract({PARENT: parent}, Context()))

    def _record(self, span: Span, context: Context) -> None:
        kind = SpanKind.SERVER if span.serves else SpanKind.INTERNAL
        made = self._tracer.start_span(
            span.name, context, kind, span.attributes, start_time=int(span.start_s * NANOSECONDS)
        )
        inside = set_span_in_context(made, context)
        for child in span.children:
            self._record(child, inside)
        if span.error:
            made.set_status(Status(StatusCode.ERROR, span.error))
        made.end(end_time=int(span.end_s * NANOSECONDS))

    def close(self) -> None:
        """Send what is left, as far as that goes within `CLOSE_S`."""
        enough = Timer(CLOSE_S, self._exporter.shutdown)  # ends what is under way, and takes nothing more
        enough.daemon = True
        enough.start()
        self._provider.shutdown()
        enough.cancel()
