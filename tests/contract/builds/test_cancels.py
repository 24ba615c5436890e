"""Builds that are cancelled: what their worker may still say, and who takes over their key."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from builder_service.queue.build import Stage, StageProgress, State
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from common.errors import Aborted, FailedPrecondition, Reason
from tests.contract.builds.samples import FAILURE, KEY, SPEC, leased, take


def test_a_cancelled_build_takes_no_more_words_from_its_worker(builds: BuildRepository, queue: BuildQueue) -> None:
    builds.submit("local", SPEC)
    lease = leased(queue)
    build = lease.build
    assert queue.current_build(lease) == build
    builds.cancel("local", build.build_id)
    assert queue.current_build(lease) is None
    before = builds.watch("local", build.build_id, 0)
    acts: tuple[Callable[[], object], ...] = (
        partial(queue.advance, build, StageProgress(Stage.PLAN, 0.5)),
        partial(queue.log, build, "x"),
        partial(queue.claim_key, build, KEY),
        partial(queue.wait_for_key, build, KEY),
        partial(queue.fail, build, FAILURE),
        partial(queue.requeue, build),
    )
    for act in acts:
        with pytest.raises(Aborted) as caught:
            act()
        assert caught.value.reason is Reason.BUILD_ENDED
    assert builds.watch("local", build.build_id, 0) == before


def test_what_has_ended_is_not_cancelled(builds: BuildRepository) -> None:
    build = builds.submit("local", SPEC)
    builds.cancel("local", build.build_id)
    with pytest.raises(FailedPrecondition, match="CANCELLED") as caught:
        builds.cancel("local", build.build_id)
    assert caught.value.reason is Reason.BUILD_ENDED


def test_a_cancelled_build_goes_on_for_the_next_of_its_key(
    builds: BuildRepository, queue: BuildQueue, other: BuildQueue
) -> None:
    for _ in range(3):
        builds.submit("local", SPEC)
    lease, second, third = leased(queue), take(other), take(other)
    queue.claim_key(lease.build, KEY)
    for waiting in (third, second):
        assert other.claim_key(waiting, KEY) == lease.build.build_id
        other.wait_for_key(waiting, KEY)
    queue.advance(lease.build, StageProgress(Stage.VERIFY, 0.5))
    before = builds.get("local", lease.build.build_id)
    builds.cancel("local", lease.build.build_id)
    heir = queue.current_build(lease)
    assert heir is not None
    assert (heir.build_id, heir.state, heir.attempt) == (second.build_id, State.RUNNING, 1), "it waits the longest"
    assert (heir.stage, heir.progress) == (Stage.VERIFY, before.progress)
    queue.log(heir, "on it goes")
    assert queue.running_attempts() == {lease.run}
    assert other.lease_next() is None, "the third still waits"
    builds.cancel("local", heir.build_id)
    last = queue.current_build(lease)
    assert last is not None
    assert last.build_id == third.build_id
    builds.cancel("local", last.build_id)
    assert queue.current_build(lease) is None
