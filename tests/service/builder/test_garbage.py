"""Garbage as its collector meets it: beside builds, over a folder and over S3; and what it must never take."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from sqlalchemy import insert

from builder_service.service import BuilderHandle
from common.catalog.blob_claims import claim_blobs
from common.catalog.catalog import Catalog
from common.catalog.garbage import Collected, collect_garbage
from common.catalog.tables import blob_tombstones
from common.db.database import Database
from common.db.processes import this_process
from common.digest import digest_of
from common.store import object_store
from common.store.blob_store import BlobStore, open_store
from sinkserve.builder.v1 import catalog_service_pb2 as cat
from sinkserve.engine.v1 import engine_pb2
from tests.nightly import one_in
from tests.samples.drafts import Press, draft
from tests.servers.databases import one_by_day
from tests.servers.s3 import Bucket, S3Server
from tests.service.builder.builder import BuilderClient, refused


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the builder of a test stores; asked for before it starts."""
    url: str = request.getfixturevalue("bucket").url if request.param == "s3" else str(tmp_path / "store")
    monkeypatch.setenv("SINKSERVE_STORE_URL", url)
    return url


@pytest.fixture
def press(store_url: str, builder: BuilderHandle, tmp_path: Path) -> Press:
    """Publishes engines without building them."""
    return Press(builder.database, open_store(store_url), tmp_path)


async def _collect(client: BuilderClient, *, dry_run: bool = False) -> cat.CollectGarbageResponse:
    answer: cat.CollectGarbageResponse = await client.catalog.CollectGarbage(cat.CollectGarbageRequest(dry_run=dry_run))
    return answer


async def test_what_nobody_needs_is_counted_then_deleted_and_nothing_else(press: Press, client: BuilderClient) -> None:
    press.publish("a", {"model.onnx": b"shared"})
    claim_blobs(press.database, [digest_of(b"claimed"), digest_of(b"shared")], "builds/1")
    kept = {press.put(b"shared"), press.put(b"claimed")}
    left = {press.put(b"one"), press.put(b"three")}
    expected = cat.CollectGarbageResponse(deleted_blobs=2, deleted_bytes=8, published_blobs=1, claimed_blobs=1)
    assert await _collect(client, dry_run=True) == expected
    assert set(press.store.digests()) == kept | left
    assert await _collect(client) == expected
    assert set(press.store.digests()) == kept
    assert (await _collect(client)).deleted_blobs == 0


async def test_unfinished_uploads_and_timing_caches_of_a_folder_are_left_alone(
    builder: BuilderHandle, client: BuilderClient, tmp_path: Path
) -> None:
    root = tmp_path / "home" / "store"
    others = [root / name for name in ("uploads/half", "timing-caches/sm_90.cache")]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"data")
    Press(builder.database, open_store(str(root)), tmp_path).put(b"garbage")
    assert (await _collect(client)).deleted_blobs == 1
    assert all(path.exists() for path in others)


def test_unfinished_uploads_and_timing_caches_of_a_bucket_are_left_alone(
    bucket: Bucket, database: Database, tmp_path: Path
) -> None:
    store = open_store(bucket.url)
    Press(database, store, tmp_path).put(b"garbage")
    bucket.write("timing-caches/sm_90.cache", b"data")
    bucket.server.ask("POST", f"/{bucket.name}/engines/blobs/sha256/half?uploads")
    assert collect_garbage(database, store, dry_run=False).deleted_blobs == 1
    assert bucket.keys() == ["timing-caches/sm_90.cache"]
    assert len(bucket.unfinished()) == 1


@pytest.mark.long
@pytest.mark.parametrize("store_url", one_in(2, ["s3", "folder"]), indirect=True)
async def test_two_geometries_share_most_files_and_one_goes_without_them(store_url: str, client: BuilderClient) -> None:
    wide = engine_pb2.CacheGeometry(sink_tokens=4, window_tokens=20, chunk_tokens=4, max_slots=2)
    await client.built()
    await client.built(client.spec(cache=wide))
    files = [
        {file.path: file.digest for file in (await client.engine(name)).manifest.files} for name in ("demo@1", "demo@2")
    ]
    shared = set(files[0].values()) & set(files[1].values())
    assert files[0]["weights.bin"] in shared
    assert files[0]["model.onnx"] in shared
    assert files[0]["golden.json"] not in shared
    assert set(open_store(store_url).digests()) == {*files[0].values(), *files[1].values()}
    await client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="demo@1"))
    assert (await _collect(client)).deleted_blobs == 0
    assert set(open_store(store_url).digests()) == set(files[1].values())
    assert (await client.catalog.VerifyEngine(cat.VerifyEngineRequest(reference="demo@2"))).files == len(files[1])


@pytest.fixture
def s3_that_goes(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with S3Server() as server:
        monkeypatch.setenv("SINKSERVE_STORE_URL", server.use(monkeypatch).url)
        monkeypatch.setattr(object_store, "_MOST_RETRIES", 1)
        yield server


async def test_a_store_that_is_away_is_told_and_may_be_asked_again(
    s3_that_goes: S3Server, client: BuilderClient
) -> None:
    await asyncio.to_thread(s3_that_goes.kill)
    refusal = await refused(client.catalog.CollectGarbage(cat.CollectGarbageRequest()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return open_store(str(tmp_path / "blobs"))


def test_a_store_of_many_blobs_is_gone_through_whole(database: Database, store: BlobStore, tmp_path: Path) -> None:
    press = Press(database, store, tmp_path)
    press.publish(files={f"{number}.bin": f"engine {number}".encode() for number in range(120)})
    garbage = [f"garbage {number}".encode() for number in range(120)]
    for data in garbage:
        press.put(data)
    collected = collect_garbage(database, store, dry_run=False)
    assert collected == Collected(120, sum(map(len, garbage)), 120, 0)
    assert len(list(store.digests())) == 120


def test_what_a_dead_collector_began_is_finished_but_not_by_a_dry_run(
    database: Database, store: BlobStore, tmp_path: Path
) -> None:
    digest = Press(database, store, tmp_path).put(b"data")
    with database.write() as connection:
        connection.execute(insert(blob_tombstones).values(digest=digest, sweeper=this_process() + "0"))
    collect_garbage(database, store, dry_run=True)
    assert store.has(digest)
    assert collect_garbage(database, store, dry_run=False) == Collected()
    assert not store.has(digest)


CONTENTS = [f"content {number}".encode() for number in range(4)]


class Publisher:
    """Stores, publishes, gives up and deletes, as builds and people do; looks at once whether its engine is whole."""

    def __init__(self, database: Database, store: BlobStore, folder: Path, number: int) -> None:
        self._database, self._store, self._catalog = database, store, Catalog(database, store)
        self._folder, self._name = folder / f"p{number}", f"engine-{number}"
        self._random = random.Random(number)
        self._folder.mkdir()

    def act(self, times: int) -> None:
        for number in range(times):
            self._build(f"builds/{self._name}-{number}")

    def _build(self, holder: str) -> None:
        contents = {f"{name}.bin": self._random.choice(CONTENTS) for name in "ab"}
        claim_blobs(self._database, map(digest_of, contents.values()), holder)
        for path, data in contents.items():
            (self._folder / path).write_bytes(data)
            self._store.put(self._folder / path, digest_of(data))
            self._pause()
        if self._random.random() < 0.3:
            self._catalog.drop_claims(holder)
            return
        engine = self._catalog.publish(draft(self._name, contents), holder)
        self._pause()
        self._catalog.verify(engine.reference)
        if self._random.random() < 0.8:
            self._catalog.delete(engine.reference)

    def _pause(self) -> None:
        time.sleep(self._random.random() * 0.003)


@pytest.mark.parametrize("database", one_by_day(), indirect=True)
def test_no_engine_ever_misses_a_blob_while_garbage_is_collected(
    database: Database, store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, is_over, collected = store.delete, threading.Event(), Collected()

    def slow(digest: str) -> None:
        time.sleep(0.01)  # in which others claim it, and would find it
        delete(digest)

    def collect() -> Collected:
        total = Collected()
        while not is_over.is_set():
            total = total.plus(collect_garbage(database, store, dry_run=False))
        return total

    monkeypatch.setattr(store, "delete", slow)
    with ThreadPoolExecutor(6) as threads:
        collectors = [threads.submit(collect) for _ in range(2)]
        acts = [threads.submit(Publisher(database, store, tmp_path, number).act, 15) for number in range(4)]
        try:
            for act in acts:
                act.result()
        finally:
            is_over.set()
        for collector in collectors:
            collected = collected.plus(collector.result())
    assert collected.published_blobs > 0
    Press(database, store, tmp_path).put(b"garbage")
    assert collect_garbage(database, store, dry_run=False).deleted_blobs == 1
