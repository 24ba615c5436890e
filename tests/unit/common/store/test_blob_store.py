"""What only a local folder has: links, and files that writers who died have left aside. The rest: tests/contract."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from common.digest import digest_of
from common.store.blob_store import BlobStore, open_store

DATA = b"weights" * 1000


@pytest.fixture
def local(tmp_path: Path) -> BlobStore:
    return open_store(str(tmp_path / "store"))


def _file(folder: Path, data: bytes = DATA) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


def _blobs(folder: Path) -> list[Path]:
    return [path for path in (folder / "store").rglob("*") if path.is_file()]


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


WRITER = """
import os, sys, threading
from pathlib import Path
from common import digest
from common.store import blob_store as store
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
