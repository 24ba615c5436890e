"""What is said where an object store refuses, is not there, or goes away: what to do, and no secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.digest import digest_of
from common.errors import FailedPrecondition, Reason, SinkServeError, Unavailable
from common.store import object_store
from common.store.blob_store import BlobStore, open_store
from tests.nightly import LONG, one_in
from tests.samples.blobs import DIGEST, LARGE
from tests.servers.s3 import KEY_ID, SECRET, Bucket, S3Server


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
@pytest.mark.parametrize("act", one_in(2, ["put", "fetch"], LONG))
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
