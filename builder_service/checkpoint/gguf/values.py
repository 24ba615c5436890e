"""The quantized numbers of GGML's blocks, each type's bits put in order. Arrays are [blocks, bytes] and come out as
[blocks, values]; types of 256 values come out as their smaller blocks, each with a scale of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from gguf.quants import IQ4_NL

from builder_service.checkpoint.checkpoint import FloatArray

Bytes = npt.NDArray[np.uint8]
_CODES = (np.array(IQ4_NL.kvalues, np.int16) + 128).astype(np.uint8)


def half(raw: Bytes, at: int) -> FloatArray:
    """The float16 at a byte of each block, [blocks]."""
    return np.ascontiguousarray(raw[:, at : at + 2]).view("<f2").astype(np.float32).reshape(-1)


def low_then_high(packed: Bytes) -> Bytes:
    """4 bits: the low halves of all bytes of a block, then the high ones; a block of 64 becomes two."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def five_bits(high: Bytes, packed: Bytes) -> Bytes:
    """The fifth bits are 32 in a row."""
    bits = np.unpackbits(np.ascontiguousarray(high), axis=1, bitorder="little")
    return low_then_high(packed) | bits << np.uint8(4)


def codebook(values: Bytes) -> Bytes:
    """IQ4's numbers, around 128."""
    return _CODES[values]


def q2_values(packed: Bytes) -> Bytes:
    """[blocks * 16, 16]."""
    return _shifted(packed, 32, (0, 2, 4, 6), 3).reshape(-1, 16)


def q3_values(mask: Bytes, packed: Bytes) -> Bytes:
    """[blocks * 16, 16], from 0 to 7: a bit of the mask adds 4."""
    low, high = _shifted(packed, 32, (0, 2, 4, 6), 3), _shifted(mask, 32, range(8), 1)
    return (low | high << np.uint8(2)).reshape(-1, 16)


def q5_values(high: Bytes, packed: Bytes) -> Bytes:
    """[blocks * 8, 32]."""
    low = _shifted(packed, 32, (0, 4), 15)
    return (low | _shifted(high, 32, range(8), 1) << np.uint8(4)).reshape(-1, 32)


def q6_values(packed: Bytes, high: Bytes) -> Bytes:
    """[blocks * 16, 16]."""
    low = _shifted(packed, 64, (0, 4), 15)
    return (low | _shifted(high, 32, (0, 2, 4, 6), 3) << np.uint8(4)).reshape(-1, 16)


def q3_scales(packed: Bytes) -> FloatArray:
    """16 scales of 6 bits, around 32."""
    low, high = _shifted(packed[:, :8], 8, (0, 4), 15), _shifted(packed[:, 8:], 4, (0, 2, 4, 6), 3)
    return (low | high << np.uint8(4)).astype(np.float32) - np.float32(32)


def xs_scales(high: Bytes, low: Bytes) -> FloatArray:
    """8 scales of 6 bits, around 32."""
    words = np.ascontiguousarray(high).view("<u2")
    tops = (words >> np.arange(0, 16, 2, dtype=np.uint16) & 3).astype(np.uint8)
    lows = np.stack([low & 15, low >> 4], axis=-1).reshape(len(low), -1)
    return np.asarray(lows | tops << np.uint8(4), np.float32) - np.float32(32)


def k_scales(raw: Bytes) -> tuple[FloatArray, FloatArray]:
    """Scales and minima of Q4_K's and Q5_K's blocks of 32, [blocks * 8] each; a minimum is subtracted."""
    first, second, third = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scales = np.concatenate([first & 63, third & 15 | first >> 2 & 48], axis=1)
    minima = np.concatenate([second & 63, third >> 4 | second >> 2 & 48], axis=1)
    both = (half(raw, 0), scales), (half(raw, 2), minima)
    first_half, second_half = ((unit[:, None] * steps.astype(np.float32)).reshape(-1) for unit, steps in both)
    return first_half, second_half


def _shifted(packed: Bytes, width: int, shifts: Sequence[int], mask: int) -> Bytes:
    """Groups of `width` bytes, each once for every shift, and of each value the bits of the mask: [blocks, values]."""
    groups = packed.reshape(len(packed), -1, 1, width)
    values: Bytes = (groups >> np.array(shifts, np.uint8)[:, None]) & np.uint8(mask)
    return values.reshape(len(packed), -1)
