"""Keys and values of all slots in host memory: one contiguous zeroed array a layer and kind.

Knows which rows a session holds, but nothing about the computation. Rows that no slot holds are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.engine.engine import SlotState
from common.engine.packed_rows import pack, packed_dim, unpack
from common.engine.slot_layout import SHRINKS_FOR, Place, SlotLayout
from common.spec.manifest import Architecture
from common.window import Geometry, SessionWindow, held_rows

ALIGNMENT = 64  # bytes: a cache line, and a vector of AVX-512


@dataclass(frozen=True)
class _Array:
    """One kind of numbers of a layer, `heads` times `dim` of them a row; they lie by column where `columns` says so."""

    name: str
    heads: int
    dim: int
    dtype: type[np.generic] = np.float32
    columns: bool = False


class KvPool:
    """Arrays of [slots, kv_heads, rows, head_dim], zero until written; memory is taken when it is.

    With `value_columns`, the values' are [slots, kv_heads, head_dim, rows] and have another name. `narrow`: keys and
    values are int8, the keys' by column, with float32 scales [slots, 2 * kv_heads, 1, rows], first those of keys.
    `varies`: the graph takes any number of rows, so that those of a young slot lie closer together (`slot_layout`).
    """

    def __init__(
        self,
        architecture: Architecture,
        geometry: Geometry,
        *,
        value_columns: bool = False,
        narrow: bool = False,
        varies: bool = False,
    ) -> None:
        self.geometry = geometry
        self._layout = SlotLayout(geometry, varies=varies)
        self._heads, self._dim = architecture.kv_heads, architecture.head_dim
        self._narrow = narrow
        forms = _narrow_forms(self._heads, self._dim) if narrow else _forms(self._heads, self._dim, value_columns)
        self._arrays = [(form, self._zeros(form)) for _ in range(architecture.layers) for form in forms]
        self._each = len(forms)

    @property
    def keys(self) -> list[npt.NDArray[Any]]:
        """By row, however they are stored, [slots, kv_heads, rows, head_dim]; of slots that have all their rows."""
        return self._of_all(0)

    @property
    def values(self) -> list[npt.NDArray[Any]]:
        """As `keys`."""
        return self._of_all(1)

    @property
    def scales(self) -> list[npt.NDArray[Any]]:
        """As `keys`, [slots, 2 * kv_heads, rows, 1]; none where numbers are float32."""
        return self._of_all(2) if self._narrow else []

    def named(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Every array as it is stored, with the name that the graph gives it; of slots that have all their rows."""
        return self.part(Place(0, self.geometry.rows), self.geometry.slots)

    def part(self, first: Place, size: int) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """The same of `size` slots, the first of which lies at `first`; they have been laid out together."""
        for index, (form, array) in enumerate(self._arrays):
            yield f"{form.name}_{index // self._each}", _cut(form, array, first, size)

    def lay_out(self, first: int, ends: tuple[int, ...], step: int) -> Place:
        """Make room for a step of `step` tokens over slots from `first` on, which writes rows before `ends`.

        Returns where the first of them lies now, the others behind it.
        """
        if moves := self._layout.lay_out(first, ends, step):
            held = {slot: self._layout.end(slot) for slot in moves}
            for form, array in self._arrays:
                _move(form, array, moves, held)
        return self._layout.place(first)

    def clear(self, slot: int) -> None:
        """Zero all rows of `slot`."""
        if self._layout.end(slot):
            self.clear_rows(slot, 0, self._layout.place(slot).rows)
        self._layout.clear(slot)

    def clear_rows(self, slot: int, start: int, stop: int) -> None:
        """Zero the rows ``start .. stop - 1`` of `slot`."""
        for array in self._of(slot):
            array[:, start:stop] = 0

    def export_slot(self, slot: int, position: int, window: SessionWindow) -> SlotState:
        """Copy what the next query of a session at `position` will see, by position."""
        rows = self._rows(position, window)
        held = [array[:, rows] for array in self._of(slot)]
        keys, values = (np.stack(held[kind :: self._each]) for kind in range(2))
        if self._narrow:
            scales = np.stack(held[2 :: self._each])
            keys, values = pack(keys, scales[:, : self._heads]), pack(values, scales[:, self._heads :])
        return SlotState(position, window, self.geometry, keys, values)

    def import_slot(self, slot: int, state: SlotState) -> None:
        """Clear `slot`, then put every row where it was; raises ValueError for another geometry, model or precision."""
        rows = self._rows(state.position, state.window)
        layers, dtype = len(self._arrays) // self._each, self._arrays[0][0].dtype
        dim = packed_dim(self._dim) if self._narrow else self._dim
        state.check_fits(self.geometry, (layers, self._heads, len(rows), dim), dtype)
        self.clear(slot)
        self.lay_out(slot, (max(rows, default=-1) + 1,), SHRINKS_FOR)
        parts = [state.keys, state.values]
        if self._narrow:
            (keys, key_scales), (values, value_scales) = map(unpack, parts)
            parts = [keys, values, np.concatenate([key_scales, value_scales], axis=1)]
        for index, array in enumerate(self._of(slot)):
            array[:, rows] = parts[index % self._each][index // self._each]

    def _of(self, slot: int) -> list[npt.NDArray[Any]]:
        """Every array of a slot by row, [heads, rows, dim]."""
        place = self._layout.place(slot)
        return [_by_row(form, array, place) for form, array in self._arrays]

    def _of_all(self, kind: int) -> list[npt.NDArray[Any]]:
        return [array.swapaxes(2, 3) if form.columns else array for form, array in self._arrays[kind :: self._each]]

    def _zeros(self, form: _Array) -> npt.NDArray[Any]:
        inner = (form.dim, self.geometry.rows) if form.columns else (self.geometry.rows, form.dim)
        return aligned_zeros((self.geometry.slots, form.heads, *inner), form.dtype)

    def _rows(self, position: int, window: SessionWindow) -> list[int]:
        return [row for rows in held_rows(self.geometry, window, position) for row in rows]


def _forms(heads: int, dim: int, value_columns: bool) -> tuple[_Array, ...]:
    name = "value_columns" if value_columns else "value_cache"
    return _Array("key_cache", heads, dim), _Array(name, heads, dim, columns=value_columns)


def _narrow_forms(heads: int, dim: int) -> tuple[_Array, ...]:
    return (
        _Array("key_bytes", heads, dim, np.int8, columns=True),
        _Array("value_bytes", heads, dim, np.int8),
        _Array("kv_scales", 2 * heads, 1, columns=True),
    )


def _move(form: _Array, array: npt.NDArray[Any], moves: dict[int, tuple[Place, Place]], held: dict[int, int]) -> None:
    """Take every slot from its old place to its new one; new places may overlap the old ones of others."""
    taken = []
    for slot, (old, _) in moves.items():
        rows = _by_row(form, array, old)[:, : held[slot]]
        taken.append(rows.copy("K"))
        rows[:] = 0
    for rows, (_, new) in zip(taken, moves.values(), strict=True):
        _by_row(form, array, new)[:, : rows.shape[1]] = rows


def _by_row(form: _Array, array: npt.NDArray[Any], place: Place) -> npt.NDArray[Any]:
    slot: npt.NDArray[Any] = _cut(form, array, place, 1)[0]
    return slot.swapaxes(1, 2) if form.columns else slot


def _cut(form: _Array, array: npt.NDArray[Any], first: Place, size: int) -> npt.NDArray[Any]:
    row = form.heads * form.dim
    flat = array.reshape(-1)[first.start * row : (first.start + size * first.rows) * row]
    inner = (form.dim, first.rows) if form.columns else (first.rows, form.dim)
    return flat.reshape(size, form.heads, *inner)


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Zeroed array whose first byte lies on a cache line; pages are taken when they are written."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
