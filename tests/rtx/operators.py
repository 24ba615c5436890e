"""Every operator that the checker allows, in every type, as graphs of one node and as one graph of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from builder_service.tensorrt.parser_rules import OPSETS, QUANTIZED, SUPPORTED

ROWS, COLUMNS, BLOCK = 4, 8, 32
Part = tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto], list[onnx.ValueInfoProto], list[onnx.TensorProto]]


def each() -> Iterator[tuple[str, onnx.ModelProto]]:
    """A graph for each operator and type, with a name."""
    for operator, types in SUPPORTED.items():
        for dtype in _kinds(operator, types):
            name = f"{operator}_{TensorProto.DataType.Name(dtype)}"
            yield name, _model([_part(operator, dtype, name)])


def all_in_one() -> onnx.ModelProto:
    """All of them side by side."""
    cases = [(operator, dtype) for operator, types in SUPPORTED.items() for dtype in _kinds(operator, types)]
    return _model([_part(operator, dtype, f"{operator}_{dtype}") for operator, dtype in cases])


def _model(parts: Sequence[Part]) -> onnx.ModelProto:
    nodes, inputs, outputs, constants = ([item for part in parts for item in part[kind]] for kind in range(4))
    graph = helper.make_graph(nodes, "operators", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSETS[-1])], ir_version=11)


def _kinds(operator: str, types: frozenset[int]) -> list[int]:
    """Types of what it reads; of numbers in few bits, those, and not what they are in between."""
    return sorted(types & QUANTIZED if operator in {"QuantizeLinear", "DequantizeLinear"} else types)


def _part(operator: str, dtype: int, name: str) -> Part:
    if operator in {"QuantizeLinear", "DequantizeLinear"}:
        return _in_few_bits(operator, dtype, name)
    shapes = _INPUTS.get(operator, ((ROWS, COLUMNS),) * (2 if operator in _OF_TWO else 1))
    inputs = [_port(f"{name}_in{index}", dtype, shape) for index, shape in enumerate(shapes)]
    constants = [make(f"{name}_constant{index}", dtype) for index, make in enumerate(_CONSTANTS.get(operator, ()))]
    if operator == "TensorScatter":
        inputs.append(_port(f"{name}_rows", TensorProto.INT64, (1,)))
    names = [value.name for value in (*inputs, *constants)]
    outputs = [f"{name}_out{index}" for index in range(2 if operator == "Split" else 1)]
    node = helper.make_node(operator, names, outputs, name=name, **_ATTRIBUTES.get(operator, {}))
    kind = {"Cast": TensorProto.FLOAT, "Shape": TensorProto.INT64}.get(operator, dtype)
    return [node], inputs, [helper.make_tensor_value_info(out, kind, None) for out in outputs], constants


def _in_few_bits(operator: str, dtype: int, name: str) -> Part:
    """A product by weights in few bits; by rows in float8 for the operator that makes them."""
    ports = [_port(f"{name}_{end}", TensorProto.BFLOAT16, (ROWS, BLOCK)) for end in ("in", "out")]
    count = BLOCK * BLOCK // (2 if dtype == TensorProto.INT4 else 1)
    values = helper.make_tensor(f"{name}_values", dtype, (BLOCK, BLOCK), bytes(count), raw=True)
    scale = helper.make_tensor(f"{name}_scale", TensorProto.BFLOAT16, (), [1])
    blocks = {"axis": 1, "block_size": BLOCK} if dtype == TensorProto.INT4 else {"axis": 0}
    scales = (BLOCK, 1) if dtype == TensorProto.INT4 else (BLOCK,)
    each = helper.make_tensor(f"{name}_scales", TensorProto.BFLOAT16, scales, [1] * BLOCK)
    nodes = [helper.make_node("DequantizeLinear", [values.name, each.name], [f"{name}_weights"], **blocks)]
    rows = ports[0].name
    if operator == "QuantizeLinear":
        nodes += [
            helper.make_node(operator, [rows, scale.name], [f"{name}_narrow"], name=name, output_dtype=dtype),
            helper.make_node("DequantizeLinear", [f"{name}_narrow", scale.name], [f"{name}_rows"]),
        ]
        rows = f"{name}_rows"
    nodes.append(helper.make_node("Gemm", [rows, f"{name}_weights"], [ports[1].name], transB=1))
    return nodes, ports[:1], ports[1:], [values, each, scale]


def _port(name: str, dtype: int, shape: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def _ones(*shape: int) -> Callable[[str, int], onnx.TensorProto]:
    return lambda name, dtype: helper.make_tensor(name, dtype, shape, [1] * int(np.prod(shape)))


def _numbers(*values: object) -> Callable[[str, int], onnx.TensorProto]:
    return lambda name, _dtype: numpy_helper.from_array(np.array(values, np.int64), name)


_OF_TWO = ("Add", "Concat", "Mul")
_INPUTS = {
    "RotaryEmbedding": ((1, 2, 4, 8), (1, 4, 4), (1, 4, 4)),
    "TensorScatter": ((1, 2, 8, 8), (1, 2, 1, 8)),
}
_CONSTANTS: dict[str, tuple[Callable[[str, int], onnx.TensorProto], ...]] = {
    "Gather": (_numbers(0, 1),),
    "GatherND": (_numbers((0, 1)),),
    "Gemm": (_ones(COLUMNS, COLUMNS),),
    "LayerNormalization": (_ones(COLUMNS),),
    "MatMul": (_ones(COLUMNS, COLUMNS),),
    "RMSNormalization": (_ones(COLUMNS),),
    "Reshape": (_numbers(COLUMNS, ROWS),),
    "Slice": (_numbers(0), _numbers(2), _numbers(0)),
    "Split": (_numbers(ROWS, ROWS),),
    "Unsqueeze": (_numbers(0),),
}
_ATTRIBUTES: dict[str, dict[str, object]] = {
    "Cast": {"to": TensorProto.FLOAT},
    "Concat": {"axis": 0},
    "Gemm": {"transB": 1},
    "LayerNormalization": {"axis": -1},
    "RMSNormalization": {"axis": -1},
    "Softmax": {"axis": -1},
    "Split": {"axis": 1},
    "TensorScatter": {"axis": -2},
    "Transpose": {"perm": [1, 0]},
}
