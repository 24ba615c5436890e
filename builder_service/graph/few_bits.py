"""Matrices in few bits as a GPU multiplies them: symmetric, told by `DequantizeLinear`, and in bfloat16 from there on.

In float8 what they multiply is in float8 too, with one scale for the matrix that was found when it was rounded. It is
the same for every token, so that no token depends on what stands beside it in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from builder_service.checkpoint.checkpoint import BlockFormat, KeptTensors, Tensors
from builder_service.graph.graph import INT4, Array, Weight, WeightGroup, onnx_type
from builder_service.graph.kept import BFLOAT16, KeptLinear
from builder_service.graph.linear import INT8, Activation, Matrix
from builder_service.graph.quantize import FLOAT8

_KINDS: Mapping[tuple[int, bool], tuple[str, np.dtype[Any]]] = {
    (4, False): ("int4", INT4),
    (8, False): ("int8", INT8),
    (8, True): ("fp8", FLOAT8),
}
"""By bits, and whether they are a floating point number: how values are called, and their type."""


class FewBitLinear(KeptLinear):
    """`Linear` over a format for each matrix, all of them `on_gpu`."""

    def _multiply(self, activation: Activation, found: BlockFormat | None, matrix: Matrix) -> str:
        assert found is not None, matrix
        graph, rows = self._graph, activation.rows
        values, scales, *read = graph.weights(_group(matrix, found))
        if read:
            narrow = graph.node("QuantizeLinear", rows, read[0], output_dtype=onnx_type(FLOAT8))
            rows = graph.node("DequantizeLinear", narrow, read[0])
        blocks: dict[str, Any] = {"axis": 1, "block_size": found.block} if found.bits == 4 else {"axis": 0}
        return graph.node("Gemm", rows, graph.node("DequantizeLinear", values, scales, **blocks), transB=1)


def _group(matrix: Matrix, found: BlockFormat) -> WeightGroup:
    """Values [out, in], scales, and in float8 the scale of what they multiply."""
    kind, dtype = _KINDS[found.bits, found.floating]
    blocks = (matrix.inputs // found.block,) if found.bits == 4 else ()

    def produce(tensors: Tensors) -> Iterator[Array]:
        assert isinstance(tensors, KeptTensors), matrix
        scales, read = [], 0.0
        for name in matrix.tensors:
            for rows in tensors.packed(name):
                scales.append(rows.scales.astype(BFLOAT16))
                read = rows.read_scale
                yield _signed(rows.values, found).view(np.uint8 if dtype == INT4 else dtype)
        yield np.concatenate(scales)
        if found.floating:
            yield np.array(read, BFLOAT16)

    stem = matrix.name
    weights = [
        Weight(f"{stem}.{kind}", dtype, (matrix.outputs, matrix.inputs)),
        Weight(f"{stem}.scale", BFLOAT16, (matrix.outputs, *blocks)),
    ]
    weights += [Weight(f"{stem}.read", BFLOAT16, ())] if found.floating else []
    return WeightGroup(tuple(weights), produce)


def _signed(values: Array, found: BlockFormat) -> Array:
    """Whole numbers around the middle of their range as signed ones around zero: their highest bit turned."""
    if found.floating:
        return values
    turned: Array = values ^ np.uint8(0x88 if found.bits == 4 else 0x80)
    return turned
