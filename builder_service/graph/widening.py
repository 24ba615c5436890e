"""A narrowed graph for a device without arithmetic in 16 bits: float32, every narrow value rounded as it would be.

ONNX Runtime's CPU runs it with the same weights file, inputs and outputs as its own graphs. Its numbers are those of
the narrow graph on a device that sums products in float32 and rounds what the graph says is narrow, and nothing else.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from builder_service.graph.graph import Graph, attributes_of, retyped
from builder_service.graph.half_precision import MOVES

_NARROW = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_EXACT = MOVES | {"TensorScatter", "Gather", "QuantizeLinear"}  # what yields no number that was not there, or rounds


def widen(graph: Graph) -> Graph:
    """The graph that computes in float32 what `graph` computes in 16 bits; as it is where nothing is narrow."""
    return _Widening(graph).run()


class _Widening:
    def __init__(self, graph: Graph) -> None:
        self._source = graph
        self._graph = graph.derive("widened_")
        self._narrow: dict[str, int] = {}  # types of the values that are narrow in the source
        self._wide: dict[str, str] = {}  # what a narrow weight is called in float32

    def run(self) -> Graph:
        self._widen_ports()
        self._widen_weights()
        for node in self._source.nodes:
            self._add(node)
        return self._graph

    def _widen_ports(self) -> None:
        for ports in (self._graph.inputs, self._graph.outputs):
            for index, port in enumerate(ports):
                dtype = port.type.tensor_type.elem_type
                if dtype in _NARROW:
                    self._narrow[port.name] = dtype
                    ports[index] = retyped(port, np.dtype(np.float32))

    def _widen_weights(self) -> None:
        for weight in (weight for group in self._source.groups for weight in group.weights):
            if weight.onnx_type in _NARROW:
                self._narrow[weight.name] = weight.onnx_type
                self._wide[weight.name] = self._graph.node("Cast", weight.name, to=TensorProto.FLOAT)

    def _add(self, node: onnx.NodeProto) -> None:
        inputs = [self._wide.get(name, name) for name in node.input]
        if node.op_type == "Cast" and (attributes_of(node)["to"] in _NARROW or node.input[0] in self._narrow):
            self._cast(node, inputs[0])
            return
        dtype = next((self._narrow[name] for name in node.input if name in self._narrow), None)
        if dtype is None or node.op_type == "Shape":
            self._graph.copy(node, inputs, node.output)
            return
        self._narrow |= dict.fromkeys(node.output, dtype)
        if node.op_type in _EXACT:
            self._graph.copy(node, inputs, node.output)
            return
        exact = [f"{name}_exact" for name in node.output]
        self._graph.copy(node, inputs, exact)
        for value, name in zip(exact, node.output, strict=True):
            self._round(value, name, dtype)

    def _cast(self, node: onnx.NodeProto, value: str) -> None:
        """Down: a rounding. Up: nothing, for what is narrow is already rounded."""
        dtype, (name,) = attributes_of(node)["to"], node.output
        if dtype in _NARROW:
            self._narrow[name] = dtype
            self._round(value, name, dtype)
        else:
            self._graph.node("Identity", value, out=name)

    def _round(self, value: str, name: str, dtype: int) -> None:
        self._graph.node("Cast", self._graph.node("Cast", value, to=dtype), out=name, to=TensorProto.FLOAT)
