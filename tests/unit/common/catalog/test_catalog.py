from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import update

from common.catalog.blob_claims import claim_blobs
from common.catalog.catalog import Catalog
from common.catalog.tables import engines
from common.db.database import Database
from common.db.paging import read_page
from common.digest import digest_of
from common.errors import Aborted, DataLoss, FailedPrecondition, InvalidArgument, NotFound, Reason
from common.store.blob_store import open_store
from tests.samples.drafts import Press, draft


@pytest.fixture
def press(database: Database, tmp_path: Path) -> Press:
    return Press(database, open_store(str(tmp_path / "store")), tmp_path)


@pytest.fixture
def catalog(press: Press) -> Catalog:
    return press.catalog


def test_versions_count_per_name(press: Press) -> None:
    published = [press.publish("a").reference, press.publish("b").reference, press.publish("a").reference]
    assert published == ["a@1", "b@1", "a@2"]


def test_a_published_engine_is_found_by_every_kind_of_reference(press: Press, catalog: Catalog) -> None:
    first, second = press.publish(), press.publish()
    assert catalog.resolve("demo").version == 2
    assert catalog.resolve("demo:latest").digest == second.digest
    assert catalog.resolve("demo@1").manifest == first.manifest
    assert catalog.resolve(f"demo@{first.digest}").version == 1
    assert first.digest == digest_of(first.manifest.canonical())


@pytest.mark.parametrize("reference", ["other", "demo@7", "demo:prod", f"demo@{digest_of(b'')}"])
def test_what_is_not_there_is_not_found_and_what_is_there_is_named(
    press: Press, catalog: Catalog, reference: str
) -> None:
    press.publish()
    with pytest.raises(NotFound, match="demo") as caught:
        catalog.resolve(reference)
    assert caught.value.reason is Reason.ENGINE_NOT_FOUND


def test_a_digest_belongs_to_its_name(press: Press, catalog: Catalog) -> None:
    engine = press.publish("a")
    press.publish("b")
    with pytest.raises(NotFound):
        catalog.resolve(f"b@{engine.digest}")


def test_a_version_is_never_used_again(press: Press, catalog: Catalog) -> None:
    for _ in range(2):
        press.publish()
    catalog.delete("demo@2")
    catalog.delete("demo@1")
    assert press.publish().reference == "demo@3"


def test_latest_falls_back_when_the_highest_version_goes(press: Press, catalog: Catalog) -> None:
    press.publish()
    press.publish()
    catalog.delete("demo@2")
    assert catalog.resolve("demo").version == 1
    assert catalog.resolve("demo").aliases == ("latest",)


def test_publishing_at_once_gives_each_its_own_version(press: Press, catalog: Catalog) -> None:
    manifest = draft()
    digests = [file.digest for file in manifest.files]

    def publish(number: int) -> int:
        claim_blobs(press.database, digests, f"builds/{number}")
        return catalog.publish(manifest, f"builds/{number}").version

    press.put(b"graph")
    with ThreadPoolExecutor(12) as threads:
        assert sorted(threads.map(publish, range(12))) == list(range(1, 13))


def test_what_is_not_claimed_is_not_published(press: Press, catalog: Catalog) -> None:
    with pytest.raises(Aborted, match="claim"):
        catalog.publish(draft(), "builds/1")
    with pytest.raises(NotFound):
        catalog.resolve("demo")


def test_publishing_fails_whole(press: Press, catalog: Catalog) -> None:
    def fail(*_: object) -> None:
        raise Aborted(Reason.BUILD_ENDED, "the build was cancelled")

    claim_blobs(press.database, [press.put(b"graph")], "builds/1")
    with pytest.raises(Aborted):
        catalog.publish(draft(), "builds/1", fail)
    with pytest.raises(NotFound):
        catalog.resolve("demo")
    assert press.publish().version == 1


def test_dropped_claims_take_unpublished_blobs_along(press: Press, catalog: Catalog) -> None:
    press.publish(files={"model.onnx": b"shared"})
    claim_blobs(press.database, [digest_of(b"shared"), press.put(b"alone")], "builds/9")
    catalog.drop_claims("builds/9")
    assert press.store.has(digest_of(b"shared"))
    assert not press.store.has(digest_of(b"alone"))


def test_deleting_removes_only_blobs_that_no_other_version_has(press: Press, catalog: Catalog) -> None:
    press.publish("a", {"weights.bin": b"shared", "model.onnx": b"one"})
    press.publish("b", {"weights.bin": b"shared", "model.onnx": b"two"})
    catalog.delete("a@1")
    assert [press.store.has(digest_of(data)) for data in (b"shared", b"one", b"two")] == [True, False, True]
    catalog.delete("b@1")
    assert list(press.store.digests()) == []


def test_deleting_and_publishing_at_once_never_loses_a_published_blob(press: Press, catalog: Catalog) -> None:
    stop = threading.Event()

    def delete() -> None:
        while not stop.is_set():
            for engine in catalog.list(read_page(0, "", "", (str, int)))[0][1:]:
                catalog.delete(engine.reference)

    with ThreadPoolExecutor() as threads:
        deleting = threads.submit(delete)
        for _ in range(15):
            press.publish(files={"weights.bin": b"shared"})
        stop.set()
        deleting.result()
    assert catalog.verify("demo") == (1, len(b"shared"))


@pytest.mark.parametrize("reference", ["demo", "demo:latest", "demo:prod"])
def test_what_may_move_is_not_deleted(press: Press, catalog: Catalog, reference: str) -> None:
    press.publish()
    with pytest.raises(InvalidArgument, match="NAME@VERSION") as caught:
        catalog.delete(reference)
    assert caught.value.violations[0].field == "reference"


def test_an_engine_in_use_is_not_deleted_and_its_users_are_named(press: Press, catalog: Catalog) -> None:
    engine = press.publish()
    for holder in ("runtime 127.0.0.1:50071", "sessions/abc"):
        catalog.hold(engine, holder)
        catalog.hold(engine, holder)
    with pytest.raises(FailedPrecondition, match=r"runtime 127\.0\.0\.1:50071, sessions/abc") as caught:
        catalog.delete("demo@1")
    assert caught.value.reason is Reason.ENGINE_IN_USE
    catalog.release(engine, "sessions/abc")
    catalog.release_gone(lambda holder: holder.startswith("runtime "))
    catalog.release(engine, "nobody")
    catalog.delete("demo@1")


def test_many_users_are_counted(press: Press, catalog: Catalog) -> None:
    engine = press.publish()
    for number in range(8):
        catalog.hold(engine, f"sessions/{number}")
    with pytest.raises(FailedPrecondition, match="sessions/4 and 3 more"):
        catalog.delete("demo@1")


def test_force_deletes_what_is_in_use(press: Press, catalog: Catalog) -> None:
    catalog.hold(press.publish(), "sessions/abc")
    catalog.delete("demo@1", force=True)
    assert list(press.store.digests()) == []


def test_a_deleted_engine_cannot_be_held(press: Press, catalog: Catalog) -> None:
    engine = press.publish()
    catalog.delete("demo@1")
    with pytest.raises(NotFound, match="deleted"):
        catalog.hold(engine, "sessions/abc")


def test_verify_reads_every_file_and_names_the_one_that_broke(press: Press, catalog: Catalog) -> None:
    press.publish(files={"model.onnx": b"graph", "weights.bin": b"weights"})
    assert catalog.verify("demo") == (2, 12)
    blob = press.store.local_path(digest_of(b"weights"))
    assert blob is not None
    blob.chmod(0o644)
    blob.write_bytes(b"weightz")
    with pytest.raises(DataLoss, match=r"weights\.bin of demo@1") as caught:
        catalog.verify("demo")
    assert caught.value.reason is Reason.STORE_CORRUPT
    assert caught.value.metadata["file"] == "weights.bin"


def test_verify_of_an_engine_that_is_deleted_meanwhile_finds_none(
    press: Press, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    press.publish()
    verify = press.store.verify

    def late(digest: str) -> int:
        catalog.delete("demo@1")
        return verify(digest)

    monkeypatch.setattr(press.store, "verify", late)
    with pytest.raises(NotFound, match="demo@1"):
        catalog.verify("demo")


def _rewrite(database: Database, text: str, digest: str) -> None:
    with database.write() as connection:
        connection.execute(update(engines).values(manifest=text, digest=digest))


def test_verify_takes_a_manifest_with_the_fields_of_its_time(press: Press, catalog: Catalog) -> None:
    data = json.loads(press.publish().manifest.canonical())
    del data["hardware"], data["spec"]["options"]["tensorrt"]
    text = json.dumps(data)
    _rewrite(press.database, text, digest_of(text.encode()))
    assert catalog.verify("demo") == (1, 5)


def test_verify_names_a_manifest_that_was_changed(press: Press, catalog: Catalog) -> None:
    engine = press.publish()
    _rewrite(press.database, engine.manifest.canonical().decode().replace('"layers":2', '"layers":3'), engine.digest)
    with pytest.raises(DataLoss, match="manifest of demo@1"):
        catalog.verify("demo")


def test_engines_are_listed_by_name_and_then_the_newest_first(press: Press, catalog: Catalog) -> None:
    for name in ("b", "a", "b", "c"):
        press.publish(name)
    found, token = catalog.list(read_page(0, "", "", (str, int)))
    assert [engine.reference for engine in found] == ["a@1", "b@2", "b@1", "c@1"]
    assert token == ""


def test_pages_follow_one_another_without_gaps_although_the_list_changes(press: Press, catalog: Catalog) -> None:
    for name in ("a", "b", "b", "b", "c"):
        press.publish(name)
    seen, token = [], ""
    while True:
        found, token = catalog.list(read_page(2, token, "engines", (str, int)))
        seen += [engine.reference for engine in found]
        if not token:
            break
        press.publish("a")
    assert seen == ["a@1", "b@3", "b@2", "b@1", "c@1"]


def test_a_listing_of_one_name_has_no_other(press: Press, catalog: Catalog) -> None:
    press.publish("a")
    press.publish("b")
    assert [engine.reference for engine in catalog.list(read_page(0, "", "", (str, int)), "b")[0]] == ["b@1"]
    assert catalog.list(read_page(0, "", "", (str, int)), "nothing") == ([], "")


def test_engines_of_a_build_key_are_found_the_newest_first(press: Press, catalog: Catalog) -> None:
    key = digest_of(b"key")
    press.publish("a", build_key=key)
    press.publish("b", build_key=key)
    press.publish("c")
    assert [engine.reference for engine in catalog.with_build_key(key)] == ["b@1", "a@1"]
