"""A door to the runtime of a test, and OpenAI's client at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from builder_service.chat.tools.plain import plain_tools
from common.window import Geometry
from sinkserve.client import Client
from tests.samples.whole_manifests import TEMPLATE
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


@pytest.fixture
async def tooled(tmp_path: Path) -> AsyncIterator[Bench]:
    """A runtime whose engine has tools in a plain form."""
    bench = Bench(tmp_path / "tooled", {}, geometry=Geometry(sinks=4, window=1024, chunk=64, slots=4))
    bench.publish(text=TEMPLATE.model_copy(update={"tools": plain_tools(TEMPLATE, {})}))
    await bench.start()
    yield bench
    await bench.stop()
