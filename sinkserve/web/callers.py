"""Who calls: the key of a request goes on to the services as the caller's own, over a client of the SDK for each key.

The door has no rights of its own, so that the services alone decide what a caller may.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sinkserve.client import Client
from sinkserve.web.errors import WebError, error_response

_OPEN = ("/livez", "/readyz")
"""Probes have no key."""


@dataclass
class _Kept:
    client: Client
    requests: int = 0


class Callers:
    """Clients by key; those used last are kept, at most `most` of them besides those in use."""

    def __init__(self, connect: Callable[[str], Client], most: int) -> None:
        self._connect = connect
        self._most = most
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    @asynccontextmanager
    async def client(self, key: str) -> AsyncIterator[Client]:
        """The client that speaks with `key`, or as nobody where it is empty, for as long as the context is open."""
        name = hashlib.sha256(key.encode()).digest()
        if name not in self._kept:
            self._kept[name] = _Kept(self._connect(key))
        self._kept.move_to_end(name)
        kept = self._kept[name]
        kept.requests += 1
        try:
            yield kept.client
        finally:
            kept.requests -= 1
            await self._close_idle()

    async def close(self) -> None:
        """Close all, in use or not."""
        kept, self._kept = self._kept, OrderedDict()
        await asyncio.gather(*(each.client.close() for each in kept.values()))

    async def _close_idle(self) -> None:
        idle = [name for name, kept in self._kept.items() if not kept.requests]
        for name in idle[: max(0, len(idle) - self._most)]:
            await self._kept.pop(name).client.close()


class CallerMiddleware:
    """Gives each request the client of its caller, to the end of its answer, streams included."""

    def __init__(self, app: ASGIApp, callers: Callers, *, anonymous: bool) -> None:
        self._app = app
        self._callers = callers
        self._anonymous = anonymous

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        try:
            key = key_of(Headers(scope=scope))
        except WebError as error:
            await error_response(error)(scope, receive, send)
            return
        async with self._callers.client(key) as client:
            state = scope.setdefault("state", {})
            state["client"], state["key"], state["known"] = client, key, bool(key) or self._anonymous
            await self._app(scope, receive, send)


def key_of(headers: Headers) -> str:
    """The key in `Authorization: Bearer KEY`; empty: there is none. Raises WebError for another way."""
    given = headers.get("authorization", "")
    scheme, _, key = given.partition(" ")
    if given and (scheme.lower() != "bearer" or not (key := key.strip()) or not (key.isascii() and key.isprintable())):
        raise WebError(401, "Authorization has to be `Bearer KEY`, with a key or token of yours", "invalid_api_key")
    return key


def client_of(request: Request) -> Client:
    """The client that speaks for the caller of `request`. Raises WebError where a key is missing and has to be."""
    if not request.state.known:
        raise WebError(401, "this needs a key of yours: Authorization: Bearer KEY", "invalid_api_key")
    client: Client = request.state.client
    return client
