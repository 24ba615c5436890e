"""Keys and values of all slots in host memory: one contiguous zeroed array a layer and kind.

Knows which rows a session holds, but nothing about the computation. Rows that no slot holds are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from common.engine.engine import FloatArray, SlotState
from common.engine.slot_layout import SHRINKS_FOR, Place, SlotLayout
from common.spec.manifest import Architecture
from common.window import Geometry, SessionWindow, held_rows

ALIGNMENT = 64  # bytes: a cache line, and a vector of AVX-512


class KvPool:
    """Arrays of [slots, kv_heads, rows, head_dim], zero until written; memory is taken when it is.

    With `value_columns`, the values' are [slots, kv_heads, head_dim, rows] and have another name. `varies`: the graph
    takes any number of rows, so that those of a young slot lie closer together (`slot_layout`).
    """

    def __init__(
        self, architecture: Architecture, geometry: Geometry, *, value_columns: bool = False, varies: bool = False
    ) -> None:
        self.geometry = geometry
        self._layout = SlotLayout(geometry, varies=varies)
        self._heads, self._dim = architecture.kv_heads, architecture.head_dim
        shape = (geometry.slots, self._heads, geometry.rows, self._dim)
        self._columns = value_columns
        value_shape = (*shape[:2], shape[3], shape[2]) if value_columns else shape
        self.keys = [aligned_zeros(shape) for _ in range(architecture.layers)]
        self._stored_values = [aligned_zeros(value_shape) for _ in range(architecture.layers)]
        self.values = [array.swapaxes(2, 3) if value_columns else array for array in self._stored_values]
        """By row, however they are stored. As `keys`, of slots that have all their rows."""

    def named(self) -> Iterator[tuple[str, FloatArray]]:
        """Every array as it is stored, with the name that the graph gives it; of slots that have all their rows."""
        return self.part(Place(0, self.geometry.rows), self.geometry.slots)

    def part(self, first: Place, size: int) -> Iterator[tuple[str, FloatArray]]:
        """The same of `size` slots, the first of which lies at `first`; they have been laid out together."""
        for layer, (keys, values) in enumerate(zip(self.keys, self._stored_values, strict=True)):
            yield f"key_cache_{layer}", self._cut(keys, first, size)
            name = "value_columns" if self._columns else "value_cache"
            yield f"{name}_{layer}", self._cut(values, first, size, columns=self._columns)

    def lay_out(self, first: int, ends: tuple[int, ...], step: int) -> Place:
        """Make room for a step of `step` tokens over slots from `first` on, which writes rows before `ends`.

        Returns where the first of them lies now, the others behind it.
        """
        if moves := self._layout.lay_out(first, ends, step):
            held = {slot: self._layout.end(slot) for slot in moves}
            for array in self.keys:
                self._move(array, moves, held)
            for array in self._stored_values:
                self._move(array, moves, held, columns=self._columns)
        return self._layout.place(first)

    def clear(self, slot: int) -> None:
        """Zero all rows of `slot`."""
        if self._layout.end(slot):
            self.clear_rows(slot, 0, self._layout.place(slot).rows)
        self._layout.clear(slot)

    def clear_rows(self, slot: int, start: int, stop: int) -> None:
        """Zero the rows ``start .. stop - 1`` of `slot`."""
        for array in (*self._keys_of(slot), *self._values_of(slot)):
            array[:, start:stop] = 0.0

    def export_slot(self, slot: int, position: int, window: SessionWindow) -> SlotState:
        """Copy what the next query of a session at `position` will see, by position."""
        rows = self._rows(position, window)
        keys = np.stack([array[:, rows] for array in self._keys_of(slot)])
        values = np.stack([array[:, rows] for array in self._values_of(slot)])
        return SlotState(position, window, self.geometry, keys, values)

    def import_slot(self, slot: int, state: SlotState) -> None:
        """Clear `slot`, then put every row where it was; raises ValueError for another geometry or model."""
        rows = self._rows(state.position, state.window)
        state.check_fits(self.geometry, (len(self.keys), self._heads, len(rows), self._dim), np.float32)
        self.clear(slot)
        self.lay_out(slot, (max(rows, default=-1) + 1,), SHRINKS_FOR)
        for arrays, parts in ((self._keys_of(slot), state.keys), (self._values_of(slot), state.values)):
            for array, part in zip(arrays, parts, strict=True):
                array[:, rows] = part

    def _keys_of(self, slot: int) -> list[FloatArray]:
        """The keys of each layer, [kv_heads, rows, head_dim]."""
        place = self._layout.place(slot)
        return [self._by_row(array, place) for array in self.keys]

    def _values_of(self, slot: int) -> list[FloatArray]:
        place = self._layout.place(slot)
        return [self._by_row(array, place, columns=self._columns) for array in self._stored_values]

    def _move(
        self, array: FloatArray, moves: dict[int, tuple[Place, Place]], held: dict[int, int], *, columns: bool = False
    ) -> None:
        """Take every slot from its old place to its new one; new places may overlap the old ones of others."""
        taken = []
        for slot, (old, _) in moves.items():
            rows = self._by_row(array, old, columns=columns)[:, : held[slot]]
            taken.append(rows.copy("K"))
            rows[:] = 0.0
        for rows, (_, new) in zip(taken, moves.values(), strict=True):
            self._by_row(array, new, columns=columns)[:, : rows.shape[1]] = rows

    def _by_row(self, array: FloatArray, place: Place, *, columns: bool = False) -> FloatArray:
        slot: FloatArray = self._cut(array, place, 1, columns=columns)[0]
        return slot.swapaxes(1, 2) if columns else slot

    def _cut(self, array: FloatArray, first: Place, size: int, *, columns: bool = False) -> FloatArray:
        row = self._heads * self._dim
        flat = array.reshape(-1)[first.start * row : (first.start + size * first.rows) * row]
        inner = (self._dim, first.rows) if columns else (first.rows, self._dim)
        return flat.reshape(size, self._heads, *inner)

    def _rows(self, position: int, window: SessionWindow) -> list[int]:
        return [row for rows in held_rows(self.geometry, window, position) for row in rows]


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Zeroed array whose first byte lies on a cache line; pages are taken when they are written."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
