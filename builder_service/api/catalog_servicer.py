"""CatalogService over gRPC: turns requests into calls, and results into messages. Makes no decisions."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from common.auth.principal import EngineScope
from common.catalog.aliases import Alias, Aliases
from common.catalog.catalog import Catalog
from common.controls import check_name
from common.db.paging import read_page
from common.rpc.calls.call import current_call
from common.rpc.wire import engine_to_wire
from sinkserve.builder.v1 import catalog_service_pb2 as pb
from sinkserve.builder.v1 import catalog_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]
LONGEST_NAME = 4096  # of what may be asked for; none that exists is as long


class CatalogServicer(pb_grpc.CatalogServiceServicer):
    """The eight RPCs, on a catalog and its aliases."""

    def __init__(self, catalog: Catalog, aliases: Aliases) -> None:
        self._catalog = catalog
        self._aliases = aliases

    async def GetEngine(self, request: pb.GetEngineRequest, context: Context) -> pb.GetEngineResponse:
        """Return an engine."""
        engine = await asyncio.to_thread(self._catalog.resolve, request.reference, "reference", _usable())
        return pb.GetEngineResponse(engine=engine_to_wire(engine))

    async def ListEngines(self, request: pb.ListEnginesRequest, context: Context) -> pb.ListEnginesResponse:
        """Return a page of engines."""
        check_name(request.name, "name", LONGEST_NAME)
        page = read_page(request.page_size, request.page_token, f"engines {request.name}", (str, int))
        engines, token = await asyncio.to_thread(self._catalog.list, page, request.name, _usable())
        return pb.ListEnginesResponse(engines=map(engine_to_wire, engines), next_page_token=token)

    async def DeleteEngine(self, request: pb.DeleteEngineRequest, context: Context) -> pb.DeleteEngineResponse:
        """Delete a version."""
        await asyncio.to_thread(self._catalog.delete, request.reference, force=request.force, scope=_own())
        return pb.DeleteEngineResponse()

    async def VerifyEngine(self, request: pb.VerifyEngineRequest, context: Context) -> pb.VerifyEngineResponse:
        """Read every file again and compare digests."""
        files, size_bytes = await asyncio.to_thread(self._catalog.verify, request.reference, _usable())
        return pb.VerifyEngineResponse(files=files, size_bytes=size_bytes)

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        """Create or move an alias."""
        alias = await asyncio.to_thread(self._aliases.set, request.reference, request.alias, _own())
        return pb.SetAliasResponse(alias=_alias(alias))

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.DeleteAliasResponse:
        """Delete an alias."""
        check_name(request.name, "name", LONGEST_NAME)
        await asyncio.to_thread(self._aliases.delete, request.name, request.alias, _own())
        return pb.DeleteAliasResponse()

    async def ListAliases(self, request: pb.ListAliasesRequest, context: Context) -> pb.ListAliasesResponse:
        """Return a page of the aliases of a name."""
        check_name(request.name, "name", LONGEST_NAME)
        page = read_page(request.page_size, request.page_token, f"aliases {request.name}", (str,))
        aliases, token = await asyncio.to_thread(self._aliases.list, request.name, page, _usable())
        return pb.ListAliasesResponse(aliases=map(_alias, aliases), next_page_token=token)

    async def CollectGarbage(self, request: pb.CollectGarbageRequest, context: Context) -> pb.CollectGarbageResponse:
        """Delete blobs that no engine or build needs, or only count them."""
        collected = await asyncio.to_thread(self._catalog.collect_garbage, dry_run=request.dry_run)
        return pb.CollectGarbageResponse(
            deleted_blobs=collected.deleted_blobs,
            deleted_bytes=collected.deleted_bytes,
            published_blobs=collected.published_blobs,
            claimed_blobs=collected.claimed_blobs,
        )


def _usable() -> EngineScope:
    """Engines that the caller finds."""
    return current_call().principal.usable_engines


def _own() -> EngineScope:
    """Engines that the caller may change."""
    return current_call().principal.own_engines


def _alias(alias: Alias) -> pb.EngineAlias:
    return pb.EngineAlias(name=alias.name, alias=alias.alias, version=alias.version)
