"""Blocks of quantized rows as `MatMulNBits` holds them: values, scales, integer zero points, and what they leave.

A weight of GGML is `scale * q + minimum`. Where the minimum is no multiple of the scale, the nearest multiple becomes
the zero point, and the rest stays as a number a block, to be multiplied by the sum of the block's inputs.

Source: ggml's `ggml-quants.c`, as the `gguf` package has it in numpy; the numbers are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from builder_service.checkpoint.checkpoint import BlockFormat, FloatArray, PackedRows
from builder_service.checkpoint.gguf.values import (
    Bytes,
    codebook,
    five_bits,
    half,
    k_scales,
    low_then_high,
    q2_values,
    q3_scales,
    q3_values,
    q5_values,
    q6_values,
    xs_scales,
)

SYMMETRIC_4, SYMMETRIC_8 = 8, 128  # zero points where there is no minimum


@dataclass(frozen=True)
class Blocks:
    """Blocks of one stored type, taken apart."""

    values: Bytes
    """[blocks, inputs of a block]."""
    scales: FloatArray
    """[blocks]."""
    minimum: FloatArray | None = None
    """[blocks]; None: the zero point is `zero`."""
    zero: int = SYMMETRIC_8


def _q4_0(raw: Bytes) -> Blocks:
    return Blocks(low_then_high(raw[:, 2:]), half(raw, 0), zero=SYMMETRIC_4)


def _q4_1(raw: Bytes) -> Blocks:
    return Blocks(low_then_high(raw[:, 4:]), half(raw, 0), half(raw, 2))


def _q5_0(raw: Bytes) -> Blocks:
    return Blocks(five_bits(raw[:, 2:6], raw[:, 6:]) + np.uint8(SYMMETRIC_8 - 16), half(raw, 0))


def _q5_1(raw: Bytes) -> Blocks:
    return Blocks(five_bits(raw[:, 4:8], raw[:, 8:]), half(raw, 0), half(raw, 2))


def _q8_0(raw: Bytes) -> Blocks:
    return Blocks(raw[:, 2:] ^ np.uint8(SYMMETRIC_8), half(raw, 0))


def _iq4_nl(raw: Bytes) -> Blocks:
    return Blocks(codebook(low_then_high(raw[:, 2:])), half(raw, 0))


def _iq4_xs(raw: Bytes) -> Blocks:
    values = codebook(low_then_high(raw[:, 8:].reshape(-1, 16)))
    return Blocks(values, (half(raw, 0)[:, None] * xs_scales(raw[:, 2:4], raw[:, 4:8])).reshape(-1))


def _q2_k(raw: Bytes) -> Blocks:
    both = raw[:, :16]
    scales = half(raw, 80)[:, None] * (both & 15).astype(np.float32)
    minimum = half(raw, 82)[:, None] * (both >> 4).astype(np.float32)
    return Blocks(q2_values(raw[:, 16:80]), scales.reshape(-1), -minimum.reshape(-1))


def _q3_k(raw: Bytes) -> Blocks:
    scales = half(raw, 108)[:, None] * q3_scales(raw[:, 96:108])
    return Blocks(q3_values(raw[:, :32], raw[:, 32:96]), scales.reshape(-1), zero=4)


def _q4_k(raw: Bytes) -> Blocks:
    scales, minimum = k_scales(raw)
    return Blocks(low_then_high(raw[:, 16:].reshape(-1, 32)).reshape(-1, 32), scales, -minimum)


def _q5_k(raw: Bytes) -> Blocks:
    scales, minimum = k_scales(raw)
    return Blocks(q5_values(raw[:, 16:48], raw[:, 48:]), scales, -minimum)


def _q6_k(raw: Bytes) -> Blocks:
    scales = half(raw, 208)[:, None] * raw[:, 192:208].view(np.int8).astype(np.float32)
    return Blocks(q6_values(raw[:, :128], raw[:, 128:192]) + np.uint8(SYMMETRIC_8 - 32), scales.reshape(-1))


_Q = GGMLQuantizationType
_TYPES: Mapping[GGMLQuantizationType, tuple[BlockFormat, Callable[[Bytes], Blocks]]] = {
    _Q.Q4_0: (BlockFormat(4, 32), _q4_0),
    _Q.Q4_1: (BlockFormat(4, 32, corrected=True), _q4_1),
    _Q.Q5_0: (BlockFormat(8, 32), _q5_0),
    _Q.Q5_1: (BlockFormat(8, 32, corrected=True), _q5_1),
    _Q.Q8_0: (BlockFormat(8, 32), _q8_0),
    _Q.Q2_K: (BlockFormat(4, 16, corrected=True), _q2_k),
    _Q.Q3_K: (BlockFormat(4, 16), _q3_k),
    _Q.Q4_K: (BlockFormat(4, 32, corrected=True), _q4_k),
    _Q.Q5_K: (BlockFormat(8, 32, corrected=True), _q5_k),
    _Q.Q6_K: (BlockFormat(8, 16), _q6_k),
    _Q.IQ4_NL: (BlockFormat(8, 32), _iq4_nl),
    _Q.IQ4_XS: (BlockFormat(8, 32), _iq4_xs),
}
FLOATS = (_Q.F32, _Q.F16, _Q.BF16)
"""Types that an engine holds exactly as float32."""
_LARGEST = {4: 15, 8: 31}
"""Largest zero point where there is a minimum: values of such types have at most 5 bits."""


def block_format(kind: GGMLQuantizationType) -> BlockFormat | None:
    """How matrices of a type can be held as they are; None: not in blocks."""
    return _TYPES[kind][0] if kind in _TYPES else None


def kept_types() -> str:
    """Names of the types that can be held as they are, for an error."""
    return ", ".join(kind.name for kind in (*FLOATS, *_TYPES))


def pack(raw: Bytes, kind: GGMLQuantizationType) -> PackedRows:
    """Rows of stored bytes, [rows, bytes of a row], in the format of their type."""
    found, take_apart = _TYPES[kind]
    with np.errstate(all="ignore"):  # what is not finite is refused by whoever reads the rows
        blocks = take_apart(np.ascontiguousarray(raw).reshape(-1, GGML_QUANT_SIZES[kind][1]))
        zeros, rest = _zero_points(blocks, found)
    rows = len(raw)
    values, zeros = blocks.values.reshape(rows, -1, found.block), zeros.reshape(rows, -1)
    if found.bits == 4:
        pairs = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)), constant_values=SYMMETRIC_4)
        values, zeros = _in_bytes(values), _in_bytes(pairs)
    shape = (rows, -1)
    return PackedRows(values, blocks.scales.reshape(shape), zeros, None if rest is None else rest.reshape(shape))


def _zero_points(blocks: Blocks, found: BlockFormat) -> tuple[Bytes, FloatArray | None]:
    if blocks.minimum is None:
        return np.full(len(blocks.scales), blocks.zero, np.uint8), None
    scales, minimum = blocks.scales.astype(np.float64), blocks.minimum.astype(np.float64)
    multiple = np.divide(-minimum, scales, out=np.zeros_like(scales), where=scales != 0)
    zeros = np.clip(np.rint(np.nan_to_num(multiple)), 0, _LARGEST[found.bits])
    return zeros.astype(np.uint8), (minimum + scales * zeros).astype(np.float32)


def _in_bytes(values: npt.NDArray[np.uint8]) -> Bytes:
    """Two values a byte, the earlier in the low half."""
    return np.ascontiguousarray(values[..., 0::2] | values[..., 1::2] << np.uint8(4))
