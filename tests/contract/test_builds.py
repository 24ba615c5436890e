"""Builds in a database, as their clients and as their workers see them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select, update

from builder_service.queue import repository as build_repository
from builder_service.queue import tables
from builder_service.queue.build import MOST_ATTEMPTS, Build, Stage, StageProgress, State
from builder_service.queue.capability import Capability
from builder_service.queue.events import Changed, Logged, Progressed
from builder_service.queue.failure import Failure
from builder_service.queue.queue import BuildQueue, Lease
from builder_service.queue.repository import BuildRepository
from common.catalog.blob_claims import claim_blobs
from common.catalog.catalog import Catalog
from common.db.database import Database, database_time
from common.db.paging import read_page
from common.digest import digest_of
from common.errors import Aborted, AlreadyExists, FailedPrecondition, Internal, NotFound, Reason, ResourceExhausted
from common.spec.model_spec import ModelSpec, Source
from common.store.blob_store import open_store
from tests.samples.drafts import draft

SPEC = ModelSpec(name="demo", source=Source(uri="/m"))
OTHER = ModelSpec(name="other", source=Source(uri="/m"))
KEY = digest_of(b"key")
FAILURE = Failure.of(Internal(Reason.BUILD_CRASHED, "crashed"))


ANYTHING = Capability(folders=(Path("/"),), prefixes=("hf://",))


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def alive() -> set[str]:
    """The processes that run."""
    return {"here", "there"}


@pytest.fixture
def builds(database: Database, heard: list[str]) -> BuildRepository:
    return BuildRepository(database, "here", heard.append)


@pytest.fixture
def queue(database: Database, heard: list[str], alive: set[str]) -> BuildQueue:
    return BuildQueue(database, "here", ANYTHING, heard.append, alive.__contains__)


@pytest.fixture
def other(database: Database, alive: set[str]) -> BuildQueue:
    """The queue as another process sees it."""
    return BuildQueue(database, "there", ANYTHING, lambda _: None, alive.__contains__)


def _taken(queue: BuildQueue) -> Build:
    return _leased(queue).build


def _leased(queue: BuildQueue) -> Lease:
    lease = queue.lease_next()
    assert lease is not None
    return lease


def expire(database: Database) -> None:
    """Let every lease have passed."""
    with database.write() as connection:
        for table in (tables.builds, tables.builders):
            connection.execute(update(table).values(lease_expires=database_time(connection) - timedelta(seconds=1)))


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
    taken = _taken(queue).build_id

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


def test_the_build_that_waits_longest_is_taken(builds: BuildRepository, queue: BuildQueue) -> None:
    made = [builds.submit("local", SPEC).build_id for _ in range(3)]
    assert [_taken(queue).build_id for _ in made] == made
    assert queue.lease_next() is None


def test_a_build_is_taken_once(builds: BuildRepository, queue: BuildQueue) -> None:
    made = {builds.submit("local", SPEC).build_id for _ in range(10)}
    with ThreadPoolExecutor(8) as threads:
        taken = [lease.build.build_id for lease in threads.map(lambda _: queue.lease_next(), range(20)) if lease]
    assert (len(taken), set(taken)) == (10, made)


def test_everything_that_happens_is_an_event_in_its_order(builds: BuildRepository, queue: BuildQueue) -> None:
    build_id = builds.submit("local", SPEC).build_id
    build = _taken(queue)
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
    build = _taken(queue)
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
    queue.log(_taken(queue), "of the first")
    assert [event.sequence for event in builds.watch("local", first.build_id, 0)[1]] == [1, 2, 3]
    assert [event.sequence for event in builds.watch("local", second.build_id, 0)[1]] == [1]


def test_a_cancelled_build_takes_no_more_words_from_its_worker(builds: BuildRepository, queue: BuildQueue) -> None:
    builds.submit("local", SPEC)
    lease = _leased(queue)
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


def test_a_worker_of_an_earlier_attempt_is_fenced(
    builds: BuildRepository, queue: BuildQueue, other: BuildQueue, alive: set[str]
) -> None:
    builds.submit("local", SPEC)
    first = _taken(queue)
    alive.remove("here")
    other.requeue_lost()
    second = _taken(other)
    assert second.attempt == 2
    with pytest.raises(Aborted):
        queue.log(first, "I am still here")
    other.log(second, "so am I")


def test_builds_of_dead_workers_are_taken_up_again(
    builds: BuildRepository, queue: BuildQueue, other: BuildQueue, alive: set[str]
) -> None:
    made = [builds.submit("local", SPEC).build_id for _ in range(2)]
    _taken(queue)
    assert other.requeue_lost() == []
    alive.remove("here")
    assert [build.build_id for build in other.requeue_lost()] == made[:1]
    assert other.running_attempts() == set()
    assert [_taken(other).build_id for _ in made] == made


def test_a_lease_that_is_not_renewed_is_lost(
    database: Database, builds: BuildRepository, queue: BuildQueue, other: BuildQueue
) -> None:
    """Of a worker that lives somewhere else, or stands still."""
    builds.submit("local", SPEC)
    lease = _leased(queue)
    assert other.requeue_lost() == []
    expire(database)
    queue.renew_leases({lease.run})
    assert other.requeue_lost() == []
    expire(database)
    assert [build.attempt for build in other.requeue_lost()] == [1]
    assert queue.current_build(lease) is None
    again = _leased(other)
    assert (again.build.attempt, again.run) == (2, f"{again.build.build_id}-2")
    queue.renew_leases({lease.run})  # it wakes up
    assert queue.current_build(lease) is None
    assert other.current_build(again) == again.build


def test_a_build_that_its_worker_does_not_run_any_more_is_taken_up_again(
    database: Database, builds: BuildRepository, queue: BuildQueue, other: BuildQueue
) -> None:
    """As after an outage of the database in which a worker could not say how the build ended."""
    builds.submit("local", SPEC)
    lease = _leased(queue)
    assert queue.requeue_lost({lease.run}) == []
    assert [build.attempt for build in queue.requeue_lost()] == [1]
    assert _leased(queue).build.attempt == 2
    expire(database)
    queue.renew_leases()
    assert [build.attempt for build in other.requeue_lost()] == [2], "only what it runs is renewed"


def test_a_build_that_loses_worker_after_worker_fails(
    database: Database, builds: BuildRepository, queue: BuildQueue
) -> None:
    build_id = builds.submit("local", SPEC).build_id
    for _ in range(MOST_ATTEMPTS):
        _taken(queue)
        expire(database)
        queue.requeue_lost()
    assert queue.lease_next() is None
    failed = builds.get("local", build_id)
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert (failed.failure.reason, failed.attempt) == (Reason.WORKER_LOST, MOST_ATTEMPTS)


def test_builders_that_are_not_heard_of_are_forgotten(database: Database, queue: BuildQueue, other: BuildQueue) -> None:
    queue.renew_leases()
    other.renew_leases()
    with database.write() as connection:
        long_ago = database_time(connection) - timedelta(hours=1)
        mine = tables.builders.c.builder == "here"
        connection.execute(update(tables.builders).where(mine).values(lease_expires=long_ago))
    other.requeue_lost()
    with database.read() as connection:
        assert connection.scalars(select(tables.builders.c.builder)).all() == ["there"]
    other.unregister()
    with database.read() as connection:
        assert connection.scalars(select(tables.builders.c.builder)).all() == []


def test_a_worker_takes_only_what_it_can_build(
    database: Database, builds: BuildRepository, other: BuildQueue, alive: set[str]
) -> None:
    nothing = BuildQueue(database, "here", Capability(), lambda _: None, alive.__contains__)
    build = builds.submit("local", SPEC)  # accepted here
    other.renew_leases()
    assert nothing.lease_next() is None, "another can"
    assert _taken(other).build_id == build.build_id


def test_what_nobody_can_build_is_taken_by_who_accepted_it_and_fails_there(
    database: Database, builds: BuildRepository, alive: set[str]
) -> None:
    here, there = (
        BuildQueue(database, name, Capability(), lambda _: None, alive.__contains__) for name in ("here", "there")
    )
    build = builds.submit("local", SPEC)
    there.renew_leases()
    assert there.lease_next() is None
    assert _taken(here).build_id == build.build_id


def test_too_many_waiting_builds_are_refused_until_fewer_wait(database: Database, queue: BuildQueue) -> None:
    builds = BuildRepository(database, "here", most=2)
    builds.submit("local", SPEC, "r1")
    builds.submit("local", SPEC)
    with pytest.raises(ResourceExhausted, match="2 builds wait") as caught:
        builds.submit("local", SPEC)
    assert caught.value.reason is Reason.CAPACITY_EXHAUSTED
    assert caught.value.retry_after_s
    assert builds.submit("local", SPEC, "r1").attempt == 0, "what was accepted is still there"
    _taken(queue)
    builds.submit("local", SPEC)


def test_a_cancelled_build_goes_on_for_the_next_of_its_key(
    builds: BuildRepository, queue: BuildQueue, other: BuildQueue
) -> None:
    for _ in range(3):
        builds.submit("local", SPEC)
    lease, second, third = _leased(queue), _taken(other), _taken(other)
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


def test_one_build_a_key_runs_and_the_others_wait_until_it_has_ended(
    builds: BuildRepository, queue: BuildQueue
) -> None:
    for _ in range(2):
        builds.submit("local", SPEC)
    first, second = _taken(queue), _taken(queue)
    assert queue.claim_key(first, KEY) is None
    assert queue.claim_key(first, KEY) is None
    assert queue.claim_key(second, KEY) == first.build_id
    queue.wait_for_key(second, KEY)
    assert builds.get("local", second.build_id).state is State.QUEUED
    assert queue.lease_next() is None
    third = builds.submit("local", OTHER)
    assert _taken(queue).build_id == third.build_id, "what waits holds up nobody"
    queue.fail(first, FAILURE)
    again = _taken(queue)
    assert (again.build_id, again.attempt) == (second.build_id, 1), "waiting is no attempt"
    assert queue.claim_key(again, KEY) is None


@pytest.mark.parametrize("end", ["cancel", "abandon", "give_up"])
def test_a_key_is_free_however_its_build_stops(
    builds: BuildRepository, queue: BuildQueue, alive: set[str], end: str
) -> None:
    builds.submit("local", SPEC)
    build = _taken(queue)
    queue.claim_key(build, KEY)
    if end == "cancel":
        builds.cancel("local", build.build_id)
    elif end == "abandon":
        alive.remove("here")
        queue.requeue_lost()
    else:
        queue.requeue(build)
    builds.submit("local", OTHER)
    assert queue.claim_key(_taken(queue), KEY) is None


def test_publishing_and_success_are_one(
    database: Database, builds: BuildRepository, queue: BuildQueue, tmp_path: Path
) -> None:
    catalog = Catalog(database, open_store(str(tmp_path / "store")))
    manifest = draft()
    builds.submit("local", SPEC)
    build = _taken(queue)
    claim_blobs(database, [file.digest for file in manifest.files], "runs/1")
    builds.cancel("local", build.build_id)
    with pytest.raises(Aborted):
        queue.succeed(build, catalog, manifest, "runs/1")
    with pytest.raises(NotFound):
        catalog.resolve("demo")
    builds.submit("local", SPEC)
    build = _taken(queue)
    claim_blobs(database, [file.digest for file in manifest.files], "runs/2")
    assert queue.succeed(build, catalog, manifest, "runs/2").reference == "demo@1"
    done = builds.get("local", build.build_id)
    assert (done.state, done.engine, done.progress) == (State.SUCCEEDED, "demo@1", 1.0)
