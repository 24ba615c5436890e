"""Estimates how long a build will still take, from its progress so far. Pure: the caller passes the time.

The rest of the current stage is taken to go at the stage's own pace, in which recent progress counts more. The stages
to come are taken to go at the pace of the whole build, by the shares that stages usually have. The resulting time of
the end is smoothed, so that the display does not jump.
"""

from __future__ import annotations

import math

from builder_service.queue.build import Stage, StageProgress, overall_progress
from common.spec.model_spec import Target

_MEMORY_S = 10.0
"""After so many seconds, a measurement of a stage counts a third (1/e)."""
_LEAST_S, _LEAST_PROGRESS = 0.5, 0.02
"""Least time, and least share of the build, before there is an estimate."""
_TRUST = 0.05
"""Share of a stage: until so much is done, the build's pace before the stage counts more than the stage's own."""
_SMOOTHING = 0.1
"""After this share of the time left, the former estimate counts a third (1/e)."""


class TimeLeft:
    """Time left of one attempt that began at `start`. Times are seconds of a monotonic clock."""

    def __init__(self, start: float, target: Target = Target.ONNXRUNTIME) -> None:
        self._start = self._now = start
        self._target = target
        self._stage = Stage.RESOLVE
        self._progress = 0.0
        self._stage_time = self._stage_work = 0.0
        self._end: float | None = None

    def after(self, report: StageProgress, now: float) -> float | None:
        """Seconds that are left after a report, at least 0; None while nothing has been measured."""
        passed, self._now = max(0.0, now - self._now), max(now, self._now)
        self._measure(report, passed)
        if self._now - self._start < _LEAST_S or self._progress < _LEAST_PROGRESS:
            return None
        self._smooth(self._now + self._left(report.stage), passed)
        assert self._end is not None
        return max(0.0, self._end - self._now) if self._progress < 1.0 else 0.0

    def _measure(self, report: StageProgress, passed: float) -> None:
        progress = max(self._progress, overall_progress(report.stage, report.done, self._target))
        if report.stage is not self._stage:
            self._begin(report.stage, self._now - passed)
        keep = math.exp(-passed / _MEMORY_S)
        self._stage_time = keep * self._stage_time + passed
        self._stage_work = keep * self._stage_work + progress - self._progress
        self._progress = progress

    def _begin(self, stage: Stage, since: float) -> None:
        """Start a stage with the pace of the build so far: before its first report there is little to measure."""
        share = overall_progress(stage, 1.0, self._target) - overall_progress(stage, 0.0, self._target)
        self._stage, self._stage_work = stage, _TRUST * share
        self._stage_time = self._stage_work * (since - self._start) / max(self._progress, _LEAST_PROGRESS)

    def _left(self, stage: Stage) -> float:
        """Seconds left, before smoothing."""
        pace = (self._now - self._start) / self._progress
        own = self._stage_time / self._stage_work if self._stage_work > 0 else pace
        end_of_stage = overall_progress(stage, 1.0, self._target)
        in_stage = max(0.0, end_of_stage - self._progress)
        return in_stage * own + max(0.0, 1.0 - max(end_of_stage, self._progress)) * pace

    def _smooth(self, end: float, passed: float) -> None:
        if self._end is None:
            self._end = end
            return
        slowness = max(1e-9, _SMOOTHING * max(0.0, self._end - self._now))
        self._end += (1.0 - math.exp(-passed / slowness)) * (end - self._end)
