"""The checker passes what is documented and names what is not: node, operator and rule."""

from __future__ import annotations

from functools import cache

import onnx
import pytest

from builder_service.families.registry import read_model
from builder_service.graph.graph import describe
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.export import engine_graph
from builder_service.tensorrt.parser_rules import check_rules
from common.errors import Internal
from common.spec.model_spec import PRECISIONS, Precision, Target
from common.window import Geometry
from tests.nightly import by_turns
from tests.samples.broken_graphs import BROKEN, Broken
from tests.samples.families import CONFIGS, ON_EVERY_TARGET

GEOMETRY = Geometry(4, 17, 8, slots=2)


@cache
def _bytes(name: str, precision: Precision) -> bytes:
    weight_format = WeightFormat(precision, on_gpu=True)
    graph = engine_graph(read_model(CONFIGS[name]), GEOMETRY, weight_format, Target.TENSORRT)
    weights = [weight for group in graph.groups for weight in group.weights]
    model = graph.model(name, [describe(weight, "weights.bin", 0) for weight in weights])
    return bytes(model.SerializeToString())


def _model(name: str = "llama", precision: Precision = Precision.FP16) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(_bytes(name, precision))


@pytest.mark.parametrize(("name", "precision"), by_turns(ON_EVERY_TARGET, PRECISIONS[Target.TENSORRT]))
def test_every_family_passes_in_every_precision(name: str, precision: Precision) -> None:
    check_rules(_model(name, precision))


def test_a_graph_for_onnx_runtime_does_not() -> None:
    graph = engine_graph(read_model(CONFIGS["llama"]), GEOMETRY, WeightFormat(Precision.FP32), Target.ONNXRUNTIME)
    weights = [weight for group in graph.groups for weight in group.weights]
    with pytest.raises(Internal, match=r"com\.microsoft"):
        check_rules(graph.model("llama", [describe(weight, "weights.bin", 0) for weight in weights]))


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_violation_is_named(broken: Broken) -> None:
    model = _model()
    broken.plant(model)
    with pytest.raises(Internal) as caught:
        check_rules(model)
    assert broken.rule in caught.value.message
    assert not broken.operator or f"({broken.operator})" in caught.value.message
