"""Keys and values of all slots in host memory: one contiguous zeroed array a layer and kind.

Knows which rows a session holds, but nothing about the computation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from common.engine.engine import FloatArray, SlotState
from common.spec.manifest import Architecture
from common.window import Geometry, SessionWindow, held_rows

ALIGNMENT = 64  # bytes: a cache line, and a vector of AVX-512


class KvPool:
    """Arrays of [slots, kv_heads, rows, head_dim], zero until written; memory is taken when it is.

    With `value_columns`, the values' are [slots, kv_heads, head_dim, rows] and have another name.
    """

    def __init__(self, architecture: Architecture, geometry: Geometry, *, value_columns: bool = False) -> None:
        self.geometry = geometry
        slots, heads = geometry.slots, architecture.kv_heads
        shape = (slots, heads, geometry.rows, architecture.head_dim)
        self._value_name = "value_columns" if value_columns else "value_cache"
        value_shape = (slots, heads, architecture.head_dim, geometry.rows) if value_columns else shape
        self.keys = [aligned_zeros(shape) for _ in range(architecture.layers)]
        stored = [aligned_zeros(value_shape) for _ in range(architecture.layers)]
        self._stored_values = stored
        self.values = [array.swapaxes(2, 3) if value_columns else array for array in stored]
        """By row, however they are stored."""
        self._written: set[int] = set()

    def named(self) -> Iterator[tuple[str, FloatArray]]:
        """Every array as it is stored, with the name that the graph gives it."""
        for layer, (keys, values) in enumerate(zip(self.keys, self._stored_values, strict=True)):
            yield f"key_cache_{layer}", keys
            yield f"{self._value_name}_{layer}", values

    def mark_written(self, first: int, size: int) -> None:
        """Remember that a step wrote to `size` slots from `first` on, so that clearing them means work."""
        self._written.update(range(first, first + size))

    def clear(self, slot: int) -> None:
        """Zero all rows of `slot`."""
        if slot in self._written:
            self.clear_rows(slot, 0, self.geometry.rows)
            self._written.discard(slot)

    def clear_rows(self, slot: int, start: int, stop: int) -> None:
        """Zero the rows ``start .. stop - 1`` of `slot`."""
        for array in (*self.keys, *self.values):
            array[slot, :, start:stop] = 0.0

    def export_slot(self, slot: int, position: int, window: SessionWindow) -> SlotState:
        """Copy what the next query of a session at `position` will see, by position."""
        rows = self._rows(position, window)
        keys = np.stack([array[slot][:, rows] for array in self.keys])
        values = np.stack([array[slot][:, rows] for array in self.values])
        return SlotState(position, window, self.geometry, keys, values)

    def import_slot(self, slot: int, state: SlotState) -> None:
        """Clear `slot`, then put every row where it was; raises ValueError for another geometry or model."""
        rows = self._rows(state.position, state.window)
        shape = (len(self.keys), self.keys[0].shape[1], len(rows), self.keys[0].shape[3])
        state.check_fits(self.geometry, shape, np.float32)
        self.clear(slot)
        self._written.add(slot)
        for arrays, parts in ((self.keys, state.keys), (self.values, state.values)):
            for array, part in zip(arrays, parts, strict=True):
                array[slot][:, rows] = part

    def _rows(self, position: int, window: SessionWindow) -> list[int]:
        return [row for rows in held_rows(self.geometry, window, position) for row in rows]


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Zeroed array whose first byte lies on a cache line; pages are taken when they are written."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
