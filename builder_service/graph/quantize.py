"""Weights in few bits, in numpy: rows of a matrix to int8, blocks of a row to int8 or int4.

Knows arrays only. A row is one output of a projection, as a checkpoint stores it: [out, in].
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Floats = TypeVar("Floats", npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.floating])
INT8_LARGEST = 127
FACTOR_LARGEST = 127  # of an activation that int8 weights multiply; as uint8 it lies between 0 and twice that
PAIR_LARGEST = 128  # of two weights side by side together: 2 * 127 * 128 is below 2 ** 15
_ABOVE = np.float32(1 + 2**-20)  # a scale that is larger than what float32 divisions lose
UINT8_ZERO = 128  # uint8 values 0..255 stand for -128..127
INT4_LARGEST = 15
INT4_ZERO = 8  # the zero point where there is nothing
BLOCK = 32  # inputs that share a scale in int8 by blocks
FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
FLOAT8_LARGEST = 448
FLOAT8_ROOM = 4  # times the largest number of a text: what is beyond is cut, and small numbers have digits to spare
LEAST_SCALE = np.finfo(np.float32).tiny  # below it an engine reads zero
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Of a block's range, that its values may reach: what lies outside is cut, and what is inside has more digits."""


def int8_rows(rows: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Symmetric int8 with a scale for each row.

    Returns int8 [out, in] and float32 [out]; `values * scale` is within half a scale of `rows`.
    """
    return _int8(rows, _int8_scales(rows))


def int8_factors(rows: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """`int8_rows` whose product with uint8 saturates nowhere: two weights side by side are PAIR_LARGEST at most.

    Processors without VNNI add the products of such pairs in 16 bits, which hold 2 * FACTOR_LARGEST * PAIR_LARGEST.
    """
    return _int8(rows, factor_scales(rows))


def factor_scales(rows: FloatArray) -> FloatArray:
    """The scale of each row in `int8_factors`, [out]; 1 for a row of zeros."""
    pairs = rows[:, : rows.shape[1] // 2 * 2 : 2] + rows[:, 1::2]
    fitting = np.abs(pairs).max(axis=1, initial=0) / np.float32(PAIR_LARGEST)
    scales: FloatArray = np.maximum(_int8_scales(rows), fitting * _ABOVE)
    scales[scales == 0] = 1
    return scales


def _int8_scales(rows: FloatArray) -> FloatArray:
    scales: FloatArray = np.abs(rows).max(axis=1, initial=0) / np.float32(INT8_LARGEST)
    return scales


def _int8(rows: FloatArray, scales: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    scales[scales == 0] = 1  # a row of zeros
    return np.rint(rows / scales[:, None]).astype(np.int8), scales


def int4_blocks(rows: FloatArray, block: int) -> tuple[npt.NDArray[np.uint8], FloatArray, npt.NDArray[np.uint8]]:
    """4 bits with a scale and a zero point for each `block` inputs, an even number; zeros stay zeros.

    The last block is filled with zeros. Returns uint8 [out, blocks, block / 2], float32 scales [out, blocks] and uint8
    zero points [out, blocks / 2 rounded up], the earlier value in the low half of a byte. `(value - zero) * scale` is
    within half a scale of `rows`; a block whose scale were below LEAST_SCALE becomes zeros.
    """
    blocks = in_blocks(rows, block)  # [out, blocks, block]
    low = blocks.min(axis=2, keepdims=True, initial=0).astype(np.float64)  # a float32 difference may be infinite
    high = blocks.max(axis=2, keepdims=True, initial=0)
    scales = ((high - low) / INT4_LARGEST).astype(np.float32)
    scales[scales < LEAST_SCALE] = np.inf  # which rounds all of the block to zero
    zeros = np.rint(-low / scales).astype(np.float32)
    values = np.clip(np.rint(blocks / scales) + zeros, 0, INT4_LARGEST).astype(np.uint8)
    scales[np.isinf(scales)] = 1
    even = np.pad(zeros[:, :, 0].astype(np.uint8), ((0, 0), (0, blocks.shape[1] % 2)), constant_values=INT4_ZERO)
    return in_bytes(values), scales[:, :, 0], in_bytes(even)


def int4_values(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The values of bytes that hold two each, side by side in the last axis."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def int8_blocks(rows: FloatArray) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """int8 around UINT8_ZERO with a scale for each block of BLOCK inputs.

    The last block is filled with zeros. Returns uint8 [out, blocks, BLOCK] and float32 [out, blocks].
    """
    blocks = in_blocks(rows, BLOCK)
    values, scales = int8_rows(blocks.reshape(-1, BLOCK))
    unsigned: npt.NDArray[np.uint8] = values.view(np.uint8) ^ np.uint8(UINT8_ZERO)
    return unsigned.reshape(blocks.shape), scales.reshape(blocks.shape[0], blocks.shape[1])


def bfloat16(values: Floats) -> Floats:
    """The numbers of bfloat16 next to these."""
    rounded: Floats = values.astype(ml_dtypes.bfloat16).astype(values.dtype)
    return rounded


def float8(values: Floats) -> Floats:
    """The numbers of float8 (e4m3) next to these, the largest for what is beyond them; NaN stays NaN."""
    rounded: Floats = np.clip(values, -FLOAT8_LARGEST, FLOAT8_LARGEST).astype(FLOAT8).astype(values.dtype)
    return rounded


def read_scale(rows: npt.NDArray[np.floating]) -> float:
    """A scale that brings such activations, and FLOAT8_ROOM times larger ones, into float8: a power of two."""
    largest = float(np.abs(rows).max(initial=0))
    if not math.isfinite(largest) or largest == 0:
        return 1.0
    return float(2.0 ** math.ceil(math.log2(FLOAT8_ROOM * largest / FLOAT8_LARGEST)))


def block_count(inputs: int, block: int) -> int:
    """Blocks of a row of `inputs` values."""
    return -(-inputs // block)


def in_blocks(rows: npt.NDArray[np.floating], block: int) -> npt.NDArray[Any]:
    """[out, in] as [out, blocks, block], the last block filled with zeros."""
    outputs, inputs = rows.shape
    padding = block_count(inputs, block) * block - inputs
    padded = np.pad(rows, ((0, 0), (0, padding))) if padding else rows
    return padded.reshape(outputs, -1, block)


def in_bytes(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Values of 4 bits two a byte: those at even places of the last axis in the low half."""
    return values[..., 0::2] | values[..., 1::2] << np.uint8(4)
