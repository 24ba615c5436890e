"""Inputs of the graph for one step, written into buffers that stay where they are: ids, rows, mask and angles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.engine.angles import Angles
from common.engine.batch import Batch
from common.engine.engine import Feed, FloatArray
from common.engine.kv_pool import aligned_zeros
from common.window import Geometry, SessionWindow, row, visible_rows

MASKED = np.float32(-1e30)
"""Added to a score that must not count: finite, and far below any score, so that softmax makes it zero."""

Integers = npt.NDArray[np.int64]
Allocate = Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]


@dataclass(frozen=True)
class Views:
    """The buffers cut to one shape of step."""

    token_ids: Integers  # [batch, step]
    write_rows: Integers  # [batch]
    outputs: Integers  # [outputs]
    mask: FloatArray  # [batch, 1, 1, step, rows]
    cos: FloatArray  # [batch, step, head_dim / 2]
    sin: FloatArray
    sink_cos: FloatArray
    sink_sin: FloatArray
    distance: FloatArray  # [batch, 1, 1, step, rows]; all zero but with ALiBi

    def named(self) -> dict[str, npt.NDArray[np.generic]]:
        """Every input by the name that the graph gives it."""
        return dict(vars(self))


class StepInputs:
    """Buffers for the largest step; a smaller one uses their beginning. Untouched pages take no memory.

    `longest`: tokens of a step of one slot, where that is more than a chunk. `allocate` makes zeroed arrays of a shape
    and type: elsewhere than in common memory for a device that copies them.
    """

    def __init__(
        self, geometry: Geometry, angles: Angles, allocate: Allocate = aligned_zeros, *, longest: int = 0
    ) -> None:
        self.geometry = geometry
        self._angles = angles
        tokens = max(geometry.slots * geometry.chunk, longest)
        self._half = len(angles.inverse_frequencies)
        self._mask = allocate((tokens * geometry.rows,), np.float32)
        self._distance = allocate((tokens * geometry.rows,), np.float32)
        self._trigonometry = [allocate((tokens * self._half,), np.float32) for _ in range(4)]
        self._token_ids = allocate((tokens,), np.int64)
        self._write_rows = allocate((geometry.slots,), np.int64)
        self._outputs = allocate((tokens,), np.int64)
        self._views: dict[tuple[int, int, int, int], Views] = {}

    def views(self, size: int, step: int, outputs: int, rows: int = 0) -> Views:
        """The buffers as a step of `size` slots and `step` tokens, `outputs` of which lead to logits, sees them.

        It reads `rows` of each slot; 0: all. Always the same objects.
        """
        key = (size, step, outputs, rows or self.geometry.rows)
        if key not in self._views:
            self._views[key] = self._cut(*key)
        return self._views[key]

    def fill(self, batch: Batch, rows: int = 0) -> Views:
        """Write the inputs of `batch`, which reads `rows` of each slot; 0: all."""
        outputs = batch.outputs
        views = self.views(batch.size, batch.step, len(outputs), rows)
        views.write_rows[:] = batch.rows
        views.outputs[:] = outputs
        views.mask.fill(MASKED)
        for index, feed in enumerate(batch.feeds):
            _fill_tokens(views.token_ids[index], feed)
            self._fill_mask(views.mask[index, 0, 0], feed, batch.rows[index])
        if self._half:
            self._fill_angles(views, batch)
        else:
            self._fill_distances(views, batch)
        return views

    def _cut(self, size: int, step: int, outputs: int, rows: int) -> Views:
        tokens, half = size * step, self._half
        cos, sin, sink_cos, sink_sin = (x[: tokens * half].reshape(size, step, half) for x in self._trigonometry)
        return Views(
            token_ids=self._token_ids[:tokens].reshape(size, step),
            write_rows=self._write_rows[:size],
            outputs=self._outputs[:outputs],
            mask=self._mask[: tokens * rows].reshape(size, 1, 1, step, rows),
            cos=cos,
            sin=sin,
            sink_cos=sink_cos,
            sink_sin=sink_sin,
            distance=self._distance[: tokens * rows].reshape(size, 1, 1, step, rows),
        )

    def _fill_mask(self, mask: FloatArray, feed: Feed, first_row: int) -> None:  # mask: [step, rows]
        own = len(feed.tokens)
        for index in range(own):
            for part in visible_rows(self.geometry, feed.window, feed.position + index):
                mask[index, part.start : part.stop] = 0.0
        for index in range(own, len(mask)):  # padding sees the row that it writes, wherever that is
            mask[index, first_row + index] = 0.0

    def _fill_distances(self, views: Views, batch: Batch) -> None:
        """How far away what a row holds is, counted in the cache. Rows that are masked may say anything."""
        for index, feed in enumerate(batch.feeds):
            for step in range(len(feed.tokens)):
                row_distances(self.geometry, feed.window, feed.position + step, views.distance[index, 0, 0, step])

    def _fill_angles(self, views: Views, batch: Batch) -> None:
        starts = np.array([feed.position for feed in batch.feeds], np.int64)
        positions = starts[:, None] + np.arange(batch.step)  # [batch, step]
        self._angles.write(positions, views.cos, views.sin)
        if self.geometry.sinks:
            newest = np.array([feed.window.capacity - 1 for feed in batch.feeds], np.int64)
            self._angles.write(np.minimum(positions, newest[:, None]), views.sink_cos, views.sink_sin)


def row_distances(geometry: Geometry, window: SessionWindow, position: int, out: FloatArray) -> None:
    """Distances in the cache from the query at `position` to what it sees, into `out` [rows], by row.

    To the token `j` of the ring ``position - j``; to the sink `j`, ``min(position, n' + w' - 1) - j``.
    """
    sinks = np.arange(window.sinks)
    out[: window.sinks] = window.cache_index(position) - sinks
    if position >= window.sinks:
        ring = out[geometry.sinks : geometry.sinks + geometry.ring]  # or its beginning, where no more is read
        newest = row(geometry, window.sinks, position) - geometry.sinks
        ring[:] = (newest - np.arange(len(ring))) % geometry.ring


def _fill_tokens(ids: Integers, feed: Feed) -> None:
    """Own tokens, then the last of them again: padding brings in no token that its session does not hold."""
    own = len(feed.tokens)
    ids[:own] = feed.tokens
    ids[own:] = feed.tokens[-1] if own else 0
