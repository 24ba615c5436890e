"""Engines: the catalog of the builder service, and what a runtime has loaded. `Client.engines`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Literal

from sinkserve.builder.v1 import catalog_service_pb2 as pb
from sinkserve.builder.v1 import catalog_service_pb2_grpc as pb_grpc
from sinkserve.client.peer import PAGE_SIZE, Peer
from sinkserve.engine.v1 import engine_pb2
from sinkserve.runtime.v1 import engine_service_pb2 as loaded_pb
from sinkserve.runtime.v1 import engine_service_pb2_grpc as loaded_pb_grpc

WhenBusy = Literal["refuse", "wait", "evict"]

_WHEN_BUSY: Mapping[WhenBusy, loaded_pb.UnloadEngineRequest.WhenBusy.ValueType] = {
    "refuse": loaded_pb.UnloadEngineRequest.WHEN_BUSY_REFUSE,
    "wait": loaded_pb.UnloadEngineRequest.WHEN_BUSY_WAIT,
    "evict": loaded_pb.UnloadEngineRequest.WHEN_BUSY_EVICT,
}


class Engines:
    """An engine reference is NAME (its latest version), NAME:ALIAS, NAME@VERSION or NAME@sha256:HEX.

    What changes things for all is asked of the admin addresses: delete, set_alias, delete_alias, collect_garbage, load,
    unload. Where no admin address of the builder is known, its own is asked, which lets callers whom it knows change
    what is theirs.
    """

    def __init__(self, builder: Peer, builder_admin: Peer, runtime: Peer, runtime_admin: Peer) -> None:
        self._builder, self._builder_admin = builder, builder_admin
        self._runtime, self._runtime_admin = runtime, runtime_admin

    async def get(self, reference: str) -> engine_pb2.Engine:
        """One engine. Raises NotFound."""
        request = pb.GetEngineRequest(reference=reference)
        return (await self._builder.ask(_catalog(self._builder).GetEngine, request)).engine

    async def list(self, name: str = "") -> AsyncIterator[engine_pb2.Engine]:
        """All engines or those of one name, by name and then the newest version first."""
        only = pb.ListEnginesRequest(name=name, page_size=PAGE_SIZE)
        async for engine in self._builder.pages(_catalog(self._builder).ListEngines, only, lambda page: page.engines):
            yield engine

    async def delete(self, reference: str, *, force: bool = False) -> None:
        """Delete a version, named by number or digest. Raises FailedPrecondition (ENGINE_IN_USE) unless forced."""
        request = pb.DeleteEngineRequest(reference=reference, force=force)
        await self._builder_admin.ask(_catalog(self._builder_admin).DeleteEngine, request)

    async def verify(self, reference: str) -> pb.VerifyEngineResponse:
        """Have every file read again. Raises DataLoss naming the file that is not what it was."""
        request = pb.VerifyEngineRequest(reference=reference)
        return await self._builder.ask(_catalog(self._builder).VerifyEngine, request)

    async def set_alias(self, reference: str, alias: str) -> pb.EngineAlias:
        """Point an alias at a version, creating or moving it."""
        request = pb.SetAliasRequest(reference=reference, alias=alias)
        return (await self._builder_admin.ask(_catalog(self._builder_admin).SetAlias, request)).alias

    async def delete_alias(self, name: str, alias: str) -> None:
        """Delete an alias. Raises NotFound."""
        request = pb.DeleteAliasRequest(name=name, alias=alias)
        await self._builder_admin.ask(_catalog(self._builder_admin).DeleteAlias, request)

    async def aliases(self, name: str) -> tuple[pb.EngineAlias, ...]:
        """Aliases of a name, "latest" first."""
        only = pb.ListAliasesRequest(name=name, page_size=PAGE_SIZE)
        list_aliases = _catalog(self._builder).ListAliases
        return tuple([alias async for alias in self._builder.pages(list_aliases, only, lambda page: page.aliases)])

    async def collect_garbage(self, *, dry_run: bool = False) -> pb.CollectGarbageResponse:
        """Delete blobs of the store that no engine has and no build claims; a dry run only counts them."""
        request = pb.CollectGarbageRequest(dry_run=dry_run)
        return await self._builder_admin.ask(_catalog(self._builder_admin).CollectGarbage, request)

    async def load(self, reference: str) -> loaded_pb.LoadedEngine:
        """Have the runtime load an engine; returns when it can serve."""
        request = loaded_pb.LoadEngineRequest(reference=reference)
        return (await self._runtime_admin.ask(_loader(self._runtime_admin).LoadEngine, request)).engine

    async def unload(self, reference: str, when_busy: WhenBusy = "refuse") -> None:
        """Have the runtime unload an engine.

        Turns that run make it "refuse" (FailedPrecondition, ENGINE_IN_USE), "wait" for them, or "evict" their sessions,
        which go on elsewhere.
        """
        request = loaded_pb.UnloadEngineRequest(reference=reference, when_busy=_WHEN_BUSY[when_busy])
        await self._runtime_admin.ask(_loader(self._runtime_admin).UnloadEngine, request)

    async def loaded(self) -> tuple[loaded_pb.LoadedEngine, ...]:
        """What the runtime has loaded, by reference."""
        only = loaded_pb.ListLoadedEnginesRequest(page_size=PAGE_SIZE)
        list_loaded = _loader(self._runtime).ListLoadedEngines
        return tuple([engine async for engine in self._runtime.pages(list_loaded, only, lambda page: page.engines)])

    async def refused(self) -> tuple[loaded_pb.RefusedEngine, ...]:
        """Engines that the runtime could not load when that was tried last, and why; by reference."""
        request = loaded_pb.ListLoadedEnginesRequest(page_size=1)
        return tuple((await self._runtime.ask(_loader(self._runtime).ListLoadedEngines, request)).refused)


def _catalog(peer: Peer) -> pb_grpc.CatalogServiceAsyncStub:
    return pb_grpc.CatalogServiceStub(peer.channel)


def _loader(peer: Peer) -> loaded_pb_grpc.EngineServiceAsyncStub:
    return loaded_pb_grpc.EngineServiceStub(peer.channel)
