"""What TensorRT's ONNX parser documents, checked node by node before anything is given to it.

Source: `docs/operators.md` of the ONNX parser of TensorRT 10.15 (opsets 9 to 24), and the notes of IKVCacheUpdateLayer:
a linear cache of static capacity that is an input of the network, and whose updated form is an output in its memory.
What is allowed is compiled by TensorRT-RTX in the tests, and what it takes beyond that has its reason there
(`tests/samples/broken_graphs.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import TensorProto

from builder_service.graph.graph import attributes_of
from common.errors import Internal, Reason

OPSETS = range(9, 25)
DYNAMIC = frozenset({"batch", "step", "outputs"})  # the extents that optimization profiles cover
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
NUMBERS = FLOATS | {TensorProto.INT32, TensorProto.INT64}
ANY = NUMBERS | {TensorProto.BOOL}
QUANTIZED = frozenset({TensorProto.INT4, TensorProto.INT8, TensorProto.FLOAT8E4M3FN})
SUPPORTED: Mapping[str, frozenset[int]] = {
    "Add": NUMBERS,
    "Cast": ANY,
    "Concat": ANY,
    "DequantizeLinear": QUANTIZED | {TensorProto.BFLOAT16},
    "Gather": ANY,
    "GatherND": ANY,
    "Gelu": FLOATS,
    "Gemm": FLOATS,
    "Identity": ANY,
    "LayerNormalization": FLOATS,
    "MatMul": FLOATS,
    "Mul": NUMBERS,
    "QuantizeLinear": frozenset({TensorProto.FLOAT8E4M3FN, TensorProto.BFLOAT16}),
    "RMSNormalization": FLOATS,
    "Relu": FLOATS,
    "Reshape": ANY,
    "RotaryEmbedding": FLOATS,
    "Shape": ANY,
    "Sigmoid": FLOATS,
    "Slice": ANY,
    "Softmax": FLOATS,
    "Split": ANY,
    "Tanh": FLOATS,
    "TensorScatter": FLOATS,
    "Transpose": ANY,
    "Unsqueeze": ANY,
}
"""Operators and the types that they take."""
CONSTANT_INPUTS: Mapping[str, tuple[int, ...]] = {"Slice": (1, 2, 3), "Split": (1,), "Unsqueeze": (1,)}
"""Inputs that have to be known when the network is built."""


def check_rules(model: onnx.ModelProto) -> None:
    """Raises Internal for the first node that TensorRT does not document, naming node, operator and rule."""
    for opset in model.opset_import:
        if opset.domain or opset.version not in OPSETS:
            known = f"ONNX's own, of {OPSETS.start} to {OPSETS.stop - 1}"
            raise Internal(Reason.INTERNAL, f"opset {opset.domain or 'ai.onnx'} {opset.version} is not one of {known}")
    network = _Network(_inferred(model))
    for port in (*model.graph.input, *model.graph.output):
        for broken in network.broken_extents(port):
            raise Internal(Reason.INTERNAL, f"input or output {port.name}: {broken}")
    for node in model.graph.node:
        for broken in network.broken_rules(node):
            message = f"node {node.name} ({node.op_type}) is not what TensorRT documents: {broken}"
            raise Internal(Reason.INTERNAL, message, node=node.name, operator=node.op_type)


@dataclass(frozen=True)
class _Network:
    """A model whose shapes were inferred."""

    model: onnx.ModelProto

    @cached_property
    def values(self) -> dict[str, onnx.TypeProto.Tensor]:
        graph = self.model.graph
        return {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def caches(self) -> list[str]:
        """What is written to, as often as it is."""
        return [node.input[0] for node in self.model.graph.node if node.op_type == "TensorScatter"]

    def type_of(self, name: str) -> int:
        """Element type; 0 where inference did not find it."""
        if name in self.initializers:
            return int(self.initializers[name].data_type)
        return int(self.values[name].elem_type) if name in self.values else 0

    def shape_of(self, name: str) -> tuple[int | str, ...] | None:
        """Extents: numbers, names, or empty where unknown; None: not even the rank is known."""
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        if name not in self.values or not self.values[name].HasField("shape"):
            return None
        return tuple(extent.dim_value or extent.dim_param for extent in self.values[name].shape.dim)

    def broken_extents(self, value: onnx.ValueInfoProto) -> Iterator[str]:
        for extent in self.shape_of(value.name) or ("",):
            if not isinstance(extent, int) and extent not in DYNAMIC:
                yield f"extent {extent!r} varies; only {', '.join(sorted(DYNAMIC))} may"

    def broken_rules(self, node: onnx.NodeProto) -> Iterator[str]:
        if node.domain or node.op_type not in SUPPORTED:
            yield f"operator {node.domain or 'ai.onnx'}::{node.op_type} is not in its table"
            return
        yield from self._broken_types(node)
        yield from self._broken_constants(node)
        if (rule := _RULES.get(node.op_type)) is not None:
            yield from rule(self, node)

    def _broken_types(self, node: onnx.NodeProto) -> Iterator[str]:
        names = [name for name in (*node.input, *node.output) if name]
        for name in names:
            if self.shape_of(name) is None:
                yield f"the rank of {name} is not known"
        types = {self.type_of(name) for name in names}
        if not types <= SUPPORTED[node.op_type] | {TensorProto.INT64}:
            yield f"types {_named(types)}; {_named(SUPPORTED[node.op_type])} are taken"
        if node.op_type != "Cast" and len(types & FLOATS) > 1:
            yield f"types {_named(types & FLOATS)} meet, and a strongly typed network does not cast"

    def _broken_constants(self, node: onnx.NodeProto) -> Iterator[str]:
        for index in CONSTANT_INPUTS.get(node.op_type, ()):
            if index < len(node.input) and node.input[index] not in self.initializers:
                yield f"input {index} ({node.input[index]}) is not a constant"

    def broken_cache(self, node: onnx.NodeProto) -> Iterator[str]:
        values = attributes_of(node)
        if values.get("axis", -2) != -2 or values.get("mode", b"linear") != b"linear":
            yield "axis must be -2 and mode linear"
        for name in node.input[:2]:
            if len(self.shape_of(name) or ()) != 4:
                yield f"{name} has {len(self.shape_of(name) or ())} dimensions; 4 are needed"
        cache = self.shape_of(node.input[0]) or ()
        if not all(isinstance(extent, int) and extent > 0 for extent in cache[1:]):
            yield f"the capacity of {node.input[0]} is not static: {cache}"
        if len(node.input) != 3:
            yield "the rows to write to are not given"
        if self.caches.count(node.input[0]) > 1:
            yield f"the cache {node.input[0]} is written more than once"
        if self.shape_of(node.output[0]) != cache or self.type_of(node.output[0]) != self.type_of(node.input[0]):
            yield f"{node.output[0]} has not the shape and type of {node.input[0]}, whose memory it shares"
        if node.input[0] not in {value.name for value in self.model.graph.input}:
            yield f"the cache {node.input[0]} is not an input of the network"
        if node.output[0] not in {value.name for value in self.model.graph.output}:
            yield f"the updated cache {node.output[0]} is not an output of the network"

    def broken_rotation(self, node: onnx.NodeProto) -> Iterator[str]:
        if len(self.shape_of(node.input[0]) or ()) != 4:
            yield "rotation takes [batch, heads, step, dim]"
        if [len(self.shape_of(name) or ()) for name in node.input[1:]] != [3, 3]:
            yield "angles come as [batch, step, dim / 2], without position_ids"

    def broken_scale(self, node: onnx.NodeProto) -> Iterator[str]:
        if len(node.input) != 2:
            yield "zero points are not supported"
        if node.input[1] not in self.initializers:
            yield f"the scale {node.input[1]} is not a constant"
        values, scales = (self.shape_of(name) or () for name in node.input[:2])
        block = attributes_of(node).get("block_size", 0)
        if block and values != (*scales[:-1], block * int(scales[-1] or 0)):
            yield f"{node.input[0]} {values} is not in whole blocks of {block}, of which there are {scales}"

    def broken_norm(self, node: onnx.NodeProto) -> Iterator[str]:
        if len(node.output) != 1:
            yield "only the first output is supported"


_RULES: Mapping[str, Callable[[_Network, onnx.NodeProto], Iterator[str]]] = {
    "TensorScatter": _Network.broken_cache,
    "RotaryEmbedding": _Network.broken_rotation,
    "LayerNormalization": _Network.broken_norm,
    "QuantizeLinear": _Network.broken_scale,
    "DequantizeLinear": _Network.broken_scale,
}


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types and shapes of its values; raises Internal where they contradict one another."""
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise Internal(Reason.INTERNAL, f"types and shapes of the graph contradict one another: {error}") from error


def _named(types: frozenset[int] | set[int]) -> str:
    return ", ".join(sorted(TensorProto.DataType.Name(each) if each else "unknown" for each in types))
