"""Builds in a database, as their clients see them: submitted once, found, listed, refused when too many wait."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from builder_service.queue.build import State
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from common.db.database import Database
from common.db.paging import read_page
from common.errors import AlreadyExists, NotFound, Reason, ResourceExhausted
from tests.contract.builds.samples import OTHER, SPEC, take


def test_a_submitted_build_is_queued_and_found(builds: BuildRepository, heard: list[str]) -> None:
    build = builds.submit("local", SPEC)
    assert (build.state, build.attempt, len(build.build_id)) == (State.QUEUED, 0, 32)
    assert builds.get("local", build.build_id) == build
    assert heard == [build.build_id]


def test_a_request_is_made_once(builds: BuildRepository, queue: BuildQueue) -> None:
    first = builds.submit("local", SPEC, "r1")
    queue.lease_next()
    again = builds.submit("local", SPEC, "r1")
    assert (again.build_id, again.state) == (first.build_id, State.RUNNING)
    assert builds.submit("local", SPEC, "r2").build_id != first.build_id
    assert builds.submit("local", SPEC).build_id != builds.submit("local", SPEC).build_id


def test_a_request_id_is_not_for_another_spec(builds: BuildRepository) -> None:
    first = builds.submit("local", SPEC, "r1")
    with pytest.raises(AlreadyExists, match=first.name) as caught:
        builds.submit("local", OTHER, "r1")
    assert caught.value.reason is Reason.REQUEST_ID_REUSED


def test_the_same_request_at_once_is_one_build(builds: BuildRepository) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = threads.map(lambda _: builds.submit("local", SPEC, "r1").build_id, range(16))
        assert len(set(made)) == 1


def test_what_is_anothers_is_not_there(builds: BuildRepository) -> None:
    mine = builds.submit("me", SPEC, "r1")
    assert builds.submit("you", OTHER, "r1").build_id != mine.build_id
    for act in (builds.get, builds.cancel, lambda who, build: builds.watch(who, build, 0)):
        with pytest.raises(NotFound, match=mine.name) as caught:
            act("you", mine.build_id)
        assert caught.value.reason is Reason.BUILD_NOT_FOUND
    assert [build.principal for build in builds.list("you", read_page(0, "", "", (int, str)))[0]] == ["you"]


def test_builds_are_listed_the_newest_first_by_pages_without_gaps(builds: BuildRepository) -> None:
    made = [builds.submit("local", SPEC).build_id for _ in range(7)]
    seen, token = [], ""
    while True:
        found, token = builds.list("local", read_page(3, token, "builds", (int, str)))
        seen += [build.build_id for build in found]
        if not token:
            break
        builds.submit("local", SPEC)
    assert seen == made[::-1]


def test_builds_are_listed_by_state_and_name(builds: BuildRepository, queue: BuildQueue) -> None:
    named = SPEC.model_copy(update={"name": "other"})
    made = [builds.submit("local", spec).build_id for spec in (SPEC, named, SPEC, named)]
    builds.cancel("local", made[3])
    taken = take(queue).build_id

    def listed(state: State | None = None, name: str = "", size: int = 0) -> list[str]:
        found, token = builds.list("local", read_page(size, "", "builds", (int, str)), state, name)
        while token:
            more, token = builds.list("local", read_page(size, token, "builds", (int, str)), state, name)
            found += more
        return [build.build_id for build in found]

    for size in (0, 1):
        assert listed(name="other", size=size) == [made[3], made[1]]
        assert listed(State.QUEUED, size=size) == [made[2], made[1]]
        assert listed(State.QUEUED, "other", size) == [made[1]]
    assert (listed(State.RUNNING), listed(State.CANCELLED)) == ([taken], [made[3]])
    assert listed(State.FAILED) == listed(name="nothing") == []


def test_too_many_waiting_builds_are_refused_until_fewer_wait(database: Database, queue: BuildQueue) -> None:
    builds = BuildRepository(database, "here", most=2)
    builds.submit("local", SPEC, "r1")
    builds.submit("local", SPEC)
    with pytest.raises(ResourceExhausted, match="2 builds wait") as caught:
        builds.submit("local", SPEC)
    assert caught.value.reason is Reason.CAPACITY_EXHAUSTED
    assert caught.value.retry_after_s
    assert builds.submit("local", SPEC, "r1").attempt == 0, "what was accepted is still there"
    take(queue)
    builds.submit("local", SPEC)
