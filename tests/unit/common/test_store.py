from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from common.digest import CHUNK_BYTES, digest_of
from common.errors import DataLoss, InvalidArgument, Reason
from common.store import BlobStore, open_store

DATA = b"weights" * 1000


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "memory":
        return BlobStore(MemoryStore(), None)
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def local(tmp_path: Path) -> BlobStore:
    return open_store(str(tmp_path / "store"))


def _file(folder: Path, data: bytes = DATA) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


def _blobs(folder: Path) -> list[Path]:
    return [path for path in (folder / "store").rglob("*") if path.is_file()]


def test_what_is_put_is_fetched(store: BlobStore, tmp_path: Path) -> None:
    digest = digest_of(DATA)
    assert not store.has(digest)
    store.put(_file(tmp_path), digest)
    store.fetch(digest, tmp_path / "out")
    assert store.has(digest)
    assert (tmp_path / "out").read_bytes() == DATA
    assert store.verify(digest) == len(DATA)
    assert list(store.digests()) == [digest]


def test_a_file_of_several_pieces_survives(store: BlobStore, tmp_path: Path) -> None:
    data = os.urandom(CHUNK_BYTES) + b"and a rest"
    store.put(_file(tmp_path, data), digest_of(data))
    store.fetch(digest_of(data), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


def test_a_blob_is_put_once(store: BlobStore, tmp_path: Path) -> None:
    file, digest = _file(tmp_path), digest_of(DATA)
    store.put(file, digest)
    file.unlink()
    store.put(file, digest)  # reads the blob, and needs no file
    assert store.verify(digest) == len(DATA)


def test_a_file_that_is_not_its_digest_is_refused_and_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    digest = digest_of(b"something else")
    with pytest.raises(DataLoss, match=digest) as caught:
        store.put(_file(tmp_path), digest)
    assert caught.value.reason is Reason.STORE_CORRUPT
    assert not store.has(digest)
    assert not _blobs(tmp_path)


def test_a_missing_blob_is_named(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(DataLoss, match="is missing") as caught:
        store.fetch(digest_of(b""), tmp_path / "out")
    assert caught.value.metadata["blob"] == digest_of(b"")
    assert not list(tmp_path.glob("*out*"))


def test_a_deleted_blob_is_gone_and_deleting_again_is_nothing(store: BlobStore, tmp_path: Path) -> None:
    store.put(_file(tmp_path), digest_of(DATA))
    store.delete(digest_of(DATA))
    store.delete(digest_of(DATA))
    assert not store.has(digest_of(DATA))


def _flip_a_bit(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_by_every_reader(local: BlobStore, tmp_path: Path) -> None:
    digest = digest_of(DATA)
    local.put(_file(tmp_path), digest)
    blob = local.local_path(digest)
    assert blob is not None
    _flip_a_bit(blob)
    with pytest.raises(DataLoss, match="now has digest"):
        local.verify(digest)
    for read in (local.fetch, local.place):
        with pytest.raises(DataLoss, match=digest):
            read(digest, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_putting_a_broken_blob_again_mends_it(local: BlobStore, tmp_path: Path) -> None:
    digest = digest_of(DATA)
    local.put(_file(tmp_path), digest)
    blob = local.local_path(digest)
    assert blob is not None
    _flip_a_bit(blob)
    local.put(_file(tmp_path), digest)
    assert local.verify(digest) == len(DATA)


def test_a_local_blob_is_a_read_only_file_and_its_place_is_the_same_file(local: BlobStore, tmp_path: Path) -> None:
    digest = digest_of(DATA)
    local.put(_file(tmp_path), digest)
    blob = local.local_path(digest)
    assert blob is not None
    assert blob.stat().st_mode & 0o777 == 0o444
    local.place(digest, tmp_path / "placed")
    assert (tmp_path / "placed").samefile(blob)


def test_a_blob_of_an_object_store_is_placed_as_a_copy(tmp_path: Path) -> None:
    store = BlobStore(MemoryStore(), None)
    store.put(_file(tmp_path), digest_of(DATA))
    assert store.local_path(digest_of(DATA)) is None
    store.place(digest_of(DATA), tmp_path / "placed")
    assert (tmp_path / "placed").read_bytes() == DATA


def test_progress_counts_the_bytes(store: BlobStore, tmp_path: Path) -> None:
    sizes: list[int] = []
    store.put(_file(tmp_path), digest_of(DATA), sizes.append)
    store.put(_file(tmp_path), digest_of(DATA), sizes.append)
    assert sizes == [len(DATA), len(DATA)]


WRITER = """
import os, sys, threading
from pathlib import Path
from common import digest, store
def pieces(file):
    yield file.read(10)
    print("half", flush=True)
    threading.Event().wait()
store.chunks = pieces
store.open_store(sys.argv[1]).put(Path(sys.argv[2]), digest.digest_of(b""))
"""


@pytest.fixture
def half_written(tmp_path: Path, local: BlobStore) -> Iterator[subprocess.Popen[str]]:
    """A process that stands in the middle of a put."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "store"), str(_file(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        yield process
        process.kill()


def _age(folder: Path) -> None:
    long_ago = time.time() - 3600
    for path in (folder / "store" / "uploads").iterdir():
        os.utime(path, (long_ago, long_ago))


def test_half_a_blob_is_not_seen_and_not_removed_while_it_is_written(
    local: BlobStore, half_written: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert half_written.poll() is None
    _age(tmp_path)
    local.remove_abandoned()
    assert list(local.digests()) == []
    assert len(_blobs(tmp_path)) == 1


def test_what_a_killed_writer_leaves_is_removed(
    local: BlobStore, half_written: subprocess.Popen[str], tmp_path: Path
) -> None:
    half_written.kill()
    half_written.wait()
    local.remove_abandoned()
    assert len(_blobs(tmp_path)) == 1, "it might have been a new one"
    _age(tmp_path)
    local.remove_abandoned()
    assert _blobs(tmp_path) == []


def test_many_may_put_the_same_blob_at_once(local: BlobStore, tmp_path: Path) -> None:
    file, digest = _file(tmp_path), digest_of(DATA)
    with ThreadPoolExecutor(8) as threads:
        for put in [threads.submit(local.put, file, digest) for _ in range(8)]:
            put.result()
    assert local.verify(digest) == len(DATA)
    assert len(_blobs(tmp_path)) == 1


@pytest.mark.parametrize("url", ["nonsense://bucket", "s3:"])
def test_a_url_that_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="store_url"):
        open_store(url)
