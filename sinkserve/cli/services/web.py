"""`sinkserve web`: OpenAI's interface and the page, in one process that talks to the services as any client."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
import uvicorn
from prometheus_client import make_wsgi_app
from starlette.applications import Starlette

from common.rpc.metrics_server import start_metrics
from common.settings import SettingsError, SharedSettings
from common.telemetry import configure_logging
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import FAILED, WRONG, Failure, explained
from sinkserve.client import Client, SinkServeError
from sinkserve.client.settings import ClientSettings
from sinkserve.web.app import make_app
from sinkserve.web.protocol import DoorProtocol
from sinkserve.web.settings import WebSettings

_ASK_S = 5.0


def web(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Else SINKSERVE_WEB_LISTEN.")] = "",
) -> None:
    """Answer OpenAI's clients and browsers over HTTP, in front of a builder and a runtime.

    These are looked for as any client does: SINKSERVE_CLIENT_RUNTIME, SINKSERVE_CLIENT_BUILDER.
    """
    with explained():
        try:
            configure_logging(json=SharedSettings.load().log_format == "json")
            settings = WebSettings.load({"listen": listen} if listen else None)
            server = _make_server(settings)
        except SettingsError as error:
            raise Failure(str(error), code=WRONG) from None
        asyncio.run(_serve(server, settings))


class _Server(uvicorn.Server):
    """Ends with status 0 where it was asked to stop; uvicorn's own ends by the signal."""

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self.app = app

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The second signal stops at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _make_server(settings: WebSettings) -> _Server:
    app = make_app(settings)
    try:
        config = uvicorn.Config(
            app,
            http=DoorProtocol,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            timeout_graceful_shutdown=round(settings.grace_s),
            log_config=None,
            access_log=False,
            server_header=False,
        )
        config.load()
    except OSError as error:
        raise SettingsError(f"SINKSERVE_WEB_TLS_CERTIFICATE, _KEY: {error}") from None
    return _Server(config, app)


async def _refuse_open_runtime(services: ClientSettings) -> None:
    """Who asks for keys here would take any for a runtime that asks for none. One that is away is not known yet."""
    async with Client(services.runtime, services.builder, credentials=services.credentials(), token="") as nobody:
        with suppress(SinkServeError, TimeoutError):
            await asyncio.wait_for(nobody.engines.loaded(), _ASK_S)
            raise Failure(
                f"the runtime at {services.runtime} asks nobody who they are, so that any key would do",
                hint="set up SINKSERVE_AUTH_KEYS there, or let SINKSERVE_WEB_ANONYMOUS=allow say that anybody may",
                code=WRONG,
            )


async def _serve(server: _Server, settings: WebSettings) -> None:
    if not settings.takes_anonymous:
        await _refuse_open_runtime(ClientSettings.load())
    with _metrics(server, settings.metrics_listen), _listening(settings.listen) as listening:
        host, port = listening.getsockname()[:2]
        scheme = "https" if settings.tls_certificate else "http"
        where = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        console.out.print(f"[bold]web[/] {where} [dim]· OpenAI's clients: base_url={where}/v1 · Ctrl-C stops[/]")
        await server.serve(sockets=[listening])


@contextmanager
def _metrics(server: _Server, listen: str) -> Iterator[None]:
    try:
        registry = server.app.state.requests.registry
        metrics = start_metrics(listen, "SINKSERVE_WEB_METRICS_LISTEN", make_wsgi_app(registry))
    except OSError as error:
        raise Failure(str(error), code=FAILED) from None
    try:
        yield
    finally:
        metrics.stop()


def _listening(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, int(port)), family=family, backlog=2048)
    except OSError as error:
        raise Failure(f"cannot listen at {listen}: {error.strerror}", code=FAILED) from None
