"""The builder put together: from settings to servicers and a worker. Alone, or inside a process with others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from builder_service.api.builder_servicer import BuilderServicer
from builder_service.api.catalog_servicer import CatalogServicer
from builder_service.collector import BuildMetrics, QueueCollector
from builder_service.queue.capability import Capability
from builder_service.queue.changes import Changes
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from builder_service.queue.retention import BuildRetention
from builder_service.settings import BuilderSettings
from builder_service.worker.context import WorkerContext
from builder_service.worker.housekeeping import Housekeeping
from builder_service.worker.worker import Worker
from common.auth.login import Doors, Setting, open_login
from common.auth.quotas import QuotasOf
from common.catalog.aliases import Aliases
from common.catalog.catalog import Catalog, Sign, unsigned
from common.db.database import Database
from common.db.processes import is_alive, this_process
from common.db.schema import open_database
from common.private import make_private_folder
from common.rpc.health import HealthServicer
from common.rpc.listeners import Access, AdminListener
from common.rpc.metrics_server import MetricsServer, serve_metrics
from common.rpc.server import Entrance, Registration, RunningServer, start_server
from common.rpc.tls import open_tls
from common.settings import SettingsError, SharedSettings
from common.store.blob_store import open_store
from common.tracing.traces import open_traces
from sinkserve.builder.v1.builder_service_pb2_grpc import add_BuilderServiceServicer_to_server
from sinkserve.builder.v1.catalog_service_pb2_grpc import add_CatalogServiceServicer_to_server

_METRICS_LISTEN = "SINKSERVE_BUILDER_METRICS_LISTEN"
_ADMIN_LISTEN = "SINKSERVE_BUILDER_ADMIN_LISTEN"
_BUILDS = {
    "SubmitBuild": Access.BUILD,
    "GetBuild": Access.BUILD,
    "ListBuilds": Access.BUILD,
    "WatchBuild": Access.BUILD,
    "CancelBuild": Access.CHANGE_OWN,
}
_CATALOG = {
    "GetEngine": Access.READ,
    "ListEngines": Access.READ,
    "ListAliases": Access.READ,
    "VerifyEngine": Access.BUILD,
    "SetAlias": Access.CHANGE_OWN,
    "DeleteAlias": Access.CHANGE_OWN,
    "DeleteEngine": Access.CHANGE_OWN,
    "CollectGarbage": Access.ADMINISTRATION,
}


@dataclass(frozen=True)
class BuilderHandle:
    """A running builder. `running` stops what was started, the last first."""

    address: str
    admin_address: str
    server: RunningServer
    worker: Worker
    database: Database
    changes: Changes
    metrics: MetricsServer
    grace_s: float
    running: AsyncExitStack

    async def stop(self) -> None:
        """Say not ready, stop taking builds, put those that run back into the queue, then end calls."""
        await self.running.aclose()


async def start_builder(settings: BuilderSettings, shared: SharedSettings) -> BuilderHandle:
    """Open database and store, serve, and take builds. What was started stops again where the rest cannot start.

    Raises OSError for an address that cannot be had, InvalidArgument for a URL that cannot be used,
    FailedPrecondition for a database of another schema.
    """
    async with AsyncExitStack() as running:
        meter, changes, health = BuildMetrics(), Changes(), HealthServicer()
        entrance = _entrance(settings, shared)
        metrics = await serve_metrics(
            running, settings.metrics_listen, _METRICS_LISTEN, meter.registry, health, tls=entrance.tls
        )
        database = await _open_database(running, shared, meter)
        quotas_of = entrance.login.quotas_of
        context = await _worker_context(running, settings, shared, database, changes, meter, quotas_of)
        builds = BuildRepository(
            database, this_process(), changes.notify, settings.queue_limit, meter.build_ended, quotas_of=quotas_of
        )
        registrations = _registrations(
            BuilderServicer(builds, context.catalog, changes), CatalogServicer(context.catalog, Aliases(database))
        )
        admin = AdminListener(settings.admin_listen, _ADMIN_LISTEN)
        server = await start_server(
            settings.listen,
            registrations,
            admin=admin,
            entrance=entrance,
            health=health,
            calls=meter.calls,
        )
        running.push_async_callback(server.stop, settings.stop_grace_s)
        worker = Worker(context, settings.concurrency, partial(server.health.set_ready, condition="queue"))
        running.push_async_callback(worker.stop, settings.stop_grace_s)
        await worker.start()
        _keep_house(running, settings, database, meter)
        running.callback(health.set_ready, False)
        health.set_ready(True)
        parts = (server, worker, database, changes, metrics)
        return BuilderHandle(server.address, server.admin_address, *parts, settings.stop_grace_s, running.pop_all())


def _entrance(settings: BuilderSettings, shared: SharedSettings) -> Entrance:
    """Raises SettingsError."""
    doors = Doors(
        public=Setting("SINKSERVE_BUILDER_LISTEN", settings.listen),
        admin=Setting(_ADMIN_LISTEN, settings.admin_listen),
        header=Setting("SINKSERVE_BUILDER_PRINCIPAL_HEADER", settings.principal_header),
    )
    return Entrance(open_login(shared, doors), open_tls(shared))


async def _open_database(running: AsyncExitStack, shared: SharedSettings, meter: BuildMetrics) -> Database:
    """The database, which is read at scrapes for as long as it is open."""
    await asyncio.to_thread(make_private_folder, shared.home)
    database = await asyncio.to_thread(open_database, shared.database, shared.database_timeout_s)
    running.push_async_callback(asyncio.to_thread, database.close)
    meter.registry.register(collector := QueueCollector(database))
    running.callback(meter.registry.unregister, collector)
    return database


def _keep_house(running: AsyncExitStack, settings: BuilderSettings, database: Database, meter: BuildMetrics) -> None:
    retention = BuildRetention(database, this_process(), settings.keep_builds_days, is_alive)
    housekeeping = Housekeeping(retention, meter.builds_deleted)
    running.push_async_callback(housekeeping.stop)
    housekeeping.start()


def _signing(key: Path | None) -> Sign:
    """Raises SettingsError for a file that holds no key."""
    if key is None:
        return unsigned
    from common.catalog.signature import KeyFileError, read_signer, sign_manifest  # noqa: PLC0415 - for this alone

    try:
        signer = read_signer(key)
    except KeyFileError as error:
        raise SettingsError(f"SINKSERVE_BUILDER_SIGNING_KEY: {error}") from None
    return lambda manifest: sign_manifest(manifest, signer)


async def _worker_context(  # noqa: PLR0917 - each is something else
    running: AsyncExitStack,
    settings: BuilderSettings,
    shared: SharedSettings,
    database: Database,
    changes: Changes,
    meter: BuildMetrics,
    quotas_of: QuotasOf,
) -> WorkerContext:
    remote = settings.remote.model_copy(update={"store_timeout_s": shared.store_timeout_s})
    capability = await asyncio.to_thread(Capability.here, settings.roots, remote.roots)
    store = open_store(shared.store, shared.store_timeout_s)
    traces = open_traces("sinkserve-builder", shared.traces_endpoint, shared.traces_share)
    running.push_async_callback(asyncio.to_thread, traces.close)
    return WorkerContext(
        traces=traces,
        database=database,
        store=store,
        store_url=shared.store,
        store_timeout_s=shared.store_timeout_s,
        catalog=Catalog(database, store, _signing(settings.signing_key)),
        queue=BuildQueue(
            database, this_process(), capability, changes.notify, ended=meter.build_ended, quotas_of=quotas_of
        ),
        changes=changes,
        work=shared.home.resolve() / "work",
        source_roots=settings.roots,
        remote=remote,
        timeout_s=settings.build_timeout_s,
        memory_limit_mib=settings.memory_limit_mib,
    )


def _registrations(builder: BuilderServicer, catalog: CatalogServicer) -> tuple[Registration, ...]:
    return (
        Registration(
            "sinkserve.builder.v1.BuilderService",
            lambda server: add_BuilderServiceServicer_to_server(builder, server),
            _BUILDS,
        ),
        Registration(
            "sinkserve.builder.v1.CatalogService",
            lambda server: add_CatalogServiceServicer_to_server(catalog, server),
            _CATALOG,
        ),
    )
