"""EngineService on the wire: what this process has loaded."""

from __future__ import annotations

from typing import Any

import grpc

from common.db.paging import read_page
from common.errors import InvalidArgument, Reason
from common.rpc.calls.call import current_call
from common.spec.published_engine import PublishedEngine
from runtime_service.api.to_wire import loaded_to_wire, refused_to_wire
from runtime_service.engines.registry import EngineRegistry, WhenBusy
from runtime_service.sessions.registry import SessionRegistry
from runtime_service.tasks.background import Background
from sinkserve.runtime.v1 import engine_service_pb2 as pb
from sinkserve.runtime.v1 import engine_service_pb2_grpc as pb_grpc

_ENGINE_BYTES = 512  # of a message
Context = grpc.aio.ServicerContext[Any, Any]


class EngineServicer(pb_grpc.EngineServiceServicer):
    """See the proto."""

    def __init__(self, engines: EngineRegistry, sessions: SessionRegistry, background: Background) -> None:
        self._engines = engines
        self._sessions = sessions
        self._background = background

    async def LoadEngine(self, request: pb.LoadEngineRequest, context: Context) -> pb.LoadEngineResponse:
        published = await self._engines.resolve(request.reference, "reference")
        engine = await self._background.complete(self._engines.load(published), f"load {published.reference}")
        return pb.LoadEngineResponse(engine=loaded_to_wire(engine))

    async def UnloadEngine(self, request: pb.UnloadEngineRequest, context: Context) -> pb.UnloadEngineResponse:
        published = await self._engines.resolve(request.reference, "reference")
        unload = self._engines.unload(published, self._sessions.evacuate, _when_busy(request.when_busy))
        await self._background.complete(unload, f"unload {published.reference}")
        return pb.UnloadEngineResponse()

    async def ListLoadedEngines(
        self, request: pb.ListLoadedEnginesRequest, context: Context
    ) -> pb.ListLoadedEnginesResponse:
        page = read_page(request.page_size, request.page_token, "loaded engines", (str,))
        after = "" if page.after is None else str(page.after[0])
        scope = current_call().principal.usable_engines

        def is_found(engine: PublishedEngine) -> bool:
            return scope.covers(engine.name, engine.owner)

        found = (engine for engine in self._engines.loaded if is_found(engine.published))
        following = (engine for engine in found if engine.published.reference > after)
        kept, token = page.fill(following, lambda _: _ENGINE_BYTES, lambda engine: (engine.published.reference,))
        refused = [] if after else [engine for engine in self._engines.refused if is_found(engine.published)]
        return pb.ListLoadedEnginesResponse(
            engines=map(loaded_to_wire, kept), next_page_token=token, refused=map(refused_to_wire, refused)
        )


def _when_busy(number: pb.UnloadEngineRequest.WhenBusy.ValueType) -> WhenBusy:
    if not number:
        return WhenBusy.REFUSE
    found = pb.UnloadEngineRequest.WhenBusy.DESCRIPTOR.values_by_number.get(number)
    if found is None:
        what = f"when_busy is {number}; it has to be WHEN_BUSY_REFUSE, WHEN_BUSY_WAIT or WHEN_BUSY_EVICT"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field="when_busy")
    return WhenBusy(found.name.removeprefix("WHEN_BUSY_"))
