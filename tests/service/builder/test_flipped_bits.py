"""One wrong bit in any file of an engine: verify finds it, and no runtime loads it. Over a folder and over S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.digest import digest_hex
from common.settings import SharedSettings
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings
from sinkserve.builder.v1 import catalog_service_pb2 as cat
from sinkserve.runtime.v1 import engine_service_pb2 as engine_pb
from sinkserve.runtime.v1.engine_service_pb2_grpc import EngineServiceStub
from tests.servers.s3 import Bucket
from tests.service.builder.builder import BuilderClient, refused

Flip = Callable[[str], None]


def _flipped(data: bytes) -> bytes:
    spoiled = bytearray(data)
    spoiled[len(spoiled) // 2] ^= 1
    return bytes(spoiled)


def _in_folder(folder: Path) -> Flip:
    def flip(digest: str) -> None:
        blob = folder / "blobs" / "sha256" / digest_hex(digest)
        blob.chmod(0o644)
        blob.write_bytes(_flipped(blob.read_bytes()))

    return flip


def _in_bucket(bucket: Bucket) -> Flip:
    def flip(digest: str) -> None:
        key = f"blobs/sha256/{digest_hex(digest)}"
        bucket.write(key, _flipped(bucket.read(key)))

    return flip


@pytest.fixture(params=["folder", "s3"])
def flip(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flip:
    """Flips a bit of a blob, and flips it back; the builder of the test stores there."""
    if request.param == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        monkeypatch.setenv("SINKSERVE_STORE_URL", bucket.url)
        return _in_bucket(bucket)
    monkeypatch.setenv("SINKSERVE_STORE_URL", str(tmp_path / "store"))
    return _in_folder(tmp_path / "store")


async def _load(home: Path, database: str) -> None:
    """Load the engine in a runtime that has nothing of it yet."""
    settings = RuntimeSettings.load({"listen": "127.0.0.1:0", "threads": 1})
    runtime = await start_runtime(settings, SharedSettings.load({"home": home, "database_url": database}))
    try:
        async with grpc.aio.insecure_channel(runtime.admin_address) as channel:
            stub: Any = EngineServiceStub(channel)
            await stub.LoadEngine(engine_pb.LoadEngineRequest(reference="demo"))
    finally:
        await runtime.stop()


@pytest.mark.long
async def test_a_flipped_bit_in_any_file_is_found_by_verify_and_refused_by_a_load(
    flip: Flip, client: BuilderClient, tmp_path: Path
) -> None:
    await client.built()
    database = f"sqlite:///{tmp_path / 'home' / 'sinkserve.db'}"
    files = (await client.engine("demo")).manifest.files
    assert {file.path for file in files} >= {"model.onnx", "weights.bin", "tokenizer.json"}
    for file in files:
        flip(file.digest)
        for refusal in (
            await refused(client.catalog.VerifyEngine(cat.VerifyEngineRequest(reference="demo"))),
            await refused(_load(tmp_path / f"runtime-{file.path}", database)),
        ):
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT")
            assert file.digest in refusal.message
        found = await refused(client.catalog.VerifyEngine(cat.VerifyEngineRequest(reference="demo")))
        assert f"{file.path} of demo@1" in found.message
        flip(file.digest)
    verified = await client.catalog.VerifyEngine(cat.VerifyEngineRequest(reference="demo"))
    assert (verified.files, verified.size_bytes) == (len(files), sum(file.size_bytes for file in files))
    await _load(tmp_path / "runtime", database)
