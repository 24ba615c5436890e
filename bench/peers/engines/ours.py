"""SinkServe as it serves: the exported graph, the engine, the plan of steps; without network and services."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from bench.engine.exported import exported_engine
from bench.peers.peer import Job, Peer, Turn, timed, token_ids
from builder_service.model.weight_format import WeightFormat
from common.engine.engine import Feed, FloatArray, SlotState
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.spec.model_spec import Precision
from common.spec.target_options import INT4_BLOCK
from common.window import Geometry, SessionWindow, linear_run

SLOTS = 32


def load(job: Job) -> Peer:
    """Export the checkpoint if that was not done before, and load it.

    The variant is a precision, for int4 with its block behind it, and last `kv8` for keys and values of 8 bits.
    """
    geometry = Geometry(job.sinks, job.cache - job.sinks, job.chunk, SLOTS)
    name, *others = job.variant.split("-")
    block = next((int(part) for part in others if part.isdigit()), INT4_BLOCK)
    weight_format = WeightFormat(Precision(name), block, narrow_cache="kv8" in others)
    engine, _ = exported_engine(job.checkpoint, geometry, weight_format, job.scratch, job.threads)
    return Ours(engine)


class Ours:
    """A `Peer`. All measures use the slots from 0 on: one is finished before another begins."""

    def __init__(self, engine: OnnxRuntimeEngine) -> None:
        self._engine = engine
        geometry = engine.geometry
        self._window = SessionWindow(geometry.sinks, geometry.window)
        self._positions = [0] * geometry.slots
        self._next = [5] * geometry.slots
        self._filled = 0
        self._full: SlotState | None = None
        self._position = 0

    @property
    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("sinkserve", "onnxruntime")}

    def prefill(self, count: int) -> float:
        self._engine.clear(0)
        return timed(lambda: self._feed(0, token_ids(count)))

    def fill(self, sessions: int, most_s: float) -> None:  # noqa: ARG002 - one window is filled, the others get copies
        count = self._window.capacity + self._engine.geometry.chunk
        if self._full is None:
            self._engine.clear(0)
            self._feed(0, token_ids(count))
            self._full = self._engine.export_slot(0, count, self._window)
        for slot in range(sessions):
            self._engine.import_slot(slot, self._full)
        self._positions[:sessions] = [count] * sessions
        self._next[:sessions] = [5] * sessions
        self._filled = sessions

    def step(self) -> float:
        return timed(self._step)

    def turn(self, prompt: int, new: int) -> Turn:
        if not self._position:
            self._engine.clear(0)
        ids = token_ids(prompt, self._position)
        first = timed(lambda: self._answer(ids))
        return Turn(first, first + sum(timed(lambda: self._answer([self._next[0]])) for _ in range(new - 1)))

    def _step(self) -> None:
        slots = range(self._filled)
        feeds = tuple(Feed(slot, self._positions[slot], self._window, (self._next[slot],)) for slot in slots)
        for slot, logits in zip(slots, self._engine.step(feeds), strict=True):
            self._positions[slot] += 1
            self._next[slot] = int(np.argmax(logits))

    def _answer(self, ids: list[int]) -> None:
        logits = self._feed(self._position, ids)
        self._position += len(ids)
        self._next[0] = int(np.argmax(logits))

    def _feed(self, position: int, ids: list[int]) -> FloatArray:
        """Feed slot 0 from `position` on, in steps as large as they may be; returns the last logits: [vocabulary]."""
        logits: FloatArray = np.empty(0, np.float32)
        engine, sinks = self._engine, self._window.sinks
        while ids:
            size = linear_run(engine.geometry, sinks, position, engine.longest_step(position))
            taken, ids = ids[:size], ids[size:]
            logits = self._engine.step((Feed(0, position, self._window, tuple(taken)),))[0]
            position += len(taken)
        return logits
