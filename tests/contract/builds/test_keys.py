"""Builds of one key: one runs and the others wait; it publishes and succeeds at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder_service.queue.build import State
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from common.catalog.blob_claims import claim_blobs
from common.catalog.catalog import Catalog
from common.db.database import Database
from common.errors import Aborted, NotFound
from common.store.blob_store import open_store
from tests.contract.builds.samples import FAILURE, KEY, OTHER, SPEC, take
from tests.samples.drafts import draft


def test_one_build_a_key_runs_and_the_others_wait_until_it_has_ended(
    builds: BuildRepository, queue: BuildQueue
) -> None:
    for _ in range(2):
        builds.submit("local", SPEC)
    first, second = take(queue), take(queue)
    assert queue.claim_key(first, KEY) is None
    assert queue.claim_key(first, KEY) is None
    assert queue.claim_key(second, KEY) == first.build_id
    queue.wait_for_key(second, KEY)
    assert builds.get("local", second.build_id).state is State.QUEUED
    assert queue.lease_next() is None
    third = builds.submit("local", OTHER)
    assert take(queue).build_id == third.build_id, "what waits holds up nobody"
    queue.fail(first, FAILURE)
    again = take(queue)
    assert (again.build_id, again.attempt) == (second.build_id, 1), "waiting is no attempt"
    assert queue.claim_key(again, KEY) is None


@pytest.mark.parametrize("end", ["cancel", "abandon", "give_up"])
def test_a_key_is_free_however_its_build_stops(
    builds: BuildRepository, queue: BuildQueue, alive: set[str], end: str
) -> None:
    builds.submit("local", SPEC)
    build = take(queue)
    queue.claim_key(build, KEY)
    if end == "cancel":
        builds.cancel("local", build.build_id)
    elif end == "abandon":
        alive.remove("here")
        queue.requeue_lost()
    else:
        queue.requeue(build)
    builds.submit("local", OTHER)
    assert queue.claim_key(take(queue), KEY) is None


def test_publishing_and_success_are_one(
    database: Database, builds: BuildRepository, queue: BuildQueue, tmp_path: Path
) -> None:
    catalog = Catalog(database, open_store(str(tmp_path / "store")))
    manifest = draft()
    builds.submit("local", SPEC)
    build = take(queue)
    claim_blobs(database, [file.digest for file in manifest.files], "runs/1")
    builds.cancel("local", build.build_id)
    with pytest.raises(Aborted):
        queue.succeed(build, catalog, manifest, "runs/1")
    with pytest.raises(NotFound):
        catalog.resolve("demo")
    builds.submit("local", SPEC)
    build = take(queue)
    claim_blobs(database, [file.digest for file in manifest.files], "runs/2")
    assert queue.succeed(build, catalog, manifest, "runs/2").reference == "demo@1"
    done = builds.get("local", build.build_id)
    assert (done.state, done.engine, done.progress) == (State.SUCCEEDED, "demo@1", 1.0)
