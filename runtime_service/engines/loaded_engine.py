"""One engine in memory: what it is, its thread, and the turns that use it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from common.db.database import utc_now
from common.engine.engine import SlotState
from common.errors import FailedPrecondition, Reason, ResourceExhausted, SinkServeError, Unavailable
from common.spec.manifest import Manifest
from common.spec.published_engine import PublishedEngine
from runtime_service.decoding.text import Text
from runtime_service.engines.engine_thread import EngineThread
from runtime_service.engines.loader import Loaded
from runtime_service.forms.engine_forms import EngineForms
from runtime_service.recompute.scheduler import RecomputeScheduler
from runtime_service.recompute.token_generator import LoadedGenerator
from runtime_service.scheduling.limits import Limits
from runtime_service.scheduling.scheduler import Scheduler
from runtime_service.scheduling.scheduler_events import Emit
from runtime_service.scheduling.slots import Tenant
from runtime_service.scheduling.turn_scheduler import TurnScheduler
from runtime_service.settings import RuntimeSettings

Spill = Callable[[str, Tenant, SlotState], bool]  # with the digest of the engine


@dataclass(eq=False)
class LoadedEngine:
    """An engine in memory. `turns` are those that run or wait."""

    published: PublishedEngine
    text: Text
    thread: EngineThread
    limits: Limits
    slots: int
    loaded_at: datetime
    margin: float | None = None
    """How many times as far off as it is in its golden streams it might be; None: it was not checked here."""
    turns: int = 0
    closed: bool = False
    forms: EngineForms = field(init=False)
    _no_turns: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.forms = EngineForms(self.text.vocabulary, self.manifest, self.text.control)

    @property
    def manifest(self) -> Manifest:
        """What it is."""
        return self.published.manifest

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Not unloaded meanwhile."""
        self.add_turns(1)
        try:
            yield
        finally:
            self.add_turns(-1)

    def add_turns(self, count: int) -> None:
        """So many more run or wait; fewer, if it is negative."""
        self.turns += count
        if not self.turns:
            self._no_turns.set()

    async def until_idle(self) -> None:
        """Wait until no turn runs or waits."""
        while self.turns:
            self._no_turns.clear()
            await self._no_turns.wait()

    def check_room(self, most_waiting: int) -> None:
        """Raise ResourceExhausted (CAPACITY_EXHAUSTED) if all slots are busy and as many turns wait as may."""
        if self.turns < self.slots + most_waiting:
            return
        message = (
            f"all {self.slots} slots are busy and {most_waiting} turns wait for one, as many as may (waiting_turns)"
        )
        raise ResourceExhausted(
            Reason.CAPACITY_EXHAUSTED, message, retry_after_s=1.0, engine=self.published.reference, turns=self.turns
        )

    @property
    def slots_in_use(self) -> int:
        """Slots that hold a session now."""
        return self.thread.scheduler.residents


def start_engine(
    published: PublishedEngine, loaded: Loaded | LoadedGenerator, settings: RuntimeSettings, spill: Spill
) -> LoadedEngine:
    """Begin the thread of an engine whose files are loaded; `spill` may keep a cache that leaves host memory."""
    limits = limits_of(published.manifest, loaded, settings)
    close = loaded.generator.close if isinstance(loaded, LoadedGenerator) else loaded.engine.close
    make = partial(make_scheduler, loaded, limits, spill=partial(spill, published.digest))
    thread = EngineThread(make, close, published.reference)
    margin = loaded.margin if isinstance(loaded, Loaded) else None
    return LoadedEngine(published, loaded.text, thread, limits, loaded.slots, utc_now(), margin)


@dataclass(frozen=True)
class RefusedEngine:
    """An engine that could not be loaded when that was tried last."""

    published: PublishedEngine
    error: SinkServeError
    refused_at: datetime


def not_loaded(reference: str) -> FailedPrecondition:
    """This process does not have the engine."""
    message = f"{reference} is not loaded here; load it with LoadEngine, or serve with load_on_demand"
    return FailedPrecondition(Reason.ENGINE_NOT_LOADED, message, engine=reference)


def unloaded(reference: str) -> Unavailable:
    """The engine leaves, or has just left; a session that is opened again may find it, here or elsewhere."""
    message = f"{reference} is being unloaded here, or was; try again"
    return Unavailable(Reason.ENGINE_NOT_LOADED, message, retry_after_s=1.0, engine=reference)


def limits_of(manifest: Manifest, loaded: Loaded | LoadedGenerator, settings: RuntimeSettings) -> Limits:
    """Bounds of an engine. What keeps no cache sees one window, as one layer does, and computes it all the time."""
    keeps = not isinstance(loaded, LoadedGenerator)
    capacity = manifest.geometry.sinks + manifest.geometry.window
    return Limits(
        layers=manifest.architecture.layers if keeps else 1,
        max_replay_tokens=settings.max_replay_tokens if keeps else capacity,
        parked_bytes=settings.parked_bytes if keeps else 0,
        stall_s=settings.stall_s,
        slow_form_s=settings.slow_form_s,
    )


def make_scheduler(
    loaded: Loaded | LoadedGenerator,
    limits: Limits,
    emit: Emit,
    wake: Callable[[], None],
    spill: Callable[[Tenant, SlotState], bool] = lambda *_: False,
) -> TurnScheduler:
    """What runs the turns of what was loaded."""
    if isinstance(loaded, LoadedGenerator):
        return RecomputeScheduler(loaded, time.monotonic, emit, wake)
    return Scheduler(loaded.engine, limits, time.monotonic, emit, spill, wake=wake)
