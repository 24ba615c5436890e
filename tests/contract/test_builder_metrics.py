"""What a builder counts and reads from the database, over every kind of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from builder_service.collector import BuildMetrics, QueueCollector
from builder_service.queue.build import MOST_ATTEMPTS, Build
from builder_service.queue.capability import Capability
from builder_service.queue.failure import Failure
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from common.catalog.blob_claims import claim_blobs
from common.catalog.catalog import Catalog
from common.db.database import Database, utc_now
from common.errors import Internal, Reason
from common.spec.model_spec import ModelSpec, Source
from common.store.blob_store import open_store
from tests.contract.builds.samples import expire
from tests.samples.drafts import draft

SPEC = ModelSpec(name="demo", source=Source(uri="/m"))
FAILURE = Failure.of(Internal(Reason.BUILD_CRASHED, "crashed"))


class Shop:
    """One builder of a database, and its metrics."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.meter = BuildMetrics()
        self.builds = BuildRepository(database, "here", ended=self.meter.build_ended)
        anything = Capability(folders=(Path("/"),))
        self.queue = BuildQueue(
            database, "here", anything, lambda _: None, lambda _: True, ended=self.meter.build_ended
        )
        self.now = utc_now()
        self.meter.registry.register(QueueCollector(database, lambda: self.now))

    def running(self) -> Build:
        self.builds.submit("local", SPEC)
        lease = self.queue.lease_next()
        assert lease is not None
        return lease.build

    def value(self, name: str, **labels: str) -> float | None:
        return self.meter.registry.get_sample_value(f"sinkserve_builder_{name}", labels)

    def states(self) -> dict[str, float | None]:
        states = ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")
        return {state: count for state in states if (count := self.value("builds", state=state))}


@pytest.fixture
def context(database: Database) -> Shop:
    return Shop(database)


def test_builds_are_counted_in_every_state(context: Shop) -> None:
    assert context.states() == {}
    context.queue.fail(context.running(), FAILURE)
    context.running()
    context.builds.submit("local", SPEC)
    context.builds.submit("other", SPEC)
    assert context.states() == {"QUEUED": 2, "RUNNING": 1, "FAILED": 1}


def test_what_ended_counts_by_its_cause(context: Shop) -> None:
    context.queue.fail(context.running(), FAILURE)
    context.builds.cancel("local", context.running().build_id)
    context.builds.cancel("local", context.builds.submit("local", SPEC).build_id)
    assert context.value("builds_ended_total", state="FAILED", reason="BUILD_CRASHED") == 1
    assert context.value("builds_ended_total", state="CANCELLED", reason="BUILD_CANCELLED") == 2
    assert context.value("builds_ended_total", state="SUCCEEDED", reason="") == 0
    assert context.value("build_seconds_count", state="FAILED") == 1
    assert (
        context.value("build_seconds_count", state="CANCELLED") == 1
    )  # of a build that was never started there is no time


def test_a_success_counts(context: Shop, tmp_path: Path) -> None:
    made = draft()
    claim_blobs(context.database, [file.digest for file in made.files], "run")
    context.queue.succeed(context.running(), Catalog(context.database, open_store(str(tmp_path))), made, "run")
    assert context.value("builds_ended_total", state="SUCCEEDED", reason="") == 1
    assert context.value("build_seconds_count", state="SUCCEEDED") == 1


def test_a_build_whose_builders_died_counts_when_it_is_given_up(context: Shop) -> None:
    build = context.running()
    for attempt in range(MOST_ATTEMPTS):
        assert context.value("builds_ended_total", state="FAILED", reason="WORKER_LOST") is None
        assert build.attempt == attempt + 1
        expire(context.database)
        context.queue.requeue_lost()
        if (lease := context.queue.lease_next()) is not None:
            build = lease.build
    assert context.value("builds_ended_total", state="FAILED", reason="WORKER_LOST") == 1


def test_the_oldest_queued_build_is_that_old(context: Shop) -> None:
    context.running()
    assert context.value("oldest_queued_seconds") == 0
    oldest = context.builds.submit("local", SPEC)
    context.builds.submit("local", SPEC)
    context.now = oldest.create_time + timedelta(seconds=42)
    assert context.value("oldest_queued_seconds") == 42
    context.now = oldest.create_time - timedelta(seconds=1)  # by the clock of another builder
    assert context.value("oldest_queued_seconds") == 0


def test_builders_count_while_they_are_alive(context: Shop) -> None:
    assert context.value("builders") == 0
    context.queue.renew_leases()
    BuildQueue(context.database, "there", Capability(), lambda _: None).renew_leases()
    assert context.value("builders") == 2
    context.queue.unregister()
    assert context.value("builders") == 1
