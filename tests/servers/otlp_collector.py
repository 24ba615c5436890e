"""A collector of OpenTelemetry in this process: it keeps the spans that it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector(rpc.TraceServiceServicer):
    """`endpoint` is what the services are told. Calls get no answer before `answers` is set."""

    endpoint: str = ""
    asked: int = 0
    answers: threading.Event = field(default_factory=threading.Event)
    spans: list[Span] = field(default_factory=list)
    _came: threading.Condition = field(default_factory=threading.Condition)

    def Export(self, request: Any, context: Any) -> Any:
        found = [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
        with self._came:
            self.asked += 1
            self.spans += found
            self._came.notify_all()
        self.answers.wait()
        return pb.ExportTraceServiceResponse()

    def wait_for(self, name: str, span_id: bytes = b"") -> Span:
        """The first span whose name begins so, or the one of an id."""

        def found() -> Span | None:
            fits = (span for span in self.spans if span.name.startswith(name) and span_id in (b"", span.span_id))
            return next(fits, None)

        with self._came:
            span = self._came.wait_for(found, timeout=60)
        assert span is not None, [each.name for each in self.spans]
        return span

    def children(self, parent: Span) -> list[Span]:
        return [span for span in self.spans if span.parent_span_id == parent.span_id]


def attributes(span: Span) -> dict[str, Any]:
    """Of a span, by name; lists as lists."""
    return {each.key: _value(each.value) for each in span.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a port of its own."""
    collector, server = Collector(), grpc.server(ThreadPoolExecutor(2))
    collector.answers.set()
    rpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
