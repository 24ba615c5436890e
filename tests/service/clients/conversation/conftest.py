"""A client of a scripted runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sinkserve.client import Client
from tests.fakes.scripted_runtime import ScriptedRuntime, start_scripted_runtime
from tests.service.clients.conversation.scripts import FAST, NOBODY


@pytest.fixture
async def runtime() -> ScriptedRuntime:
    return ScriptedRuntime()


@pytest.fixture
async def client(runtime: ScriptedRuntime) -> AsyncIterator[Client]:
    server = await start_scripted_runtime(runtime)
    async with Client(server.address, NOBODY, retry=FAST) as client:
        yield client
    await server.stop(0)
