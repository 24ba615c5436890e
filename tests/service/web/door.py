"""The process that speaks HTTP, in this one: in front of the runtime of a test, for OpenAI's own client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import uvicorn

from sinkserve.client.settings import ClientSettings
from sinkserve.web.app import make_app
from sinkserve.web.protocol import DoorProtocol
from sinkserve.web.settings import WebSettings

NOBODY = "127.0.0.1:1"
ENDING = "y"
"""The fake engine ends its reply to this by itself; the helpers for streams take no other."""


@asynccontextmanager
async def door_to(runtime: str, builder: str = NOBODY, runtime_admin: str = "", **settings: Any) -> AsyncIterator[str]:
    """The address of a door to the services at these addresses, as a URL."""
    services = ClientSettings(runtime=runtime, builder=builder, runtime_admin=runtime_admin)
    app = make_app(WebSettings(listen="127.0.0.1:0", **settings), services)
    server = uvicorn.Server(
        uvicorn.Config(app, http=DoorProtocol, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def openai_at(url: str, key: str = "none") -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client, which tries once, so that a test sees what it was answered."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield client
