"""An ONNX graph in the making: nodes, small constants inside it, and weights that lie in a file beside it.

Knows ONNX, but no model. Weights are only described here, with what will produce their bytes; `weights` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from builder_service.checkpoint.checkpoint import Tensors

OPSET = 24
IR_VERSION = 12  # the first that knows this opset: the older, the more can read it
CONTRIB = "com.microsoft"  # onnxruntime's own operators, for what the CPU runs faster so
OWN = "sinkserve"  # our operators, each with a function of ONNX's that says the same
INT4 = np.dtype(ml_dtypes.int4)  # of which a file has two in a byte, and numpy one
Array = npt.NDArray[Any]
Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Weight:
    """A tensor of the weights file."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def stored(self) -> np.dtype[Any]:
        """The type of the pieces that make it: whole bytes, where two values share one."""
        return np.dtype(np.uint8) if self.dtype == INT4 else self.dtype

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize // (2 if self.dtype == INT4 else 1)

    @property
    def onnx_type(self) -> int:
        """ONNX's number of the type."""
        return onnx_type(self.dtype)


@dataclass(frozen=True)
class WeightGroup:
    """Weights that are made together from tensors.

    `produce` yields C-contiguous pieces: first all of the first weight, then of the second; none spans two.
    """

    weights: tuple[Weight, ...]
    produce: Callable[[Tensors], Iterator[Array]]


@dataclass
class Graph:
    """Nodes in order of execution. Every method that adds one returns the name of its output.

    Names made here begin with `prefix`, so that a pass never reuses a name of the graph that it reads.
    """

    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    groups: list[WeightGroup] = field(default_factory=list)
    functions: dict[str, onnx.FunctionProto] = field(default_factory=dict)
    _shaped: list[onnx.ValueInfoProto] = field(default_factory=list)
    _constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = field(default_factory=dict)

    def input(self, name: str, dtype: type[np.generic], shape: Shape) -> str:
        """Declare an input; a word in the shape is an extent that varies."""
        self.inputs.append(helper.make_tensor_value_info(name, onnx_type(np.dtype(dtype)), shape))
        return name

    def output(self, name: str, dtype: type[np.generic], shape: Shape) -> None:
        """Declare the value `name` as an output."""
        self.outputs.append(helper.make_tensor_value_info(name, onnx_type(np.dtype(dtype)), shape))

    def shaped(self, name: str, dtype: type[np.generic], shape: Shape) -> str:
        """Declare the shape of an inner value: onnxruntime needs it to see that two values can share memory."""
        self._shaped.append(helper.make_tensor_value_info(name, onnx_type(np.dtype(dtype)), shape))
        return name

    def node(self, operator: str, *inputs: str, out: str = "", domain: str = "", **attributes: object) -> str:
        """Add a node with one output, named `out` where that matters."""
        return self.split(operator, *inputs, out=(out,), domain=domain, **attributes)[0]

    def split(
        self, operator: str, *inputs: str, out: tuple[str, ...], domain: str = "", **attributes: object
    ) -> list[str]:
        """Add a node with an output for every name in `out`; for an empty name one is made."""
        stem = f"{self.prefix}{operator}_{len(self.nodes)}"
        names = [name or f"{stem}_{index}" for index, name in enumerate(out)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=stem, domain=domain, **attributes))
        return names

    def choose(self, condition: str, first: Callable[[], str], second: Callable[[], str]) -> str:
        """The float32 value that `first` makes where `condition`, a truth value, holds, else what `second` makes.

        Only nodes of that one run; no node outside may read what a branch has made, but for its value.
        """
        stem = f"{self.prefix}If_{len(self.nodes)}"
        branches = {
            "then_branch": self._branch(f"{stem}_first_", first),
            "else_branch": self._branch(f"{stem}_second_", second),
        }
        return self.node("If", condition, **branches)

    def _branch(self, prefix: str, make: Callable[[], str]) -> onnx.GraphProto:
        outer = self.prefix, self.nodes, self._shaped
        self.prefix, self.nodes, self._shaped = prefix, [], []
        try:
            value = helper.make_tensor_value_info(make(), TensorProto.FLOAT, None)
            return helper.make_graph(self.nodes, prefix, [], [value], value_info=self._shaped)
        finally:
            self.prefix, self.nodes, self._shaped = outer

    def call(
        self, name: str, make: Callable[[Graph], str], *inputs: str, names: tuple[str, ...], **fixed: float
    ) -> str:
        """An operator of ours: by its kernel where there is one, else by what `make` makes of inputs called `names`.

        `fixed` are its attributes, which the function itself has no need of. All calls of a name are to one function.
        """
        if name not in self.functions:
            self.functions[name] = self._function(name, make, names, tuple(fixed))
        (output,) = self.split(name, *inputs, out=("",), domain=OWN, **fixed)
        return output

    @staticmethod
    def _function(
        name: str, make: Callable[[Graph], str], inputs: tuple[str, ...], attributes: tuple[str, ...]
    ) -> onnx.FunctionProto:
        body = Graph(prefix=f"{name}_")
        output = make(body)
        constants = [helper.make_node("Constant", [], [c.name], value=c) for c in body._constants.values()]
        nodes = [*constants, *body.nodes]
        opsets = _opsets(nodes)
        return helper.make_function(OWN, name, inputs, [output], nodes, opsets, attributes, value_info=body._shaped)

    def derive(self, prefix: str) -> Graph:
        """A graph without nodes, of the same inputs, outputs, weights and constants, for a pass to fill."""
        derived = Graph(prefix, inputs=[*self.inputs], outputs=[*self.outputs], groups=[*self.groups])
        derived._constants.update(self._constants)
        return derived

    def copy(self, node: onnx.NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Add a node like one of another graph, with other inputs and outputs."""
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.ClearField("input")
        copied.ClearField("output")
        copied.input.extend(inputs)
        copied.output.extend(outputs)
        self.nodes.append(copied)

    def extent(self, name: str, axis: int) -> int:
        """A fixed extent of a value whose shape was declared by `shaped`."""
        (info,) = (info for info in self._shaped if info.name == name)
        return int(info.type.tensor_type.shape.dim[axis].dim_value)

    @property
    def float_constants(self) -> frozenset[str]:
        """Names of the constants in float32."""
        return frozenset(t.name for t in self._constants.values() if t.data_type == TensorProto.FLOAT)

    def constant(self, values: object, dtype: type[np.generic]) -> str:
        """A small constant; equal ones are one."""
        array = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"constant_{len(self._constants)}")
        return str(self._constants[key].name)

    def weights(self, group: WeightGroup) -> list[str]:
        """Add weights of the weights file; returns their names."""
        self.groups.append(group)
        return [weight.name for weight in group.weights]

    def model(self, name: str, external: list[onnx.TensorProto]) -> onnx.ModelProto:
        """The finished model; `external` are the weights' descriptions."""
        initializers = [*self._constants.values(), *external]
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, initializers, value_info=self._shaped)
        bodies = [node for function in self.functions.values() for node in function.node]
        return helper.make_model(
            graph,
            opset_imports=_opsets([*self.nodes, *bodies]),
            ir_version=IR_VERSION,
            producer_name="sinkserve",
            functions=[*self.functions.values()],
        )


def _opsets(nodes: Iterable[onnx.NodeProto]) -> list[onnx.OperatorSetIdProto]:
    """ONNX's operators, and those domains besides that nodes and their branches use."""
    used = set(_domains(nodes))
    others = [helper.make_opsetid(domain, 1) for domain in (CONTRIB, OWN) if domain in used]
    return [helper.make_opsetid("", OPSET), *others]


def _domains(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Of nodes, and of those in their branches."""
    for node in nodes:
        yield node.domain
        for attribute in node.attribute:
            yield from _domains(attribute.g.node)


def onnx_type(dtype: np.dtype[Any]) -> int:
    """ONNX's number of a type."""
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def retyped(port: onnx.ValueInfoProto, dtype: np.dtype[Any]) -> onnx.ValueInfoProto:
    """An input or output of the same name and shape, in another type."""
    changed = onnx.ValueInfoProto()
    changed.CopyFrom(port)
    changed.type.tensor_type.elem_type = onnx_type(dtype)
    return changed


def describe(weight: Weight, location: str, offset: int) -> onnx.TensorProto:
    """A weight as ONNX names it: bytes `offset` and following of the file `location`."""
    tensor = TensorProto(name=weight.name, data_type=onnx_type(weight.dtype), dims=weight.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", weight.size_bytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
