"""The life of a build, as pure logic.

::

    QUEUED --take--> RUNNING --succeed--> SUCCEEDED
      ^  |              | | `---fail----> FAILED
      |  `--------------|-+----cancel---> CANCELLED
      `-----requeue-----'

A build is requeued when its worker is lost or stops, or when another build of the same key goes first. If a running
build is cancelled, a build that waits for the same key takes over its attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from builder_service.queue.failure import Failure
from common.errors import Cancelled, FailedPrecondition, Internal, Reason
from common.spec.model_spec import ModelSpec, Target

MOST_ATTEMPTS = 3


class State(StrEnum):
    """States of a build."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether this state is final."""
        return self not in (State.QUEUED, State.RUNNING)


class Stage(StrEnum):
    """Stages of a running build, in order."""

    RESOLVE = "RESOLVE"
    PLAN = "PLAN"
    EXPORT = "EXPORT"
    QUANTIZE = "QUANTIZE"
    COMPILE = "COMPILE"
    VERIFY = "VERIFY"
    PUBLISH = "PUBLISH"


_SHARES: Mapping[Target, tuple[float, ...]] = {
    Target.ONNXRUNTIME: (0.08, 0.01, 0.02, 0.15, 0.04, 0.60, 0.10),
    Target.TENSORRT: (0.05, 0.01, 0.02, 0.08, 0.49, 0.30, 0.05),
    Target.TENSORRT_RTX: (0.04, 0.01, 0.02, 0.06, 0.40, 0.42, 0.05),
    Target.TENSORRT_LLM: (0.94, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01),
}
"""Share of a whole build's time that each stage takes, about."""


def overall_progress(stage: Stage, done: float, target: Target = Target.ONNXRUNTIME) -> float:
    """Share of the build that is done when `done` of a stage is, 0 to 1."""
    shares, place = _SHARES[target], _order(stage)
    return round(sum(shares[:place]) + shares[place] * min(1.0, max(0.0, done)), 6)


def _order(stage: Stage) -> int:
    return list(Stage).index(stage)


@dataclass(frozen=True)
class StageProgress:
    """Progress of a stage: `done` from 0 to 1, bytes if it moves any, and seconds left of the build if known."""

    stage: Stage
    done: float
    bytes_done: int = 0
    bytes_total: int = 0
    remaining_s: float | None = None


@dataclass(frozen=True)
class Build:
    """One job that turns a spec into an engine. Immutable: each method returns the changed build."""

    build_id: str
    principal: str
    spec: ModelSpec
    create_time: datetime
    state: State = State.QUEUED
    stage: Stage | None = None
    progress: float = 0.0
    attempt: int = 0
    start_time: datetime | None = None
    end_time: datetime | None = None
    engine: str | None = None
    failure: Failure | None = None
    new_version: bool = False
    """Whether it publishes a version of its own where the same engine exists under its name."""
    caller_span: str = ""
    """Of the call that asked for it, as W3C trace context; empty: it had none."""

    @property
    def name(self) -> str:
        """Resource name: builds/ID."""
        return f"builds/{self.build_id}"

    def take(self, now: datetime) -> Build:
        """A worker starts on it."""
        self._require(State.QUEUED)
        return replace(
            self,
            state=State.RUNNING,
            stage=Stage.RESOLVE,
            progress=0.0,
            attempt=self.attempt + 1,
            start_time=self.start_time or now,
        )

    def take_over(self, other: Build, now: datetime) -> Build:
        """Continue the attempt of another build of its key, which was cancelled."""
        return replace(self.take(now), stage=other.stage, progress=other.progress)

    def advance(self, report: StageProgress) -> Build:
        """Take progress of a stage; neither stage nor progress goes back within an attempt."""
        self._require(State.RUNNING)
        assert self.stage is not None
        if _order(report.stage) < _order(self.stage):
            return self
        overall = overall_progress(report.stage, report.done, self.spec.target)
        return replace(self, stage=report.stage, progress=max(self.progress, overall))

    def requeue(self, *, counted: bool) -> Build:
        """Back into the queue; `counted`: the attempt counts, since the build may have killed its worker."""
        self._require(State.RUNNING)
        attempt = self.attempt if counted else self.attempt - 1
        return replace(self, state=State.QUEUED, stage=None, progress=0.0, attempt=attempt)

    def abandon(self, now: datetime) -> Build:
        """Its worker died: queued again, or failed after the last attempt."""
        self._require(State.RUNNING)
        if self.attempt < MOST_ATTEMPTS:
            return self.requeue(counted=True)
        message = f"the builder died {self.attempt} times during this build; its log may say why"
        return self.fail(Failure.of(Internal(Reason.WORKER_LOST, message, attempts=self.attempt)), now)

    def succeed(self, engine: str, now: datetime) -> Build:
        """Its engine is published."""
        self._require(State.RUNNING)
        return replace(self, state=State.SUCCEEDED, stage=Stage.PUBLISH, progress=1.0, engine=engine, end_time=now)

    def fail(self, failure: Failure, now: datetime) -> Build:
        """It cannot be built."""
        self._require(State.RUNNING)
        return replace(self, state=State.FAILED, failure=failure, end_time=now)

    def cancel(self, now: datetime) -> Build:
        """A client cancels it."""
        self._require(State.QUEUED, State.RUNNING)
        failure = Failure.of(Cancelled(Reason.BUILD_CANCELLED, f"{self.name} was cancelled", build=self.name))
        return replace(self, state=State.CANCELLED, failure=failure, end_time=now)

    def _require(self, *states: State) -> None:
        """Raise FailedPrecondition (BUILD_ENDED) if the build has ended; any other wrong state is a fault of this
        program.
        """
        if self.state in states:
            return
        raise FailedPrecondition(
            Reason.BUILD_ENDED if self.state.ended else Reason.INTERNAL,
            f"{self.name} is {self.state}, not {' or '.join(states)}",
            build=self.name,
            state=self.state,
        )
