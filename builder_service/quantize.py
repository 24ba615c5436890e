"""Weights in few bits, in numpy: rows of a matrix to int8, blocks of a row to int8 or int4.

Knows arrays only. A row is one output of a projection, as a checkpoint stores it: [out, in].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
INT8_LARGEST = 127
INT8_FACTOR_LARGEST = 64  # 2 * 255 * 64 is the largest sum of two products that 16 bits hold
UINT8_ZERO = 128  # uint8 values 0..255 stand for -128..127
INT4_ZERO = 8  # int4 values 0..15 stand for -8..7
BLOCK = 32  # inputs that share a scale, in int4 and in int8 by blocks


def int8_rows(rows: FloatArray, largest: int = INT8_LARGEST) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Symmetric int8 with a scale for each row, values from -largest to largest.

    Returns int8 [out, in] and float32 [out]; `values * scale` is within half a scale of `rows`.
    """
    scales = np.abs(rows).max(axis=1, initial=0) / np.float32(largest)
    scales[scales == 0] = 1  # a row of zeros
    return np.rint(rows / scales[:, None]).astype(np.int8), scales


def int4_blocks(rows: FloatArray) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """int4 with a scale for each block of BLOCK inputs; the value of largest magnitude becomes -8.

    The last block is filled with zeros. Returns uint8 [out, blocks, BLOCK / 2], the earlier value in the low
    half, and float32 [out, blocks].
    """
    blocks = _in_blocks(rows)  # [out, blocks, BLOCK]
    peaks = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2, keepdims=True), axis=2)
    scales = peaks / np.float32(-INT4_ZERO)
    scales[scales == 0] = 1  # a block of zeros
    values = np.clip(np.rint(blocks / scales) + INT4_ZERO, 0, 2 * INT4_ZERO - 1).astype(np.uint8)
    packed: npt.NDArray[np.uint8] = values[:, :, 0::2] | values[:, :, 1::2] << 4
    return packed, scales[:, :, 0].astype(np.float32, copy=False)


def int8_blocks(rows: FloatArray) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """int8 around UINT8_ZERO with a scale for each block of BLOCK inputs.

    The last block is filled with zeros. Returns uint8 [out, blocks, BLOCK] and float32 [out, blocks].
    """
    blocks = _in_blocks(rows)
    values, scales = int8_rows(blocks.reshape(-1, BLOCK))
    unsigned: npt.NDArray[np.uint8] = values.view(np.uint8) ^ np.uint8(UINT8_ZERO)
    return unsigned.reshape(blocks.shape), scales.reshape(blocks.shape[0], blocks.shape[1])


def block_count(inputs: int) -> int:
    """Blocks of a row of `inputs` values."""
    return -(-inputs // BLOCK)


def _in_blocks(rows: FloatArray) -> npt.NDArray[Any]:
    outputs, inputs = rows.shape
    padding = block_count(inputs) * BLOCK - inputs
    padded = np.pad(rows, ((0, 0), (0, padding))) if padding else rows
    return padded.reshape(outputs, -1, BLOCK)
