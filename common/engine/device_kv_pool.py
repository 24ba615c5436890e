"""Keys and values of all slots in device memory: one contiguous zeroed array a layer and kind, like `kv_pool`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from common.engine.cuda_device import ALIGNMENT, CudaDevice
from common.engine.engine import SlotState
from common.spec.manifest import Architecture
from common.window import Geometry, SessionWindow, held_rows


class DeviceKvPool:
    """Arrays of [slots, kv_heads, rows, head_dim], zero until written; `dtype` has the width of their numbers."""

    def __init__(
        self, device: CudaDevice, architecture: Architecture, geometry: Geometry, dtype: np.dtype[Any]
    ) -> None:
        self.geometry = geometry
        self._device = device
        self._dtype = dtype
        self._heads = architecture.kv_heads
        self._head_dim = architecture.head_dim
        self._row_bytes = architecture.head_dim * dtype.itemsize
        self._head_bytes = geometry.rows * self._row_bytes
        self.slot_bytes = self._heads * self._head_bytes
        size = geometry.slots * self.slot_bytes
        self.keys = [device.allocate(size) for _ in range(architecture.layers)]
        self.values = [device.allocate(size) for _ in range(architecture.layers)]
        self._written: set[int] = set()

    @property
    def slot_multiple(self) -> int:
        """Every so many slots one begins at an aligned address."""
        return ALIGNMENT // math.gcd(ALIGNMENT, self.slot_bytes)

    def named(self, first: int) -> Iterator[tuple[str, int]]:
        """The address of slot `first` in every array, with the name that the graph gives the array."""
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            yield f"key_cache_{layer}", keys + first * self.slot_bytes
            yield f"value_cache_{layer}", values + first * self.slot_bytes

    def mark_written(self, first: int, size: int) -> None:
        """Remember that a step wrote to `size` slots from `first` on, so that clearing them means work."""
        self._written.update(range(first, first + size))

    def clear(self, slot: int) -> None:
        """Zero all rows of `slot`."""
        if slot in self._written:
            for _, address in self.named(slot):
                self._device.zero(address, self.slot_bytes)
            self._written.discard(slot)

    def clear_rows(self, slot: int, start: int, stop: int) -> None:
        """Zero the rows ``start .. stop - 1`` of `slot`."""
        width = (stop - start) * self._row_bytes
        for _, address in self.named(slot):
            self._device.zero_blocks(address + start * self._row_bytes, self._head_bytes, width, self._heads)

    def export_slot(self, slot: int, position: int, window: SessionWindow) -> SlotState:
        """Copy what the next query of a session at `position` will see, by position."""
        ranges = held_rows(self.geometry, window, position)
        keys, values = (np.empty(self._shape(ranges), self._dtype) for _ in range(2))
        for part, address in self._parts(slot, ranges, keys, values):
            self._device.copy_blocks_out(part, address, self._head_bytes)
        self._device.synchronize()
        return SlotState(position, window, self.geometry, keys, values)

    def import_slot(self, slot: int, state: SlotState) -> None:
        """Clear `slot`, then put every row where it was; raises ValueError for another geometry or model."""
        ranges = held_rows(self.geometry, state.window, state.position)
        state.check_fits(self.geometry, self._shape(ranges), self._dtype)
        self.clear(slot)
        self._written.add(slot)
        for part, address in self._parts(slot, ranges, state.keys, state.values):
            self._device.copy_blocks_in(address, self._head_bytes, part)
        self._device.synchronize()

    def _shape(self, ranges: tuple[range, ...]) -> tuple[int, ...]:
        return len(self.keys), self._heads, sum(map(len, ranges)), self._head_dim

    def _parts(
        self, slot: int, ranges: tuple[range, ...], keys: npt.NDArray[Any], values: npt.NDArray[Any]
    ) -> Iterator[tuple[npt.NDArray[Any], int]]:
        """Host arrays [kv_head, row, dim] of rows that follow one another, and where the first head has them."""
        for hosts, devices in ((keys, self.keys), (values, self.values)):
            for host, address in zip(hosts, devices, strict=True):
                done = 0
                for rows in ranges:
                    part = host[:, done : done + len(rows)]
                    yield part, address + slot * self.slot_bytes + rows.start * self._row_bytes
                    done += len(rows)
