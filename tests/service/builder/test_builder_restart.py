"""Builders that end while they build."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import psutil
import pytest

from tests.nightly import one_in
from tests.samples.checkpoints import write_checkpoint
from tests.service.builder.builder import QUEUED, RUNNING, SUCCEEDED, BuilderClient, Process


@pytest.mark.parametrize("end", one_in(2, [(signal.SIGKILL, -9, 2), (signal.SIGTERM, 0, 1)]))
async def test_a_build_goes_on_after_its_builder_ended(tmp_path: Path, end: tuple[signal.Signals, int, int]) -> None:
    number, status, attempt = end
    model = write_checkpoint(tmp_path / "model")
    process = Process(tmp_path, SINKSERVE_BUILDER_STOP_GRACE_S="0")
    async with grpc.aio.insecure_channel(process.address) as channel:
        client = BuilderClient.on(channel, model)
        build = await client.submit(request_id="r1")
        await client.until(build.name, RUNNING)
    children = psutil.Process(process.process.pid).children()
    assert process.end(number) == status
    process.start()
    try:
        psutil.wait_procs(children, 30)
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        async with grpc.aio.insecure_channel(process.address) as channel:
            client = BuilderClient.on(channel, model)
            assert (await client.submit(request_id="r1")).name == build.name
            ended = await client.ended(build)
            events = await client.events(build.name)
    finally:
        process.end(signal.SIGKILL)
    assert (ended.state, ended.engine, ended.attempt) == (SUCCEEDED, "demo@1", attempt)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    states = [event.build.state for event in events if event.WhichOneof("event") == "build"]
    assert states == [QUEUED, RUNNING, QUEUED, RUNNING, SUCCEEDED]


@pytest.mark.long
async def test_a_build_may_end_within_the_grace_of_a_builder_that_stops(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    process = Process(tmp_path, SINKSERVE_BUILDER_STOP_GRACE_S="60")
    async with grpc.aio.insecure_channel(process.address) as channel:
        client = BuilderClient.on(channel, model)
        build = await client.submit()
        await client.until(build.name, RUNNING)
    assert process.end(signal.SIGTERM) == 0
    process.start()
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            ended = await BuilderClient.on(channel, model).get(build.name)
    finally:
        process.end(signal.SIGKILL)
    assert (ended.state, ended.attempt) == (SUCCEEDED, 1)
