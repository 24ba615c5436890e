"""Engines of a scripted runtime."""

from __future__ import annotations

from typing import Any

from common import errors
from common.errors import Reason
from sinkserve.runtime.v1 import engine_service_pb2 as engine_pb
from sinkserve.runtime.v1 import engine_service_pb2_grpc as engine_pb_grpc


class ScriptedEngines(engine_pb_grpc.EngineServiceServicer):
    """Loads whatever it is asked to."""

    def __init__(self) -> None:
        self.loaded: dict[str, engine_pb.LoadedEngine] = {}

    async def LoadEngine(self, request: engine_pb.LoadEngineRequest, context: Any) -> engine_pb.LoadEngineResponse:
        engine = engine_pb.LoadedEngine(reference=request.reference, digest="sha256:" + "0" * 64)
        engine.cache.max_slots, engine.slots = 8, 4
        engine.load_time.GetCurrentTime()
        self.loaded[request.reference] = engine
        return engine_pb.LoadEngineResponse(engine=engine)

    async def UnloadEngine(
        self, request: engine_pb.UnloadEngineRequest, context: Any
    ) -> engine_pb.UnloadEngineResponse:
        if self.loaded.pop(request.reference, None) is None:
            raise errors.NotFound(Reason.ENGINE_NOT_LOADED, f"{request.reference} is not loaded", field="reference")
        return engine_pb.UnloadEngineResponse()

    async def ListLoadedEngines(
        self, request: engine_pb.ListLoadedEnginesRequest, context: Any
    ) -> engine_pb.ListLoadedEnginesResponse:
        names = [name for name in sorted(self.loaded) if name > request.page_token]
        more = names[0] if names[1:] else ""  # one a page, so that pages are followed
        return engine_pb.ListLoadedEnginesResponse(
            engines=[self.loaded[name] for name in names[:1]], next_page_token=more
        )
