from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder_service.queue.build import MOST_ATTEMPTS, Build, Stage, StageProgress, State, overall_progress
from builder_service.queue.failure import Failure
from common.errors import FailedPrecondition, Internal, InvalidArgument, Reason
from common.spec.model_spec import ModelSpec, Source, Target

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
FAILURE = Failure.of(InvalidArgument(Reason.CHECKPOINT_INVALID, "bad", field="source", file="x"))

ACTS: dict[str, tuple[Callable[[Build], Build], dict[State, State]]] = {
    "take": (lambda build: build.take(LATER), {State.QUEUED: State.RUNNING}),
    "advance": (lambda build: build.advance(StageProgress(Stage.VERIFY, 0.5)), {State.RUNNING: State.RUNNING}),
    "requeue": (lambda build: build.requeue(counted=True), {State.RUNNING: State.QUEUED}),
    "abandon": (lambda build: build.abandon(LATER), {State.RUNNING: State.QUEUED}),
    "succeed": (lambda build: build.succeed("demo@1", LATER), {State.RUNNING: State.SUCCEEDED}),
    "fail": (lambda build: build.fail(FAILURE, LATER), {State.RUNNING: State.FAILED}),
    "cancel": (
        lambda build: build.cancel(LATER),
        {State.QUEUED: State.CANCELLED, State.RUNNING: State.CANCELLED},
    ),
}


def _queued() -> Build:
    return Build("1f", "local", ModelSpec(name="demo", source=Source(uri="/m")), NOW)


def _running() -> Build:
    return _queued().take(NOW)


BUILDS = {
    State.QUEUED: _queued(),
    State.RUNNING: _running(),
    State.SUCCEEDED: _running().succeed("demo@1", NOW),
    State.FAILED: _running().fail(FAILURE, NOW),
    State.CANCELLED: _queued().cancel(NOW),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", ACTS)
def test_every_act_is_legal_only_where_it_is(state: State, name: str) -> None:
    act, legal = ACTS[name]
    if state in legal:
        assert act(BUILDS[state]).state is legal[state]
        return
    with pytest.raises(FailedPrecondition, match=f"is {state}") as caught:
        act(BUILDS[state])
    assert caught.value.reason is (Reason.BUILD_ENDED if state.ended else Reason.INTERNAL)


@given(st.lists(st.sampled_from(sorted(ACTS))))
def test_whatever_happens_a_build_makes_sense(names: list[str]) -> None:
    build = _queued()
    for name in names:
        act, legal = ACTS[name]
        if build.state not in legal:
            continue
        build = act(build)
        assert (build.end_time is not None) is build.state.ended
        assert (build.engine is not None) is (build.state is State.SUCCEEDED)
        assert (build.failure is not None) is (build.state in (State.FAILED, State.CANCELLED))
        assert 0 <= build.attempt <= MOST_ATTEMPTS + names.count("requeue")
        assert 0.0 <= build.progress <= 1.0
        assert (build.stage is None) <= (build.state in (State.QUEUED, State.CANCELLED))


def test_taking_counts_attempts_and_keeps_the_first_start() -> None:
    again = _running().requeue(counted=True).take(LATER)
    assert (again.attempt, again.start_time, again.progress, again.stage) == (2, NOW, 0.0, Stage.RESOLVE)


def test_an_attempt_that_does_not_count_is_as_if_it_had_not_been() -> None:
    assert _running().requeue(counted=False).attempt == 0


def test_a_build_whose_workers_keep_dying_fails() -> None:
    build = _queued()
    for attempt in range(1, MOST_ATTEMPTS):
        build = build.take(NOW).abandon(LATER)
        assert (build.state, build.attempt) == (State.QUEUED, attempt)
    build = build.take(NOW).abandon(LATER)
    assert build.state is State.FAILED
    assert build.failure is not None
    assert build.failure.reason is Reason.WORKER_LOST
    assert build.failure.metadata == {"attempts": str(MOST_ATTEMPTS)}


def test_a_cancelled_build_says_so() -> None:
    failure = _running().cancel(LATER).failure
    assert failure is not None
    assert (failure.kind, failure.reason) == ("Cancelled", Reason.BUILD_CANCELLED)


@given(st.lists(st.tuples(st.sampled_from(Stage), st.floats(-1, 2))))
def test_progress_and_stages_never_go_back(reports: list[tuple[Stage, float]]) -> None:
    build, order = _running(), list(Stage)
    for stage, done in reports:
        after = build.advance(StageProgress(stage, done))
        assert after.progress >= build.progress
        assert build.stage is not None
        assert after.stage is not None
        assert order.index(after.stage) >= order.index(build.stage)
        build = after


@pytest.mark.parametrize("target", Target)
def test_the_stages_fill_the_whole(target: Target) -> None:
    stages = list(Stage)
    assert overall_progress(stages[0], 0.0, target) == 0.0
    assert overall_progress(stages[-1], 1.0, target) == 1.0
    for before, after in pairwise(stages):
        assert overall_progress(before, 1.0, target) == overall_progress(after, 0.0, target)
        assert overall_progress(after, 0.0, target) < overall_progress(after, 1.0, target)


def test_a_failure_keeps_everything_of_its_error() -> None:
    again = Failure.model_validate_json(FAILURE.model_dump_json())
    error = again.error()
    assert isinstance(error, InvalidArgument)
    assert (error.reason, error.message, error.metadata) == (Reason.CHECKPOINT_INVALID, "bad", {"file": "x"})
    assert error.violations[0].field == "source"
    assert Failure.of(Internal(Reason.INTERNAL, "x")).error().violations == ()
