"""Clients that ask several builders on one database for builds, while the builders are killed at random.

What has to hold whatever dies: every build ends, each key is built once, no engine is ever visible that is not whole,
and every watcher sees every event of its build once and in order, whichever builder it asks.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from sqlalchemy.engine import make_url

from builder_service.queue.build import MOST_ATTEMPTS
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.builder.v1 import catalog_service_pb2 as cat
from sinkserve.engine.v1 import engine_pb2
from tests.samples.checkpoints import write_checkpoint
from tests.service.builder.builder import SUCCEEDED, BuilderClient, Process

SAME = "is the same; its files are used"


@dataclass
class Crowd:
    """`builds` of `keys` engines, each asked for under its own name and twice with its request id."""

    folder: Path
    database_url: str
    builders: int = 2
    builds: int = 8
    keys: int = 3
    kills: int = 4
    seed: int = 0
    killed: int = 0
    lost: int = 0
    events: int = 0
    engines_seen: int = 0
    ended: dict[str, pb.Build] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._done = asyncio.Event()
        self._alive: list[Process] = []

    async def run(self) -> None:
        """Everything; raises AssertionError for what does not hold."""
        model = write_checkpoint(self.folder / "model")
        self._alive = [self._builder(index) for index in range(self.builders)]
        began = time.monotonic()
        others = [asyncio.create_task(self._kill()), asyncio.create_task(self._look(model))]
        try:
            await asyncio.gather(*(self._client(model, number) for number in range(self.builds)))
        finally:
            self._done.set()
            results = await asyncio.gather(*others, return_exceptions=True)
            for process in self._alive:
                process.end(signal.SIGKILL)
        self.seconds = time.monotonic() - began
        assert results == [None, None], results
        self._check()

    def _builder(self, index: int) -> Process:
        settings = {
            "SINKSERVE_DATABASE_URL": make_url(self.database_url).render_as_string(hide_password=False),
            "SINKSERVE_STORE_URL": str(self.folder / "store"),
            "SINKSERVE_HOME": str(self.folder / f"home-{index}"),
        }
        return Process(self.folder, **settings)

    async def _kill(self) -> None:
        """SIGKILL a builder now and then, and start it again."""
        while self.killed < self.kills and not self._done.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), self._random.uniform(0.3, 2.0))
            process = self._random.choice(self._alive)
            await asyncio.to_thread(process.end, signal.SIGKILL)
            await asyncio.to_thread(process.start)
            self.killed += 1

    async def _look(self, model: Path) -> None:
        """Every engine that is listed has all its files."""
        while not self._done.is_set():
            with suppress(grpc.aio.AioRpcError):
                async for client in self._clients(model):
                    for engine in (await client.catalog.ListEngines(cat.ListEnginesRequest())).engines:
                        await self._verify(client, engine)
                    break
            await asyncio.sleep(0.05)

    async def _verify(self, client: BuilderClient, engine: engine_pb2.Engine) -> None:
        try:
            await client.catalog.VerifyEngine(cat.VerifyEngineRequest(reference=engine.reference))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise
            raise AssertionError(f"{engine.reference}: {error.details()}") from error
        self.engines_seen += 1

    async def _client(self, model: Path, number: int) -> None:
        """Ask, ask again with the same id, and watch to the end, at whichever builder answers."""
        spec = BuilderClient.on(grpc.aio.insecure_channel("unused"), model).spec(f"engine-{number}")
        spec.cache.window_tokens += number % self.keys
        first = await self._submit(model, spec, f"request-{number}")
        again = await self._submit(model, spec, f"request-{number}")
        assert first.name == again.name
        await self._watch(model, first.name)

    async def _submit(self, model: Path, spec: engine_pb2.ModelSpec, request_id: str) -> pb.Build:
        async for client in self._clients(model):
            with suppress(grpc.aio.AioRpcError):
                return await client.submit(spec, request_id)
        raise AssertionError("unreachable")

    async def _watch(self, model: Path, name: str) -> None:
        seen: list[int] = []
        lines = self.logs.setdefault(name, [])
        async for client in self._clients(model):
            with suppress(grpc.aio.AioRpcError):
                async for event in client.watch(name, seen[-1] if seen else 0):
                    if event.sequence == 0:
                        continue
                    assert event.sequence == (seen[-1] if seen else 0) + 1, (
                        f"{name}: {event.sequence} after {seen[-3:]}"
                    )
                    seen.append(event.sequence)
                    self.events += 1
                    if event.WhichOneof("event") == "log":
                        lines.append(event.log.text)
                self.ended[name] = await client.get(name)
                return

    async def _clients(self, model: Path) -> AsyncIterator[BuilderClient]:
        """Builders at random, one after the other, for ever."""
        while True:
            address = self._random.choice(self._alive).address
            async with grpc.aio.insecure_channel(address) as channel:
                yield BuilderClient.on(channel, model)
            await asyncio.sleep(0.1)

    def _check(self) -> None:
        assert len(self.ended) == self.builds
        made: dict[int, int] = {}
        for name, build in self.ended.items():
            if build.state != SUCCEEDED:
                self._check_lost(build)
            else:
                was_built = not any(SAME in line for line in self.logs[name])
                window = build.spec.cache.window_tokens
                made[window] = made.get(window, 0) + was_built
        assert made, "no build succeeded"
        assert set(made.values()) == {1}, f"builds by key: {made}"

    def _check_lost(self, build: pb.Build) -> None:
        """The kills may meet one build as often as a build may lose its worker: that ends it too, with that cause."""
        assert build.attempt == MOST_ATTEMPTS, build
        info = error_details_pb2.ErrorInfo()
        assert build.error.details[0].Unpack(info), build
        assert info.reason == "WORKER_LOST", build
        self.lost += 1
