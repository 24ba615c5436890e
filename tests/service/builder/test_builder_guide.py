"""docs/use/builder.md is true: its commands are run against served builders, and print what it says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf import json_format

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from builder_service.worker import child_process
from common.settings import SharedSettings
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.client.errors import ResourceExhausted, from_call
from tests.pages.guide_page import examples, messages, samples
from tests.samples.checkpoints import write_checkpoint
from tests.servers.databases import new_database_url
from tests.service.builder.builder import RUNNING, SUCCEEDED, BuilderClient
from tests.service.builder.guide_reader import Reader

DATABASE, STORE = "postgresql://sinkserve@db.example.org/sinkserve", "s3://models/engines"
SEVERAL = "Several builders"


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(300)
async def test_a_newcomer_gets_what_the_page_says(reader: Reader) -> None:
    first, *others = [example for example in examples() if example.section != SEVERAL]
    assert first.serves
    with reader.serve(first) as (address, server):
        reader.use()
        for example in others:
            if example.section == "Cancel":
                async with _held(address, server, reader.folder):
                    example.check(reader.run(example))
            else:
                printed = reader.run(example)
                example.check(printed)
                if "afterSequence" in example.code:
                    _check_resumed(printed)


def _check_resumed(printed: str) -> None:
    snapshot, *events = messages(printed)
    assert "sequence" not in snapshot
    sequences = [int(event["sequence"]) for event in events]
    assert sequences == list(range(6, 6 + len(events)))
    assert events[-1]["build"]["state"] == "STATE_SUCCEEDED"


@asynccontextmanager
async def _held(address: str, server: int, folder: Path) -> AsyncIterator[None]:
    """The builder is busy with a build that does not go on: what is submitted now still waits when it is asked for."""
    async with grpc.aio.insecure_channel(address) as channel:
        client = BuilderClient.on(channel, folder / "demo" / "model")
        build, child = await asyncio.gather(client.submit(client.spec("busy")), _child(server))
        with _suspended(child):
            await client.until(build.name, RUNNING)
            yield
            await client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name))
            await client.ended(build)


@contextmanager
def _suspended(process: psutil.Process) -> Iterator[None]:
    """It does not go on meanwhile. Whatever happens it does afterwards: one that nobody wakes outlives its builder."""
    process.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


async def _child(*builders: int) -> psutil.Process:
    """The process of their build. Ask before the build can end: one on a small checkpoint is soon over."""
    async with asyncio.timeout(60):
        while True:
            for child in (child for builder in builders for child in psutil.Process(builder).children()):
                with suppress(psutil.NoSuchProcess):  # it ended since it was listed
                    if child_process.COMMAND[-1] in child.cmdline():
                        return child
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("sample", samples())
def test_a_sample_is_a_message_and_has_all_that_is_explained(sample: str) -> None:
    event = json_format.Parse(sample, pb.WatchBuildResponse())
    assert {field.name for field in pb.WatchBuildResponse.Progress.DESCRIPTOR.fields} == {
        field.name for field, _ in event.progress.ListFields()
    }


@pytest.mark.long
async def test_several_builders_share_a_queue_as_the_page_says(reader: Reader) -> None:
    with new_database_url("postgresql", reader.folder) as url:
        reader.replaced |= {DATABASE: url, STORE: str(reader.folder / "store")}
        upgrade, serve = [example for example in examples() if example.section == SEVERAL]
        upgrade.check(reader.run(upgrade))
        home, another = str(reader.folder / "home"), str(reader.folder / "another")
        with reader.serve(serve, SINKSERVE_HOME=home) as one, reader.serve(serve, SINKSERVE_HOME=another) as other:
            await _check_shared(reader, one, other)


async def _check_shared(reader: Reader, one: tuple[str, int], other: tuple[str, int]) -> None:
    """While one builder is busy the other builds; and either knows of all builds."""
    model = reader.folder / "demo" / "model"
    async with grpc.aio.insecure_channel(one[0]) as here, grpc.aio.insecure_channel(other[0]) as there:
        asked, watched = BuilderClient.on(here, model), BuilderClient.on(there, model)
        first, child = await asyncio.gather(asked.submit(asked.spec("first")), _child(one[1], other[1]))
        with _suspended(child):
            await watched.until(first.name, RUNNING)
            other_spec = asked.spec("second")
            other_spec.cache.window_tokens += 1  # of another key
            second = await watched.ended(await asked.submit(other_spec))
            assert (second.state, second.engine) == (SUCCEEDED, "second@1")
        assert (await watched.ended(first)).engine == "first@1"
        assert (await asked.engine("second")).reference == "second@1"


@pytest.mark.long
async def test_an_attempt_goes_on_for_the_oldest_waiter_when_its_build_is_cancelled(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", hidden=512, layers=1, vocab=32_768, dtype="bfloat16", tokenizer=False)
    async with _building(tmp_path, model, concurrency=2) as client:
        build = await client.submit()
        await _until_weights(client, build.name)
        with _suspended(await _child(os.getpid())):
            waiters = [await client.submit() for _ in range(2)]
            for waiter in waiters:
                await _waits_for(client, waiter.name, build.name)
            await client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name))
            heir = await client.get(waiters[0].name)
            assert (heir.state, heir.stage) == (RUNNING, pb.Build.STAGE_QUANTIZE), "it goes on where the other was"
        ended = [await client.ended(waiter) for waiter in waiters]
    assert [(one.state, one.engine, one.attempt) for one in ended] == [(SUCCEEDED, "demo@1", 1)] * 2


async def _until_weights(client: BuilderClient, name: str) -> None:
    async for event in client.watch(name):
        if event.progress.stage == pb.Build.STAGE_QUANTIZE:
            return
    raise AssertionError(f"{name} wrote no weights")


async def _waits_for(client: BuilderClient, name: str, other: str) -> None:
    async for event in client.watch(name):
        if event.log.text == f"waits for {other}, which builds the same":
            return
    raise AssertionError(f"{name} did not wait")


async def test_a_full_queue_says_when_to_try_again(tmp_path: Path, model: Path) -> None:
    async with _building(tmp_path, model, queue_limit=1) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            for _ in range(3):
                await client.submit()
        error = from_call(caught.value, "")
    assert isinstance(error, ResourceExhausted)
    assert (error.reason, error.retry_after_s) == ("CAPACITY_EXHAUSTED", 30.0)


@asynccontextmanager
async def _building(folder: Path, model: Path, **settings: Any) -> AsyncIterator[BuilderClient]:
    chosen = BuilderSettings(listen="127.0.0.1:0", source_roots=(str(folder),), stop_grace_s=0, **settings)
    handle = await start_builder(chosen, SharedSettings(home=folder / "home"))
    try:
        async with grpc.aio.insecure_channel(handle.admin_address) as channel:
            yield BuilderClient.on(channel, model)
    finally:
        await handle.stop()
