"""A door to the runtime of a test, and OpenAI's client at it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest

from sinkserve.client import Client
from tests.service.runtime.runtime import Bench
from tests.service.web.door import NOBODY, door_to, openai_at


@pytest.fixture
async def url(bench: Bench) -> AsyncIterator[str]:
    async with door_to(bench.handle.address) as url:
        yield url


@pytest.fixture
async def ai(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai_at(url) as client:
        yield client


@pytest.fixture
async def sdk(bench: Bench) -> AsyncIterator[Client]:
    """Sees what the runtime has."""
    async with Client(bench.handle.address, NOBODY) as client:
        yield client
