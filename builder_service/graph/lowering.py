"""A graph in operators that TensorRT documents, from one in those that ONNX Runtime's CPU runs fastest.

A pass over the finished graph, so that it works for every family. Operators of ONNX Runtime's own, and standard
operators in a form that TensorRT does not document, are rewritten in documented operators; all other nodes are copied.
`tensorrt.parser_rules` checks the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from builder_service.graph.graph import CONTRIB, Graph, attributes_of
from common.errors import InvalidArgument, Reason

_END = np.iinfo(np.int64).max  # of a slice: all there is

Rule = Callable[[Graph, Graph, onnx.NodeProto], None]  # what is made, what it is made from, and the node


def lower(graph: Graph) -> Graph:
    """The same computation in documented operators; nodes that no rule knows stay as they are.

    Raises InvalidArgument (INVALID_SPEC) for a mixture of experts, of which a GPU has no such operator.
    """
    if any(node.op_type == "MoE" for node in graph.nodes):
        message = "spec.target: mixtures of experts are built for onnxruntime only"
        raise InvalidArgument(Reason.INVALID_SPEC, message, field="spec.target")
    lowered = graph.derive("lowered_")
    for node in graph.nodes:
        rule = _RULES.get((node.domain, node.op_type), _copy)
        rule(lowered, graph, node)
    return lowered


def _copy(lowered: Graph, _: Graph, node: onnx.NodeProto) -> None:
    lowered.copy(node, node.input, node.output)


def _matmul(lowered: Graph, graph: Graph, node: onnx.NodeProto) -> None:
    """Product of rank 4, alpha * A @ B^T. Queries are scaled before it: in 16 bits it would overflow sooner."""
    attributes = attributes_of(node)
    alpha, transposed = attributes.pop("alpha", 1.0), attributes.pop("transB", 0)
    if any(attributes.values()):  # another form of the operator
        _copy(lowered, graph, node)
        return
    left, right = node.input
    scaled = lowered.node("Mul", left, lowered.constant(alpha, np.float32))
    right = lowered.node("Transpose", right, perm=[0, 1, 3, 2]) if transposed else right
    lowered.node("MatMul", scaled, right, out=node.output[0])


def _silu(lowered: Graph, _: Graph, node: onnx.NodeProto) -> None:
    """SiLU, x * sigmoid(alpha * x)."""
    (rows,) = node.input
    alpha = attributes_of(node).get("alpha", 1.702)
    scaled = rows if alpha == 1.0 else lowered.node("Mul", rows, lowered.constant(alpha, np.float32))
    lowered.node("Mul", rows, lowered.node("Sigmoid", scaled), out=node.output[0])


def _scatter(lowered: Graph, graph: Graph, node: onnx.NodeProto) -> None:
    """Scores over the first columns of others: cut and joined. The cache's own, which has rows to write to, stays."""
    if len(node.input) == 3:
        _copy(lowered, graph, node)
        return
    scores, over = node.input
    axis = attributes_of(node)["axis"]
    bounds = (lowered.constant([bound], np.int64) for bound in (graph.extent(over, axis), _END, axis))
    lowered.node("Concat", over, lowered.node("Slice", scores, *bounds), out=node.output[0], axis=axis)


def _rotary(lowered: Graph, graph: Graph, node: onnx.NodeProto) -> None:
    """[batch, step, heads * dim] as [batch, heads, step, dim], the one form that TensorRT's own layer takes."""
    attributes = attributes_of(node)
    heads = attributes.pop("num_heads", 0)
    if not heads:
        _copy(lowered, graph, node)
        return
    rows, *angles = node.input
    split = lowered.node("Reshape", rows, lowered.constant([0, 0, heads, -1], np.int64))
    split = lowered.node("Transpose", split, perm=[0, 2, 1, 3])
    rotated = lowered.node("RotaryEmbedding", split, *angles, **attributes)
    merged = lowered.node("Transpose", rotated, perm=[0, 2, 1, 3])
    lowered.node("Reshape", merged, lowered.constant([0, 0, -1], np.int64), out=node.output[0])


_RULES: Mapping[tuple[str, str], Rule] = {
    (CONTRIB, "FusedMatMul"): _matmul,
    (CONTRIB, "QuickGelu"): _silu,
    ("", "TensorScatter"): _scatter,
    ("", "RotaryEmbedding"): _rotary,
}
