"""Replicas as an operator runs them, each a process at an address of its own, and a balancer in front of them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import select

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.db.database import connect
from common.db.schema import upgrade
from common.settings import SharedSettings
from common.spec.published_engine import PublishedEngine
from common.store.blob_store import open_store
from runtime_service.engines.loader import Loaded, Loader
from runtime_service.recompute.token_generator import LoadedGenerator
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings
from runtime_service.storage.tables import sessions
from sinkserve.engine.v1 import engine_pb2
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc
from tests.samples.checkpoints import write_checkpoint
from tests.servers.balancers import Balancer, free_address
from tests.service.builder.builder import BuilderClient
from tests.service.replicas.fleet import Forked

ENGINE = "tiny"
MOST = 3


@dataclass(frozen=True)
class Place:
    """Where a session is."""

    process: int
    epoch: int


class Replicas:
    """On one database and one store in `home`. They differ by address and not by port, as containers do."""

    def __init__(self, home: Path, database_url: str, balancer: Balancer) -> None:
        self.balancer = balancer
        self._home = home
        self.shared = SharedSettings.load({"home": home, "database_url": database_url})
        port = free_address("127.0.1.1").split(":")[1]
        self.addresses = [f"127.0.1.{number}:{port}" for number in range(1, MOST + 1)]
        self._metrics_port = free_address("127.0.1.1").split(":")[1]
        balancer.everyone, balancer.metrics_port = self.addresses, self._metrics_port
        self.running: dict[str, Forked] = {}

    async def serve(self, count: int) -> None:
        """As many replicas, ready and known to the balancer."""
        for address in list(self.running)[count:]:
            await self.end(address, signal.SIGKILL)
        await asyncio.gather(*(self.start(address) for address in self.spare[: count - len(self.running)]))
        await self.balancer.serve(list(self.running))

    @property
    def spare(self) -> list[str]:
        """Addresses at which none runs."""
        return [address for address in self.addresses if address not in self.running]

    async def start(self, address: str) -> None:
        """Returns when it is ready."""
        self.running[address] = self._start(address)
        await _ready(address)

    async def end(self, address: str, number: signal.Signals) -> int:
        """Its exit status."""
        process = self.running.pop(address)
        process.send_signal(number)
        return await asyncio.to_thread(process.wait)

    def stop(self) -> None:
        self.balancer.stop()
        for process in self.running.values():
            process.send_signal(signal.SIGKILL)
            process.wait()

    async def places(self) -> dict[str, Place]:
        """Of sessions that somebody has, by id."""
        return await asyncio.to_thread(self._places)

    @property
    def processes(self) -> set[int]:
        """Those that run."""
        return {process.pid for process in self.running.values()}

    def address_of(self, number: int) -> str:
        """Of a process that runs."""
        return next(address for address, process in self.running.items() if process.pid == number)

    def stub(self, channel: grpc.aio.Channel) -> pb_grpc.ConversationServiceAsyncStub:
        """Of the SDK's own, which sends no key by itself."""
        return pb_grpc.ConversationServiceStub(channel)

    def _metrics(self, address: str) -> str:
        return f"{address.split(':', maxsplit=1)[0]}:{self._metrics_port}"

    def _places(self) -> dict[str, Place]:
        database = connect(self.shared.database)
        with database.read() as connection:
            rows = connection.execute(select(sessions.c.session_id, sessions.c.owner, sessions.c.epoch)).all()
        database.close()
        return {row.session_id: Place(int(row.owner.split("/")[-2]), row.epoch) for row in rows if row.owner}

    def _start(self, address: str) -> Forked:
        environment = {
            **os.environ,
            "SINKSERVE_HOME": str(self._home / address),
            "SINKSERVE_DATABASE_URL": self.shared.database,
            "SINKSERVE_STORE_URL": self.shared.store,
            "SINKSERVE_RUNTIME_LISTEN": address,
            "SINKSERVE_RUNTIME_ADMIN_LISTEN": "",
            "SINKSERVE_RUNTIME_METRICS_LISTEN": self._metrics(address),
            "SINKSERVE_RUNTIME_ENGINES": ENGINE,
            "SINKSERVE_RUNTIME_THREADS": "1",
        }
        return Forked(environment, self._home / f"{address}.log")

    @asynccontextmanager
    async def starting(self, address: str) -> AsyncIterator[Starting]:
        """A replica in this process that listens, and is not ready until it is told to be."""
        given = {"listen": address, "engines": (ENGINE,), "threads": 1}
        settings = RuntimeSettings.load(given).model_copy(update={"metrics_listen": self._metrics(address)})
        own = {"home": self._home / f"{address}-here", "database_url": self.shared.database}
        shared = SharedSettings.load({**own, "store_url": self.shared.store})
        loader = Loader(open_store(shared.store), shared.home / "engines", settings)
        starting = Starting(loader.load)
        runtime = asyncio.create_task(start_runtime(settings, shared, starting.load))
        try:
            yield starting
        finally:
            starting.may_load.set()
            await (await runtime).stop()


class Starting:
    """Loads engines when it is told to."""

    def __init__(self, load: Callable[[PublishedEngine], Loaded | LoadedGenerator]) -> None:
        self._load = load
        self.may_load = threading.Event()

    def load(self, published: PublishedEngine) -> Loaded | LoadedGenerator:
        self.may_load.wait()
        return self._load(published)


def build(shared: SharedSettings) -> None:
    """An engine named ENGINE in the store, and the database that knows of it."""
    database = connect(shared.database)
    upgrade(database)
    database.close()
    model = write_checkpoint(shared.home / "model")
    asyncio.run(_build(shared, model))


async def _build(shared: SharedSettings, model: Path) -> None:
    builder = await start_builder(BuilderSettings.load({"listen": "127.0.0.1:0", "source_roots": (model,)}), shared)
    async with grpc.aio.insecure_channel(builder.address) as channel:
        cache = engine_pb2.CacheGeometry(sink_tokens=4, window_tokens=40, chunk_tokens=16, max_slots=8)
        await BuilderClient.on(channel, model).built(
            engine_pb2.ModelSpec(name=ENGINE, source=engine_pb2.Source(uri=str(model)), cache=cache)
        )
    await builder.stop()


async def _ready(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: health_pb2_grpc.HealthStub = health_pb2_grpc.HealthStub(channel)
        while True:
            with suppress(grpc.aio.AioRpcError):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=1)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(0.05)
