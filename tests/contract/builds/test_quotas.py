"""Quotas of builds and engines, which all builders of a database count together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder_service.queue.build import Build
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from common.auth.quotas import UNBOUNDED, Quotas
from common.catalog.blob_claims import claim_blobs
from common.catalog.catalog import Catalog
from common.db.database import Database
from common.errors import NotFound, Reason, ResourceExhausted
from common.spec.manifest import EngineFile
from common.store.blob_store import open_store
from tests.contract.builds.samples import ANYTHING, FAILURE, OTHER, SPEC, take
from tests.samples.drafts import draft


class House:
    """Builders of a database, and what each principal may have; without a word nothing is bounded."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.quotas: dict[str, Quotas] = {}
        self._database = database
        self.catalog = Catalog(database, open_store(str(folder / "store")))
        self.builds = BuildRepository(database, "here", quotas_of=self._quotas_of)
        self.queue, self.other = self._queue("here"), self._queue("there")

    def _quotas_of(self, principal: str) -> Quotas:
        return self.quotas.get(principal, UNBOUNDED)

    def _queue(self, worker: str) -> BuildQueue:
        return BuildQueue(
            self._database, worker, ANYTHING, lambda _: None, {"here", "there"}.__contains__, quotas_of=self._quotas_of
        )

    def published(self, build: Build, *sizes: int) -> str:
        """The engine of a build, with a file of each size."""
        found = draft(build.spec.name)
        files = [
            EngineFile(path=f"{size}.bin", digest=f"sha256:{size:064}", size_bytes=size, media_type="x/y")
            for size in sizes
        ]
        claim_blobs(self._database, [file.digest for file in files], build.build_id)
        manifest = found.model_copy(update={"files": tuple(files)})
        return self.queue.succeed(build, self.catalog, manifest, build.build_id).reference


@pytest.fixture
def house(database: Database, tmp_path: Path) -> House:
    return House(database, tmp_path)


def test_a_principal_may_have_as_many_waiting_builds_as_its_quota(house: House) -> None:
    house.quotas["ann"] = Quotas(queued_builds=1)
    house.builds.submit("ann", SPEC, "r1")
    with pytest.raises(ResourceExhausted, match="quota queued_builds: the caller may have 1 and has 1") as caught:
        house.builds.submit("ann", SPEC)
    assert (caught.value.reason, caught.value.metadata["quota"]) == (Reason.QUOTA_EXCEEDED, "queued_builds")
    assert caught.value.retry_after_s
    house.builds.submit("bob", SPEC)
    assert house.builds.submit("ann", SPEC, "r1").attempt == 0, "what was accepted is still there"
    take(house.queue)
    house.builds.submit("ann", SPEC)


def test_builds_of_one_who_runs_enough_wait_and_those_of_others_pass_them(house: House) -> None:
    house.quotas["ann"] = Quotas(running_builds=1)
    anns = [house.builds.submit("ann", SPEC) for _ in range(3)]
    bobs = house.builds.submit("bob", OTHER)
    first = take(house.queue)
    assert first.build_id == anns[0].build_id
    assert take(house.other).build_id == bobs.build_id
    assert house.queue.lease_next() is None
    house.queue.fail(first, FAILURE)
    assert take(house.other).build_id == anns[1].build_id
    house.quotas["ann"] = Quotas(running_builds=2)
    assert take(house.queue).build_id == anns[2].build_id


def test_builders_that_take_builds_at_once_stay_within_a_quota(house: House) -> None:
    house.quotas["ann"] = Quotas(running_builds=2)
    for _ in range(6):
        house.builds.submit("ann", SPEC)
    with ThreadPoolExecutor(6) as pool:
        taken = [lease for lease in pool.map(lambda each: each.lease_next(), (house.queue, house.other) * 3) if lease]
    assert len(taken) == 2


def test_an_engine_beyond_a_quota_of_bytes_is_not_published(house: House) -> None:
    house.quotas["ann"] = Quotas(engine_bytes=100)

    def build(who: str, name: str) -> Build:
        house.builds.submit(who, SPEC.model_copy(update={"name": name}))
        return take(house.queue)

    assert house.published(build("ann", "anns"), 60) == "anns@1"
    assert house.published(build("bob", "bobs"), 600) == "bobs@1", "who has no quota may have more"
    too_large = build("ann", "large")
    with pytest.raises(ResourceExhausted, match="may have 100 and has 60, and this is 41 more") as caught:
        house.published(too_large, 60, 41)
    assert caught.value.metadata["quota"] == "engine_bytes"
    with pytest.raises(NotFound):
        house.catalog.resolve("large")
    assert house.published(too_large, 60, 40) == "large@1", "a file that two engines have counts once"
    with pytest.raises(ResourceExhausted, match="quota engine_bytes: the caller may have 100 and has 100"):
        house.builds.submit("ann", SPEC)
    house.catalog.delete("large@1")
    house.quotas["ann"] = Quotas(engine_bytes=10)
    with pytest.raises(ResourceExhausted):
        house.builds.submit("ann", SPEC)
    house.catalog.delete("anns@1")
    house.builds.submit("ann", SPEC)
