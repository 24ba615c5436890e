"""Builds that are ended, or whose process or builder ends: each says how."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import grpc
import pytest

from builder_service.worker import child_process
from sinkserve.builder.v1 import builder_service_pb2 as pb
from tests.service.builder.builder import CANCELLED, BuilderClient, Process
from tests.service.builder.failures.causes import building, cause, failed, linked

AFTER_PLAN = ("QUANTIZE", "COMPILE", "VERIFY", "PUBLISH")


async def test_a_cancelled_build_says_so(client: BuilderClient) -> None:
    build = await client.submit()
    await client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name))
    error = cause(await client.ended(build), CANCELLED)
    assert (error.code, error.reason) == (grpc.StatusCode.CANCELLED, "BUILD_CANCELLED")
    assert error.metadata["build"] == build.name


async def test_a_build_that_takes_too_long_says_how_long_it_had(tmp_path: Path, model: Path) -> None:
    async with building(tmp_path, model, build_timeout_s=0.2) as client:
        error = await failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "BUILD_TIMED_OUT")
    assert "0.2 s" in error.message


async def test_a_crash_says_its_signal_and_where(busy: BuilderClient, client: BuilderClient) -> None:
    error = await failed(busy, lambda process: os.kill(process, signal.SIGSEGV))
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "BUILD_CRASHED")
    stage = error.metadata["stage"]
    assert error.metadata["signal"] == "SIGSEGV"
    assert stage in AFTER_PLAN, "it goes on until the signal reaches it"
    assert f"killed by SIGSEGV, in {stage}" in error.message
    assert (await client.built()).engine == "demo@1", "the next one succeeds"


@pytest.mark.long
async def test_a_build_whose_builders_died_under_it_says_how_often(large: Path, tmp_path: Path) -> None:
    model = linked(large, tmp_path)
    process = Process(tmp_path)
    name = ""
    for attempt in (1, 2, 3):
        async with grpc.aio.insecure_channel(process.address) as channel:
            client = BuilderClient.on(channel, model)
            name = name or (await client.submit()).name
            await _taken(client, name, attempt)  # a builder that dies before does not count
            process.end(signal.SIGKILL)
        process.start()
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            client = BuilderClient.on(channel, model)
            error = cause(await client.ended(await client.get(name)))
            assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "WORKER_LOST")
            assert error.metadata == {"attempts": "3", "retry": "never"}
    finally:
        process.end(signal.SIGKILL)


async def _taken(client: BuilderClient, name: str, attempt: int) -> None:
    while True:
        if (await client.get(name)).attempt == attempt:
            return
        await asyncio.sleep(0.02)


async def test_a_fault_of_the_builder_says_nothing_of_its_inside(
    client: BuilderClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "not-python").write_text("")
    with monkeypatch.context() as patched:
        patched.setattr(child_process, "COMMAND", (str(tmp_path / "not-python"),))
        error = await failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert str(tmp_path) not in error.message
    assert (await client.built()).engine == "demo@1", "the builder goes on"
