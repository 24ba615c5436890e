"""The builder put together: from settings to servicers and a worker. Alone, or inside a process with others."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from builder_service.build_queue import BuildQueue
from builder_service.build_repository import BuildRepository
from builder_service.build_run import Workshop
from builder_service.builder_servicer import BuilderServicer
from builder_service.catalog_servicer import CatalogServicer
from builder_service.changes import Changes
from builder_service.settings import BuilderSettings
from builder_service.worker import Worker
from common.aliases import Aliases
from common.catalog import Catalog
from common.database import Database, open_database
from common.processes import this_process
from common.server import Registration, RunningServer, start_server
from common.settings import SharedSettings
from common.store import open_store
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
    grace_s: float

    async def stop(self) -> None:
        """Stop taking builds and calls; builds that run go back into the queue."""
        self.server.health.set_ready(False)
        await self.worker.stop()
        await self.server.stop(self.grace_s)
        await asyncio.to_thread(self.database.close)


async def start_builder(settings: BuilderSettings, shared: SharedSettings) -> BuilderHandle:
    """Open database and store, serve, and take builds.

    Raises OSError for an address that cannot be had, InvalidArgument for a URL that cannot be used,
    FailedPrecondition for a database of another schema.
    """
    database = await asyncio.to_thread(open_database, shared.database)
    try:
        return await _start(settings, shared, database)
    except BaseException:
        database.close()
        raise


async def _start(settings: BuilderSettings, shared: SharedSettings, database: Database) -> BuilderHandle:
    changes = Changes()
    builds = BuildRepository(database, this_process(), changes.notify)
    catalog = Catalog(database, store := open_store(shared.store))
    shop = Workshop(
        database=database,
        store=store,
        store_url=shared.store,
        catalog=catalog,
        queue=BuildQueue(database, this_process(), changes.notify),
        changes=changes,
        work=shared.home.resolve() / "work",
        source_roots=settings.roots,
    )
    registrations = _registrations(BuilderServicer(builds, changes), CatalogServicer(catalog, Aliases(database)))
    server = await start_server(settings.listen, registrations)
    worker = Worker(shop, settings.concurrency)
    try:
        await worker.start()
    except BaseException:
        await server.stop(0)
        raise
    server.health.set_ready(True)
    return BuilderHandle(server.address, server, worker, database, changes, settings.stop_grace_s)


def _registrations(builder: BuilderServicer, catalog: CatalogServicer) -> tuple[Registration, ...]:
    return (
        Registration(
            "sinkserve.builder.v1.BuilderService", lambda server: add_BuilderServiceServicer_to_server(builder, server)
        ),
        Registration(
            "sinkserve.builder.v1.CatalogService", lambda server: add_CatalogServiceServicer_to_server(catalog, server)
        ),
    )
