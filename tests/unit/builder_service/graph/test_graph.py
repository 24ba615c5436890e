from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from builder_service.graph.graph import CONTRIB, IR_VERSION, OPSET, Graph, Weight, WeightGroup, describe


def test_what_is_built_runs() -> None:
    graph = Graph()
    graph.input("x", np.float32, ("rows", 2))
    doubled = graph.node("Mul", "x", graph.constant([2], np.float32))
    first, second = graph.split("Split", doubled, graph.constant([1, 1], np.int64), out=("", ""), axis=1)
    graph.node("Add", first, second, out="y")
    graph.output("y", np.float32, ("rows", 1))
    session = ort.InferenceSession(graph.model("sum", []).SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.array([[1, 2], [3, 4]], np.float32)})
    np.testing.assert_array_equal(y, [[6], [14]])


def test_equal_constants_are_one_and_others_are_not() -> None:
    graph = Graph()
    one = graph.constant([1], np.int64)
    assert graph.constant([1], np.int64) == one
    assert len({one, graph.constant([1], np.float32), graph.constant(1, np.int64), graph.constant([2], np.int64)}) == 4


def test_names_of_values_are_unique() -> None:
    graph = Graph()
    names = [graph.node("Relu", "x") for _ in range(5)] + graph.split("Split", "x", out=("", ""), num_outputs=2)
    assert len(set(names)) == 7


@pytest.mark.parametrize(("domain", "versions"), [("", {"": OPSET}), (CONTRIB, {"": OPSET, CONTRIB: 1})])
def test_a_model_names_the_versions_that_it_uses_and_no_others(domain: str, versions: dict[str, int]) -> None:
    graph = Graph()
    graph.node("Gelu", "x", domain=domain)
    model = graph.model("small", [])
    assert {opset.domain: opset.version for opset in model.opset_import} == versions
    assert model.ir_version == IR_VERSION


def test_weights_are_described_by_place_and_never_held() -> None:
    weight = Weight("w", np.dtype(np.int8), (3, 5))
    graph = Graph()
    assert graph.weights(WeightGroup((weight,), lambda _: iter(()))) == ["w"]
    tensor = describe(weight, "weights.bin", 4096)
    assert {entry.key: entry.value for entry in tensor.external_data} == {
        "location": "weights.bin",
        "offset": "4096",
        "length": "15",
    }
    assert not tensor.raw_data


def test_a_derived_graph_begins_with_all_but_the_nodes_and_draws_other_names() -> None:
    graph = Graph()
    graph.input("x", np.float32, (2,))
    two = graph.constant([2], np.float32)
    first = graph.node("Mul", "x", two)
    derived = graph.derive("pass_")
    assert derived.nodes == []
    assert derived.inputs == graph.inputs
    assert derived.constant([2], np.float32) == two
    assert derived.node("Mul", "x", two) != first
    derived.input("y", np.float32, (2,))
    assert [port.name for port in graph.inputs] == ["x"]
