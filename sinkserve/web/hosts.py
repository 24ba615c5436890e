"""Which names the door is reached by: a foreign page that has its own name point here is refused."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sinkserve.web.errors import WebError, error_response


class HostMiddleware:
    """Starlette's check of `Host`, whose refusal has the form of every other error."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._check = TrustedHostMiddleware(_passed, allowed_hosts=list(allowed), www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or await self._passes(scope, receive):
            await self._app(scope, receive, send)
            return
        what = "Host: this server is not called so; SINKSERVE_WEB_HOSTS says how it is"
        await error_response(WebError(400, what, "invalid_host"))(scope, receive, send)

    async def _passes(self, scope: Scope, receive: Receive) -> bool:
        refused = False

        async def heard(_: Message) -> None:
            nonlocal refused
            refused = True

        await self._check(scope, receive, heard)
        return not refused


async def _passed(scope: Scope, receive: Receive, send: Send) -> None:
    """Nothing is left to check."""
