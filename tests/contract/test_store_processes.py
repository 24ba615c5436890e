"""What every blob store keeps to when several use it, when one of them is killed, and when a blob is large."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.digest import digest_of
from tests.nightly import one_in
from tests.samples.blobs import DIGEST, LARGE
from tests.servers.store_places import Place

PUT = "import sys; from pathlib import Path; from common.store.blob_store import open_store\n"
PUT += "open_store(sys.argv[1]).put(Path(sys.argv[2]), sys.argv[3])"


def test_threads_and_processes_may_put_the_same_blob_at_once(place: Place, tmp_path: Path) -> None:
    path, digest = tmp_path / "file", digest_of(LARGE)
    path.write_bytes(LARGE)
    command = [sys.executable, "-c", PUT, place.url, str(path), digest]
    writers = [subprocess.Popen(command) for _ in range(2)]
    with ThreadPoolExecutor(4) as threads:
        for put in [threads.submit(place.store.put, path, digest) for _ in range(4)]:
            put.result()
    assert [writer.wait() for writer in writers] == [0, 0]
    assert place.store.verify(digest) == len(LARGE)
    assert (len(place.keys()), place.aside()) == (1, [])


WRITER = """
import sys, threading
from pathlib import Path
from common import digest
from common.store import blob_store as store
def pieces(file):
    yield bytes(20 << 20)
    print("half", flush=True)
    threading.Event().wait()
store.chunks = pieces
store.open_store(sys.argv[1]).put(Path(sys.argv[2]), digest.digest_of(b""))
"""


@pytest.fixture
def half_written(place: Place, file: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that stands in the middle of a put."""
    command = [sys.executable, "-c", WRITER, place.url, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        yield process
        process.kill()


def test_a_put_that_is_killed_leaves_nothing_under_its_name(
    place: Place, half_written: subprocess.Popen[str], file: Path
) -> None:
    assert place.keys() == []
    half_written.kill()
    half_written.wait()
    assert place.keys() == []
    place.store.put(file, DIGEST)
    assert list(place.store.digests()) == [DIGEST]


MEASURE = """
import resource, sys
from pathlib import Path
from common.digest import digest_file
from common.store.blob_store import open_store
def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
store, folder = open_store(sys.argv[1]), Path(sys.argv[2])
for size in (1, 256 << 20):
    with (folder / "file").open("wb") as file:
        file.truncate(size)
    digest = digest_file(folder / "file")
    before = peak_mib()
    store.put(folder / "file", digest)
    store.fetch(digest, folder / f"out-{size}")
    assert (folder / f"out-{size}").stat().st_size == size
print(peak_mib() - before)
"""


@pytest.mark.long
@pytest.mark.parametrize("place", one_in(2, ["s3", "folder"]), indirect=True)
def test_a_large_blob_takes_little_memory(place: Place, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEASURE, place.url, str(tmp_path)]
    grown_mib = int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert grown_mib < 128
