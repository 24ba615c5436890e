"""Events of builds: in their order, each build its own, and gone on with where one was."""

from __future__ import annotations

import pytest

from builder_service.queue import repository as build_repository
from builder_service.queue.build import Stage, StageProgress, State
from builder_service.queue.events import Changed, Logged, Progressed
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from tests.contract.builds.samples import FAILURE, OTHER, SPEC, take


def test_everything_that_happens_is_an_event_in_its_order(builds: BuildRepository, queue: BuildQueue) -> None:
    build_id = builds.submit("local", SPEC).build_id
    build = take(queue)
    queue.advance(build, StageProgress(Stage.PLAN, 0.5))
    queue.log(build, "hello")
    queue.fail(build, FAILURE)
    _, stored = builds.watch("local", build_id, 0)
    assert [event.sequence for event in stored] == [1, 2, 3, 4, 5]
    queued, running, progress, line, failed = (event.event for event in stored)
    assert isinstance(queued, Changed)
    assert queued.build.state is State.QUEUED
    assert isinstance(running, Changed)
    assert (running.build.state, running.build.attempt) == (State.RUNNING, 1)
    assert isinstance(progress, Progressed)
    assert (progress.stage, progress.stage_progress, progress.progress) == (Stage.PLAN, 0.5, 0.085)
    assert line == Logged("hello")
    assert isinstance(failed, Changed)
    assert failed.build == builds.get("local", build_id)
    assert failed.build.failure == FAILURE


def test_a_watch_goes_on_where_it_was_told_to(
    builds: BuildRepository, queue: BuildQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_repository, "EVENT_PAGE", 3)
    build_id = builds.submit("local", SPEC).build_id
    build = take(queue)
    for number in range(5):
        queue.log(build, str(number))
    seen, after = [], 0
    while stored := builds.watch("local", build_id, after)[1]:
        assert len(stored) <= 3
        seen += [event.sequence for event in stored]
        after = seen[-1]
    assert seen == list(range(1, 8))


def test_events_are_each_builds_own(builds: BuildRepository, queue: BuildQueue) -> None:
    first, second = builds.submit("local", SPEC), builds.submit("local", OTHER)
    queue.log(take(queue), "of the first")
    assert [event.sequence for event in builds.watch("local", first.build_id, 0)[1]] == [1, 2, 3]
    assert [event.sequence for event in builds.watch("local", second.build_id, 0)[1]] == [1]
