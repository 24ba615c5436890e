"""A builder that builds nothing, for tests of clients: its builds go through their stages at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from common import errors
from common.errors import Reason
from common.rpc.grpc_status import to_status
from common.rpc.server import Registration, RunningServer, start_server
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.builder.v1 import builder_service_pb2_grpc as pb_grpc
from sinkserve.builder.v1 import catalog_service_pb2 as catalog_pb
from sinkserve.builder.v1 import catalog_service_pb2_grpc as catalog_pb_grpc
from sinkserve.engine.v1 import engine_pb2

STAGES = (pb.Build.STAGE_RESOLVE, pb.Build.STAGE_EXPORT, pb.Build.STAGE_PUBLISH)


@dataclass
class ScriptedBuilder(pb_grpc.BuilderServiceServicer):
    """A spec named `broken` fails. `lose_after` ends every watch after so many events that it sends."""

    engines: list[engine_pb2.Engine] = field(default_factory=list)
    builds: dict[str, pb.Build] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    lose_after: int | None = None
    watches: list[pb.WatchBuildRequest] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def SubmitBuild(self, request: pb.SubmitBuildRequest, context: Any) -> pb.SubmitBuildResponse:
        name = self.requests.setdefault(request.request_id, f"builds/b{len(self.builds) + 1}")
        if name not in self.builds:
            build = pb.Build(name=name, spec=request.spec, state=pb.Build.STATE_QUEUED)
            build.create_time.GetCurrentTime()
            self.builds[name] = build
        return pb.SubmitBuildResponse(build=self.builds[name])

    async def GetBuild(self, request: pb.GetBuildRequest, context: Any) -> pb.GetBuildResponse:
        return pb.GetBuildResponse(build=self._named(request.name))

    async def ListBuilds(self, request: pb.ListBuildsRequest, context: Any) -> pb.ListBuildsResponse:
        start = int(request.page_token or 0)
        every = reversed(self.builds.values())
        builds = [
            build for build in every if request.state in {0, build.state} and request.name in {"", build.spec.name}
        ]
        more = str(start + 1) if start + 1 < len(builds) else ""  # one a page, so that pages are followed
        return pb.ListBuildsResponse(builds=builds[start : start + 1], next_page_token=more)

    async def CancelBuild(self, request: pb.CancelBuildRequest, context: Any) -> pb.CancelBuildResponse:
        build = self._named(request.name)
        if build.HasField("end_time"):
            raise errors.FailedPrecondition(Reason.BUILD_ENDED, f"{build.name} has ended", field="name")
        self._end(build, errors.Cancelled(Reason.BUILD_CANCELLED, "the build was cancelled"))
        return pb.CancelBuildResponse(build=build)

    async def WatchBuild(self, request: pb.WatchBuildRequest, context: Any) -> AsyncIterator[pb.WatchBuildResponse]:
        self.watches.append(request)
        build = self._named(request.name)
        sent = 0
        async for event in self._events(build):
            if event.sequence and event.sequence <= request.after_sequence:
                continue
            yield event
            sent += 1
            if sent == self.lose_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")

    async def _events(self, build: pb.Build) -> AsyncIterator[pb.WatchBuildResponse]:
        yield pb.WatchBuildResponse(build=build)
        for number, stage in enumerate(STAGES):
            done = number / len(STAGES)
            progress = pb.WatchBuildResponse.Progress(stage=stage, stage_progress=0.5, build_progress=done)
            yield pb.WatchBuildResponse(sequence=2 * number + 1, progress=progress)
            line = pb.WatchBuildResponse.LogLine(text=f"[{number}] a line")
            yield pb.WatchBuildResponse(sequence=2 * number + 2, log=line)
            if self.gate is not None:
                await self.gate.wait()
        if not build.HasField("end_time"):
            broken = errors.InvalidArgument(Reason.CONFIG_UNSUPPORTED, "hidden_act is relu", field="config.hidden_act")
            self._end(build, broken if build.spec.name == "broken" else None)
        yield pb.WatchBuildResponse(sequence=2 * len(STAGES) + 1, build=build)

    def _end(self, build: pb.Build, error: errors.SinkServeError | None) -> None:
        build.stage, build.progress = pb.Build.STAGE_PUBLISH, 1.0
        build.start_time.GetCurrentTime()
        build.end_time.GetCurrentTime()
        if error is None:
            build.state = pb.Build.STATE_SUCCEEDED
            build.engine = self._publish(build.spec)
        else:
            is_cancelled = isinstance(error, errors.Cancelled)
            build.state = pb.Build.STATE_CANCELLED if is_cancelled else pb.Build.STATE_FAILED
            build.error.CopyFrom(to_status(error))

    def _publish(self, spec: engine_pb2.ModelSpec) -> str:
        version = 1 + sum(engine.name == spec.name for engine in self.engines)
        reference = f"{spec.name}@{version}"
        engine = engine_pb2.Engine(name=spec.name, version=version, reference=reference, spec=spec, size_bytes=1234567)
        engine.manifest.family, engine.manifest.parameters = "llama", 7_900_000
        engine.create_time.GetCurrentTime()
        self.engines.append(engine)
        return reference

    def _named(self, name: str) -> pb.Build:
        if name not in self.builds:
            raise errors.NotFound(Reason.BUILD_NOT_FOUND, f"there is no {name}", field="name")
        return self.builds[name]


class ScriptedCatalog(catalog_pb_grpc.CatalogServiceServicer):
    """The engines of a scripted builder; aliases stay in one dictionary."""

    def __init__(self, builder: ScriptedBuilder) -> None:
        self._engines = builder.engines
        self._aliases: dict[str, catalog_pb.EngineAlias] = {}
        self._garbage = 3

    async def GetEngine(self, request: catalog_pb.GetEngineRequest, context: Any) -> catalog_pb.GetEngineResponse:
        return catalog_pb.GetEngineResponse(engine=self._named(request.reference))

    async def ListEngines(self, request: catalog_pb.ListEnginesRequest, context: Any) -> catalog_pb.ListEnginesResponse:
        chosen = [engine for engine in self._engines if request.name in {"", engine.name}]
        return catalog_pb.ListEnginesResponse(engines=chosen)

    async def DeleteEngine(
        self, request: catalog_pb.DeleteEngineRequest, context: Any
    ) -> catalog_pb.DeleteEngineResponse:
        engine = self._named(request.reference)
        if not request.force:
            raise errors.FailedPrecondition(Reason.ENGINE_IN_USE, f"{engine.reference} is in use")
        self._engines.remove(engine)
        return catalog_pb.DeleteEngineResponse()

    async def VerifyEngine(
        self, request: catalog_pb.VerifyEngineRequest, context: Any
    ) -> catalog_pb.VerifyEngineResponse:
        return catalog_pb.VerifyEngineResponse(files=2, size_bytes=self._named(request.reference).size_bytes)

    async def SetAlias(self, request: catalog_pb.SetAliasRequest, context: Any) -> catalog_pb.SetAliasResponse:
        engine = self._named(request.reference)
        alias = catalog_pb.EngineAlias(name=engine.name, alias=request.alias, version=engine.version)
        self._aliases[request.alias] = alias
        return catalog_pb.SetAliasResponse(alias=alias)

    async def DeleteAlias(self, request: catalog_pb.DeleteAliasRequest, context: Any) -> catalog_pb.DeleteAliasResponse:
        if self._aliases.pop(request.alias, None) is None:
            raise errors.NotFound(Reason.ENGINE_NOT_FOUND, f"there is no {request.name}:{request.alias}")
        return catalog_pb.DeleteAliasResponse()

    async def ListAliases(self, request: catalog_pb.ListAliasesRequest, context: Any) -> catalog_pb.ListAliasesResponse:
        names = sorted(self._aliases)
        names = [name for name in names if name > request.page_token]
        more = names[0] if names[1:] else ""  # one a page, so that pages are followed
        return catalog_pb.ListAliasesResponse(aliases=[self._aliases[name] for name in names[:1]], next_page_token=more)

    async def CollectGarbage(
        self, request: catalog_pb.CollectGarbageRequest, context: Any
    ) -> catalog_pb.CollectGarbageResponse:
        left, self._garbage = self._garbage, self._garbage if request.dry_run else 0
        return catalog_pb.CollectGarbageResponse(
            deleted_blobs=left, deleted_bytes=left * 1000, published_blobs=2 * len(self._engines), claimed_blobs=1
        )

    def _named(self, reference: str) -> engine_pb2.Engine:
        for engine in reversed(self._engines):
            if reference in {engine.reference, engine.name}:
                return engine
        raise errors.NotFound(Reason.ENGINE_NOT_FOUND, f"there is no engine {reference}", field="reference")


async def start_scripted_builder(builder: ScriptedBuilder) -> RunningServer:
    """Serve on a free port; stop it with `stop(0)`."""

    def add_builds(server: grpc.aio.Server) -> None:
        pb_grpc.add_BuilderServiceServicer_to_server(builder, server)

    def add_catalog(server: grpc.aio.Server) -> None:
        catalog_pb_grpc.add_CatalogServiceServicer_to_server(ScriptedCatalog(builder), server)

    return await start_server(
        "127.0.0.1:0",
        [
            Registration("sinkserve.builder.v1.BuilderService", add_builds),
            Registration("sinkserve.builder.v1.CatalogService", add_catalog),
        ],
    )
