"""Builds that fail, and what they say of it: every cause has the parts that the guide says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from builder_service.worker import child_process
from common.settings import SharedSettings
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.client.errors import SinkServeError, from_status
from tests.service.builder.builder import FAILED, BuilderClient

Act = Callable[[int], object]
GUIDE = Path(__file__).resolve().parents[4] / "docs" / "use" / "builder.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", re.MULTILINE)
"""Reason and code of a row in its failure table."""


def linked(large: Path, folder: Path) -> Path:
    place = folder / "large"
    place.mkdir()
    for path in large.iterdir():
        (place / path.name).hardlink_to(path)
    return place


@asynccontextmanager
async def building(
    folder: Path, model: Path, store_url: str = "", home: Path | None = None, **settings: Any
) -> AsyncIterator[BuilderClient]:
    """A client of a builder with settings of its own, that may read `folder`; its home is there unless it is given."""
    chosen = BuilderSettings(listen="127.0.0.1:0", source_roots=(str(folder),), **settings)
    handle = await start_builder(chosen, SharedSettings(home=home or folder / "home", store_url=store_url))
    try:
        async with grpc.aio.insecure_channel(handle.admin_address) as channel:
            yield BuilderClient.on(channel, model)
    finally:
        await handle.stop()


def cause(build: pb.Build, state: int = FAILED) -> SinkServeError:
    """What a build says of its end; every cause has these parts."""
    assert build.state == state, build
    error = from_status(build.error)
    assert (error.reason, error.code.name) in ROW.findall(GUIDE.read_text()), "the guide says both"
    assert error.message
    return error


async def failed(client: BuilderClient, act: Act | None = None, **changes: Any) -> SinkServeError:
    """Why a build failed; `act` is done to its process when that begins to write weights."""
    build = await client.submit(client.spec(**changes))
    async for event in client.watch(build.name):
        if act is not None and event.progress.stage == pb.Build.STAGE_QUANTIZE:
            act(_child())
            act = None
    return cause(await client.get(build.name))


def _child() -> int:
    """The build's process."""
    return next(child.pid for child in psutil.Process().children() if child_process.COMMAND[-1] in child.cmdline())
