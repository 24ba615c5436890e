from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from builder_service import build_repository
from builder_service.build_events import Changed, Logged, Progressed
from builder_service.build_queue import BuildQueue
from builder_service.build_repository import BuildRepository
from builder_service.builds import Build, Stage, State
from builder_service.failure import Failure
from common.blob_claims import claim_blobs
from common.catalog import Catalog
from common.database import Database, open_database
from common.digest import digest_of
from common.errors import Aborted, AlreadyExists, FailedPrecondition, Internal, NotFound, Reason
from common.pages import read_page
from common.spec import ModelSpec, Source
from common.store import open_store
from tests.drafts import draft

SPEC = ModelSpec(name="demo", source=Source(uri="/m"))
OTHER = ModelSpec(name="other", source=Source(uri="/m"))
KEY = digest_of(b"key")
FAILURE = Failure.of(Internal(Reason.BUILD_CRASHED, "crashed"))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'x.db'}")
    yield opened
    opened.close()


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
    return BuildQueue(database, "here", heard.append, alive.__contains__)


@pytest.fixture
def other(database: Database, alive: set[str]) -> BuildQueue:
    """The queue as another process sees it."""
    return BuildQueue(database, "there", lambda _: None, alive.__contains__)


def _taken(queue: BuildQueue) -> Build:
    build = queue.take()
    assert build is not None
    return build


def test_a_submitted_build_is_queued_and_found(builds: BuildRepository, heard: list[str]) -> None:
    build = builds.submit("local", SPEC)
    assert (build.state, build.attempt, len(build.build_id)) == (State.QUEUED, 0, 32)
    assert builds.get("local", build.build_id) == build
    assert heard == [build.build_id]


def test_a_request_is_made_once(builds: BuildRepository, queue: BuildQueue) -> None:
    first = builds.submit("local", SPEC, "r1")
    queue.take()
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


def test_the_build_that_waits_longest_is_taken(builds: BuildRepository, queue: BuildQueue) -> None:
    made = [builds.submit("local", SPEC).build_id for _ in range(3)]
    assert [_taken(queue).build_id for _ in made] == made
    assert queue.take() is None


def test_a_build_is_taken_once(builds: BuildRepository, queue: BuildQueue) -> None:
    made = {builds.submit("local", SPEC).build_id for _ in range(10)}
    with ThreadPoolExecutor(8) as threads:
        taken = [build.build_id for build in threads.map(lambda _: queue.take(), range(20)) if build]
    assert (len(taken), set(taken)) == (10, made)


def test_everything_that_happens_is_an_event_in_its_order(builds: BuildRepository, queue: BuildQueue) -> None:
    build_id = builds.submit("local", SPEC).build_id
    build = _taken(queue)
    queue.advance(build, Stage.PLAN, 0.5)
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
    build = _taken(queue)
    assert queue.is_running(build)
    builds.cancel("local", build.build_id)
    assert not queue.is_running(build)
    before = builds.watch("local", build.build_id, 0)
    acts: tuple[Callable[[], object], ...] = (
        partial(queue.advance, build, Stage.PLAN, 0.5),
        partial(queue.log, build, "x"),
        partial(queue.claim_key, build, KEY),
        partial(queue.wait_for_key, build, KEY),
        partial(queue.fail, build, FAILURE),
        partial(queue.give_up, build),
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
    other.abandoned()
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
    assert other.abandoned() == []
    alive.remove("here")
    assert [build.build_id for build in other.abandoned()] == made[:1]
    assert other.running_ids() == set()
    assert [_taken(other).build_id for _ in made] == made


def test_a_build_is_for_the_process_that_accepted_it_as_long_as_that_is_alive(
    builds: BuildRepository, queue: BuildQueue, other: BuildQueue, alive: set[str]
) -> None:
    builds.submit("local", SPEC)
    assert other.take() is None
    alive.remove("here")
    assert other.take() is not None
    assert queue.take() is None


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
    assert queue.take() is None
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
        queue.abandoned()
    else:
        queue.give_up(build)
    builds.submit("local", OTHER)
    assert queue.claim_key(_taken(queue), KEY) is None


def test_publishing_and_success_are_one(
    database: Database, builds: BuildRepository, queue: BuildQueue, tmp_path: Path
) -> None:
    catalog = Catalog(database, open_store(str(tmp_path / "store")))
    manifest = draft()
    builds.submit("local", SPEC)
    build = _taken(queue)
    claim_blobs(database, [file.digest for file in manifest.files], build.name)
    builds.cancel("local", build.build_id)
    with pytest.raises(Aborted):
        queue.succeed(build, catalog, manifest)
    with pytest.raises(NotFound):
        catalog.resolve("demo")
    builds.submit("local", SPEC)
    build = _taken(queue)
    claim_blobs(database, [file.digest for file in manifest.files], build.name)
    assert queue.succeed(build, catalog, manifest).reference == "demo@1"
    done = builds.get("local", build.build_id)
    assert (done.state, done.engine, done.progress) == (State.SUCCEEDED, "demo@1", 1.0)
