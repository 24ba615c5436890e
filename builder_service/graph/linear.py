"""Matrices of the model in every precision: the nodes that multiply by them and the weights those read.

A projection takes rows [extent, in] and returns rows [extent, out], always in float32. What an activation needs
before a multiplication (its int8 form) is made once, by `prepare`, for all projections that read it. Every token is
treated on its own: what stands beside it in a batch does not change its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from builder_service.checkpoint.checkpoint import KeptTensors, Tensors
from builder_service.graph.graph import CONTRIB, Array, Graph, Weight, WeightGroup
from builder_service.graph.quantize import FACTOR_LARGEST, UINT8_ZERO, int8_rows
from common.spec.model_spec import Precision

SMALLEST_PEAK = 1e-8  # of an activation's row; a row of zeros stays one
FLOAT, INT8, UINT8 = np.dtype(np.float32), np.dtype(np.int8), np.dtype(np.uint8)


@dataclass(frozen=True)
class Matrix:
    """One multiplication: tensors of the checkpoint, each [out, in], whose outputs follow one another."""

    name: str
    tensors: tuple[str, ...]
    inputs: int
    outputs: int
    biases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Activation:
    """Rows that are ready to be multiplied."""

    rows: str  # [extent, in]
    scale: str = ""  # [extent, 1] float32, where rows are 8-bit
    not_finite: str = ""  # [extent, 1] float32, where the operator would lose it: 0, or NaN for such a row


class Linear(Protocol):
    """How one precision multiplies, in one graph."""

    def prepare(self, rows: str, extent: str) -> Activation:
        """Make float32 rows [extent, in] ready; rows of one extent are as many."""

    def project(self, activation: Activation, matrix: Matrix) -> str:
        """Multiply; float32 rows [extent, out]."""


class FloatLinear:
    """float32 as it stands in the checkpoint, rows untransposed."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def prepare(self, rows: str, extent: str) -> Activation:
        del extent
        return Activation(rows)

    def project(self, activation: Activation, matrix: Matrix) -> str:
        inputs = [activation.rows, float_weight(self._graph, matrix)]
        if matrix.biases:
            inputs.append(_bias(self._graph, matrix))
        return self._graph.node("Gemm", *inputs, transB=1)


class Int8Linear:
    """int8 weights with a scale an output; uint8 activations around FACTOR_LARGEST with a scale a token; sums in int32.

    Unsigned activations are what VNNI and AMX multiply; signed ones run 15 times slower in onnxruntime 1.31. Processors
    without either add pairs of products in 16 bits, which may saturate: activations and pairs of weights are kept small
    enough (`int8_factors`), so that an engine says the same everywhere.
    NaN and infinity in a row survive: its scale becomes NaN or infinite, and with it all of its outputs.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._zeros: dict[str, str] = {}  # FACTOR_LARGEST for every row, by extent

    def prepare(self, rows: str, extent: str) -> Activation:
        scale = self._scale(rows)
        flat = self._graph.node("Reshape", scale, self._graph.constant([-1], np.int64))
        if extent not in self._zeros:
            zero = self._graph.constant(FACTOR_LARGEST, np.uint8)
            self._zeros[extent] = self._graph.node("Expand", zero, self._graph.node("Shape", flat))
        return Activation(self._graph.node("QuantizeLinear", rows, flat, self._zeros[extent], axis=0), scale)

    def project(self, activation: Activation, matrix: Matrix) -> str:
        values, scales = self._graph.weights(_int8_transposed(matrix))
        one, zero = self._graph.constant(1, np.float32), self._graph.constant(FACTOR_LARGEST, np.uint8)
        inputs = (activation.rows, values, one, scales, zero)
        product = self._graph.node("MatMulIntegerToFloat", *inputs, domain=CONTRIB)
        return biased(self._graph, self._graph.node("Mul", product, activation.scale), matrix)

    def _scale(self, rows: str) -> str:
        """max(max|x|, SMALLEST_PEAK) / FACTOR_LARGEST of each row, [extent, 1]; NaN where a row holds one."""
        graph, columns = self._graph, self._graph.constant([1], np.int64)
        peak = graph.node("ReduceMax", graph.node("Abs", rows), columns, keepdims=1)  # passes over NaN
        peak = graph.node("Max", peak, graph.constant([SMALLEST_PEAK], np.float32), not_finite(graph, rows))
        return graph.node("Mul", peak, graph.constant([1 / FACTOR_LARGEST], np.float32))


LINEAR: Mapping[Precision, Callable[[Graph], Linear]] = {
    Precision.FP32: FloatLinear,
    Precision.INT8: Int8Linear,
}
"""How a precision without blocks multiplies."""


def float_weight(graph: Graph, matrix: Matrix) -> str:
    """The matrix in float32, [out, in]."""

    def produce(tensors: Tensors) -> Iterator[Array]:
        for name in matrix.tensors:
            yield from tensors.blocks(name)

    weight = Weight(f"{matrix.name}.weight", FLOAT, (matrix.outputs, matrix.inputs))
    return graph.weights(WeightGroup((weight,), produce))[0]


def int8_weight(graph: Graph, matrix: Matrix) -> tuple[str, str]:
    """The matrix in int8, [out, in], and its scales, [out, 1]."""

    def produce(tensors: Tensors) -> Iterator[Array]:
        scales = []
        for name in matrix.tensors:
            for block in tensors.blocks(name):
                values, block_scales = int8_rows(block)
                scales.append(block_scales)
                yield values
        yield np.concatenate(scales)

    values = Weight(f"{matrix.name}.int8", INT8, (matrix.outputs, matrix.inputs))
    scales = Weight(f"{matrix.name}.scale", FLOAT, (matrix.outputs, 1))
    first, second = graph.weights(WeightGroup((values, scales), produce))
    return first, second


def _int8_transposed(matrix: Matrix) -> WeightGroup:
    """int8 [in, out], as MatMulIntegerToFloat reads it, and scales [out]."""

    def produce(tensors: Tensors) -> Iterator[Array]:
        assert isinstance(tensors, KeptTensors), matrix
        values = np.empty((matrix.inputs, matrix.outputs), np.int8)
        scales = np.empty(matrix.outputs, np.float32)
        end = 0
        for name in matrix.tensors:
            for rows in tensors.packed(name):
                start, end = end, end + len(rows.values)
                values[:, start:end] = (rows.values[:, 0] ^ np.uint8(UINT8_ZERO)).view(np.int8).T
                scales[start:end] = rows.scales[:, 0]
        yield values
        yield scales

    values = Weight(f"{matrix.name}.int8", INT8, (matrix.inputs, matrix.outputs))
    return WeightGroup((values, Weight(f"{matrix.name}.scale", FLOAT, (matrix.outputs,))), produce)


def not_finite(graph: Graph, rows: str) -> str:
    """0 for a row of finite numbers, NaN for any other; [extent, 1]."""
    total = graph.node("ReduceSum", rows, graph.constant([1], np.int64), keepdims=1)
    return graph.node("Mul", total, graph.constant([0], np.float32))


def biased(graph: Graph, product: str, matrix: Matrix) -> str:
    return graph.node("Add", product, _bias(graph, matrix)) if matrix.biases else product


def _bias(graph: Graph, matrix: Matrix) -> str:
    def produce(tensors: Tensors) -> Iterator[Array]:
        for name in matrix.biases:
            yield tensors.tensor(name)

    weight = Weight(f"{matrix.name}.bias", FLOAT, (matrix.outputs,))
    return graph.weights(WeightGroup((weight,), produce))[0]
