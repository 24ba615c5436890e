"""The object store fails in each way: whoever reads or writes is told within the setting, and no half blob is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.digest import digest_of
from common.errors import Reason, Unavailable
from common.store.blob_store import BlobStore, open_store
from tests.servers.faulty_proxy import Fault, FaultyProxy
from tests.servers.s3 import Bucket, S3Server

DATA = bytes(range(256)) * 64
PATIENCE_S = 1.0


@pytest.fixture
async def proxy(s3: S3Server, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(s3.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.address}")
        yield proxy


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (path := tmp_path / "file").write_bytes(DATA)
    return path


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.RESET, Fault.SILENCE, Fault.NONSENSE])
async def test_who_asks_is_told_and_nothing_is_stored(
    proxy: FaultyProxy, bucket: Bucket, file: Path, fault: Fault
) -> None:
    store, digest = open_store(bucket.url, PATIENCE_S), digest_of(DATA)
    await proxy.become(fault)
    for act in (lambda: store.put(file, digest), lambda: store.verify(digest), lambda: list(store.blobs())):
        with pytest.raises(Unavailable) as told:
            await asyncio.to_thread(act)
        assert told.value.reason is Reason.STORE_UNAVAILABLE
    await proxy.become(Fault.NONE)
    assert await _stored(store) == []
    await asyncio.to_thread(store.put, file, digest)
    assert await _stored(store) == [digest]


async def test_a_slow_one_is_waited_for(proxy: FaultyProxy, bucket: Bucket, file: Path) -> None:
    store, digest = open_store(bucket.url), digest_of(DATA)
    await proxy.become(Fault.SLOW)
    await asyncio.to_thread(store.put, file, digest)
    assert await _stored(store) == [digest]


async def _stored(store: BlobStore) -> list[str]:
    return await asyncio.to_thread(lambda: list(store.digests()))
