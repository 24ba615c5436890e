"""The builder put together: from settings to servicers and a worker. Alone, or inside a process with others."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from builder_service.api.builder_servicer import BuilderServicer
from builder_service.api.catalog_servicer import CatalogServicer
from builder_service.collector import BuildMetrics, QueueCollector
from builder_service.queue.capability import Capability
from builder_service.queue.changes import Changes
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from builder_service.settings import BuilderSettings
from builder_service.worker.attempt import WorkerContext
from builder_service.worker.worker import Worker
from common.catalog.aliases import Aliases
from common.catalog.catalog import Catalog
from common.db.database import Database
from common.db.processes import this_process
from common.db.schema import open_database
from common.rpc.metrics_server import MetricsServer, start_metrics
from common.rpc.server import Registration, RunningServer, start_server
from common.settings import SharedSettings
from common.store.blob_store import open_store
from sinkserve.builder.v1.builder_service_pb2_grpc import add_BuilderServiceServicer_to_server
from sinkserve.builder.v1.catalog_service_pb2_grpc import add_CatalogServiceServicer_to_server


@dataclass(frozen=True)
class BuilderHandle:
    """A running builder."""

    address: str
    server: RunningServer
    worker: Worker
    database: Database
    changes: Changes
    metrics: MetricsServer
    grace_s: float

    async def stop(self) -> None:
        """Stop taking builds and calls; builds that run go back into the queue."""
        self.server.health.set_ready(False)
        await self.worker.stop(self.grace_s)
        await self.server.stop(self.grace_s)
        await asyncio.to_thread(self.metrics.stop)
        await asyncio.to_thread(self.database.close)


async def start_builder(settings: BuilderSettings, shared: SharedSettings) -> BuilderHandle:
    """Open database and store, serve, and take builds.

    Raises OSError for an address that cannot be had, InvalidArgument for a URL that cannot be used,
    FailedPrecondition for a database of another schema.
    """
    meter = BuildMetrics()
    variable = "SINKSERVE_BUILDER_METRICS_LISTEN"
    metrics = await asyncio.to_thread(start_metrics, settings.metrics_listen, variable, meter.registry)
    try:
        database = await asyncio.to_thread(open_database, shared.database)
        try:
            return await _start(settings, shared, database, meter, metrics)
        except BaseException:
            database.close()
            raise
    except BaseException:
        await asyncio.to_thread(metrics.stop)
        raise


async def _start(
    settings: BuilderSettings, shared: SharedSettings, database: Database, meter: BuildMetrics, metrics: MetricsServer
) -> BuilderHandle:
    changes = Changes()
    builds = BuildRepository(database, this_process(), changes.notify, settings.queue_limit, meter.build_ended)
    remote = settings.remote
    capability = await asyncio.to_thread(Capability.here, settings.roots, remote.roots)
    catalog = Catalog(database, store := open_store(shared.store))
    context = WorkerContext(
        database=database,
        store=store,
        store_url=shared.store,
        catalog=catalog,
        queue=BuildQueue(database, this_process(), capability, changes.notify, ended=meter.build_ended),
        changes=changes,
        work=shared.home.resolve() / "work",
        source_roots=settings.roots,
        remote=remote,
        timeout_s=settings.build_timeout_s,
        memory_limit_mib=settings.memory_limit_mib,
    )
    registrations = _registrations(BuilderServicer(builds, changes), CatalogServicer(catalog, Aliases(database)))
    server = await start_server(settings.listen, registrations)
    worker = Worker(context, settings.concurrency)
    try:
        await worker.start()
    except BaseException:
        await server.stop(0)
        raise
    meter.registry.register(QueueCollector(database))
    server.health.set_ready(True)
    return BuilderHandle(server.address, server, worker, database, changes, metrics, settings.stop_grace_s)


def _registrations(builder: BuilderServicer, catalog: CatalogServicer) -> tuple[Registration, ...]:
    return (
        Registration(
            "sinkserve.builder.v1.BuilderService", lambda server: add_BuilderServiceServicer_to_server(builder, server)
        ),
        Registration(
            "sinkserve.builder.v1.CatalogService", lambda server: add_CatalogServiceServicer_to_server(catalog, server)
        ),
    )
