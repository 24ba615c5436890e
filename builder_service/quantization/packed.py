"""Rounded rows as `MatMulNBits` stores them; rows of int8 without blocks are one block each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builder_service.checkpoint.checkpoint import BlockFormat, PackedRows
from builder_service.graph.quantize import (
    FLOAT8,
    INT4_ZERO,
    UINT8_ZERO,
    bfloat16,
    in_blocks,
    in_bytes,
    int4_values,
)
from builder_service.quantization.grid import FloatArray, Grid


def packed_rows(values: npt.NDArray[np.float32], grid: Grid) -> PackedRows:
    """`values` [out, in] are on the grid. The last block is filled with zeros."""
    scales = np.where(np.isinf(grid.scales), np.float32(1), grid.scales)
    if grid.floating:
        stored = in_blocks(values, grid.block).astype(FLOAT8).view(np.uint8)
        return PackedRows(stored, scales, grid.zeros.astype(np.uint8), None)
    shift = UINT8_ZERO if grid.lowest < 0 else 0
    whole = (in_blocks(values, grid.block) + shift).astype(np.uint8)
    inputs, padded = values.shape[1], whole.reshape(len(values), -1)
    points = (grid.zeros + shift).astype(np.uint8)
    padded[:, inputs:] = points[:, -1:]
    if grid.highest - grid.lowest > 15:
        return PackedRows(whole, scales, points, None)
    even = np.pad(points, ((0, 0), (0, points.shape[1] % 2)), constant_values=INT4_ZERO)
    return PackedRows(in_bytes(whole), scales, in_bytes(even), None)


def on_disk(rows: PackedRows, stem: Path) -> PackedRows:
    """The same, written to files beside each other and read when they are wanted."""
    values, scales, zeros = (
        _mapped(array, stem.with_name(f"{stem.name}.{name}.npy"))
        for name, array in (("values", rows.values), ("scales", rows.scales), ("zeros", rows.zeros))
    )
    return replace(rows, values=values, scales=scales, zeros=zeros)


def _mapped(array: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    np.save(path, array)
    found: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return found


def unpacked(rows: PackedRows, form: BlockFormat | None) -> FloatArray:
    """The weights, [out, blocks * block], what the last block is filled with included; no format: int8 by rows."""
    bits, short = (8, False) if form is None else (form.bits, form.on_gpu)
    values, zeros = (int4_values(each) if bits == 4 else each for each in (rows.values, rows.zeros))
    if form is not None and form.floating:
        values = values.view(FLOAT8)
    blocks = rows.scales.shape[1]
    weights = values.astype(np.float32) - zeros[:, :blocks, None]
    weights *= rows.scales[:, :, None]
    found: FloatArray = bfloat16(weights) if short else weights
    return found.reshape(len(found), -1)
