"""Builds: listed, watched, cancelled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.web.callers import client_of
from sinkserve.web.page.about import check_admin
from sinkserve.web.page.endpoint import id_of, limit_of
from sinkserve.web.page.event_stream import Event, EventStream
from sinkserve.web.page.listing import first
from sinkserve.web.page.operations_views import build_view, watched_view


async def list_builds(request: Request) -> Response:
    """The newest builds."""
    builds, more = await first(client_of(request).builds.list(), limit_of(request, 20))
    return JSONResponse({"builds": [build_view(each) for each in builds], "more": more})


async def watch(request: Request) -> Response:
    """What a build does, to its end: events `build`, `progress`, `log`."""
    build = await client_of(request).builds.get(_name(request))
    return EventStream(_events(client_of(request).builds.watch(build.name)))


async def cancel(request: Request) -> Response:
    """End a build."""
    check_admin(request)
    return JSONResponse(build_view(await client_of(request).builds.cancel(_name(request))))


async def _events(watched: AsyncIterator[pb.WatchBuildResponse]) -> AsyncGenerator[Event, None]:
    async with aclosing(watched) as events:  # type: ignore[type-var]  # the SDK says less than it gives
        async for event in events:
            if (told := watched_view(event)) is not None:
                yield told


def _name(request: Request) -> str:
    return "builds/" + id_of(request, "build")
