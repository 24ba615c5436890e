"""A builder on a real socket, and a client that speaks bare protobuf to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from builder_service.service import BuilderHandle, start_builder
from builder_service.settings import BuilderSettings
from common.settings import SharedSettings
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.builder.v1 import catalog_service_pb2 as cat
from sinkserve.builder.v1.builder_service_pb2_grpc import BuilderServiceStub
from sinkserve.builder.v1.catalog_service_pb2_grpc import CatalogServiceStub
from sinkserve.engine.v1 import engine_pb2

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = (
    pb.Build.State.Value(f"STATE_{name}") for name in ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")
)


@dataclass(frozen=True)
class BuilderClient:
    """Both services of one builder."""

    builds: Any
    catalog: Any
    model: Path

    @classmethod
    def on(cls, channel: grpc.aio.Channel, model: Path) -> BuilderClient:
        return cls(BuilderServiceStub(channel), CatalogServiceStub(channel), model)

    def spec(self, name: str = "demo", **changes: Any) -> engine_pb2.ModelSpec:
        cache = engine_pb2.CacheGeometry(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=2)
        spec = engine_pb2.ModelSpec(name=name, source=engine_pb2.Source(uri=str(self.model)), cache=cache)
        spec.MergeFrom(engine_pb2.ModelSpec(**changes))
        return spec

    async def submit(
        self, spec: engine_pb2.ModelSpec | None = None, request_id: str = "", *, new_version: bool = False
    ) -> pb.Build:
        request = pb.SubmitBuildRequest(spec=spec or self.spec(), request_id=request_id, new_version=new_version)
        build: pb.Build = (await self.builds.SubmitBuild(request)).build
        return build

    async def get(self, name: str) -> pb.Build:
        build: pb.Build = (await self.builds.GetBuild(pb.GetBuildRequest(name=name))).build
        return build

    def watch(self, name: str, after: int | None = None) -> Any:
        return self.builds.WatchBuild(pb.WatchBuildRequest(name=name, after_sequence=after))

    async def events(self, name: str, after: int | None = None) -> list[pb.WatchBuildResponse]:
        """All events after the snapshot."""
        return [event async for event in self.watch(name, after)][1:]

    async def ended(self, build: pb.Build) -> pb.Build:
        """The build as it is at the end of a watch."""
        changes: list[pb.Build] = [
            event.build async for event in self.watch(build.name) if event.WhichOneof("event") == "build"
        ]
        assert changes[-1] == await self.get(build.name)
        return changes[-1]

    async def built(self, spec: engine_pb2.ModelSpec | None = None) -> pb.Build:
        build = await self.ended(await self.submit(spec))
        assert build.state == SUCCEEDED, build.error
        return build

    async def engine(self, reference: str) -> engine_pb2.Engine:
        request = cat.GetEngineRequest(reference=reference)
        engine: engine_pb2.Engine = (await self.catalog.GetEngine(request)).engine
        return engine

    async def until(self, name: str, state: int) -> pb.Build:
        async for event in self.watch(name):
            found: pb.Build = event.build
            if found.state == state:
                return found
        raise AssertionError(f"{name} ended and was never {state}")


@dataclass(frozen=True)
class Refusal:
    """A status, taken apart."""

    code: grpc.StatusCode | int
    reason: str
    fields: list[str]
    message: str

    @classmethod
    def of(cls, status: status_pb2.Status, code: grpc.StatusCode | int) -> Refusal:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(bad)
        assert info.domain == "sinkserve"
        return cls(code, info.reason, [item.field for item in bad.field_violations], status.message)


async def refused(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    assert status is not None
    return Refusal.of(status, caught.value.code())


@asynccontextmanager
async def serving(folder: Path, **shared: Any) -> AsyncIterator[BuilderHandle]:
    """A builder in this process; its home and all it may read are in `folder`."""
    settings = BuilderSettings(listen="127.0.0.1:0", source_roots=(folder,))
    handle = await start_builder(settings, SharedSettings.load({"home": folder / "home", **shared}))
    try:
        yield handle
    finally:
        await handle.stop()


class Process:
    """`python -m builder_service`, as an operator runs it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """`settings` are variables of the environment."""
        self._environment = {
            **os.environ,
            "SINKSERVE_HOME": str(folder / "home"),
            "SINKSERVE_BUILDER_SOURCE_ROOTS": str(folder),
            "SINKSERVE_BUILDER_LISTEN": "127.0.0.1:0",
            "SINKSERVE_BUILDER_ADMIN_LISTEN": "",
            "SINKSERVE_BUILDER_METRICS_LISTEN": "",
            **settings,
        }
        self.start()

    def start(self) -> None:
        """Start, or start again; returns when it listens."""
        command = [sys.executable, "-m", "builder_service"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=self._environment)
        assert self.process.stderr is not None
        line = next(line for line in self.process.stderr if "builder.listening" in line)
        self.address = line.partition("address=")[2].split()[0]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        status = self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status
