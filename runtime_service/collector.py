"""What a runtime holds now, read at each scrape: slots, sessions by tier, turns, streams, and moves of caches."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from common.rpc.http_pages import in_loop
from common.rpc.metrics_server import Pulled
from runtime_service.engines.loaded_engine import LoadedEngine
from runtime_service.scheduling.slots import Residence
from runtime_service.sessions.live_session import LiveSession
from runtime_service.turns.metrics import TurnMetrics

Family = GaugeMetricFamily | CounterMetricFamily
Values = Mapping[str, float]  # by the value of the label beside `engine`; "" where there is none


@dataclass(frozen=True)
class Measure:
    """A metric of each loaded engine; `values` are found from the engine and its sessions in memory."""

    name: str
    what: str
    values: Callable[[LoadedEngine, list[LiveSession]], Values]
    label: str = ""
    kind: type[Family] = GaugeMetricFamily

    def family(self) -> Family:
        """The metric without values."""
        labels = ("engine", self.label) if self.label else ("engine",)
        return self.kind(f"sinkserve_runtime_{self.name}", self.what, labels=labels)

    def add(self, family: Family, engine: LoadedEngine, sessions: list[LiveSession]) -> None:
        """Add an engine's values."""
        for value, number in self.values(engine, sessions).items():
            labels = (engine.published.reference, value) if self.label else (engine.published.reference,)
            family.add_metric(labels, number)


def _tiers(_engine: LoadedEngine, sessions: list[LiveSession]) -> Values:
    found = Counter(session.residence for session in sessions)
    return {residence.value: found[residence] for residence in Residence}


def _parked_bytes(_engine: LoadedEngine, sessions: list[LiveSession]) -> Values:
    return {"": sum(session.parked_bytes for session in sessions)}


def _running(_engine: LoadedEngine, sessions: list[LiveSession]) -> Values:
    return {"": sum(session.running_turns for session in sessions)}


def _waiting(_engine: LoadedEngine, sessions: list[LiveSession]) -> Values:
    return {"": sum(session.waiting_turns for session in sessions)}


def _evictions(engine: LoadedEngine, _sessions: list[LiveSession]) -> Values:
    moves = engine.thread.scheduler.moves
    return {"memory": moves.parked, "disk": moves.spilled, "tokens": moves.dropped}


def _restores(engine: LoadedEngine, _sessions: list[LiveSession]) -> Values:
    moves = engine.thread.scheduler.moves
    return {"memory": moves.unparked, "kept": moves.restored, "replay": moves.replayed}


def _replayed_tokens(engine: LoadedEngine, _sessions: list[LiveSession]) -> Values:
    return {"": engine.thread.scheduler.moves.replayed_tokens}


def _mask_steps(engine: LoadedEngine, _sessions: list[LiveSession]) -> Values:
    return {"": engine.thread.scheduler.masks.steps}


def _mask_seconds(engine: LoadedEngine, _sessions: list[LiveSession]) -> Values:
    masks = engine.thread.scheduler.masks
    return {"beside": masks.seconds - masks.waited_s, "after": masks.waited_s}


def _late_masks(engine: LoadedEngine, _sessions: list[LiveSession]) -> Values:
    return {"": engine.thread.scheduler.masks.late}


def _golden_margin(engine: LoadedEngine, _sessions: list[LiveSession]) -> Values:
    return {} if engine.margin is None else {"": engine.margin}


MEASURES = (
    Measure("slots", "Slots of a loaded engine.", lambda engine, _: {"": engine.slots}),
    Measure("slots_in_use", "Slots that hold a session's cache.", lambda engine, _: {"": engine.slots_in_use}),
    Measure(
        "golden_margin",
        "How many times as far off an engine might have been in its golden streams; none where it has none.",
        _golden_margin,
    ),
    Measure("sessions", "Sessions in memory: resident, parked, or stored (only as tokens).", _tiers, "tier"),
    Measure("parked_bytes", "Host memory that parked caches take.", _parked_bytes),
    Measure("running_turns", "Turns that have a slot.", _running),
    Measure("waiting_turns", "Turns that were accepted and wait for a slot, or for their client to read.", _waiting),
    Measure(
        "evictions",
        "Caches that made room: to host memory; from there to disk, or dropped: only tokens are left.",
        _evictions,
        "to",
        CounterMetricFamily,
    ),
    Measure(
        "restores",
        "Caches that came back: kept (disk, snapshot) to host memory, memory to a slot, replay of tokens.",
        _restores,
        "way",
        CounterMetricFamily,
    ),
    Measure("replayed_tokens", "Tokens fed again to restore caches.", _replayed_tokens, kind=CounterMetricFamily),
    Measure("mask_steps", "Steps with replies that have a form.", _mask_steps, kind=CounterMetricFamily),
    Measure(
        "mask_seconds",
        "Time to find what fits forms: beside the engine's step, and after it, when the step had to wait.",
        _mask_seconds,
        "when",
        CounterMetricFamily,
    ),
    Measure("late_masks", "Masks that steps went on without.", _late_masks, kind=CounterMetricFamily),
)

WHOLE = {
    "engines_refused": "Engines that could not be loaded when that was tried last.",
    "streams": "Streams of conversations that are open.",
    "parked_file_bytes": "Local disk that parked caches take.",
}
"""Gauges of the whole process."""


class RuntimeCollector(Pulled):
    """Reads in the event loop, which owns what it reads."""

    def __init__(
        self,
        meter: TurnMetrics,
        engines: Callable[[], list[LoadedEngine]],
        sessions: Callable[[], list[LiveSession]],
        loop: asyncio.AbstractEventLoop,
        **whole: Callable[[], float],
    ) -> None:
        """`whole` has the values of WHOLE."""
        self._meter = meter
        self._engines = engines
        self._sessions = sessions
        self._loop = loop
        self._whole = whole

    def families(self) -> tuple[Metric, ...]:
        """Every metric, without values."""
        return (*(measure.family() for measure in MEASURES), *map(_of_whole, WHOLE))

    def read(self) -> tuple[Metric, ...]:
        """Every metric, with its values."""
        return in_loop(self._loop, self._now)

    def _now(self) -> tuple[Metric, ...]:
        families = [measure.family() for measure in MEASURES]
        sessions = self._sessions()
        for engine in self._engines():
            self._meter.know(engine.published.reference)
            own = [session for session in sessions if session.engine is engine]
            for measure, family in zip(MEASURES, families, strict=True):
                measure.add(family, engine, own)
        return (*families, *(_of_whole(name, self._whole[name]()) for name in WHOLE))


def _of_whole(name: str, value: float | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"sinkserve_runtime_{name}", WHOLE[name], value)
