"""The checker passes what is documented and names what is not: node, operator and rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import onnx
import pytest
from onnx import TensorProto, helper

from builder_service.families.registry import read_model
from builder_service.graph.graph import describe
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.export import engine_graph
from builder_service.tensorrt.parser_rules import check_rules
from common.errors import Internal
from common.spec.model_spec import Precision, Target
from common.window import Geometry
from tests.samples.families import CONFIGS, ON_EVERY_TARGET

GEOMETRY = Geometry(4, 17, 8, slots=2)


@cache
def _bytes(name: str, precision: Precision) -> bytes:
    graph = engine_graph(read_model(CONFIGS[name]), GEOMETRY, WeightFormat(precision), Target.TENSORRT)
    weights = [weight for group in graph.groups for weight in group.weights]
    model = graph.model(name, [describe(weight, "weights.bin", 0) for weight in weights])
    return bytes(model.SerializeToString())


def _model(name: str = "llama", precision: Precision = Precision.FP16) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(_bytes(name, precision))


def _node(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def _set(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    node.ClearField("attribute")
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _port(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    return next(port for port in (*model.graph.input, *model.graph.output) if port.name == name)


def test_every_family_passes_in_every_precision() -> None:
    for name in ON_EVERY_TARGET:
        for precision in (Precision.FP32, Precision.FP16, Precision.BF16):
            check_rules(_model(name, precision))


def test_a_graph_for_onnx_runtime_does_not() -> None:
    graph = engine_graph(read_model(CONFIGS["llama"]), GEOMETRY, WeightFormat(Precision.FP32), Target.ONNXRUNTIME)
    weights = [weight for group in graph.groups for weight in group.weights]
    with pytest.raises(Internal, match=r"com\.microsoft"):
        check_rules(graph.model("llama", [describe(weight, "weights.bin", 0) for weight in weights]))


def _foreign_domain(model: onnx.ModelProto) -> None:
    _node(model, "Sigmoid").domain = "ai.example"
    model.opset_import.append(helper.make_opsetid("ai.example", 1))


def _undocumented(model: onnx.ModelProto) -> None:
    _node(model, "Sigmoid").op_type = "Det"


def _another_operator(model: onnx.ModelProto) -> None:
    _node(model, "Sigmoid").op_type = "HardSigmoid"


def _old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 25


def _mixed_types(model: onnx.ModelProto) -> None:
    attribute = next(node for node in model.graph.node if node.op_type == "Cast").attribute[0]
    attribute.i = TensorProto.FLOAT if attribute.i != TensorProto.FLOAT else TensorProto.FLOAT16


def _mixed_scale(model: onnx.ModelProto) -> None:
    """RMSNormalization is the one operator here whose schema lets its inputs differ; inference does not."""
    node = _node(model, "RMSNormalization")
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
        "RotaryEmbedding", [merged.output[0], *rotated.input[1:]], ["unused"], name="again", num_heads=4
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


@pytest.mark.parametrize(
    ("plant", "operator", "rule"),
    [
        (_undocumented, "Det", "is not in its table"),
        (_another_operator, "HardSigmoid", "is not in its table"),
        (_foreign_domain, "", "opset ai.example 1 is not one of ONNX's own"),
        (_old_opset, "", "25 is not one of ONNX's own, of 9 to 24"),
        (_mixed_types, "", "contradict one another"),
        (_integer_product, "", "contradict one another"),
        (_mixed_scale, "", "contradict one another"),
        (_wrong_axis, "TensorScatter", "axis must be -2"),
        (_circular, "TensorScatter", "mode linear"),
        (_no_rows_to_write, "TensorScatter", "rows to write to are not given"),
        (_growing_cache, "TensorScatter", "is not static"),
        (_extent_of_another_name, "", "only batch, outputs, step may"),
        (_cache_that_is_not_an_output, "TensorScatter", "is not an output of the network"),
        (_cache_that_is_not_an_input, "TensorScatter", "is not an input of the network"),
        (_cache_written_twice, "TensorScatter", "written more than once"),
        (_rotation_in_a_row, "RotaryEmbedding", "[batch, heads, step, dim]"),
        (_computed_bounds, "Slice", "is not a constant"),
    ],
)
def test_a_violation_is_named(plant: Callable[[onnx.ModelProto], None], operator: str, rule: str) -> None:
    model = _model()
    plant(model)
    with pytest.raises(Internal) as caught:
        check_rules(model)
    assert rule in caught.value.message
    assert not operator or f"({operator})" in caught.value.message
