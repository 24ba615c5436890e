"""The runtime put together: from settings to servicers, sessions and engines. Alone, or in a process with others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from common.catalog import Catalog
from common.database import Database, open_database, utc_now
from common.processes import is_alive, this_process
from common.published_engine import PublishedEngine
from common.server import Registration, RunningServer, start_server
from common.settings import SharedSettings
from common.store import open_store
from runtime_service.background import Background, Writer
from runtime_service.conversation_servicer import ConversationServicer
from runtime_service.engine_servicer import EngineServicer
from runtime_service.engines import Engines
from runtime_service.loader import Loaded, Loader
from runtime_service.session_repository import SessionRepository
from runtime_service.sessions import Sessions
from runtime_service.settings import RuntimeSettings
from runtime_service.token_generator import LoadedGenerator
from runtime_service.turns import Shared
from sinkserve.runtime.v1.conversation_service_pb2_grpc import add_ConversationServiceServicer_to_server
from sinkserve.runtime.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server

Load = Callable[[PublishedEngine], Loaded | LoadedGenerator]
_IN_PROCESS = " in process "
_LAST_WORDS_S = 1.0  # for streams that were told to end


@dataclass(frozen=True)
class RuntimeHandle:
    """A running runtime."""

    address: str
    server: RunningServer
    sessions: Sessions
    engines: Engines
    conversations: ConversationServicer
    shared: Shared
    database: Database
    reaper: asyncio.Task[None]

    async def stop(self) -> None:
        """Take nothing new, let running turns finish within the grace, keep the rest for the next start."""
        self.server.health.set_ready(False)
        self.reaper.cancel()
        with suppress(asyncio.CancelledError):
            await self.reaper
        await self.sessions.drain(self.shared.settings.drain_grace_s)
        await self.server.stop(_LAST_WORDS_S)
        await self.shared.background.wait()
        await self.engines.stop()
        await asyncio.to_thread(self.shared.writer.close)
        await asyncio.to_thread(self.database.close)


async def start_runtime(settings: RuntimeSettings, shared: SharedSettings, load: Load | None = None) -> RuntimeHandle:
    """Open database and store, serve, load the engines of the settings, and say ready.

    `load` is how a published engine gets into memory, for tests. Raises OSError for an address that cannot be had,
    InvalidArgument for a URL that cannot be used, FailedPrecondition for a database of another schema, and why an
    engine of the settings cannot be loaded.
    """
    database = await asyncio.to_thread(open_database, shared.database)
    catalog = Catalog(database, store := open_store(shared.store))
    load = load or Loader(store, shared.home.resolve() / "engines", settings).load
    holder = f"runtime {settings.listen}{_IN_PROCESS}{this_process()}"
    engines = Engines(catalog, load, settings, holder)
    common = Shared(SessionRepository(database), Writer(), Background(), settings)
    sessions = Sessions(engines, common)
    conversations = ConversationServicer(sessions)
    try:
        await asyncio.to_thread(catalog.release_gone, _is_gone)
        await common.writer.do(common.repository.set_missing_expiries, utc_now())
        server = await start_server(
            settings.listen, _registrations(conversations, EngineServicer(engines, sessions, common.background))
        )
    except BaseException:
        common.writer.close()
        database.close()
        raise
    reaper = asyncio.create_task(sessions.reap(), name="session reaper")
    runtime = RuntimeHandle(server.address, server, sessions, engines, conversations, common, database, reaper)
    await _get_ready(runtime, settings)
    return runtime


async def _get_ready(runtime: RuntimeHandle, settings: RuntimeSettings) -> None:
    try:
        await runtime.engines.prepare(settings.engines)
    except BaseException:
        await runtime.stop()
        raise
    runtime.server.health.set_ready(True)


def _is_gone(holder: str) -> bool:
    """Whether a hold is left over from a runtime that died."""
    _, in_process, process = holder.partition(_IN_PROCESS)
    return bool(in_process) and not is_alive(process)


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
