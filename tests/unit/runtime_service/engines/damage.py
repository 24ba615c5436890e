"""Engines whose weights are not what they ought to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

HEAD_DIM = 16


def damage(graph: Path, matrix: str, change: Callable[[np.ndarray], None]) -> None:
    """Change the matrix whose name begins with `matrix` in the weights beside `graph`, as they are stored."""
    model = onnx.load(graph, load_external_data=False)
    (found,) = (
        tensor
        for tensor in model.graph.initializer
        if tensor.name.startswith(matrix) and tensor.name.endswith((".weight", ".int8", ".int4"))
    )
    place = {entry.key: entry.value for entry in found.external_data}
    dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(found.data_type)
    file = np.memmap(graph.with_name(place["location"]), dtype, "r+", int(place["offset"]), tuple(found.dims))
    change(file)
    file.flush()


def flip_a_weight(stored: np.ndarray) -> None:
    """Turn the sign of the largest weight around; bytes hold two weights of 4 bits, or one with 128 for zero."""
    if stored.dtype == np.uint8:
        stored.flat[0] ^= 0x88
    else:
        largest = int(np.abs(stored.astype(np.float64)).argmax())
        stored.flat[largest] = -stored.flat[largest]


def swap_two_heads(stored: np.ndarray) -> None:
    """Of the queries' or values' first two heads, one's weights for the other's: rows, or with int8 columns."""
    rows = stored.T if stored.dtype == np.int8 else stored
    first = rows[:HEAD_DIM].copy()
    rows[:HEAD_DIM] = rows[HEAD_DIM : 2 * HEAD_DIM]
    rows[HEAD_DIM : 2 * HEAD_DIM] = first
