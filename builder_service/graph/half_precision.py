"""A lowered graph in 16 bits, strongly typed: every value has the type that it is computed in, with explicit casts.

Narrow (16 bits) are the values that take memory bandwidth: weights, keys and values, matrix products. Wide (float32)
are those that rounding would harm and that are small: norms, rotation, softmax, masks, activations, and the residual
stream, to which every layer adds (with 8 bits of mantissa small additions vanish; in float16 its few huge numbers come
close to 65,504). An operator that only moves numbers keeps their type. So a number is rounded when it enters or leaves
a product, and when it enters the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.graph.graph import Array, Graph, WeightGroup, onnx_type, retyped
from common.errors import InvalidArgument, Reason
from common.spec.model_spec import Precision

DTYPES: Mapping[Precision, np.dtype[Any]] = {
    Precision.FP32: np.dtype(np.float32),
    Precision.FP16: np.dtype(np.float16),
    Precision.BF16: np.dtype(ml_dtypes.bfloat16),
}
NARROW = frozenset(
    {"MatMul", "Gemm", "TensorScatter", "Gather", "QuantizeLinear", "DequantizeLinear"}
)  # products and what is in few bits, caches, rows of the embedding
MOVES = frozenset({"Reshape", "Transpose", "Split", "Slice", "Concat", "GatherND", "Unsqueeze", "Identity"})
WIDE = np.dtype(np.float32)


def narrow(graph: Graph, precision: Precision) -> Graph:
    """The float32 `graph` in `precision`; for fp32 the same graph."""
    return graph if precision is Precision.FP32 else _Narrowing(graph, precision).run()


class _Narrowing:
    def __init__(self, graph: Graph, precision: Precision) -> None:
        self._source, self._precision = graph, precision
        self._narrow = DTYPES[precision]
        self._graph = graph.derive("narrowed_")
        self._types: dict[str, np.dtype[Any]] = dict.fromkeys(graph.float_constants, WIDE)
        self._casts: dict[str, str] = {}  # a value, and what it is in the other type

    def run(self) -> Graph:
        self._type_weights()
        self._type_ports()
        for node in self._source.nodes:
            self._add(node)
        return self._graph

    def _type_weights(self) -> None:
        """Make the weights that a product reads narrow, and leave the scales of norms wide."""
        read = {name for node in self._source.nodes if node.op_type in NARROW for name in node.input}
        for index, group in enumerate(self._source.groups):
            if any(weight.dtype != WIDE for weight in group.weights):  # in few bits, and their scales, narrow already
                self._types |= {weight.name: weight.dtype for weight in group.weights if weight.dtype == self._narrow}
                continue
            types = {self._narrow if weight.name in read else weight.dtype for weight in group.weights}
            assert len(types) == 1, group.weights
            (dtype,) = types
            self._types |= dict.fromkeys((weight.name for weight in group.weights), dtype)
            if dtype == self._narrow:
                self._graph.groups[index] = _rounded(group, self._precision)

    def _type_ports(self) -> None:
        """Make the caches narrow, as inputs and as outputs; leave the rest."""
        scatters = [node for node in self._source.nodes if node.op_type == "TensorScatter"]
        caches = {node.input[0] for node in scatters} | {node.output[0] for node in scatters}
        for ports in (self._graph.inputs, self._graph.outputs):
            for index, port in enumerate(ports):
                if port.name in caches:
                    ports[index] = retyped(port, self._narrow)
        floats = [port for port in self._graph.inputs if port.type.tensor_type.elem_type != onnx.TensorProto.INT64]
        self._types |= {port.name: self._narrow if port.name in caches else WIDE for port in floats}

    def _add(self, node: onnx.NodeProto) -> None:
        types = [self._types[name] for name in node.input if name in self._types]
        if not types or node.op_type == "Shape":
            self._graph.copy(node, node.input, node.output)
            return
        dtype = self._type_of(node.op_type, types)
        inputs = [self._cast(name, dtype) if name in self._types else name for name in node.input]
        self._types |= dict.fromkeys(node.output, dtype)
        outputs = [self._inner(name) for name in node.output]
        self._graph.copy(node, inputs, outputs)
        for inner, name in zip(outputs, node.output, strict=True):
            if inner != name:
                self._graph.node("Cast", inner, out=name, to=onnx_type(WIDE))

    def _type_of(self, operator: str, types: list[np.dtype[Any]]) -> np.dtype[Any]:
        if operator in NARROW:
            return self._narrow
        return self._narrow if operator in MOVES and WIDE not in types else WIDE

    def _inner(self, name: str) -> str:
        """Another name for an output of the graph that is wide but comes from a narrow node."""
        declared = {port.name: port.type.tensor_type.elem_type for port in self._graph.outputs}
        found = onnx_type(self._types[name])
        return name if declared.get(name, found) == found else f"{name}_narrow"

    def _cast(self, name: str, dtype: np.dtype[Any]) -> str:
        if self._types[name] == dtype:
            return name
        if name not in self._casts:
            cast = self._graph.node("Cast", name, to=onnx_type(dtype))
            self._casts[name] = cast
        return self._casts[name]


def _rounded(group: WeightGroup, precision: Precision) -> WeightGroup:
    """The weights in 16 bits; `produce` raises InvalidArgument (CHECKPOINT_INVALID) for one that is too large."""
    dtype = DTYPES[precision]

    def produce(tensors: Tensors) -> Iterator[Array]:
        for piece in group.produce(tensors):
            with np.errstate(over="ignore"):
                rounded = piece.astype(dtype)
            if not np.isfinite(rounded).all():
                raise _too_large(group, precision)
            yield rounded

    return WeightGroup(tuple(replace(weight, dtype=dtype) for weight in group.weights), produce)


def _too_large(group: WeightGroup, precision: Precision) -> InvalidArgument:
    names = ", ".join(weight.name for weight in group.weights)
    message = f"spec.precision: {names} has weights beyond what {precision.value} can hold; bf16 and fp32 hold them"
    return InvalidArgument(Reason.CHECKPOINT_INVALID, message, field="spec.precision", weights=names)
