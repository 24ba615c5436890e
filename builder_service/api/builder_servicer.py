"""BuilderService over gRPC: turns requests into calls, and results into messages. Makes no decisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc

from builder_service.api.catalog_servicer import LONGEST_NAME
from builder_service.api.wire import build_to_wire, event_to_wire, snapshot_to_wire, state_from_wire
from builder_service.queue.changes import Changes, wait_for_change
from builder_service.queue.repository import EVENT_PAGE, BuildRepository
from builder_service.sources.uri import read_adapter_place, read_place
from common.auth.principal import Principal, Role
from common.catalog.catalog import Catalog
from common.catalog.rows import name_taken
from common.controls import check_name
from common.db.database import utc_now
from common.db.paging import read_page
from common.errors import InvalidArgument, NotFound, Reason
from common.rpc.calls.call import current_call
from common.rpc.wire import spec_from_wire
from common.tracing.span import caller_span
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.builder.v1 import builder_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]
POLL_S = 1.0
LONGEST_REQUEST_ID = 128


class BuilderServicer(pb_grpc.BuilderServiceServicer):
    """The five RPCs, on a repository; `changes` is notified of every change made in this process."""

    def __init__(self, builds: BuildRepository, catalog: Catalog, changes: Changes) -> None:
        self._builds = builds
        self._catalog = catalog
        self._changes = changes

    async def SubmitBuild(self, request: pb.SubmitBuildRequest, context: Context) -> pb.SubmitBuildResponse:
        """Create a build, or return the one that this request id created."""
        check_name(request.request_id, "request_id", LONGEST_REQUEST_ID)
        spec = spec_from_wire(request.spec)
        read_place(spec.source)
        read_adapter_place(spec.source)
        caller = current_call().principal
        owner = await asyncio.to_thread(self._owner, caller, spec.name)
        submit = partial(self._builds.submit, new_version=request.new_version, caller_span=caller_span.get())
        build = await asyncio.to_thread(submit, owner, spec, request.request_id)
        return pb.SubmitBuildResponse(build=build_to_wire(build))

    def _owner(self, principal: Principal, name: str) -> str:
        """Whose a build under a name is; raises AlreadyExists (ENGINE_NAME_TAKEN) for somebody else's.

        An admin builds for the owner of the name.
        """
        owner = self._catalog.owner_of(name) or principal.name
        if owner != principal.name and not principal.has(Role.ADMIN):
            raise name_taken(name)
        return owner

    async def GetBuild(self, request: pb.GetBuildRequest, context: Context) -> pb.GetBuildResponse:
        """Return a build."""
        build = await asyncio.to_thread(self._builds.get, current_call().principal.owner, _build_id(request.name))
        return pb.GetBuildResponse(build=build_to_wire(build))

    async def ListBuilds(self, request: pb.ListBuildsRequest, context: Context) -> pb.ListBuildsResponse:
        """Return one page of builds."""
        state = state_from_wire(request.state)
        check_name(request.name, "name", LONGEST_NAME)
        page = read_page(request.page_size, request.page_token, f"builds {state} {request.name}", (int, str))
        builds, token = await asyncio.to_thread(
            self._builds.list, current_call().principal.owner, page, state, request.name
        )
        return pb.ListBuildsResponse(builds=map(build_to_wire, builds), next_page_token=token)

    async def CancelBuild(self, request: pb.CancelBuildRequest, context: Context) -> pb.CancelBuildResponse:
        """Cancel a build."""
        build = await asyncio.to_thread(self._builds.cancel, current_call().principal.owner, _build_id(request.name))
        return pb.CancelBuildResponse(build=build_to_wire(build))

    async def WatchBuild(self, request: pb.WatchBuildRequest, context: Context) -> AsyncIterator[pb.WatchBuildResponse]:
        """Stream the build's present state, then its events until it has ended."""
        build_id, after = _build_id(request.name), request.after_sequence
        owner = current_call().principal.owner
        if after < 0:
            message = f"after_sequence is {after}; sequences start at 1"
            raise InvalidArgument(Reason.INVALID_FIELD, message, field="after_sequence")
        with self._changes.listen(build_id) as changed:
            build = await asyncio.to_thread(self._builds.get, owner, build_id)
            yield snapshot_to_wire(build, utc_now())
            while True:
                changed.clear()
                build, events = await asyncio.to_thread(self._builds.watch, owner, build_id, after)
                for event in events:
                    after = event.sequence
                    yield event_to_wire(event)
                if len(events) == EVENT_PAGE:
                    continue
                if build.state.ended:
                    return
                await wait_for_change(changed, POLL_S)


def _build_id(name: str) -> str:
    """The id in builds/ID; raises InvalidArgument, or NotFound for an id that is too long to exist."""
    collection, _, build_id = name.partition("/")
    if collection != "builds" or not build_id:
        shown = name[:100]
        raise InvalidArgument(Reason.INVALID_FIELD, f"name: {shown!r} is not builds/ID", field="name", value=shown)
    check_name(name, "name", LONGEST_NAME)
    if len(build_id) > LONGEST_REQUEST_ID:
        raise NotFound(Reason.BUILD_NOT_FOUND, f"builds/{build_id[:100]}... not found", field="name")
    return build_id
