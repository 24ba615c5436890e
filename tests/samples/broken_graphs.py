"""Graphs that the checker forbids: a valid graph for TensorRT with one mistake, and what the real compiler says of it.

Where TensorRT-RTX takes what the checker forbids, `why` says why it stays forbidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper


@dataclass(frozen=True)
class Broken:
    """A mistake, the operator that it is about, the rule that it breaks, and what the real compiler makes of it."""

    plant: Callable[[onnx.ModelProto], None]
    operator: str
    rule: str
    refused_by: str = ""
    """`parser` or `compiler`; empty: neither."""
    why: str = ""
    """It is forbidden although it is taken."""

    @property
    def name(self) -> str:
        return self.plant.__name__.strip("_")


def _node(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def _set(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    node.ClearField("attribute")
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _port(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    return next(port for port in (*model.graph.input, *model.graph.output) if port.name == name)


def _foreign_domain(model: onnx.ModelProto) -> None:
    _node(model, "Sigmoid").domain = "ai.example"
    model.opset_import.append(helper.make_opsetid("ai.example", 1))


def _undocumented(model: onnx.ModelProto) -> None:
    _node(model, "Sigmoid").op_type = "Det"


def _another_operator(model: onnx.ModelProto) -> None:
    _node(model, "Sigmoid").op_type = "HardSigmoid"


def _new_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 25


def _mixed_types(model: onnx.ModelProto) -> None:
    attribute = next(node for node in model.graph.node if node.op_type == "Cast").attribute[0]
    attribute.i = TensorProto.FLOAT if attribute.i != TensorProto.FLOAT else TensorProto.FLOAT16


def _mixed_scale(model: onnx.ModelProto) -> None:
    """RMSNormalization is the one operator here whose schema lets its inputs differ; inference does not."""
    _narrow_input(model, _node(model, "RMSNormalization"))


def _mixed_sum(model: onnx.ModelProto) -> None:
    of_floats = (node for node in model.graph.node if node.op_type == "Add" and node.output[0].startswith("residual"))
    _narrow_input(model, next(of_floats))


def _narrow_input(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    index = list(model.graph.node).index(node)
    cast = helper.make_node("Cast", [node.input[0]], ["narrowed"], name="narrowing", to=TensorProto.FLOAT16)
    node.input[0] = "narrowed"
    model.graph.node.insert(index, cast)


def _wrong_axis(model: onnx.ModelProto) -> None:
    _set(_node(model, "TensorScatter"), "axis", 2)


def _circular(model: onnx.ModelProto) -> None:
    _set(_node(model, "TensorScatter"), "mode", "circular")


def _no_rows_to_write(model: onnx.ModelProto) -> None:
    del _node(model, "TensorScatter").input[2]


def _growing_cache(model: onnx.ModelProto) -> None:
    for name in ("key_cache_0", "key_cache_0_out"):
        _port(model, name).type.tensor_type.shape.dim[2].dim_param = "step"


def _extent_of_another_name(model: onnx.ModelProto) -> None:
    _port(model, "logits").type.tensor_type.shape.dim[0].dim_param = "rows"


def _cache_that_is_not_an_output(model: onnx.ModelProto) -> None:
    model.graph.output.remove(_port(model, "key_cache_0_out"))


def _cache_that_is_not_an_input(model: onnx.ModelProto) -> None:
    node = _node(model, "TensorScatter")
    index = list(model.graph.node).index(node)
    model.graph.node.insert(index, helper.make_node("Identity", [node.input[0]], ["copied"], name="copy"))
    node.input[0] = "copied"


def _cache_written_twice(model: onnx.ModelProto) -> None:
    first, second = [node for node in model.graph.node if node.op_type == "TensorScatter"][:2]
    second.input[0] = first.input[0]


def _rotation_in_a_row(model: onnx.ModelProto) -> None:
    rotated = _node(model, "RotaryEmbedding")
    transposed = next(node for node in model.graph.node if rotated.output[0] in node.input)
    merged = next(node for node in model.graph.node if transposed.output[0] in node.input)
    again = helper.make_node(
        "RotaryEmbedding", [merged.output[0], *rotated.input[1:]], ["unused"], name="again", num_heads=2
    )
    model.graph.node.append(again)


def _computed_bounds(model: onnx.ModelProto) -> None:
    node = _node(model, "Slice")
    index = list(model.graph.node).index(node)
    model.graph.node.insert(index, helper.make_node("Identity", [node.input[1]], ["bounds"], name="computed"))
    node.input[1] = "bounds"


def _integer_product(model: onnx.ModelProto) -> None:
    node = _node(model, "Gather")
    model.graph.node.append(helper.make_node("Sigmoid", [node.input[1]], ["nothing"], name="integers"))


BROKEN = (
    Broken(_undocumented, "Det", "is not in its table", "parser"),
    Broken(
        _another_operator,
        "HardSigmoid",
        "is not in its table",
        why="the table has what the lowering makes, and no more",
    ),
    Broken(
        _foreign_domain, "", "opset ai.example 1 is not one of ONNX's own", why="the parser looks at names, not domains"
    ),
    Broken(_new_opset, "", "25 is not one of ONNX's own, of 9 to 24", why="TensorRT 10.15 documents up to 24"),
    Broken(_mixed_types, "", "contradict one another", why="a norm casts silently, and rounds where no graph says so"),
    Broken(_mixed_sum, "", "contradict one another", "parser"),
    Broken(_integer_product, "", "contradict one another", "parser"),
    Broken(_mixed_scale, "", "contradict one another", why="a norm casts silently, and rounds where no graph says so"),
    Broken(_wrong_axis, "TensorScatter", "axis must be -2", why="the same axis by another name; one name is enough"),
    Broken(_circular, "TensorScatter", "mode linear", "parser"),
    Broken(_no_rows_to_write, "TensorScatter", "rows to write to are not given", why="it writes to row 0, always"),
    Broken(_growing_cache, "TensorScatter", "is not static", "parser"),
    Broken(_extent_of_another_name, "", "only batch, outputs, step may", why="it is in no profile of ours"),
    Broken(_cache_that_is_not_an_output, "TensorScatter", "is not an output of the network", "compiler"),
    Broken(_cache_that_is_not_an_input, "TensorScatter", "is not an input of the network", "compiler"),
    Broken(_cache_written_twice, "TensorScatter", "written more than once", "compiler"),
    Broken(_rotation_in_a_row, "RotaryEmbedding", "[batch, heads, step, dim]", why="10.15 documents four dimensions"),
    Broken(_computed_bounds, "Slice", "is not a constant", why="10.15 documents constants"),
)
