"""What every blob store keeps to, over a local folder and over an S3 API."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import obstore
import pytest
from obstore.store import ObjectStore

from common.digest import digest_hex, digest_of
from common.errors import DataLoss, InvalidArgument, Reason
from common.store.blob_store import BlobStore, open_store
from tests.samples.blobs import DATA, DIGEST, LARGE
from tests.servers.s3 import SECRET, Bucket
from tests.servers.store_places import Place


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
