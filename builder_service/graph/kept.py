"""Matrices in blocks of 4 or 8 bits, each in a format of its own: kept as a checkpoint stores them, or rounded by us.

`MatMulNBits` takes them, with activations in int8 by the same blocks. Where a block's minimum is no multiple of its
scale, what is left is multiplied by the sum of the block's inputs; the sums serve all matrices that read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from builder_service.checkpoint.checkpoint import BlockFormat, KeptTensors, Tensors
from builder_service.graph.graph import CONTRIB, Array, Graph, Weight, WeightGroup
from builder_service.graph.linear import FLOAT, UINT8, Activation, FloatLinear, Matrix, biased, not_finite
from builder_service.graph.quantize import block_count

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

INT64 = np.dtype(np.int64)


class KeptLinear:
    """`Linear` over a format for each matrix; those without one are float32.

    Tensors that one multiplication reads side by side stay together where they have one format, else each is
    multiplied by itself.
    """

    def __init__(self, graph: Graph, kept: Mapping[str, BlockFormat], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._graph = graph
        self._kept = kept
        self._shapes = shapes
        self._float = FloatLinear(graph)
        self._weights: dict[tuple[str, ...], list[str]] = {}  # by tensors: a tied embedding is there once
        self._made: dict[tuple[str, int], str] = {}  # what was made of an activation: sums by block; 0: not finite

    def prepare(self, rows: str, extent: str) -> Activation:
        del extent
        return Activation(rows)

    def project(self, activation: Activation, matrix: Matrix) -> str:
        if not any(name in self._kept for name in matrix.tensors):
            return self._float.project(activation, matrix)
        parts = [(found, tuple(names)) for found, names in groupby(matrix.tensors, key=self._kept.get)]
        products = [
            self._multiply(activation, found, self._part(matrix, names, alone=len(parts) == 1))
            for found, names in parts
        ]
        product = products[0] if len(products) == 1 else self._graph.node("Concat", *products, axis=-1)
        return biased(self._graph, product, matrix)

    def gather(self, name: str, ids: str) -> str:
        """Rows of a kept matrix as float32, [ids, in]."""
        graph, found = self._graph, self._kept[name]
        outputs, inputs = self._shapes[name]
        blocks = block_count(inputs, found.block)
        assert not found.order, name
        weights, rest, _ = self._packed(Matrix(name, (name,), inputs, outputs), found)
        values, scales, zeros = (graph.node("Gather", weight, ids) for weight in weights)
        if found.bits == 4:
            values, zeros = self._halves(values), self._halves(zeros)
            zeros = graph.node("Slice", zeros, *(graph.constant([at], np.int64) for at in (0, blocks, 1)))
        shape = graph.constant([0, blocks, -1], np.int64)
        value, zero, scale = (graph.node("Reshape", each, shape) for each in (values, zeros, scales))
        value, zero = (graph.node("Cast", each, to=TensorProto.FLOAT) for each in (value, zero))
        rows = graph.node("Mul", graph.node("Sub", value, zero), scale)
        if rest:
            rows = graph.node("Add", rows, graph.node("Reshape", graph.node("Gather", rest, ids), shape))
        rows = graph.node("Reshape", rows, graph.constant([0, blocks * found.block], np.int64))
        if blocks * found.block == inputs:
            return rows
        return graph.node("Slice", rows, *(graph.constant([at], np.int64) for at in (0, inputs, 1)))

    def _part(self, matrix: Matrix, names: tuple[str, ...], *, alone: bool) -> Matrix:
        outputs = sum(self._shapes[name][0] for name in names)
        name = matrix.name if alone else _joined(names)
        return replace(matrix, name=name, tensors=names, outputs=outputs, biases=())

    def _multiply(self, activation: Activation, found: BlockFormat | None, matrix: Matrix) -> str:
        if found is None:
            return self._float.project(activation, matrix)
        graph, rows = self._graph, activation.rows
        weights, rest, order = self._packed(matrix, found)
        if order:
            rows = graph.node("Gather", rows, order, axis=1)
        sizes: dict[str, Any] = {"K": matrix.inputs, "N": matrix.outputs, "bits": found.bits, "block_size": found.block}
        product = graph.node("MatMulNBits", rows, *weights, domain=CONTRIB, accuracy_level=4, **sizes)
        if rest:  # the sums carry NaN and infinity too, which the operator loses
            return graph.node("Gemm", self._sums(rows, found.block, matrix.inputs), rest, product, transB=1)
        if (rows, 0) not in self._made:
            self._made[rows, 0] = not_finite(graph, rows)
        return graph.node("Add", product, self._made[rows, 0])

    def _sums(self, rows: str, block: int, inputs: int) -> str:
        """Sum of each block of inputs, [extent, blocks]."""
        if (rows, block) not in self._made:
            shape = self._graph.constant([0, inputs // block, block], np.int64)
            blocks = self._graph.node("Reshape", rows, shape)
            last = self._graph.constant([2], np.int64)
            self._made[rows, block] = self._graph.node("ReduceSum", blocks, last, keepdims=0)
        return self._made[rows, block]

    def _packed(self, matrix: Matrix, found: BlockFormat) -> tuple[list[str], str, str]:
        """What the operator takes, what is left of the minima, and the order of the inputs."""
        if matrix.tensors not in self._weights:
            values, scales, *others = self._graph.weights(_group(matrix, found))
            if found.short_scales:
                scales = self._graph.node("Cast", scales, to=TensorProto.FLOAT)  # once, when an engine is loaded
            self._weights[matrix.tensors] = [values, scales, *others]
        names = list(self._weights[matrix.tensors])
        order = names.pop() if found.order else ""
        return names[:3], names[3] if found.corrected else "", order

    def _halves(self, packed: str) -> str:
        """[..., bytes] as [..., 2 * bytes]: the low half of each, then the high one."""
        graph, last = self._graph, self._graph.constant([-1], np.int64)
        low = graph.node("BitwiseAnd", packed, graph.constant(15, np.uint8))
        high = graph.node("BitShift", packed, graph.constant(4, np.uint8), direction="RIGHT")
        both = (graph.node("Unsqueeze", half, last) for half in (low, high))
        pairs = graph.node("Concat", *both, axis=-1)
        return graph.node("Reshape", pairs, graph.constant([0, -1], np.int64))


def _joined(names: tuple[str, ...]) -> str:
    """One name for tensors of one part of a layer."""
    stems = [name.removesuffix(".weight").rpartition(".") for name in names]
    return f"{stems[0][0]}.{'_'.join(last for _, _, last in stems)}"


def _scales(found: BlockFormat) -> np.dtype[Any]:
    return BFLOAT16 if found.short_scales else FLOAT


def _group(matrix: Matrix, found: BlockFormat) -> WeightGroup:
    """Values, scales, zero points, and where the format has them what is left of the minima and the inputs' order."""

    def produce(tensors: Tensors) -> Iterator[Array]:
        assert isinstance(tensors, KeptTensors), matrix
        others: list[tuple[Array, ...]] = []
        order: Array | None = None
        for name in matrix.tensors:
            for rows in tensors.packed(name):
                others.append(
                    (rows.scales.astype(_scales(found)), rows.zeros, *([] if rows.rest is None else [rows.rest]))
                )
                order = rows.order
                yield rows.values
        yield from map(np.concatenate, zip(*others, strict=True))
        if order is not None:
            yield order

    outputs, blocks, bits = matrix.outputs, block_count(matrix.inputs, found.block), found.bits
    weights = [
        Weight(f"{matrix.name}.int{bits}", UINT8, (outputs, blocks, found.block * bits // 8)),
        Weight(f"{matrix.name}.scale", _scales(found), (outputs, blocks)),
        Weight(f"{matrix.name}.zero", UINT8, (outputs, -(-blocks * bits // 8))),
    ]
    if found.corrected:
        weights.append(Weight(f"{matrix.name}.rest", FLOAT, (outputs, blocks)))
    if found.order:
        weights.append(Weight(f"{matrix.name}.order", INT64, (matrix.inputs,)))
    return WeightGroup(tuple(weights), produce)
