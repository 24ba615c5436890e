"""The runtime put together: from settings to servicers, sessions and engines. Alone, or in a process with others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from common.catalog.catalog import Catalog
from common.db.database import Database
from common.db.schema import open_database
from common.rpc.metrics_server import MetricsServer, start_metrics
from common.rpc.server import Registration, RunningServer, start_server
from common.settings import SharedSettings
from common.spec.published_engine import PublishedEngine
from common.store.blob_store import open_store
from runtime_service.api.conversation_servicer import ConversationServicer
from runtime_service.api.engine_servicer import EngineServicer
from runtime_service.collector import RuntimeCollector
from runtime_service.engines.loader import Loaded, Loader
from runtime_service.engines.registry import EngineRegistry
from runtime_service.recompute.token_generator import LoadedGenerator
from runtime_service.sessions.branches import Branches
from runtime_service.sessions.cache_tiers import CacheTiers
from runtime_service.sessions.membership import Membership
from runtime_service.sessions.registry import SessionRegistry
from runtime_service.sessions.shared import Shared
from runtime_service.sessions.turn_metrics import TurnMetrics
from runtime_service.settings import RuntimeSettings
from runtime_service.storage.claims import SessionClaims
from runtime_service.storage.parked_files import ParkedFiles
from runtime_service.storage.replicas import new_replica
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.snapshots import Snapshots
from runtime_service.tasks.background import Background, Writer
from runtime_service.tasks.periodic import Periodic
from sinkserve.runtime.v1.conversation_service_pb2_grpc import add_ConversationServiceServicer_to_server
from sinkserve.runtime.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server

Load = Callable[[PublishedEngine], Loaded | LoadedGenerator]
_HOLDER = "runtime "
SWEEP_S = 3600.0
_LAST_WORDS_S = 1.0  # for streams that were told to end
_YOUNGER = 0.9  # age of a connection, of a stream's: the stream after an old one finds a new connection


@dataclass(frozen=True)
class RuntimeHandle:
    """A running runtime."""

    address: str
    server: RunningServer
    sessions: SessionRegistry
    engines: EngineRegistry
    conversations: ConversationServicer
    shared: Shared
    database: Database
    periodic: Periodic
    membership: Membership
    metrics: MetricsServer

    async def stop(self) -> None:
        """Take nothing new, let running turns finish within the grace, keep the rest for the next start."""
        self.server.health.set_ready(False)
        await self.periodic.stop()
        await self.sessions.drain(self.shared.settings.drain_grace_s)
        await self.membership.stop()
        await self.server.stop(_LAST_WORDS_S)
        await self.shared.background.wait()
        await self.engines.stop()
        await asyncio.to_thread(self.metrics.stop)
        await asyncio.to_thread(self.shared.caches.files.close)
        await asyncio.to_thread(self.shared.writer.close)
        await asyncio.to_thread(self.database.close)


async def start_runtime(settings: RuntimeSettings, shared: SharedSettings, load: Load | None = None) -> RuntimeHandle:
    """Open database and store, serve, load the engines of the settings, and say ready.

    `load` is how a published engine gets into memory, for tests. Raises OSError for an address that cannot be had,
    InvalidArgument for a URL that cannot be used, FailedPrecondition for a database of another schema, and why an
    engine of the settings cannot be loaded.
    """
    meter = TurnMetrics()
    variable = "SINKSERVE_RUNTIME_METRICS_LISTEN"
    metrics = await asyncio.to_thread(start_metrics, settings.metrics_listen, variable, meter.registry)
    try:
        return await _start(settings, shared, load, meter, metrics)
    except BaseException:
        await asyncio.to_thread(metrics.stop)
        raise


async def _start(
    settings: RuntimeSettings, shared: SharedSettings, load: Load | None, meter: TurnMetrics, metrics: MetricsServer
) -> RuntimeHandle:
    database = await asyncio.to_thread(open_database, shared.database)
    catalog = Catalog(database, store := open_store(shared.store))
    load = load or Loader(store, shared.home.resolve() / "engines", settings).load
    claims = SessionClaims(database, new_replica(), settings.lease_s)
    files = ParkedFiles(shared.home.resolve() / "parked" / claims.replica.partition("@")[0], settings.parked_file_bytes)
    caches = CacheTiers(files, Snapshots(database, shared.store))
    engines = EngineRegistry(catalog, load, settings, _HOLDER + claims.replica, caches.spill)
    common = Shared(SessionRepository(database), claims, Writer(), Background(), caches, settings, meter)
    sessions = SessionRegistry(engines, common)
    membership = Membership(sessions)
    conversations = ConversationServicer(sessions, Branches(sessions, engines, database))
    try:
        await membership.start()
        await asyncio.to_thread(catalog.release_gone, partial(_is_gone, claims.alive()))
        server = await start_server(
            settings.listen,
            _registrations(conversations, EngineServicer(engines, sessions, common.background)),
            connection_age_s=_YOUNGER * settings.max_stream_age_s,
        )
    except BaseException:
        await membership.stop()
        common.writer.close()
        database.close()
        raise
    periodic = Periodic()
    periodic.start("session reaper", settings.reap_s, sessions.reap)
    periodic.start("engine follower", settings.follow_s, engines.follow)
    periodic.start("snapshot sweeper", SWEEP_S, partial(caches.do, caches.snapshots.sweep))
    runtime = RuntimeHandle(
        server.address, server, sessions, engines, conversations, common, database, periodic, membership, metrics
    )
    meter.registry.register(_collector(runtime))
    await _get_ready(runtime, settings)
    return runtime


def _collector(runtime: RuntimeHandle) -> RuntimeCollector:
    return RuntimeCollector(
        runtime.shared.meter,
        lambda: runtime.engines.loaded,
        lambda: runtime.sessions.live,
        asyncio.get_running_loop(),
        streams=lambda: runtime.conversations.streams,
        parked_file_bytes=lambda: runtime.shared.caches.files.size_bytes,
    )


async def _get_ready(runtime: RuntimeHandle, settings: RuntimeSettings) -> None:
    try:
        await runtime.engines.prepare(settings.engines)
    except BaseException:
        await runtime.stop()
        raise
    runtime.server.health.set_ready(True)


def _is_gone(alive: set[str], holder: str) -> bool:
    """Whether a hold is left over from a runtime that died."""
    return holder.startswith(_HOLDER) and holder.removeprefix(_HOLDER) not in alive


def _registrations(conversations: ConversationServicer, engines: EngineServicer) -> tuple[Registration, ...]:
    return (
        Registration(
            "sinkserve.runtime.v1.ConversationService",
            lambda server: add_ConversationServiceServicer_to_server(conversations, server),
        ),
        Registration(
            "sinkserve.runtime.v1.EngineService",
            lambda server: add_EngineServiceServicer_to_server(engines, server),
        ),
    )
