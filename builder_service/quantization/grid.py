"""The numbers that a rounded weight can be: whole numbers, a scale and a zero point for each block of a row's inputs.

Knows arrays only. A row is one output of a projection: [out, in].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from builder_service.checkpoint.checkpoint import BlockFormat
from builder_service.graph.quantize import (
    FLOAT8_LARGEST,
    INT8_LARGEST,
    LEAST_SCALE,
    PAIR_LARGEST,
    SHARES,
    bfloat16,
    factor_scales,
    float8,
    in_blocks,
)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """A weight may be `(value - zero) * scale` for whole values from `lowest` to `highest`."""

    scales: FloatArray
    """[out, blocks]."""
    zeros: FloatArray
    """[out, blocks], whole numbers."""
    block: int
    """Inputs that share a scale; the last block of a row may have fewer."""
    lowest: int
    highest: int
    pair: int | None = None
    """The most that two values side by side may be together, whatever their signs."""
    floating: bool = False
    """Whether values are those of float8, and not whole numbers."""
    short: bool = False
    """Whether a weight is rounded to bfloat16 before it is multiplied."""

    def columns(self, inputs: int) -> tuple[FloatArray, FloatArray]:
        """Scale and zero point of every weight, [in, out]."""
        scales, zeros = (np.repeat(each.T, self.block, axis=0)[:inputs] for each in (self.scales, self.zeros))
        return scales, zeros

    def nearest(self, rows: FloatArray) -> FloatArray:
        """The whole values next to `rows`, as float32."""
        scales, zeros = self.columns(rows.shape[1])
        return self.values(rows / scales.T, zeros.T, self.lowest, self.highest)

    def values(
        self, places: FloatArray, zeros: FloatArray, low: float | FloatArray, high: float | FloatArray
    ) -> FloatArray:
        """The values next to weights divided by their scales."""
        if self.floating:
            return float8(places)
        found: FloatArray = np.clip(np.rint(places) + zeros, low, high)
        return found

    def weights(self, values: FloatArray, scales: FloatArray, zeros: FloatArray) -> FloatArray:
        """What they stand for: 0 where the scale is infinite."""
        found: FloatArray = (values - zeros) * np.where(np.isinf(scales), np.float32(0), scales)
        return bfloat16(found) if self.short else found


def grid_of(rows: FloatArray, form: BlockFormat | None, importance: FloatArray | None = None) -> Grid:
    """The grid of a format; of int8 for products with uint8 if there is none."""
    if form is None:
        return row_grid(rows)
    if form.floating:
        return float_grid(rows)
    return block_grid(rows, form.block, form.bits, importance, symmetric=form.on_gpu)


def row_grid(rows: FloatArray) -> Grid:
    """int8 with a scale for each row, whose products with uint8 saturate nowhere (`int8_factors`)."""
    scales = factor_scales(rows)[:, None]
    zeros = np.zeros_like(scales)
    return Grid(scales, zeros, rows.shape[1], -INT8_LARGEST, INT8_LARGEST, PAIR_LARGEST)


def float_grid(rows: FloatArray) -> Grid:
    """float8 with a scale, a bfloat16, for each row."""
    scales = _short(np.abs(rows).max(axis=1, keepdims=True, initial=0) / np.float32(FLOAT8_LARGEST))
    scales[scales < LEAST_SCALE] = np.inf
    zeros = np.zeros_like(scales)
    return Grid(scales, zeros, rows.shape[1], -FLOAT8_LARGEST, FLOAT8_LARGEST, floating=True, short=True)


def block_grid(
    rows: FloatArray, block: int, bits: int, importance: FloatArray | None = None, *, symmetric: bool = False
) -> Grid:
    """Values of 4 or 8 bits with a scale, a bfloat16, and a zero point for each `block` inputs; 0 is one of them.

    `symmetric`: all zero points are the middle of the values, and weights are rounded once more (`Grid.short`).

    `importance` [in]: what the squared error of each input counts. With it, of some shares of a block's range the one
    is taken with which rounding to the nearest loses least.
    """
    blocks, most = in_blocks(rows, block), 2**bits - 1  # [out, blocks, block]
    low = blocks.min(axis=2, keepdims=True, initial=0).astype(np.float64)  # a float32 difference may be infinite
    high = blocks.max(axis=2, keepdims=True, initial=0).astype(np.float64)
    scales, zeros = _scales(low, high, most, symmetric=symmetric)
    if importance is not None:
        counted = in_blocks(importance[None], block)
        least = _lost(blocks, scales, zeros, most, counted)
        for share in SHARES[1:]:
            tried = _scales(share * low, share * high, most, symmetric=symmetric)
            lost = _lost(blocks, *tried, most, counted)
            better = lost < least
            least, scales, zeros = (
                np.where(better, new, old) for new, old in zip((lost, *tried), (least, scales, zeros), strict=True)
            )
    return Grid(scales[:, :, 0], zeros[:, :, 0], block, 0, most, short=symmetric)


def _lost(blocks: FloatArray, scales: FloatArray, zeros: FloatArray, most: int, counted: FloatArray) -> FloatArray:
    """Squared error of each block, [out, blocks, 1], by the nearest numbers."""
    values = np.clip(np.rint(blocks / scales) + zeros, 0, most) - zeros
    off = values * np.where(np.isinf(scales), np.float32(0), scales) - blocks
    found: FloatArray = (np.square(off) * counted).sum(axis=2, keepdims=True)
    return found


def _scales(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], most: int, *, symmetric: bool
) -> tuple[FloatArray, FloatArray]:
    """A block whose scale were below LEAST_SCALE gets an infinite one, which rounds all of it to zero."""
    middle = (most + 1) // 2
    wide = np.maximum(-low / middle, high / (most - middle)) if symmetric else (high - low) / most
    scales = _short(wide.astype(np.float32))
    scales[scales < LEAST_SCALE] = np.inf
    if symmetric:
        return scales, np.full_like(scales, middle)
    return scales, np.rint(-low / scales).astype(np.float32)


def _short(scales: FloatArray) -> FloatArray:
    """The next larger bfloat16, as float32."""
    bits = scales.view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
