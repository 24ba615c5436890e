"""The runtime put together: from settings to servicers, sessions and engines. Alone, or in a process with others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import structlog

from common.auth.login import Doors, Setting, open_login
from common.auth.quotas import QuotasOf
from common.catalog.catalog import Catalog
from common.db.database import Database, utc_now
from common.db.schema import open_database
from common.private import make_private_folder
from common.rpc.calls.call_log import CallLog
from common.rpc.health import HealthServicer
from common.rpc.listeners import Access, AdminListener
from common.rpc.metrics_server import MetricsServer, serve_metrics
from common.rpc.server import Entrance, Registration, RunningServer, start_server
from common.rpc.tls import open_tls
from common.settings import SharedSettings
from common.spec.published_engine import PublishedEngine
from common.store.blob_store import open_store
from common.tracing.traces import open_traces
from runtime_service.api.conversation_servicer import ConversationServicer
from runtime_service.api.engine_servicer import EngineServicer
from runtime_service.api.usage_servicer import UsageServicer
from runtime_service.collector import RuntimeCollector
from runtime_service.engines.loader import Loaded, Loader
from runtime_service.engines.registry import EngineRegistry
from runtime_service.engines.trust import trusting
from runtime_service.recall.ranking import Ranker, by_words
from runtime_service.recompute.token_generator import LoadedGenerator
from runtime_service.sessions.branches import Branches
from runtime_service.sessions.membership import Membership
from runtime_service.sessions.registry import SessionRegistry
from runtime_service.settings import RuntimeSettings
from runtime_service.storage.cache_files import CacheFiles
from runtime_service.storage.claims import SessionClaims
from runtime_service.storage.quotas import QuotaChecks
from runtime_service.storage.recall.index import RecallIndex
from runtime_service.storage.recall.past_turns import PastTurns
from runtime_service.storage.replicas import new_replica
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.snapshots import Snapshots
from runtime_service.storage.updates import SessionUpdates
from runtime_service.storage.usage import UsageRecords, first_kept_day
from runtime_service.tasks.background import Background, Writer
from runtime_service.tasks.periodic import Periodic
from runtime_service.turns.cache_tiers import CacheTiers
from runtime_service.turns.metrics import TurnMetrics
from runtime_service.turns.shared import Shared
from sinkserve.runtime.v1.conversation_service_pb2 import DESCRIPTOR as _CONVERSATION_FILE
from sinkserve.runtime.v1.conversation_service_pb2_grpc import add_ConversationServiceServicer_to_server
from sinkserve.runtime.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from sinkserve.runtime.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server

Load = Callable[[PublishedEngine], Loaded | LoadedGenerator]
_METRICS_LISTEN = "SINKSERVE_RUNTIME_METRICS_LISTEN"
_ADMIN_LISTEN = "SINKSERVE_RUNTIME_ADMIN_LISTEN"
_CONVERSATIONS = dict.fromkeys(_CONVERSATION_FILE.services_by_name["ConversationService"].methods_by_name, Access.TALK)
_ENGINES = {
    "LoadEngine": Access.ADMINISTRATION,
    "UnloadEngine": Access.ADMINISTRATION,
    "ListLoadedEngines": Access.READ,
}
_HOLDER = "runtime "
log = structlog.get_logger()
SWEEP_S, LEASE_WATCH_S = 3600.0, 0.5
_STREAM_END_S = 1.0  # for streams to end that the drain has ended
_CONNECTION_AGE_SHARE = 0.9  # of a stream's age: the stream after an old one finds a new connection


@dataclass(frozen=True)
class RuntimeHandle:
    """A running runtime. `running` stops what was started, the last first."""

    address: str
    admin_address: str
    server: RunningServer
    sessions: SessionRegistry
    engines: EngineRegistry
    conversations: ConversationServicer
    shared: Shared
    database: Database
    periodic: Periodic
    membership: Membership
    metrics: MetricsServer
    grace_s: float
    running: AsyncExitStack

    async def stop(self) -> None:
        """Take nothing new, let running turns finish within the grace, keep the rest for the next start."""
        await self.running.aclose()


async def start_runtime(
    settings: RuntimeSettings, shared: SharedSettings, load: Load | None = None, ranker: Ranker = by_words
) -> RuntimeHandle:
    """Open database and store, serve, load the engines of the settings, and say ready.

    What was started stops again where the rest cannot start. `load` is how an engine gets into memory, for tests;
    `ranker` orders turns to recall. Raises OSError for an address that cannot be had, InvalidArgument for a URL that
    cannot be used, FailedPrecondition for another schema, and why an engine of the settings cannot be loaded.
    """
    async with AsyncExitStack() as running:
        meter, health = TurnMetrics(), HealthServicer()
        entrance = _entrance(settings, shared)
        pages = (settings.metrics_listen, _METRICS_LISTEN, meter.registry, health)
        metrics = await serve_metrics(running, *pages, tls=entrance.tls)
        await asyncio.to_thread(make_private_folder, shared.home)
        database = await asyncio.to_thread(open_database, shared.database, shared.database_timeout_s)
        running.push_async_callback(asyncio.to_thread, database.close)
        catalog = Catalog(database, store := open_store(shared.store, shared.store_timeout_s))
        common = _shared(running, settings, shared, database, meter, entrance.login.quotas_of, ranker)
        load = trusting(load or Loader(store, shared.home.resolve() / "engines", settings).load, settings.trusted_keys)
        engines = EngineRegistry(catalog, load, settings, _HOLDER + common.claims.replica, common.caches.spill)
        running.push_async_callback(engines.stop)
        running.push_async_callback(common.background.wait)
        sessions = SessionRegistry(engines, common)
        membership = Membership(sessions, common)
        running.push_async_callback(membership.stop)
        await membership.start()
        await asyncio.to_thread(_release_gone, catalog, common.claims)
        conversations = ConversationServicer(sessions, Branches(sessions, engines, database))
        usage = UsageRecords(database)
        servicers = (conversations, EngineServicer(engines, sessions, common.background), usage)
        server = await _serve(running, settings, entrance, health, meter.calls, _registrations(*servicers))
        running.push_async_callback(sessions.drain, settings.drain_grace_s)
        periodic = _start_periodic(running, common, sessions, engines, usage)
        periodic.start("lease watch", LEASE_WATCH_S, partial(_follow_lease, membership, server))
        meter.registry.register(_collector(common, engines, sessions, conversations))
        await engines.prepare(settings.engines)
        _tell_readiness(running, engines, health)
        parts = (server, sessions, engines, conversations, common, database, periodic, membership, metrics)
        return RuntimeHandle(server.address, server.admin_address, *parts, settings.drain_grace_s, running.pop_all())


def _shared(  # noqa: PLR0917 - each is something else
    running: AsyncExitStack,
    settings: RuntimeSettings,
    shared: SharedSettings,
    database: Database,
    meter: TurnMetrics,
    quotas_of: QuotasOf,
    ranker: Ranker,
) -> Shared:
    claims = SessionClaims(database, new_replica(), settings.lease_s)
    writer = Writer()
    running.push_async_callback(asyncio.to_thread, writer.close)
    files = CacheFiles(shared.home.resolve() / "parked" / claims.replica.partition("@")[0], settings.parked_file_bytes)
    running.push_async_callback(asyncio.to_thread, files.close)
    snapshots = Snapshots(database, shared.store, shared.store_timeout_s, quotas_of)
    caches = CacheTiers(files, snapshots, refused=meter.calls.refused)
    updates = SessionUpdates(database, claims.replica)
    traces = open_traces("sinkserve-runtime", shared.traces_endpoint, shared.traces_share)
    running.push_async_callback(asyncio.to_thread, traces.close)
    repository = SessionRepository(database)
    quotas = QuotaChecks(database)
    parts = (repository, claims, updates, quotas, writer, Background(), caches, settings)
    return Shared(*parts, RecallIndex(database), PastTurns(database), ranker=ranker, meter=meter, traces=traces)


async def _serve(  # noqa: PLR0917 - each is something else
    running: AsyncExitStack,
    settings: RuntimeSettings,
    entrance: Entrance,
    health: HealthServicer,
    calls: CallLog,
    registrations: tuple[Registration, ...],
) -> RunningServer:
    admin = AdminListener(settings.admin_listen, _ADMIN_LISTEN)
    age_s = _CONNECTION_AGE_SHARE * settings.max_stream_age_s
    server = await start_server(
        settings.listen,
        registrations,
        admin=admin,
        entrance=entrance,
        health=health,
        calls=calls,
        connection_age_s=age_s,
    )
    running.push_async_callback(server.stop, _STREAM_END_S)
    return server


def _entrance(settings: RuntimeSettings, shared: SharedSettings) -> Entrance:
    """Raises SettingsError."""
    doors = Doors(
        public=Setting("SINKSERVE_RUNTIME_LISTEN", settings.listen),
        admin=Setting(_ADMIN_LISTEN, settings.admin_listen),
        header=Setting("SINKSERVE_RUNTIME_PRINCIPAL_HEADER", settings.principal_header),
    )
    return Entrance(open_login(shared, doors), open_tls(shared))


def _tell_readiness(running: AsyncExitStack, engines: EngineRegistry, health: HealthServicer) -> None:
    """Ready from now on, until the runtime stops, while every engine of the settings is loaded."""
    engines.changed = lambda: health.set_ready(engines.complete, "engines")
    engines.changed()
    running.callback(health.set_ready, False)
    health.set_ready(True)


def _start_periodic(
    running: AsyncExitStack, shared: Shared, sessions: SessionRegistry, engines: EngineRegistry, usage: UsageRecords
) -> Periodic:
    settings, caches = shared.settings, shared.caches
    periodic = Periodic()
    running.push_async_callback(periodic.stop)
    periodic.start("session reaper", settings.reap_s, sessions.reap)
    periodic.start("engine follower", settings.follow_s, engines.follow)
    if settings.keep_usage_days:
        periodic.start("usage retention", SWEEP_S, partial(_forget_usage, usage, settings.keep_usage_days))
    periodic.start("snapshot sweeper", SWEEP_S, partial(caches.do, caches.snapshots.sweep))
    return periodic


async def _forget_usage(usage: UsageRecords, keep_days: int) -> None:
    if deleted := await asyncio.to_thread(usage.delete_before, first_kept_day(keep_days, utc_now())):
        log.info("usage.deleted", rows=deleted, keep_days=keep_days)


async def _follow_lease(membership: Membership, server: RunningServer) -> None:
    """Nothing is to be sent to a server whose sessions others may claim."""
    server.health.set_ready(membership.holds_lease, "lease")


def _collector(
    shared: Shared, engines: EngineRegistry, sessions: SessionRegistry, conversations: ConversationServicer
) -> RuntimeCollector:
    return RuntimeCollector(
        shared.meter,
        lambda: engines.loaded,
        lambda: sessions.live,
        asyncio.get_running_loop(),
        engines_refused=lambda: len(engines.refused),
        streams=lambda: conversations.streams,
        parked_file_bytes=lambda: shared.caches.files.size_bytes,
    )


def _release_gone(catalog: Catalog, claims: SessionClaims) -> None:
    catalog.release_gone(partial(_is_gone, claims.alive()))


def _is_gone(alive: set[str], holder: str) -> bool:
    """Whether a hold is left over from a runtime that died."""
    return holder.startswith(_HOLDER) and holder.removeprefix(_HOLDER) not in alive


def _registrations(
    conversations: ConversationServicer, engines: EngineServicer, usage: UsageRecords
) -> tuple[Registration, ...]:
    return (
        Registration(
            "sinkserve.runtime.v1.ConversationService",
            lambda server: add_ConversationServiceServicer_to_server(conversations, server),
            _CONVERSATIONS,
        ),
        Registration(
            "sinkserve.runtime.v1.EngineService",
            lambda server: add_EngineServiceServicer_to_server(engines, server),
            _ENGINES,
        ),
        Registration(
            "sinkserve.runtime.v1.UsageService",
            lambda server: add_UsageServiceServicer_to_server(UsageServicer(usage), server),
            {"ListUsage": Access.TALK},
        ),
    )
