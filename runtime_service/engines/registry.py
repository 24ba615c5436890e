"""The engines of this process: loaded once each, held in the catalog while they are, unloaded when nobody uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum

import structlog

from common.auth.principal import EVERY_ENGINE, EngineScope
from common.catalog.catalog import Catalog
from common.db.database import utc_now
from common.errors import FailedPrecondition, NotFound, Reason, SinkServeError, Unavailable
from common.spec.engine_reference import EngineReference, parse_reference
from common.spec.published_engine import PublishedEngine
from runtime_service.engines.loaded_engine import LoadedEngine, RefusedEngine, Spill, not_loaded, start_engine, unloaded
from runtime_service.engines.loader import Loaded
from runtime_service.recompute.token_generator import LoadedGenerator
from runtime_service.settings import RuntimeSettings

REFUSED_KEPT = 64
REFUSED_AGAIN_S = 60.0
"""How long an engine that was refused is left alone: to read it all again takes time and memory."""

log = structlog.get_logger()


class WhenBusy(StrEnum):
    """What unloading does about turns that run or wait; names as on the wire."""

    REFUSE = "REFUSE"
    WAIT = "WAIT"
    """They finish first; no others are taken."""
    EVICT = "EVICT"
    """They stop, and start again where their sessions are opened next."""


class EngineRegistry:
    """Loaded engines by digest. `load` of the runtime's settings reads files and takes long: it runs in a thread."""

    def __init__(
        self,
        catalog: Catalog,
        load: Callable[[PublishedEngine], Loaded | LoadedGenerator],
        settings: RuntimeSettings,
        holder: str,
        spill: Spill = lambda *_: False,
    ) -> None:
        """`spill` may keep a cache that leaves host memory, with the digest of its engine."""
        self._catalog = catalog
        self._load = load
        self._settings = settings
        self._holder = holder
        self._spill = spill
        self._loaded: dict[str, LoadedEngine] = {}
        self._refused: dict[str, RefusedEngine] = {}
        self._leaving: set[str] = set()
        self._wanted: dict[EngineReference, PublishedEngine] = {}
        self._lock = asyncio.Lock()
        self._prepared = asyncio.Event()
        self._prepared.set()
        self.changed: Callable[[], None] = lambda: None
        """Called when an engine was loaded or goes away."""

    @property
    def loaded(self) -> list[LoadedEngine]:
        """By reference."""
        return sorted(self._loaded.values(), key=lambda engine: engine.published.reference)

    @property
    def refused(self) -> list[RefusedEngine]:
        """Engines that could not be loaded when that was tried last, by reference; the latest REFUSED_KEPT of them."""
        return sorted(self._refused.values(), key=lambda engine: engine.published.reference)

    @property
    def complete(self) -> bool:
        """Whether every engine of the settings is loaded."""
        return all(published.digest in self._loaded for published in self._wanted.values())

    async def resolve(self, reference: str, field: str, scope: EngineScope = EVERY_ENGINE) -> PublishedEngine:
        """What a reference names now; raises InvalidArgument and NotFound (ENGINE_NOT_FOUND), naming `field`.

        What `scope` does not cover is not found.
        """
        try:
            return await asyncio.to_thread(self._catalog.resolve, reference, field, scope)
        except NotFound as error:
            raise NotFound(error.reason, f"{field}: {error.message}", field=field, reference=reference) from error

    async def named(self, reference: str, field: str, scope: EngineScope = EVERY_ENGINE) -> PublishedEngine:
        """What a reference names for a new session: of the settings' references, what is loaded under it by now.

        Raises what `resolve` does.
        """
        wanted = self._wanted.get(parse_reference(reference, field))
        if wanted is not None and wanted.digest in self._loaded and scope.covers(wanted.name, wanted.owner):
            return wanted
        return await self.resolve(reference, field, scope)

    async def listed(self, reference: str, field: str, scope: EngineScope = EVERY_ENGINE) -> EngineReference | None:
        """What a listing is asked for: nothing, every version of NAME, or what a reference names now.

        Raises what `resolve` does for an alias; any other need not be published any more.
        """
        if not reference:
            return None
        parsed = parse_reference(reference, field)
        if parsed.is_pinned:
            return parsed
        if reference == parsed.name:
            return EngineReference(parsed.name)
        return EngineReference(parsed.name, version=(await self.resolve(reference, field, scope)).version)

    async def follow(self) -> None:
        """Load what the settings' references name now, if that is another version; the ones before stay loaded.

        What was refused lately is not tried yet. Raises what `resolve` and `load` raise.
        """
        for reference, before in list(self._wanted.items()):
            now = await self.resolve(str(reference), "SINKSERVE_RUNTIME_ENGINES")
            if now.digest != before.digest and not self._was_refused_lately(now):
                await self.load(now)
                self._wanted[reference] = now
                self.changed()
                log.info("engine.followed", reference=str(reference), engine=now.reference, before=before.reference)

    def _was_refused_lately(self, published: PublishedEngine) -> bool:
        found = self._refused.get(published.digest)
        if found is None or isinstance(found.error, Unavailable):
            return False
        return (utc_now() - found.refused_at).total_seconds() < REFUSED_AGAIN_S

    async def prepare(self, references: Iterable[str]) -> None:
        """Load what the settings name; sessions that come meanwhile wait. Raises what `resolve` and `load` raise."""
        self._prepared.clear()
        try:
            for reference in references:
                published = await self.resolve(reference, "SINKSERVE_RUNTIME_ENGINES")
                await self.load(published)
                self._wanted[parse_reference(reference)] = published
        finally:
            self._prepared.set()

    async def load(self, published: PublishedEngine) -> LoadedEngine:
        """Load an engine, unless it is loaded already; see `Loader.load` for what is raised."""
        async with self._lock:
            if (found := self._loaded.get(published.digest)) is not None:
                return found
            if published.digest in self._leaving:
                raise unloaded(published.reference)
            loaded = await self._load_held(published)
            engine = start_engine(published, loaded, self._settings, self._spill)
            self._loaded[published.digest] = engine
            self.changed()
            log.info("engine.loaded", engine=published.reference, golden_margin=engine.margin)
            return engine

    async def _load_held(self, published: PublishedEngine) -> Loaded | LoadedGenerator:
        """Load an engine that is held meanwhile, and on if it is loaded; otherwise note why it is not."""
        self._refused.pop(published.digest, None)
        await asyncio.to_thread(self._catalog.hold, published, self._holder)
        try:
            return await asyncio.to_thread(self._load, published)
        except BaseException as error:
            await asyncio.to_thread(self._catalog.release, published, self._holder)
            if isinstance(error, SinkServeError):
                self._refused[published.digest] = RefusedEngine(published, error, utc_now())
                while len(self._refused) > REFUSED_KEPT:
                    del self._refused[next(iter(self._refused))]
                log.warning("engine.refused", engine=published.reference, reason=error.reason.value, why=error.message)
            raise

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

    async def unload(
        self,
        published: PublishedEngine,
        evacuate: Callable[[LoadedEngine], Awaitable[None]],
        when_busy: WhenBusy = WhenBusy.REFUSE,
    ) -> None:
        """Free an engine; `evacuate` gets its sessions out of the way. Returns when its memory is free.

        Raises FailedPrecondition: ENGINE_NOT_LOADED, or ENGINE_IN_USE while turns run or wait, with REFUSE.
        """
        engine = await self._close(published, when_busy)
        self._leaving.add(published.digest)
        try:
            if when_busy is WhenBusy.WAIT:
                await engine.until_idle()
            await evacuate(engine)
            await self._stop(engine)
        finally:
            self._leaving.discard(published.digest)

    async def _close(self, published: PublishedEngine, when_busy: WhenBusy) -> LoadedEngine:
        """Take nothing new for an engine."""
        async with self._lock:
            engine = self._loaded.get(published.digest)
            if engine is None:
                raise not_loaded(published.reference)
            if engine.turns and when_busy is WhenBusy.REFUSE:
                message = f"{published.reference} has {engine.turns} turns that run or wait; cancel them, or wait"
                raise FailedPrecondition(Reason.ENGINE_IN_USE, message, engine=published.reference, turns=engine.turns)
            del self._loaded[published.digest]
            engine.closed = True
            self.changed()
            return engine

    async def stop(self) -> None:
        """Free every engine, whatever runs."""
        async with self._lock:
            while self._loaded:
                _, engine = self._loaded.popitem()
                await self._stop(engine)

    async def _stop(self, engine: LoadedEngine) -> None:
        await engine.thread.stop_engine()
        try:
            await asyncio.to_thread(self._catalog.release, engine.published, self._holder)
        except SinkServeError as error:  # another runtime releases it once this process is gone
            log.warning("engine.not_released", engine=engine.published.reference, cause=error.message)
        log.info("engine.unloaded", engine=engine.published.reference)
