"""The page in front of scripted services."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from sinkserve.client import Client
from tests.fakes.scripted_builder import ScriptedBuilder, start_scripted_builder
from tests.fakes.scripted_runtime import ScriptedRuntime, start_scripted_runtime
from tests.service.web.door import door_to

_JSON = {"content-type": "application/json"}


@dataclass
class Page:
    """What a browser has of it, and the services behind it."""

    http: httpx2.AsyncClient
    runtime: ScriptedRuntime
    builder: ScriptedBuilder
    services: Client

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """What a request is answered with; with {"status": ...} where that is no 200."""
        answer = await self.http.request(method, path, content=_packed(body), headers={**_JSON, **headers})
        told = answer.json()
        return told if answer.status_code == 200 else {"status": answer.status_code, **told["error"]}

    async def events(self, method: str, path: str, body: object = None) -> AsyncIterator[tuple[str, Any]]:
        """Events as they come."""
        async with self.http.stream(method, path, content=_packed(body), headers=_JSON) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            name = ""
            async for line in answer.aiter_lines():
                key, _, value = line.partition(": ")
                name = value if key == "event" else name
                if key == "data":
                    yield name, json.loads(value)

    async def session(self) -> str:
        """The path of a new session."""
        made = await self.ask("POST", "/api/sessions", {"engine": "demo"})
        return f"/api/{made['name']}"


def _packed(body: object) -> str | None:
    return None if body is None else json.dumps(body)


@pytest.fixture
async def page(settings: dict[str, Any]) -> AsyncIterator[Page]:
    runtime, builder = ScriptedRuntime(), ScriptedBuilder()
    talks, builds = await start_scripted_runtime(runtime), await start_scripted_builder(builder)
    async with (
        door_to(talks.address, builds.address, talks.address, **settings) as origin,
        httpx2.AsyncClient(base_url=origin) as http,
        Client(talks.address, builds.address) as client,
    ):
        yield Page(http, runtime, builder, client)
    await talks.stop(0)
    await builds.stop(0)


@pytest.fixture
def settings() -> dict[str, Any]:
    """SINKSERVE_WEB_*; tests override it."""
    return {}
