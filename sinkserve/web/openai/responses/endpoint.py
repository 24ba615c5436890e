"""`POST /v1/responses`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from itertools import count

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sinkserve.client import SinkServeError
from sinkserve.web.callers import client_of
from sinkserve.web.errors import WebError, error_body
from sinkserve.web.json_body import json_of
from sinkserve.web.openai.follow import Ended, Event, Started
from sinkserve.web.openai.prompt import attempt_of
from sinkserve.web.openai.relay import Piece
from sinkserve.web.openai.responses import output
from sinkserve.web.openai.responses.answer import ResponseAnswer
from sinkserve.web.openai.responses.request import ResponseRequest
from sinkserve.web.openai.responses.where import events_of
from sinkserve.web.openai.sse import event, stream_of, unless_gone


async def create(request: Request) -> Response:
    """A response, in one or as a stream."""
    client = client_of(request)
    asked = ResponseRequest.parse(await json_of(request))
    events = await events_of(client, asked, attempt_of(request), request.app.state.settings)
    if not asked.stream:
        return JSONResponse(await unless_gone(request, _whole(events, asked)))
    started = await unless_gone(request, anext(events))
    assert isinstance(started, Started)
    return stream_of(_numbered(_events(ResponseAnswer(started, asked), events)))


async def _whole(events: AsyncGenerator[Event, None], asked: ResponseRequest) -> dict[str, object]:
    pieces: list[Piece] = []
    async with aclosing(events):
        async for each in events:
            if isinstance(each, Started):
                answer = ResponseAnswer(each, asked)
            elif isinstance(each, Piece):
                pieces.append(each)
            else:
                return answer.whole(pieces, each)
    raise AssertionError


async def _events(whole: ResponseAnswer, events: AsyncGenerator[Event, None]) -> AsyncGenerator[output.Event, None]:
    async with aclosing(events):
        for each in whole.opening():
            yield each
        try:
            async for happened in events:
                for each in _told(whole, happened):
                    yield each
        except (SinkServeError, WebError) as error:
            yield {**error_body(error), "type": "error"}


def _told(answer: ResponseAnswer, happened: Event) -> Iterator[output.Event]:
    if isinstance(happened, Piece):
        yield from answer.piece(happened)
    elif isinstance(happened, Ended):
        yield from answer.closing(happened)


async def _numbered(events: AsyncGenerator[output.Event, None]) -> AsyncIterator[bytes]:
    number = count()
    async with aclosing(events):
        async for each in events:
            yield event({**each, "sequence_number": next(number)}, each["type"])
