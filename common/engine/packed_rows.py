"""Rows of int8 with a scale each as one array: the last bytes of a row are those of its scale, a float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from common.engine.engine import FloatArray

Bytes = npt.NDArray[np.int8]
_SCALE = np.dtype("<f4")


def packed_dim(dim: int) -> int:
    """Bytes of a row of `dim` numbers."""
    return dim + _SCALE.itemsize


def pack(numbers: Bytes, scales: FloatArray) -> Bytes:
    """[..., dim] and [..., 1] as [..., packed_dim(dim)]."""
    return np.concatenate([numbers, np.ascontiguousarray(scales, _SCALE).view(np.int8)], axis=-1)


def unpack(rows: Bytes) -> tuple[Bytes, FloatArray]:
    """What was packed."""
    numbers, scales = rows[..., : -_SCALE.itemsize], rows[..., -_SCALE.itemsize :]
    return numbers, np.ascontiguousarray(scales).view(_SCALE)


def as_floats(rows: npt.NDArray[Any]) -> FloatArray:
    """Rows of a state in any precision as float32: packed int8, uint16 with the bits of a bfloat16, or floats."""
    if rows.dtype == np.int8:
        numbers, scales = unpack(rows)
        return numbers * scales
    if rows.dtype == np.uint16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32)
