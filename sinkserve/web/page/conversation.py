"""A turn, as the page follows it.

A browser that comes back asks for the same turn again: it never runs twice, and its events are told from the start.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sinkserve.client import Client, Conversation, GenerationOptions, SinkServeError, Turn
from sinkserve.web.callers import client_of
from sinkserve.web.page.endpoint import Body, Int32, body_of, id_of
from sinkserve.web.page.event_stream import Event, EventStream
from sinkserve.web.page.views import delta_view, finished_view, session_view, started_view


class Form(Body):
    """What the reply has to be; one of these."""

    json_schema: str | None = None
    """As text, so that its properties keep their order and its numbers their digits."""
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("it has to have one of json_schema, regex, choice and grammar")
        return self


class Message(Body):
    """One of several messages, such as the result of a call, of role `tool`."""

    role: str
    content: str
    tool_call_id: str = ""
    name: str = ""


class NewTurn(Body):
    """What is said, as the user's text or as messages, and how to reply to it."""

    turn_id: Annotated[str, Field(min_length=1)]
    text: str | None = None
    messages: list[Message] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: Int32 | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    response_format: Form | None = None
    tool_choice: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("a turn has to have either text or messages")
        return self

    @property
    def generation(self) -> GenerationOptions:
        """As the SDK has them."""
        given: Any = self.model_dump(exclude={"turn_id", "text", "messages"}, exclude_none=True)
        options: GenerationOptions = given
        return options

    async def send(self, conversation: Conversation) -> Turn:
        """Send it."""
        said: Any = self.model_dump(include={"turn_id", "text", "messages"})
        turn: Turn = await conversation.send(**said, **self.generation)
        return turn


async def run_turn(request: Request) -> Response:
    """Run a turn, or follow it again: events `opened`, `started`, `delta`, `finished`, `session`; or `error`."""
    client, body = client_of(request), await body_of(request, NewTurn)
    conversation = client.conversation(session=id_of(request, "session"))
    await conversation.open()
    return EventStream(_events(client, conversation, body))


async def cancel_turn(request: Request) -> Response:
    """End a turn within a step; what was said of it stays, or nothing of it with `?discard=true`."""
    name, discard = "sessions/" + id_of(request, "session"), request.query_params.get("discard") == "true"
    await client_of(request).sessions.cancel_turn(name, request.path_params["turn"], discard=discard)
    return JSONResponse({})


async def _events(client: Client, conversation: Conversation, body: NewTurn) -> AsyncGenerator[Event, None]:
    try:
        yield "opened", {"session": session_view(conversation.session)}
        turn = await body.send(conversation)
        await turn.wait_started()
        async for event in _events_of(turn):
            yield event
        yield "session", session_view(await client.sessions.get(conversation.session.name))
    finally:
        await conversation.leave("continue")  # as after any lost connection, its session's `on_disconnect` decides


async def _events_of(turn: Turn) -> AsyncGenerator[Event, None]:
    """From `started`, which voids what came before, to `finished`."""
    attempt = turn.attempt
    yield "started", started_view(turn)
    with suppress(SinkServeError):  # `finished` has it, or raises it where there is no end
        async for delta in turn:
            if attempt != delta.attempt:
                attempt = delta.attempt
                yield "started", started_view(turn)
            yield "delta", delta_view(delta)
    yield "finished", finished_view(turn.finished)
