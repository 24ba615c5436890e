"""The application: routes of the page and of OpenAI's interface, and what every request passes before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sinkserve.client import Client, SinkServeError, Unavailable
from sinkserve.client.settings import ClientSettings
from sinkserve.web import openai, page
from sinkserve.web.callers import CallerMiddleware, Callers
from sinkserve.web.errors import WebError, answer_error, answer_fault
from sinkserve.web.hosts import HostMiddleware
from sinkserve.web.request_log import RequestLog, RequestLogMiddleware
from sinkserve.web.settings import WebSettings

_PROBE_S = 5.0


def make_app(settings: WebSettings, services: ClientSettings | None = None) -> Starlette:
    """The application, whose callers talk to `services`, else to those of SINKSERVE_CLIENT_*. Raises SettingsError."""
    callers = Callers(_connector(services or ClientSettings.load()), settings.max_callers)
    requests = RequestLog()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await callers.close()

    app = Starlette(
        routes=[Route("/livez", _live), Route("/readyz", _ready), *openai.routes(), *page.routes()],
        middleware=[
            Middleware(RequestLogMiddleware, requests=requests),
            Middleware(HostMiddleware, allowed=settings.allowed_hosts),
            Middleware(CallerMiddleware, callers=callers, anonymous=settings.takes_anonymous),
        ],
        exception_handlers={
            **dict.fromkeys((WebError, SinkServeError, HTTPException), answer_error),
            Exception: answer_fault,
        },
        lifespan=lifespan,
    )
    app.state.settings, app.state.callers, app.state.requests = settings, callers, requests
    return app


def _connector(services: ClientSettings) -> Callable[[str], Client]:
    """Makes clients that speak with a key alone: the token that the door's own environment may have is nobody's."""
    credentials = services.credentials()

    def connect(key: str) -> Client:
        return Client(
            services.runtime,
            services.builder,
            runtime_admin=services.admin_of("runtime"),
            builder_admin=services.admin_of("builder"),
            credentials=credentials,
            token=key,
        )

    return connect


async def _live(_: Request) -> Response:
    return PlainTextResponse("alive\n")


async def _ready(request: Request) -> Response:
    """Whether the runtime answers; that it wants to know who asks is an answer."""
    async with request.app.state.callers.client("") as client:
        try:
            await asyncio.wait_for(client.engines.loaded(), _PROBE_S)
        except (Unavailable, TimeoutError):
            return PlainTextResponse("the runtime does not answer\n", 503)
        except SinkServeError:
            pass
    return PlainTextResponse("ready\n")
