"""A deterministic engine without a model: its logits are a hash of the tokens that a slot's rows show.

It keeps rows as a real engine does: padding writes garbage, an idle slot in a batch writes at its own next row,
nothing is cleared by itself. Who feeds at a wrong position, forgets to clear a slot, or takes back too much gets
other logits than `expected_logits`, which knows no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from common.engine.batch import Batch, plan_batch
from common.engine.engine import Feed, FloatArray, SlotState
from common.window import Geometry, SessionWindow, held_positions, row, visible_rows

EMPTY = 0.0  # what a cleared row holds; a token is held as its id + 1
GARBAGE = -1.0  # what padding writes


def hashed_logits(seen: Sequence[float], vocabulary: int) -> FloatArray:
    """Logits in [0, 8) from what a query sees, oldest first; NaN as soon as it sees NaN. [vocabulary]"""
    content = np.asarray(seen, np.float64)
    if not np.isfinite(content).all():
        return np.full(vocabulary, np.nan, np.float32)
    state = np.full(1, 0x9E3779B97F4A7C15, np.uint64)
    for value in content.astype(np.int64).view(np.uint64):
        state = _mix(state ^ value)
    ids = np.arange(1, vocabulary + 1, dtype=np.uint64)
    return np.asarray((_mix(state ^ (ids << np.uint64(32))) >> np.uint64(40)) / np.float64(1 << 21), np.float32)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Splitmix64's finalizer."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def expected_logits(
    tokens: Sequence[int], window: SessionWindow, vocabulary: int = 64, *, simple: bool = False
) -> FloatArray:
    """Logits after the last of all of a session's `tokens`, by the definition of sink + window."""
    sinks, recent = held_positions(window, len(tokens) - 1)
    seen = [*(tokens[p] for p in sinks), *(tokens[p] for p in recent), tokens[-1]]
    return hashed_logits([token + 1 for token in (seen[-1:] if simple else seen)], vocabulary)


def expected_greedy(tokens: Sequence[int], window: SessionWindow, count: int, vocabulary: int = 64) -> list[int]:
    """The `count` tokens that a greedy session with `tokens` behind it generates next."""
    stream = list(tokens)
    for _ in range(count):
        stream.append(int(expected_logits(stream, window, vocabulary).argmax()))
    return stream[len(tokens) :]


class FakeEngine:
    """See the module. `poison` are tokens that make everything that sees them NaN; `steps` records all feeds.

    A `simple` one looks at the newest token alone, so that what it says repeats itself soon.
    `before_step` runs at the start of each step, in the caller's thread: to wait, to count, to raise.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        vocabulary: int = 64,
        slot_multiple: int = 1,
        draft_rows: int = 16,
        longest: int = 0,
        simple: bool = False,
        poison: frozenset[int] = frozenset(),
        before_step: Callable[[tuple[Feed, ...]], None] | None = None,
    ) -> None:
        self.geometry = geometry
        self.vocabulary_size = vocabulary
        self.slot_multiple = slot_multiple
        self.draft_rows = draft_rows
        self.longest = max(geometry.chunk, longest)
        self.simple = simple
        self.poison = poison
        self.before_step = before_step
        self.steps: list[tuple[Feed, ...]] = []
        self.closed = False
        self._rows = np.full((geometry.slots, geometry.rows), EMPTY, np.float32)

    def longest_step(self, position: int) -> int:
        return self.longest

    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        assert not self.closed, "step after close"
        if self.before_step is not None:
            self.before_step(feeds)
        self._check_tokens(feeds)
        batch = plan_batch(
            self.geometry,
            feeds,
            multiple=self.slot_multiple,
            draft_rows=self.draft_rows,
            longest=self.longest_step,
        )
        self.steps.append(feeds)
        self._write(batch)
        return np.stack([self._logits(feed, index) for feed in feeds for index in _wanted(feed)])

    def clear(self, slot: int) -> None:
        assert not self.closed, "clear after close"
        self._rows[slot] = EMPTY

    def export_slot(self, slot: int, position: int, window: SessionWindow) -> SlotState:
        assert not self.closed, "export after close"
        held = self._rows[slot, self._held_rows(position, window)]
        kv = held[None, None, :, None]  # [layer, kv_head, row, dim]
        return SlotState(position, window, self.geometry, kv.copy(), -kv)

    def import_slot(self, slot: int, state: SlotState) -> None:
        assert not self.closed, "import after close"
        if state.geometry != self.geometry:
            raise ValueError(f"state of {state.geometry}, engine of {self.geometry}")
        self.clear(slot)
        self._rows[slot, self._held_rows(state.position, state.window)] = state.keys[0, 0, :, 0]

    def close(self) -> None:
        self.closed = True

    def _check_tokens(self, feeds: tuple[Feed, ...]) -> None:
        for feed in feeds:
            if any(not 0 <= token < self.vocabulary_size for token in feed.tokens):
                raise ValueError(f"tokens of {feed} exceed the vocabulary of {self.vocabulary_size}")

    def _write(self, batch: Batch) -> None:
        for feed, first in zip(batch.feeds, batch.rows, strict=True):
            own = [np.nan if token in self.poison else token + 1 for token in feed.tokens]
            self._rows[feed.slot, first : first + batch.step] = GARBAGE
            self._rows[feed.slot, first : first + len(own)] = own

    def _logits(self, feed: Feed, index: int) -> FloatArray:
        position = feed.position + index
        seen = self._rows[feed.slot, [*self._held_rows(position, feed.window), self._row(position, feed.window)]]
        visible = sorted(r for part in visible_rows(self.geometry, feed.window, position) for r in part)
        assert visible == sorted({*self._held_rows(position, feed.window), self._row(position, feed.window)})
        if self.simple and np.isfinite(seen).all():
            seen = seen[-1:]
        return hashed_logits(seen.tolist(), self.vocabulary_size)

    def _held_rows(self, position: int, window: SessionWindow) -> list[int]:
        return [self._row(p, window) for part in held_positions(window, position) for p in part]

    def _row(self, position: int, window: SessionWindow) -> int:
        return row(self.geometry, window.sinks, position)


def _wanted(feed: Feed) -> range:
    """Indices of the tokens whose logits are wanted."""
    return range(len(feed.tokens) - feed.wanted, len(feed.tokens)) if feed.tokens else range(0)
