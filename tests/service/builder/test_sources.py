"""A builder as a service, its builds in processes of their own, and checkpoints that lie elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.settings import SharedSettings
from sinkserve.builder.v1 import builder_service_pb2 as builder_pb
from sinkserve.builder.v1 import catalog_service_pb2 as catalog_pb
from sinkserve.builder.v1.builder_service_pb2_grpc import BuilderServiceStub
from sinkserve.builder.v1.catalog_service_pb2_grpc import CatalogServiceStub
from sinkserve.engine.v1 import engine_pb2
from tests.fakes.hub import FakeHub, fake_hub, files_of
from tests.samples.checkpoints import write_checkpoint

CACHE = engine_pb2.CacheGeometry(sink_tokens=4, window_tokens=40, chunk_tokens=16, max_slots=2)
TOKEN = "hf_a_secret_nobody_should_read"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging-face"))
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with fake_hub() as hub:
        hub.repository().token = TOKEN
        yield hub


@asynccontextmanager
async def _building(home: Path, hub: FakeHub, **settings: Any) -> AsyncIterator[grpc.aio.Channel]:
    given = {"listen": "127.0.0.1:0", "source_roots": "hf://org", "hub_endpoint": hub.address, **settings}
    builder = await start_builder(BuilderSettings.load(given), SharedSettings.load({"home": home / "home"}))
    try:
        async with grpc.aio.insecure_channel(builder.address) as channel:
            yield channel
    finally:
        await builder.stop()


async def _built(channel: grpc.aio.Channel, source: engine_pb2.Source) -> tuple[Any, list[str]]:
    """The build as it ended, and all that was said of it."""
    stub: Any = BuilderServiceStub(channel)
    spec = engine_pb2.ModelSpec(name="tiny", source=source, cache=CACHE)
    build = (await stub.SubmitBuild(builder_pb.SubmitBuildRequest(spec=spec))).build
    events = [event async for event in stub.WatchBuild(builder_pb.WatchBuildRequest(name=build.name))]
    return [event.build for event in events if event.HasField("build")][-1], [str(event) for event in events]


async def test_a_build_from_the_hub_is_pinned_and_the_token_stays_secret(
    tmp_path: Path, hub: FakeHub, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    commit = hub.repository().commit(files_of(write_checkpoint(tmp_path / "model")))
    async with _building(tmp_path, hub, hub_token=TOKEN) as channel:
        build, said = await _built(channel, engine_pb2.Source(uri="hf://org/model@main"))
        assert build.engine == "tiny@1", build
        assert build.spec.source == engine_pb2.Source(uri="hf://org/model@main"), "as it was asked for"
        catalog: Any = CatalogServiceStub(channel)
        engine = (await catalog.GetEngine(catalog_pb.GetEngineRequest(reference="tiny"))).engine
    assert engine.spec.source == engine_pb2.Source(uri="hf://org/model", revision=commit)
    assert any(f"hf://org/model@main is commit {commit}" in line for line in said)
    assert {request.token for request in hub.requests} == {TOKEN}
    printed = capfd.readouterr()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
    assert TOKEN not in "".join([*said, caplog.text, printed.out, printed.err])
    assert TOKEN.encode() not in kept


async def test_a_build_that_may_not_or_cannot_fetch_says_why(tmp_path: Path, hub: FakeHub) -> None:
    hub.repository().commit(files_of(write_checkpoint(tmp_path / "model")))
    async with _building(tmp_path, hub) as channel:
        private, _ = await _built(channel, engine_pb2.Source(uri="hf://org/model"))
        outside, _ = await _built(channel, engine_pb2.Source(uri="hf://organisation/model"))
    assert "SINKSERVE_BUILDER_HUB_TOKEN" in private.error.message
    assert private.error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert "source roots, which are hf://org" in outside.error.message
