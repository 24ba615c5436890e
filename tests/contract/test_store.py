"""What every blob store keeps to, over a local folder and over an S3 API."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import obstore
import pytest
from obstore.store import ObjectStore

from common.digest import CHUNK_BYTES, digest_hex, digest_of
from common.errors import DataLoss, FailedPrecondition, InvalidArgument, Reason, SinkServeError, Unavailable
from common.store import object_store
from common.store.blob_store import BlobStore, open_store
from tests.servers.s3 import KEY_ID, SECRET, Bucket, S3Server

DATA = b"weights" * 1000
DIGEST = digest_of(DATA)
LARGE = os.urandom(5 * CHUNK_BYTES) + b"and a rest"


@dataclass(frozen=True)
class Place:
    """A store, and what lies in it beneath."""

    url: str
    store: BlobStore
    keys: Callable[[], list[str]]
    read: Callable[[str], bytes]
    write: Callable[[str, bytes], None]
    aside: Callable[[], list[str]]

    def spoil(self, digest: str, data: bytes | None = None) -> None:
        """Flip a bit of a blob, or put other bytes in its place."""
        key = f"blobs/sha256/{digest_hex(digest)}"
        spoiled = bytearray(self.read(key))
        spoiled[len(spoiled) // 2] ^= 1
        self.write(key, bytes(spoiled) if data is None else data)


def _in_folder(root: Path) -> Place:
    def write(key: str, data: bytes) -> None:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    return Place(
        url=root.as_uri(),
        store=open_store(root.as_uri()),
        keys=lambda: [
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.is_file() and path.parent.name != "uploads"
        ],
        read=lambda key: (root / key).read_bytes(),
        write=write,
        aside=lambda: [path.name for path in (root / "uploads").glob("*")],
    )


def _in_bucket(bucket: Bucket) -> Place:
    return Place(bucket.url, open_store(bucket.url), bucket.keys, bucket.read, bucket.write, bucket.unfinished)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        return _in_bucket(request.getfixturevalue("bucket"))
    return _in_folder(tmp_path / "a store")


@pytest.fixture
def store(place: Place) -> BlobStore:
    return place.store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("data", [b"", DATA, LARGE], ids=["empty", "small", "large"])
def test_what_is_put_comes_back(store: BlobStore, tmp_path: Path, data: bytes) -> None:
    path, digest = tmp_path / "file", digest_of(data)
    path.write_bytes(data)
    assert not store.has(digest)
    store.put(path, digest)
    store.fetch(digest, tmp_path / "fetched")
    store.place(digest, tmp_path / "placed")
    assert store.has(digest)
    assert (tmp_path / "fetched").read_bytes() == (tmp_path / "placed").read_bytes() == data
    assert store.verify(digest) == len(data)
    assert list(store.blobs()) == [(digest, len(data))]


def test_a_blob_lies_under_its_digest_and_alone(place: Place, file: Path) -> None:
    place.store.put(file, DIGEST)
    assert place.keys() == [f"blobs/sha256/{digest_hex(DIGEST)}"]
    assert place.aside() == []


def test_a_blob_is_put_once(store: BlobStore, file: Path) -> None:
    store.put(file, DIGEST)
    file.unlink()
    store.put(file, DIGEST)  # reads the blob, and needs no file
    assert store.verify(DIGEST) == len(DATA)


def test_a_blob_that_is_wrong_is_replaced(place: Place, file: Path) -> None:
    for wrong in (None, b"", DATA[:-1], DATA + b"!"):
        place.store.put(file, DIGEST)
        place.spoil(DIGEST, wrong)
        place.store.put(file, DIGEST)
        assert place.store.verify(DIGEST) == len(DATA)


def test_a_flipped_bit_is_found_by_every_reader(place: Place, tmp_path: Path, file: Path) -> None:
    place.store.put(file, DIGEST)
    place.spoil(DIGEST)
    for read in (place.store.fetch, place.store.place, lambda digest, _path: place.store.verify(digest)):
        with pytest.raises(DataLoss, match=f"{DIGEST} now has digest") as caught:
            read(DIGEST, tmp_path / "out")
        assert caught.value.reason is Reason.STORE_CORRUPT
        assert not list(tmp_path.glob("*out*"))


def test_a_missing_blob_is_named(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(DataLoss, match="is missing") as caught:
        store.fetch(DIGEST, tmp_path / "out")
    assert caught.value.metadata["blob"] == DIGEST
    assert not list(tmp_path.glob("*out*"))


def test_a_deleted_blob_is_gone_and_deleting_again_is_nothing(store: BlobStore, file: Path) -> None:
    store.put(file, DIGEST)
    store.delete(DIGEST)
    store.delete(DIGEST)
    assert not store.has(DIGEST)
    assert list(store.digests()) == []


def test_what_is_no_blob_is_not_listed(place: Place, file: Path) -> None:
    place.store.put(file, DIGEST)
    for key in ("blobs/sha256/README", "blobs/sha256/" + "0" * 63, "timing-caches/sm_90.cache", "blobs/other"):
        place.write(key, b"")
    assert list(place.store.digests()) == [DIGEST]


@pytest.mark.parametrize("data", [DATA, LARGE], ids=["small", "large"])
def test_a_file_that_is_not_its_digest_is_refused_and_leaves_nothing(place: Place, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(DataLoss, match=digest_of(b"else")) as caught:
        place.store.put(tmp_path / "file", digest_of(b"else"))
    assert caught.value.reason is Reason.STORE_CORRUPT
    assert place.keys() == place.aside() == []


def test_a_file_that_changes_meanwhile_is_not_stored(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE)

    def change(_size: int) -> None:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"!")

    with pytest.raises(DataLoss, match=digest_of(LARGE)):
        place.store.put(path, digest_of(LARGE), change)
    assert place.keys() == place.aside() == []


def test_what_a_bucket_keeps_otherwise_than_it_was_sent_is_found_at_once(
    bucket: Bucket, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = obstore.put

    def put_less(store: ObjectStore, key: str, pieces: Iterable[bytes], **_: int) -> None:
        put(store, key, b"".join(pieces)[:-1])

    monkeypatch.setattr(obstore, "put", put_less)
    with pytest.raises(DataLoss, match=f"{DIGEST} now has digest"):
        open_store(bucket.url).put(file, DIGEST)


@pytest.mark.parametrize("is_wrong", [False, True], ids=["absent", "wrong"])
def test_progress_adds_up_to_the_bytes(place: Place, tmp_path: Path, is_wrong: bool) -> None:
    path, digest = tmp_path / "file", digest_of(LARGE)
    path.write_bytes(LARGE)
    if is_wrong:
        place.store.put(path, digest)
        place.spoil(digest)
    heard: list[list[int]] = [[], [], [], []]
    place.store.put(path, digest, heard[0].append)
    place.store.put(path, digest, heard[1].append)
    place.store.fetch(digest, tmp_path / "out", heard[2].append)
    place.store.verify(digest, heard[3].append)
    assert [sum(sizes) for sizes in heard] == [len(LARGE)] * 4
    assert all(len(sizes) > 1 for sizes in heard)


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


def test_a_large_blob_takes_little_memory(place: Place, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEASURE, place.url, str(tmp_path)]
    grown_mib = int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert grown_mib < 128


def _calls(store: BlobStore, file: Path) -> dict[str, Callable[[], object]]:
    return {
        "put": lambda: store.put(file, DIGEST),
        "fetch": lambda: store.fetch(DIGEST, file.with_name("out")),
        "place": lambda: store.place(DIGEST, file.with_name("out")),
        "verify": lambda: store.verify(DIGEST),
        "delete": lambda: store.delete(DIGEST),
        "digests": lambda: list(store.digests()),
    }


def _told(call: Callable[[], object], error: type[SinkServeError]) -> str:
    """What a call says that fails: never a secret, never what the client has inside."""
    with pytest.raises(error) as caught:
        call()
    told = caught.value.message
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    for inside in (SECRET, KEY_ID, "Debug", "http", "Error", "\n", "uploadId", "Signature="):
        assert inside not in told
    return told


def test_a_bucket_that_is_not_there_is_named_by_every_call(bucket: Bucket, file: Path) -> None:
    store = open_store("s3://no-such-bucket/engines")
    for call in _calls(store, file).values():
        told = _told(call, FailedPrecondition)
        assert "s3://no-such-bucket/engines" in told
        assert "does not exist" in told
    assert bucket.keys() == []


@pytest.fixture
def own_s3() -> Iterator[S3Server]:
    """A server that may be spoiled."""
    with S3Server() as server:
        yield server


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer is asked once more, and not for a minute."""
    monkeypatch.setattr(object_store, "_MOST_RETRIES", 1)


def test_credentials_that_are_refused_are_said_to_be(
    own_s3: S3Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(own_s3.use(monkeypatch).url)
    own_s3.check_credentials()
    for call in (*_calls(store, file).values(), lambda: store.has(DIGEST)):
        told = _told(call, FailedPrecondition)
        assert "refuses" in told
        assert "check credentials" in told


@pytest.mark.usefixtures("_soon")
def test_missing_credentials_are_said_to_be(bucket: Bucket, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://{bucket.server.address}/none")
    assert "no credentials" in _told(_calls(open_store(bucket.url), file)["put"], FailedPrecondition)


def test_plain_http_has_to_be_allowed(bucket: Bucket, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "false")
    store = open_store(bucket.url)
    with pytest.raises(FailedPrecondition, match="ALLOW_HTTP"):
        store.put(file, DIGEST)


@pytest.mark.usefixtures("_soon")
def test_a_server_that_is_away_is_asked_again_later(
    own_s3: S3Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(own_s3.use(monkeypatch).url)
    own_s3.kill()
    for call in _calls(store, file).values():
        assert "does not answer" in _told(call, Unavailable)
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.retry_after_s


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("act", ["put", "fetch"])
def test_a_server_that_goes_in_the_middle_is_asked_again_later(
    own_s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    store, path, digest = open_store(own_s3.use(monkeypatch).url), tmp_path / "file", digest_of(LARGE * 2)
    path.write_bytes(LARGE * 2)
    if act == "fetch":
        store.put(path, digest)
    calls = {
        "put": lambda: store.put(path, digest, lambda _: own_s3.kill()),
        "fetch": lambda: store.fetch(digest, tmp_path / "out", lambda _: own_s3.kill()),
    }
    assert "does not answer" in _told(calls[act], Unavailable)
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://bucket",
        "s3:",
        "s3://",
        "s3://bucket//a",
        "http://127.0.0.1/x",
        "ftp://host/x",
        "memory:///",
        "s3://[half/x",
        "s3://bucket/x?secret=not-to-be-told",
        "s3://bucket/x#not-to-be-told",
        "s3://name:not-to-be-told@bucket/x",
        "file://elsewhere/x",
        "",
    ],
)
def test_a_url_that_is_no_store_is_refused_and_no_secret_told(url: str) -> None:
    with pytest.raises(InvalidArgument, match="store_url") as caught:
        open_store(url)
    assert SECRET not in caught.value.message
    assert "Debug" not in caught.value.message


@pytest.mark.parametrize("url", ["s3://bucket", "s3a://bucket/a/b", "gs://bucket/prefix", "az://container/prefix"])
def test_a_url_of_each_vendor_opens(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert open_store(url).local_path(DIGEST) is None
