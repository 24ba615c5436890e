"""The runtime that tests of conversations talk to, and the builder that tests of builds do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from builder_service.service import BuilderHandle
from tests.samples.checkpoints import write_checkpoint
from tests.service.builder.builder import BuilderClient, serving
from tests.service.runtime.runtime import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Started, with an engine named demo."""
    bench = Bench(tmp_path, {})
    bench.publish()
    await bench.start()
    yield bench
    if bench.channel is not None:
        await bench.channel.close()  # who still speaks leaves: nothing is left to wait for
    if bench.runtime is not None:
        await bench.runtime.sessions.drain(0)  # nor for what they have asked for
    await bench.stop()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny checkpoint."""
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
async def builder(tmp_path: Path) -> AsyncIterator[BuilderHandle]:
    """Started; may read everything in tmp_path."""
    async with serving(tmp_path) as handle:
        yield handle


@pytest.fixture
async def client(builder: BuilderHandle, model: Path) -> AsyncIterator[BuilderClient]:
    """Talks to the builder; `model` is what its specs name."""
    async with grpc.aio.insecure_channel(builder.admin_address) as channel:
        yield BuilderClient.on(channel, model)
