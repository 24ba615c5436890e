"""Tensors whose matrices are rounded to the nearest, each by itself: what no text has a part in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from builder_service.checkpoint.checkpoint import BlockFormat, FloatArray, PackedRows, Tensors
from builder_service.quantization.grid import grid_of
from builder_service.quantization.packed import packed_rows, unpacked


@dataclass(frozen=True)
class Nearest:
    """`tensors` in the `formats` given, in int8 by row where none is."""

    tensors: Tensors
    formats: Mapping[str, BlockFormat]

    @property
    def names(self) -> tuple[str, ...]:
        return self.tensors.names

    def tensor(self, name: str) -> FloatArray:
        return self.tensors.tensor(name)

    def blocks(self, name: str) -> Iterator[FloatArray]:
        return self.tensors.blocks(name)

    def weights(self, name: str) -> FloatArray:
        """What the matrix has become."""
        form = self.formats.get(name)
        rows = [unpacked(packed, form) for packed in self.packed(name)]
        return np.concatenate(rows)[:, : self.tensor(name).shape[1]]

    def packed(self, name: str) -> Iterator[PackedRows]:
        for rows in self.blocks(name):
            form = self.formats.get(name)
            grid = grid_of(rows, form)
            yield packed_rows(grid.nearest(rows), grid)
