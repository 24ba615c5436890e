"""Builds of the builder service: `Client.builds`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from typing import Literal

import grpc

from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.builder.v1 import builder_service_pb2_grpc as pb_grpc
from sinkserve.client.errors import SinkServeError, from_call, from_status
from sinkserve.client.peer import PAGE_SIZE, Peer
from sinkserve.client.requests import new_id
from sinkserve.client.retry import Retry
from sinkserve.engine.v1 import engine_pb2

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]

_STATES: Mapping[State | None, pb.Build.State.ValueType] = {
    None: pb.Build.STATE_UNSPECIFIED,
    "queued": pb.Build.STATE_QUEUED,
    "running": pb.Build.STATE_RUNNING,
    "succeeded": pb.Build.STATE_SUCCEEDED,
    "failed": pb.Build.STATE_FAILED,
    "cancelled": pb.Build.STATE_CANCELLED,
}


class Builds:
    """Submit a spec, and watch the build.

    build = await client.builds.submit(spec)
    async for event in client.builds.watch(build.name):
        print(event.progress.build_progress)
    engine = (await client.builds.wait(build.name)).engine
    """

    def __init__(self, builder: Peer, admin: Peer, retry: Retry) -> None:
        self._builder = builder
        self._admin = admin
        self._retry = retry

    @property
    def _stub(self) -> pb_grpc.BuilderServiceAsyncStub:
        return pb_grpc.BuilderServiceStub(self._builder.channel)

    async def submit(self, spec: engine_pb2.ModelSpec, *, request_id: str = "", new_version: bool = False) -> pb.Build:
        """Ask for a build; returns at once. The same `request_id` (default: a new one) gives the same build.

        Where the same engine exists under the spec's name the build ends with that, unless `new_version` is set.

        Raises InvalidArgument with the fields of a bad spec.
        """
        identity = request_id or new_id()
        request = pb.SubmitBuildRequest(spec=spec, request_id=identity, new_version=new_version)
        return (await self._builder.ask(self._stub.SubmitBuild, request)).build

    async def get(self, name: str) -> pb.Build:
        """The build `builds/ID` as it is now. Raises NotFound."""
        return (await self._builder.ask(self._stub.GetBuild, pb.GetBuildRequest(name=name))).build

    async def list(self, *, state: State | None = None, name: str = "") -> AsyncIterator[pb.Build]:
        """All builds, the newest first; or those in a state, and those whose spec has this name."""
        only = pb.ListBuildsRequest(state=_STATES[state], name=name, page_size=PAGE_SIZE)
        async for build in self._builder.pages(self._stub.ListBuilds, only, lambda page: page.builds):
            yield build

    async def cancel(self, name: str) -> pb.Build:
        """Cancel a build, at the admin address if one is known. Raises NotFound, FailedPrecondition (BUILD_ENDED)."""
        admin: pb_grpc.BuilderServiceAsyncStub = pb_grpc.BuilderServiceStub(self._admin.channel)
        return (await self._admin.ask(admin.CancelBuild, pb.CancelBuildRequest(name=name))).build

    async def watch(self, name: str, *, after_sequence: int | None = None) -> AsyncIterator[pb.WatchBuildResponse]:
        """The build's present state, then its events, until it has ended.

        Resumes when the connection is lost.
        """
        failures = 0
        while True:
            call = self._stub.WatchBuild(pb.WatchBuildRequest(name=name, after_sequence=after_sequence))
            try:
                async for event in call:
                    if event.sequence > (after_sequence or 0):  # not the snapshot, which every watch begins with
                        failures, after_sequence = 0, event.sequence
                    yield event
            except grpc.aio.AioRpcError as lost:
                error = from_call(lost, self._builder.address)
            else:
                return
            finally:
                call.cancel()  # otherwise the call stays open when the caller leaves the loop early
            failures += 1
            await self._wait(failures, error)

    async def wait(self, name: str) -> pb.Build:
        """The build when it has succeeded. Raises the build's error, or Cancelled (BUILD_CANCELLED)."""
        async for _ in self.watch(name):
            pass
        build = await self.get(name)
        if build.HasField("error"):
            raise from_status(build.error)
        return build

    async def _wait(self, failures: int, error: SinkServeError) -> None:
        """Wait before the next try; raises `error` if there should be no further try."""
        waited_s = sum(self._retry.wait_s(attempt, 1.0) for attempt in range(failures))
        if error.retry == "never" or waited_s > self._retry.give_up_after_s:
            raise error
        await asyncio.sleep(self._retry.wait_s(failures - 1, random.random()))  # noqa: S311 - spreads clients
