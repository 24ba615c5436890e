from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder_service.pipeline.time_left import TimeLeft
from builder_service.queue.build import Stage, StageProgress, overall_progress
from common.spec.model_spec import Target

REPORTS = st.lists(st.tuples(st.sampled_from(Stage), st.floats(0, 1), st.floats(-1, 1e6)), min_size=1, max_size=60)


@given(REPORTS, st.sampled_from(Target))
def test_whatever_is_reported_the_answer_is_a_time_or_nothing(
    reports: list[tuple[Stage, float, float]], target: Target
) -> None:
    remaining, now = TimeLeft(0.0, target), 0.0
    for stage, done, passed in reports:
        now += passed
        left = remaining.after(StageProgress(stage, done), now)
        assert left is None or (math.isfinite(left) and left >= 0)


def _steady(target: Target, total_s: float, every: float) -> list[tuple[float, StageProgress]]:
    """Reports of a build that goes on evenly: the whole of it is done after `total_s`."""
    reports, now = [], 0.0
    while (now := now + every * total_s) < total_s:
        share = now / total_s
        stage = next(stage for stage in Stage if overall_progress(stage, 1.0, target) >= share)
        start, end = overall_progress(stage, 0.0, target), overall_progress(stage, 1.0, target)
        reports.append((now, StageProgress(stage, (share - start) / (end - start))))
    return reports


@given(st.sampled_from(Target), st.floats(60, 1e5), st.floats(0.001, 0.05))
def test_of_a_build_that_goes_on_evenly_the_rest_is_known(target: Target, total_s: float, every: float) -> None:
    remaining = TimeLeft(0.0, target)
    for now, report in _steady(target, total_s, every):
        left = remaining.after(report, now)
        if now > 0.1 * total_s:
            assert left is not None
            assert left == pytest.approx(total_s - now, abs=0.02 * total_s)


@given(st.floats(60, 1e5), st.floats(1, 20))
def test_a_stage_that_is_slower_than_usual_is_told_by_its_own_pace(total_s: float, factor: float) -> None:
    """VERIFY takes `factor` times its usual time: half way through it, its rest is known."""
    remaining, now = TimeLeft(0.0), 0.0
    for now, report in _steady(Target.ONNXRUNTIME, total_s, 0.01):
        if report.stage is Stage.VERIFY:
            break
        remaining.after(report, now)
    length = factor * total_s * 0.6
    left = None
    for step in range(1, 501):
        left = remaining.after(StageProgress(Stage.VERIFY, step / 1000), now + length * step / 1000)
    assert left is not None
    assert 0.8 * length / 2 < left < 1.2 * (length / 2 + 0.1 * factor * total_s)


def test_before_anything_was_measured_nothing_is_said() -> None:
    remaining = TimeLeft(100.0)
    assert remaining.after(StageProgress(Stage.RESOLVE, 0.0), 100.0) is None
    assert remaining.after(StageProgress(Stage.RESOLVE, 0.1), 200.0) is None, "one part in a hundred is not enough"
    assert remaining.after(StageProgress(Stage.RESOLVE, 1.0), 200.0) is not None


def test_at_its_end_nothing_is_left() -> None:
    remaining = TimeLeft(0.0)
    assert remaining.after(StageProgress(Stage.VERIFY, 0.5), 10.0)
    assert remaining.after(StageProgress(Stage.PUBLISH, 1.0), 11.0) == 0.0


def test_a_burst_does_not_move_the_end_that_was_said_by_much() -> None:
    remaining, told = TimeLeft(0.0), []
    for step in range(1, 500):
        done = step / 1000 + (0.05 if step >= 250 else 0.0)  # all at once, a twentieth more
        told.append(remaining.after(StageProgress(Stage.VERIFY, done), step * 0.1))
    ends = [left + (step + 1) * 0.1 for step, left in enumerate(told) if left is not None]
    assert max(abs(after - before) for before, after in pairwise(ends[100:])) < 2.0
