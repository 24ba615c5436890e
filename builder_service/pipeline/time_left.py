"""How long a build will still take, from what was measured of it so far. Pure: the caller has the clock.

The rest of the current stage goes at the stage's own pace, where what happened long ago counts for less; the stages
to come at the pace of the whole build, by the shares that stages usually have. The moment of the end that follows is
smoothed, so that what a person reads does not jump.
"""

from __future__ import annotations

import math

from builder_service.queue.build import Stage, StageProgress, overall_progress
from common.spec.model_spec import Target

_MEMORY_S = 10.0
"""After so long, what was measured of a stage counts for a third."""
_LEAST_S, _LEAST_PROGRESS = 0.5, 0.02
"""Of time and of the build: with less, nothing has been measured."""
_TRUST = 0.05
"""Of a stage: as long as less of it is done, the pace of the build before it counts for more than its own."""
_SMOOTHING = 0.1
"""Over this part of what is left, the end that was said before counts for a third."""


class TimeLeft:
    """Of one attempt that began at `start`; times are seconds of a clock that never goes back."""

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
        """A stage's own pace is at first that of the build: what passes before its first report says little."""
        share = overall_progress(stage, 1.0, self._target) - overall_progress(stage, 0.0, self._target)
        self._stage, self._stage_work = stage, _TRUST * share
        self._stage_time = self._stage_work * (since - self._start) / max(self._progress, _LEAST_PROGRESS)

    def _left(self, stage: Stage) -> float:
        """Seconds, as measured now."""
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
