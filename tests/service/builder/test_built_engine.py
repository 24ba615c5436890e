"""The runtime on an engine that the builder built: loading, batching, parking, replay, and a stop by signal."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.settings import SharedSettings
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings
from sinkserve.builder.v1 import builder_service_pb2 as builder_pb
from sinkserve.builder.v1 import catalog_service_pb2 as catalog_pb
from sinkserve.builder.v1.builder_service_pb2_grpc import BuilderServiceStub
from sinkserve.builder.v1.catalog_service_pb2_grpc import CatalogServiceStub
from sinkserve.engine.v1 import engine_pb2
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import engine_service_pb2 as engine_pb
from sinkserve.runtime.v1.conversation_service_pb2_grpc import ConversationServiceStub
from sinkserve.runtime.v1.engine_service_pb2_grpc import EngineServiceStub
from tests.samples.checkpoints import write_checkpoint
from tests.service.runtime.runtime import Stream, reason_of, tokens_of

TEXTS = ("hello", "how are you", "what is two plus two", "and again", "and so on for a while")
GREEDY = {"max_new_tokens": 12, "temperature": 0, "ignore_eos": True}
CACHE = engine_pb2.CacheGeometry(sink_tokens=4, window_tokens=40, chunk_tokens=16, max_slots=2)


async def _build(home: Path, options: engine_pb2.BuildOptions | None = None) -> engine_pb2.Engine:
    model = write_checkpoint(home / "model")
    settings = BuilderSettings.load({"listen": "127.0.0.1:0", "source_roots": (home,)})
    builder = await start_builder(settings, SharedSettings.load({"home": home}))
    async with grpc.aio.insecure_channel(builder.address) as channel:
        stub: Any = BuilderServiceStub(channel)
        source = engine_pb2.Source(uri=str(model))
        spec = engine_pb2.ModelSpec(name="tiny", source=source, cache=CACHE, options=options)
        build = (await stub.SubmitBuild(builder_pb.SubmitBuildRequest(spec=spec))).build
        async for event in stub.WatchBuild(builder_pb.WatchBuildRequest(name=build.name)):
            build = event.build if event.HasField("build") else build
        assert build.engine == "tiny@1", build
        catalog: Any = CatalogServiceStub(channel)
        found = await catalog.GetEngine(catalog_pb.GetEngineRequest(reference=build.engine))
    await builder.stop()
    return cast("engine_pb2.Engine", found.engine)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one engine."""
    home = tmp_path_factory.mktemp("built")
    asyncio.run(_build(home))
    return home


@pytest.fixture
def home(built: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    return Path(shutil.copytree(built, tmp_path / "home"))


@asynccontextmanager
async def serving(home: Path, **settings: Any) -> AsyncIterator[grpc.aio.Channel]:
    given = {"listen": "127.0.0.1:0", "load_on_demand": True, "threads": 1, **settings}
    runtime = await start_runtime(RuntimeSettings.load(given), SharedSettings.load({"home": home}))
    try:
        async with grpc.aio.insecure_channel(runtime.admin_address) as channel:
            yield channel
    finally:
        await runtime.stop()


async def talk(channel: grpc.aio.Channel, texts: tuple[str, ...], session: str = "") -> tuple[str, list[list[int]]]:
    """Say `texts` in turn; returns the session and the tokens of each reply."""
    stub: Any = ConversationServiceStub(channel)
    stream = Stream(stub.Converse())
    await (stream.resume(session) if session else stream.open(engine="tiny"))
    replies = []
    for text in texts:
        await stream.turn(text=text, generation=GREEDY)
        replies.append(tokens_of(await stream.until("finished")))
    await stream.half_close()
    await stream.rest()
    return stream.session, replies


@pytest.mark.long
async def test_neighbours_and_parking_change_nothing(home: Path) -> None:
    async with serving(home) as channel:
        _, alone = await talk(channel, TEXTS)
        together = await asyncio.gather(*(talk(channel, TEXTS) for _ in range(5)))
        assert all(replies == alone for _, replies in together)


async def test_keys_and_values_of_8_bits_are_parked_and_go_on_after_a_restart(tmp_path: Path) -> None:
    eight = engine_pb2.OnnxRuntimeOptions(kv_precision=engine_pb2.KV_PRECISION_INT8)
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    engine = await _build(narrow, engine_pb2.BuildOptions(onnxruntime=eight))
    assert engine.spec.options.onnxruntime == engine_pb2.OnnxRuntimeOptions(
        int4_block=32, kv_precision=engine_pb2.KV_PRECISION_INT8
    )
    async with serving(narrow) as channel:
        _, whole = await talk(channel, TEXTS)
        started = await asyncio.gather(*(talk(channel, TEXTS[:4]) for _ in range(3)))
    async with serving(narrow) as channel:
        rest = await asyncio.gather(*(talk(channel, TEXTS[4:], session) for session, _ in started))
    assert [first + last for (_, first), (_, last) in zip(started, rest, strict=True)] == [whole] * 3


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 0.7, "seed": 5, "frequency_penalty": -0.5}])
async def test_drafts_change_nothing_but_the_steps(home: Path, options: dict[str, Any]) -> None:
    """Over two windows, greedy and at random; a session whose request does not say takes the server's setting."""
    asked: dict[str, Any] = {"max_new_tokens": 90, "ignore_eos": True, **options}
    said, usages = [], []
    async with serving(home, speculated_tokens=15) as channel:
        for drafts in ({}, {"speculated_tokens": 0}, {"speculated_tokens": 3}):
            stub: Any = ConversationServiceStub(channel)
            stream = Stream(stub.Converse())
            await stream.open(engine="tiny")
            await stream.turn(text="la la la la la la", generation={**asked, **drafts})
            events = await stream.until("finished")
            said.append(tokens_of(events))
            usages.append(events[-1].finished.usage)
    assert said[0] == said[1] == said[2]
    assert len(said[0]) == 90
    assert usages[1].drafted_tokens == 0
    for usage in (usages[0], usages[2]):
        assert usage.drafted_tokens >= usage.accepted_tokens > 0


async def test_a_conversation_goes_on_after_a_restart(home: Path) -> None:
    async with serving(home) as channel:
        _, whole = await talk(channel, TEXTS)
        session, first = await talk(channel, TEXTS[:4])
    async with serving(home) as channel:
        _, rest = await talk(channel, TEXTS[4:], session)
    assert first + rest == whole


async def test_a_cache_that_was_dropped_is_computed_again(home: Path) -> None:
    async with serving(home, parked_bytes=0) as channel:
        _, alone = await talk(channel, TEXTS)
        stub: Any = ConversationServiceStub(channel)
        streams = [Stream(stub.Converse()) for _ in range(3)]
        for stream in streams:
            await stream.open(engine="tiny")
        for text, expected in zip(TEXTS, alone, strict=True):
            for stream in streams:
                await stream.turn(text=text, generation=GREEDY)
                assert tokens_of(await stream.until("finished")) == expected


async def test_a_long_turn_that_is_discarded_leaves_no_trace(home: Path) -> None:
    async with serving(home) as channel:
        _, alone = await talk(channel, TEXTS)
        stub: Any = ConversationServiceStub(channel)
        stream = Stream(stub.Converse())
        await stream.open(engine="tiny")
        for text, expected in zip(TEXTS, alone, strict=True):
            await stream.turn("long" + text, generation={**GREEDY, "max_new_tokens": 5000})
            for _ in range(3):
                await stream.first_delta()
            await stream.send(cancel=pb.CancelTurn(turn_id="long" + text, discard=True))
            assert (await stream.finished()).reason == pb.FINISH_REASON_CANCELLED
            await stream.turn(text=text, generation=GREEDY)
            assert tokens_of(await stream.until("finished")) == expected


async def test_files_that_are_not_what_they_were_are_data_loss(home: Path) -> None:
    blob = max((home / "store" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    async with serving(home) as channel:
        stub: Any = EngineServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.LoadEngine(engine_pb.LoadEngineRequest(reference="tiny"))
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS
        assert reason_of(caught.value) == "STORE_CORRUPT"
        assert not (await stub.ListLoadedEngines(engine_pb.ListLoadedEnginesRequest())).engines


async def test_a_signal_lets_the_turn_finish_and_ends_the_process_well(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {
        **os.environ,
        "SINKSERVE_HOME": str(home),
        "SINKSERVE_RUNTIME_LISTEN": address,
        "SINKSERVE_RUNTIME_ENGINES": "tiny",
        "SINKSERVE_RUNTIME_THREADS": "1",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "runtime_service", env=environment)
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = ConversationServiceStub(channel)
            stream = Stream(stub.Converse(wait_for_ready=True))
            await stream.send(open=pb.Open(new_session=pb.NewSession(engine="tiny@1")))
            assert (await stream.next()).HasField("opened")
            await stream.turn(generation={**GREEDY, "max_new_tokens": 400})
            await stream.first_delta()
            process.send_signal(signal.SIGTERM)
            assert await stream.failure() == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert [event.finished.reason for event in stream.events if event.HasField("finished")] == [
                pb.FINISH_REASON_LENGTH
            ]
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
