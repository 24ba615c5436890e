"""The numbers that a rounded weight can be: whole numbers, a scale and a zero point for each block of a row's inputs.

Knows arrays only. A row is one output of a projection: [out, in].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from builder_service.graph.quantize import INT8_LARGEST, LEAST_SCALE, PAIR_LARGEST, factor_scales, in_blocks

FloatArray = npt.NDArray[np.float32]
NARROWER = (0.95, 0.9, 0.85, 0.8, 0.75)
"""Shares of a block's range that are tried: what lies outside is cut, and what is inside has more digits."""


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

    def columns(self, inputs: int) -> tuple[FloatArray, FloatArray]:
        """Scale and zero point of every weight, [in, out]."""
        scales, zeros = (np.repeat(each.T, self.block, axis=0)[:inputs] for each in (self.scales, self.zeros))
        return scales, zeros

    def nearest(self, rows: FloatArray) -> FloatArray:
        """The whole values next to `rows`, as float32."""
        scales, zeros = self.columns(rows.shape[1])
        found: FloatArray = np.clip(np.rint(rows / scales.T) + zeros.T, self.lowest, self.highest)
        return found


def row_grid(rows: FloatArray) -> Grid:
    """int8 with a scale for each row, whose products with uint8 saturate nowhere (`int8_factors`)."""
    scales = factor_scales(rows)[:, None]
    zeros = np.zeros_like(scales)
    return Grid(scales, zeros, rows.shape[1], -INT8_LARGEST, INT8_LARGEST, PAIR_LARGEST)


def block_grid(rows: FloatArray, block: int, bits: int, importance: FloatArray | None = None) -> Grid:
    """Values of 4 or 8 bits with a scale, a bfloat16, and a zero point for each `block` inputs; 0 is one of them.

    `importance` [in]: what the squared error of each input counts. With it, of some shares of a block's range the one
    is taken with which rounding to the nearest loses least.
    """
    blocks, most = in_blocks(rows, block), 2**bits - 1  # [out, blocks, block]
    low = blocks.min(axis=2, keepdims=True, initial=0).astype(np.float64)  # a float32 difference may be infinite
    high = blocks.max(axis=2, keepdims=True, initial=0).astype(np.float64)
    scales, zeros = _scales(low, high, most)
    if importance is not None:
        counted = in_blocks(importance[None], block)
        least = _lost(blocks, scales, zeros, most, counted)
        for share in NARROWER:
            tried = _scales(share * low, share * high, most)
            lost = _lost(blocks, *tried, most, counted)
            better = lost < least
            least, scales, zeros = (
                np.where(better, new, old) for new, old in zip((lost, *tried), (least, scales, zeros), strict=True)
            )
    return Grid(scales[:, :, 0], zeros[:, :, 0], block, 0, most)


def _lost(blocks: FloatArray, scales: FloatArray, zeros: FloatArray, most: int, counted: FloatArray) -> FloatArray:
    """Squared error of each block, [out, blocks, 1], by the nearest numbers."""
    values = np.clip(np.rint(blocks / scales) + zeros, 0, most) - zeros
    off = values * np.where(np.isinf(scales), np.float32(0), scales) - blocks
    found: FloatArray = (np.square(off) * counted).sum(axis=2, keepdims=True)
    return found


def _scales(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], most: int) -> tuple[FloatArray, FloatArray]:
    """A block whose scale were below LEAST_SCALE gets an infinite one, which rounds all of it to zero."""
    scales = _short(((high - low) / most).astype(np.float32))
    scales[scales < LEAST_SCALE] = np.inf
    return scales, np.rint(-low / scales).astype(np.float32)


def _short(scales: FloatArray) -> FloatArray:
    """The next larger bfloat16, as float32."""
    bits = scales.view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
