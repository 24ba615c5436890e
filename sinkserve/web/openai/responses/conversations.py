"""`/v1/conversations`: sessions, made before anything is said."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from sinkserve.client import Client
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.web.callers import client_of
from sinkserve.web.errors import WebError
from sinkserve.web.json_body import json_of
from sinkserve.web.openai.body import Body
from sinkserve.web.openai.history import metadata_of, with_metadata
from sinkserve.web.openai.ids import conversation_id, read_conversation
from sinkserve.web.openai.models import models_of
from sinkserve.web.openai.place import new_place
from sinkserve.web.openai.prompt import Prompt
from sinkserve.web.openai.responses.where import session_of
from sinkserve.web.settings import WebSettings


class _Created(Body):
    """`model` is ours: the engine, which the first response may choose otherwise."""

    metadata: Annotated[dict[str, str], Field(max_length=16)] = {}  # noqa: RUF012 - pydantic copies it
    items: Annotated[list[dict[str, Any]], Field(max_length=0)] = []  # noqa: RUF012
    model: str = ""


class _Updated(Body):
    metadata: Annotated[dict[str, str], Field(max_length=16)]


async def create(request: Request) -> JSONResponse:
    """A conversation in which nothing was said. It needs an engine, which its first response may replace."""
    client, settings = client_of(request), request.app.state.settings
    asked = _Created.parse(await json_of(request))
    engine = asked.model or await _any_engine(client, settings)
    prompt = Prompt(engine, "", (), {}, asked.metadata)
    place = new_place(prompt, secrets.token_hex(16), engine, settings.keep_days)
    session = await client.sessions.create(engine, session_id=place.turn.session, **place.options)
    return JSONResponse(_conversation(session))


async def get(request: Request) -> JSONResponse:
    """One."""
    return JSONResponse(_conversation(await _session(request)))


async def update(request: Request) -> JSONResponse:
    """Its metadata, all of it."""
    asked = _Updated.parse(await json_of(request))
    session = await _session(request)
    labels = with_metadata(session.labels, asked.metadata)
    return JSONResponse(_conversation(await client_of(request).sessions.update(session.name, labels=labels)))


async def delete(request: Request) -> JSONResponse:
    """With all that was said in it."""
    session = await _session(request)
    await client_of(request).sessions.delete(session.name)
    name = request.path_params["conversation"]
    return JSONResponse({"id": name, "object": "conversation.deleted", "deleted": True})


async def _session(request: Request) -> pb.Session:
    name: str = request.path_params["conversation"]
    return await session_of(client_of(request), read_conversation(name), name)


async def _any_engine(client: Client, settings: WebSettings) -> str:
    """Raises WebError where there is none."""
    if settings.engine:
        return settings.engine
    if not (models := await models_of(client)):
        what = "there is no engine yet: build one, and name it as `model` or in SINKSERVE_WEB_ENGINE"
        raise WebError(400, what, "invalid_value", "model")
    return min(models)


def _conversation(session: pb.Session) -> dict[str, Any]:
    return {
        "id": conversation_id(session.name.partition("/")[2]),
        "object": "conversation",
        "created_at": session.create_time.seconds,
        "metadata": metadata_of(session.labels),
    }
