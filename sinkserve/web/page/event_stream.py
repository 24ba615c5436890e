"""Server-sent events: an answer that comes in pieces until it ends, or the browser has left."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sinkserve.client import SinkServeError
from sinkserve.web.errors import error_body

BEAT_S = 15.0
"""Between signs of life, so that no proxy takes a turn that waits for a connection that is dead."""
Event = tuple[str, dict[str, Any]]
"""Its name and what it says."""


class EventStream(Response):
    """Sends `events`, and an event `error` where they end in one. They are closed when the browser leaves."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})  # nginx
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """As ASGI has it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        tasks = [asyncio.create_task(work) for work in (self._send(send), _beat(send), _until_left(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not tasks[0].cancelled():
            tasks[0].result()

    async def _send(self, send: Send) -> None:
        async with contextlib.aclosing(self._events) as events:
            try:
                async for name, content in events:
                    await _send_piece(send, frame(name, content))
            except SinkServeError as error:
                await _send_piece(send, frame("error", error_body(error)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def frame(name: str, content: dict[str, Any]) -> bytes:
    """One event on the wire. JSON has no line ends of its own."""
    return f"event: {name}\ndata: {json.dumps(content, separators=(',', ':'))}\n\n".encode()


async def _send_piece(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _beat(send: Send) -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        await _send_piece(send, b":\n\n")


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
