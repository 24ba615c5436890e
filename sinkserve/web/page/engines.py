"""Engines: what is published, what is loaded, and the acts of administration on both."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sinkserve.client.engines import WhenBusy
from sinkserve.web.callers import client_of
from sinkserve.web.page.about import check_admin
from sinkserve.web.page.endpoint import Body, body_of, limit_of
from sinkserve.web.page.listing import first
from sinkserve.web.page.operations_views import engine_view, loaded_view, refused_view


class Reference(Body):
    """An engine."""

    reference: str


class Alias(Body):
    """An alias, and the engine that it is to name."""

    reference: str
    alias: str


class OldAlias(Body):
    """An alias of a name."""

    name: str
    alias: str


class Unload(Body):
    """An engine, and what happens to the turns that it runs."""

    reference: str
    when_busy: WhenBusy = "refuse"


async def list_engines(request: Request) -> Response:
    """Published engines, by name."""
    engines, more = await first(client_of(request).engines.list(), limit_of(request, 100))
    return JSONResponse({"engines": [engine_view(each) for each in engines], "more": more})


async def list_loaded(request: Request) -> Response:
    """What the runtime has loaded, and what it could not load."""
    engines = client_of(request).engines
    loaded, refused = await engines.loaded(), await engines.refused()
    return JSONResponse(
        {
            "engines": [loaded_view(each) for each in loaded],
            "refused": [refused_view(each) for each in refused],
        }
    )


async def verify(request: Request) -> Response:
    """Have every file of an engine read again."""
    client, body = client_of(request), await body_of(request, Reference)
    read = await client.engines.verify(body.reference)
    return JSONResponse({"files": read.files, "size_bytes": read.size_bytes})


async def set_alias(request: Request) -> Response:
    """Point an alias at an engine."""
    check_admin(request)
    client, body = client_of(request), await body_of(request, Alias)
    alias = await client.engines.set_alias(body.reference, body.alias)
    return JSONResponse({"name": alias.name, "alias": alias.alias, "version": alias.version})


async def delete_alias(request: Request) -> Response:
    """Delete an alias."""
    check_admin(request)
    client, body = client_of(request), await body_of(request, OldAlias)
    await client.engines.delete_alias(body.name, body.alias)
    return JSONResponse({})


async def load(request: Request) -> Response:
    """Have the runtime load an engine."""
    check_admin(request)
    client, body = client_of(request), await body_of(request, Reference)
    return JSONResponse(loaded_view(await client.engines.load(body.reference)))


async def unload(request: Request) -> Response:
    """Have the runtime unload an engine."""
    check_admin(request)
    client, body = client_of(request), await body_of(request, Unload)
    await client.engines.unload(body.reference, body.when_busy)
    return JSONResponse({})
