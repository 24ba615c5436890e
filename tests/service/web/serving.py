"""`sinkserve web` in front of services that a test has started, in the test's own event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from sinkserve.client.settings import ClientSettings
from sinkserve.web.app import make_app
from sinkserve.web.settings import WebSettings


@asynccontextmanager
async def serving_web(services: dict[str, Any], settings: dict[str, Any]) -> AsyncIterator[str]:
    """Its origin. `services` are settings of clients, such as `runtime`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        app = make_app(WebSettings.load({"listen": f"127.0.0.1:{port}", **settings}), ClientSettings.load(services))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await running
