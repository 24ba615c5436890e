"""`/v1/models`: engines that the caller may talk to, by the references that `model` takes."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from sinkserve.client import Client, Unavailable
from sinkserve.web.callers import client_of
from sinkserve.web.errors import WebError


async def list_models(request: Request) -> JSONResponse:
    """Names of engines, and the versions that the runtime has loaded."""
    models = await models_of(client_of(request))
    return JSONResponse({"object": "list", "data": [models[name] for name in sorted(models)]})


async def get_model(request: Request) -> JSONResponse:
    """One of them, by any engine reference where the builder answers."""
    client, reference = client_of(request), request.path_params["model"]
    try:
        engine = await client.engines.get(reference)
    except Unavailable:
        if (found := (await models_of(client)).get(reference)) is None:
            raise WebError(404, f"there is no model {reference!r}", "model_not_found", "model") from None
        return JSONResponse(found)
    return JSONResponse(_model(reference, engine.create_time.seconds, engine.owner))


async def models_of(client: Client) -> dict[str, dict[str, Any]]:
    """By reference. The catalog is the builder's: without one, what is loaded is all that is known."""
    models: dict[str, dict[str, Any]] = {}
    for loaded in await client.engines.loaded():
        for name in (loaded.reference, loaded.reference.partition("@")[0]):
            models[name] = _model(name, loaded.load_time.seconds)
    try:
        async for engine in client.engines.list():
            known = engine.reference in models or "latest" in engine.aliases
            for name in (engine.reference, engine.name) if known else ():
                models[name] = _model(name, engine.create_time.seconds, engine.owner)
    except Unavailable:
        pass
    return models


def _model(name: str, created: int, owner: str = "") -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner or "sinkserve"}
