"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sinkserve.client import SinkServeError
from sinkserve.web.callers import client_of
from sinkserve.web.errors import WebError, error_body
from sinkserve.web.json_body import json_of
from sinkserve.web.openai.chat.answer import ChatAnswer
from sinkserve.web.openai.chat.request import ChatRequest
from sinkserve.web.openai.follow import Ended, Event, Started
from sinkserve.web.openai.prompt import attempt_of
from sinkserve.web.openai.relay import Piece
from sinkserve.web.openai.sse import event, stream_of, unless_gone
from sinkserve.web.openai.told import told


async def create(request: Request) -> Response:
    """A completion, in one or as a stream."""
    client = client_of(request)
    asked = ChatRequest.parse(await json_of(request))
    events = told(client, asked.prompt, attempt_of(request), request.app.state.settings)
    if not asked.stream:
        return JSONResponse(await unless_gone(request, _whole(events, asked)))
    started = await unless_gone(request, anext(events))
    assert isinstance(started, Started)
    return stream_of(_chunks(ChatAnswer(started, asked.logprobs), events, asked))


async def _whole(events: AsyncGenerator[Event, None], asked: ChatRequest) -> dict[str, object]:
    pieces: list[Piece] = []
    async with aclosing(events):
        async for each in events:
            if isinstance(each, Started):
                answer = ChatAnswer(each, asked.logprobs)
            elif isinstance(each, Piece):
                pieces.append(each)
            else:
                return answer.whole(pieces, each)
    raise AssertionError


async def _chunks(answer: ChatAnswer, events: AsyncGenerator[Event, None], asked: ChatRequest) -> AsyncIterator[bytes]:
    async with aclosing(events):
        yield event(answer.opening())
        try:
            async for each in events:
                if isinstance(each, Piece):
                    yield event(answer.piece(each))
                elif isinstance(each, Ended):
                    yield event(answer.closing(each))
                    if asked.stream_options.include_usage:
                        yield event(answer.usage_chunk(each))
        except (SinkServeError, WebError) as error:
            yield event({"error": error_body(error)})
        yield b"data: [DONE]\n\n"
