"""OpenAI's client through two replicas: it hears nothing of one that is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from sinkserve.client import Client
from tests.servers.flaky_proxy import FlakyProxy
from tests.service.replicas.chaos import Plan, build_demo
from tests.service.replicas.fleet import Replica, addresses
from tests.service.runtime.runtime import Bench
from tests.service.web.door import NOBODY, door_to, openai_at

TURNS, CUT_AT = 6, (2, 4)
LINES = ("my cat is called Miso", "what is my cat called?", "what is 3 + 4?", "tell me a joke")


async def streamed(ai: openai.AsyncOpenAI, cut: Any = None, **asked: Any) -> tuple[str, str]:
    """Id and text of a response, as the pieces of its stream; `cut` is called at the first."""
    stream = await ai.responses.create(stream=True, **asked)
    pieces: list[str] = []
    async for event in stream:
        if event.type == "response.output_text.delta":
            if not pieces and cut is not None:
                await cut()
            pieces.append(event.delta)
        elif event.type in ("response.completed", "response.incomplete"):
            assert event.response.output_text == "".join(pieces)
            return event.response.id, "".join(pieces)
    raise AssertionError(event)


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[list[Bench]]:
    """Two replicas on one database."""
    benches = [Bench(tmp_path, {}) for _ in range(2)]
    benches[0].publish()
    for bench in benches:
        await bench.start()
    yield benches
    for bench in benches:
        await bench.stop()


async def test_a_stream_goes_on_at_another_replica(both: list[Bench]) -> None:
    there = both[1].handle.address
    async with (
        FlakyProxy(both[0].handle.address, []) as proxy,
        door_to(proxy.address) as url,
        openai_at(url) as ai,
        Client(there, NOBODY) as sdk,
    ):

        async def move() -> None:
            proxy.target = next(each.handle.address for each in both if each.handle.address != proxy.target)
            proxy.cut()

        before, texts = None, []
        for number in range(TURNS):
            asked = {"model": "demo", "input": f"say {number}", "max_output_tokens": 60}
            cut = move if number in CUT_AT else None
            before, text = await streamed(ai, cut, previous_response_id=before, **asked)
            texts.append(text)
        session = f"sessions/{before.split('_')[1]}" if before else ""
        assert [turn.reply async for turn in sdk.sessions.turns(session)] == texts


@asynccontextmanager
async def door_process(runtime: str) -> AsyncIterator[str]:
    """`sinkserve web` as a person starts it; its address."""
    services = {"SINKSERVE_CLIENT_RUNTIME": runtime, "SINKSERVE_WEB_LISTEN": "127.0.0.1:0"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sinkserve.cli", "web"), env={**os.environ, **services}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        yield line.split()[1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


@pytest.mark.nightly
@pytest.mark.timeout(1200)
async def test_three_hundred_turns_past_twenty_windows_while_a_replica_is_killed(tmp_path: Path) -> None:
    plan = Plan(tmp_path, f"sqlite:///{tmp_path}/db", (tmp_path / "store").as_uri())
    await build_demo(plan)
    shared = {"SINKSERVE_DATABASE_URL": plan.database_url, "SINKSERVE_STORE_URL": plan.store_url}
    settings = {**shared, "SINKSERVE_RUNTIME_ENGINES": "demo", "SINKSERVE_RUNTIME_THREADS": "1"}
    replicas = [Replica(tmp_path / address, address, settings) for address in addresses(2)]
    for replica in replicas:
        replica.start()
    try:
        await asyncio.gather(*(replica.ready() for replica in replicas))
        everyone = "ipv4:" + ",".join(replica.address for replica in replicas)
        async with door_process(everyone) as url, openai_at(url) as ai:
            before, texts = None, []
            for number in range(300):
                cut = replicas[number // 50 % 2].kill if number % 50 == 25 else None
                asked = {"model": "demo", "input": LINES[number % len(LINES)], "max_output_tokens": 40}
                before, text = await streamed(ai, cut, previous_response_id=before, **asked)
                texts.append(text)
        async with Client(everyone, NOBODY) as sdk:
            session = await sdk.sessions.get(f"sessions/{before.split('_')[1]}" if before else "")
            assert [turn.reply async for turn in sdk.sessions.turns(session.name)] == texts
        assert session.position > 20 * 252
        assert [each.exits for each in replicas] == [{-9: 3}] * 2
    finally:
        await asyncio.gather(*(replica.stop() for replica in replicas))
