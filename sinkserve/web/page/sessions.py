"""Sessions: made, listed, read, copied, taken back, deleted."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sinkserve.client import Durability, OnFull, SessionOptions
from sinkserve.runtime.v1.conversation_service_pb2 import Session
from sinkserve.web.callers import client_of
from sinkserve.web.page.endpoint import Body, Int32, body_of, id_of, limit_of
from sinkserve.web.page.listing import first
from sinkserve.web.page.views import session_view, turn_view


class Tool(Body):
    """A function that replies may call, also as OpenAI's clients write it."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _of_openai(cls, given: Any) -> Any:  # noqa: ANN401 - any JSON
        if not isinstance(given, dict) or given.get("type") != "function":
            return given
        beside = {name: value for name, value in given.items() if name != "type"}
        told = beside.get("function", beside)
        return {name: value for name, value in told.items() if name != "strict"} if isinstance(told, dict) else told


class NewSession(Body):
    """A session to make, in the words of the SDK."""

    engine: str
    session_id: str = ""
    system_prompt: str | None = None
    sink_tokens: Int32 | None = None
    window_tokens: Int32 | None = None
    recall_tokens: Int32 | None = None
    on_full: OnFull | None = None
    durability: Durability | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    tools: list[Tool] = Field(default_factory=list)

    @property
    def options(self) -> SessionOptions:
        """As the SDK has them."""
        given: Any = self.model_dump(exclude={"engine", "session_id", "tools"}, exclude_none=True)
        given["tools"] = [tool.model_dump() for tool in self.tools]  # whose schemas keep what is null in them
        options: SessionOptions = given
        return options


class Fork(Body):
    """Where the copy ends; empty: at the end."""

    turn_id: str = ""


class Rewind(Body):
    """The last turn that stays, or the first that goes."""

    turn_id: str
    drop_turn: bool = False


async def list_sessions(request: Request) -> Response:
    """Sessions that were active last."""
    sessions, more = await first(client_of(request).sessions.list(), limit_of(request, 50))
    return JSONResponse({"sessions": [session_view(each) for each in sessions], "more": more})


async def create(request: Request) -> Response:
    """A new session."""
    client, body = client_of(request), await body_of(request, NewSession)
    return _answer(await client.sessions.create(body.engine, session_id=body.session_id, **body.options))


async def get(request: Request) -> Response:
    """A session as it is now."""
    return _answer(await client_of(request).sessions.get(_name(request)))


async def turns(request: Request) -> Response:
    """The last turns of a session, in their order, and whether there are earlier ones."""
    limit = limit_of(request, 50)
    newest = client_of(request).sessions.turns(_name(request), newest_first=True, page_size=limit + 1)
    found, earlier = await first(newest, limit)
    return JSONResponse({"turns": [turn_view(each) for each in reversed(found)], "earlier": earlier})


async def turn(request: Request) -> Response:
    """One turn, as it is now."""
    return JSONResponse(turn_view(await client_of(request).sessions.turn(_name(request), request.path_params["turn"])))


async def fork(request: Request) -> Response:
    """A copy of a session, which is the answer."""
    client, body = client_of(request), await body_of(request, Fork)
    return _answer(await client.sessions.fork(_name(request), body.turn_id))


async def rewind(request: Request) -> Response:
    """The session as it is then."""
    client, body = client_of(request), await body_of(request, Rewind)
    return _answer(await client.sessions.rewind(_name(request), body.turn_id, drop_turn=body.drop_turn))


async def pin(request: Request) -> Response:
    """Keep a turn in sight."""
    return _answer(await client_of(request).sessions.pin(_name(request), request.path_params["turn"]))


async def unpin(request: Request) -> Response:
    """Let a turn go."""
    return _answer(await client_of(request).sessions.unpin(_name(request), request.path_params["turn"]))


async def delete(request: Request) -> Response:
    """Delete a session for ever."""
    await client_of(request).sessions.delete(_name(request))
    return JSONResponse({})


def _answer(session: Session) -> Response:
    return JSONResponse(session_view(session))


def _name(request: Request) -> str:
    return "sessions/" + id_of(request, "session")
