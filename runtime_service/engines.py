"""The engines of this process: loaded once each, held in the catalog while they are, unloaded when nobody uses them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog

from common.catalog import Catalog
from common.database import utc_now
from common.errors import FailedPrecondition, NotFound, Reason
from common.manifest import Manifest
from common.published_engine import PublishedEngine
from runtime_service.engine_thread import EngineThread
from runtime_service.loader import Loaded
from runtime_service.recompute import RecomputeScheduler
from runtime_service.scheduler import Limits, Scheduler
from runtime_service.settings import RuntimeSettings
from runtime_service.text import Text
from runtime_service.token_generator import LoadedGenerator
from runtime_service.turn_scheduler import Emit, TurnScheduler

log = structlog.get_logger()


@dataclass(eq=False)
class LoadedEngine:
    """An engine in memory. `turns` are those that run or wait."""

    published: PublishedEngine
    text: Text
    thread: EngineThread
    limits: Limits
    slots: int
    loaded_at: datetime
    turns: int = 0
    closed: bool = False

    @property
    def manifest(self) -> Manifest:
        """What it is."""
        return self.published.manifest

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Not unloaded meanwhile."""
        self.turns += 1
        try:
            yield
        finally:
            self.turns -= 1

    @property
    def slots_in_use(self) -> int:
        """Slots that hold a session now."""
        return self.thread.scheduler.residents


class Engines:
    """Loaded engines by digest. `load` of the runtime's settings reads files and takes long: it runs in a thread."""

    def __init__(
        self,
        catalog: Catalog,
        load: Callable[[PublishedEngine], Loaded | LoadedGenerator],
        settings: RuntimeSettings,
        holder: str,
    ) -> None:
        self._catalog = catalog
        self._load = load
        self._settings = settings
        self._holder = holder
        self._loaded: dict[str, LoadedEngine] = {}
        self._lock = asyncio.Lock()
        self._prepared = asyncio.Event()
        self._prepared.set()

    @property
    def loaded(self) -> list[LoadedEngine]:
        """By reference."""
        return sorted(self._loaded.values(), key=lambda engine: engine.published.reference)

    async def resolve(self, reference: str, field: str) -> PublishedEngine:
        """What a reference names now; raises InvalidArgument and NotFound (ENGINE_NOT_FOUND), naming `field`."""
        try:
            return await asyncio.to_thread(self._catalog.resolve, reference, field)
        except NotFound as error:
            raise NotFound(error.reason, f"{field}: {error.message}", field=field, reference=reference) from error

    async def prepare(self, references: Iterable[str]) -> None:
        """Load what the settings name; sessions that come meanwhile wait. Raises what `resolve` and `load` raise."""
        self._prepared.clear()
        try:
            for reference in references:
                await self.load(await self.resolve(reference, "SINKSERVE_RUNTIME_ENGINES"))
        finally:
            self._prepared.set()

    async def load(self, published: PublishedEngine) -> LoadedEngine:
        """Load an engine, unless it is loaded already; see `Loader.load` for what is raised."""
        async with self._lock:
            if (found := self._loaded.get(published.digest)) is not None:
                return found
            await asyncio.to_thread(self._catalog.hold, published, self._holder)
            try:
                loaded = await asyncio.to_thread(self._load, published)
            except BaseException:
                await asyncio.to_thread(self._catalog.release, published, self._holder)
                raise
            engine = self._start(published, loaded)
            self._loaded[published.digest] = engine
            log.info("engine.loaded", engine=published.reference)
            return engine

    async def serving(self, published: PublishedEngine) -> LoadedEngine:
        """The engine for a session: loaded, or loaded now if that is allowed.

        Raises FailedPrecondition (ENGINE_NOT_LOADED) otherwise.
        """
        if published.digest not in self._loaded:
            await self._prepared.wait()
        if (found := self._loaded.get(published.digest)) is not None:
            return found
        if self._settings.load_on_demand:
            return await self.load(published)
        raise not_loaded(published.reference)

    async def unload(self, published: PublishedEngine, evacuate: Callable[[LoadedEngine], Awaitable[None]]) -> None:
        """Free an engine; `evacuate` gets its sessions out of the way.

        Raises FailedPrecondition: ENGINE_NOT_LOADED, or ENGINE_IN_USE while turns run or wait.
        """
        async with self._lock:
            engine = self._loaded.get(published.digest)
            if engine is None:
                raise not_loaded(published.reference)
            if engine.turns:
                message = f"{published.reference} has {engine.turns} turns that run or wait; cancel them, or wait"
                raise FailedPrecondition(Reason.ENGINE_IN_USE, message, engine=published.reference, turns=engine.turns)
            del self._loaded[published.digest]
            engine.closed = True
            await evacuate(engine)
            await self._stop(engine)

    async def stop(self) -> None:
        """Free every engine, whatever runs."""
        async with self._lock:
            while self._loaded:
                _, engine = self._loaded.popitem()
                await self._stop(engine)

    def _start(self, published: PublishedEngine, loaded: Loaded | LoadedGenerator) -> LoadedEngine:
        limits = limits_of(published.manifest, loaded, self._settings)
        close = loaded.generator.close if isinstance(loaded, LoadedGenerator) else loaded.engine.close
        thread = EngineThread(partial(make_scheduler, loaded, limits), close, published.reference)
        return LoadedEngine(published, loaded.text, thread, limits, loaded.slots, utc_now())

    async def _stop(self, engine: LoadedEngine) -> None:
        await engine.thread.stop()
        await asyncio.to_thread(self._catalog.release, engine.published, self._holder)
        log.info("engine.unloaded", engine=engine.published.reference)


def not_loaded(reference: str) -> FailedPrecondition:
    """This process does not have the engine."""
    message = f"{reference} is not loaded here; load it with LoadEngine, or serve with load_on_demand"
    return FailedPrecondition(Reason.ENGINE_NOT_LOADED, message, engine=reference)


def limits_of(manifest: Manifest, loaded: Loaded | LoadedGenerator, settings: RuntimeSettings) -> Limits:
    """Bounds of an engine. What keeps no cache sees one window, as one layer does, and computes it all the time."""
    keeps = not isinstance(loaded, LoadedGenerator)
    capacity = manifest.geometry.sinks + manifest.geometry.window
    return Limits(
        layers=manifest.architecture.layers if keeps else 1,
        max_replay_tokens=settings.max_replay_tokens if keeps else capacity,
        parked_bytes=settings.parked_bytes if keeps else 0,
        stall_s=settings.stall_s,
    )


def make_scheduler(
    loaded: Loaded | LoadedGenerator, limits: Limits, emit: Emit, wake: Callable[[], None]
) -> TurnScheduler:
    """What runs the turns of what was loaded."""
    if isinstance(loaded, LoadedGenerator):
        return RecomputeScheduler(loaded, time.monotonic, emit, wake)
    return Scheduler(loaded.engine, limits, time.monotonic, emit)
