"""The span of one attempt at a build, with a child for each stage."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from builder_service.queue.build import Build, Stage
from common.errors import SinkServeError
from common.tracing.span import Attribute, Span
from common.tracing.traces import Traces


@dataclass
class AttemptTrace:
    """Notes when stages begin, and records all when the attempt has ended."""

    traces: Traces
    _began_s: float = field(default_factory=time.time)
    _stages: dict[Stage, float] = field(default_factory=dict)

    def stage(self, stage: Stage) -> None:
        """A stage goes on; the first time, it begins."""
        self._stages.setdefault(stage, time.time())

    def end(self, build: Build, error: SinkServeError | None = None) -> None:
        """The attempt for `build` ended."""
        if self.traces.on:
            span = self._span(build, time.time(), "" if error is None else error.reason.value)
            self.traces.record(span, build.caller_span)

    def _span(self, build: Build, end_s: float, error: str) -> Span:
        begins = [*self._stages.values(), end_s]
        stages = tuple(
            Span(stage.value.lower(), begin, begins[index + 1])
            for index, (stage, begin) in enumerate(self._stages.items())
        )
        attributes: dict[str, Attribute] = {
            "sinkserve.build.id": build.name,
            "sinkserve.build.attempt": build.attempt,
            "gen_ai.request.model": build.spec.name,
        }
        return Span(f"build {build.spec.name}", self._began_s, end_s, attributes, stages, error)
