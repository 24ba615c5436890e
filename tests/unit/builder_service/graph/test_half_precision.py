"""Types of a narrowed graph, and what a widened one rounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model
from builder_service.graph.graph import Array, Graph, Weight, WeightGroup, attributes_of, describe
from builder_service.graph.half_precision import narrow
from builder_service.graph.transformer import build_graph
from builder_service.graph.weights import layout, write
from builder_service.graph.widening import widen
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.export import engine_graph, write_model
from common.errors import InvalidArgument, Reason
from common.spec.model_spec import Precision, Target
from common.window import Geometry
from tests.samples.checkpoints import write_checkpoint
from tests.samples.families import CONFIGS, ON_EVERY_TARGET

GEOMETRY = Geometry(4, 17, 8, slots=2)
TYPES = {Precision.FP16: TensorProto.FLOAT16, Precision.BF16: TensorProto.BFLOAT16}
DTYPES = {Precision.FP16: np.float16, Precision.BF16: ml_dtypes.bfloat16}


def _weight(graph: Graph, name: str, values: np.ndarray) -> str:
    def produce(_: Tensors) -> Iterator[Array]:
        yield values

    return graph.weights(WeightGroup((Weight(name, values.dtype, values.shape),), produce))[0]


class _Nothing:
    """Tensors of nobody: the weights here make themselves."""

    names = ()

    def tensor(self, name: str) -> np.ndarray:
        raise KeyError(name)

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        raise KeyError(name)


def _session(graph: Graph, folder: Path) -> ort.InferenceSession:
    offsets = layout(graph.groups)
    weights = [weight for group in graph.groups for weight in group.weights]
    model = graph.model("one", [describe(weight, "weights.bin", offsets[weight.name]) for weight in weights])
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write(graph.groups, _Nothing(), folder / "weights.bin", lambda _: None)
    return ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def _product(weights: np.ndarray) -> Graph:
    graph = Graph()
    graph.input("x", np.float32, ("batch", weights.shape[1]))
    product = graph.node("Gemm", "x", _weight(graph, "w", weights), transB=1)
    graph.node("Softmax", product, out="y", axis=-1)
    graph.output("y", np.float32, ("batch", weights.shape[0]))
    return graph


@pytest.mark.parametrize("precision", TYPES)
def test_a_widened_product_rounds_what_enters_and_what_leaves_it_and_no_more(
    tmp_path: Path, precision: Precision
) -> None:
    generator = np.random.default_rng(0)
    x, w = (generator.normal(size=shape).astype(np.float32) for shape in ((3, 8), (5, 8)))

    def rounded(values: np.ndarray) -> np.ndarray:
        return values.astype(DTYPES[precision]).astype(np.float64)

    got = _session(widen(narrow(_product(w), precision)), tmp_path).run(None, {"x": x})[0]
    powers = np.exp(rounded((rounded(x) @ rounded(w).T).astype(np.float32)))
    np.testing.assert_allclose(got, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)
    plain = np.exp((x @ w.T).astype(np.float64))
    assert np.abs(got / (plain / plain.sum(axis=1, keepdims=True)) - 1).max() > 1e-4


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("name", ON_EVERY_TARGET)
def test_products_and_caches_are_narrow_and_all_that_rounds_badly_is_wide(name: str, precision: Precision) -> None:
    graph = engine_graph(read_model(CONFIGS[name]), GEOMETRY, WeightFormat(precision), Target.TENSORRT)
    model = onnx.shape_inference.infer_shapes(graph.model("one", _descriptions(graph)), strict_mode=True)
    values = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        if node.op_type in {"Gemm", "MatMul", "TensorScatter", "Gather"}:
            assert values[node.output[0]] == TYPES[precision], node.name
        if node.op_type in {"Softmax", "RotaryEmbedding", "RMSNormalization", "LayerNormalization", "Add"}:
            assert values[node.output[0]] == TensorProto.FLOAT, node.name
    ports = {port.name: port.type.tensor_type.elem_type for port in (*model.graph.input, *model.graph.output)}
    assert ports["logits"] == ports["mask"] == TensorProto.FLOAT
    assert {dtype for port, dtype in ports.items() if "cache" in port} == {TYPES[precision]}


@pytest.mark.parametrize("name", ON_EVERY_TARGET)
def test_no_value_is_cast_twice_nor_there_and_back(name: str) -> None:
    graph = engine_graph(read_model(CONFIGS[name]), GEOMETRY, WeightFormat(Precision.FP16), Target.TENSORRT)
    casts = [node for node in graph.nodes if node.op_type == "Cast"]
    made = {node.output[0] for node in casts}
    assert len({node.input[0] for node in casts}) == len(casts)
    assert not made.intersection(node.input[0] for node in casts)


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("name", ON_EVERY_TARGET)
def test_a_widened_graph_has_the_ports_of_one_in_float32(name: str, precision: Precision) -> None:
    model = read_model(CONFIGS[name])
    widened = widen(engine_graph(model, GEOMETRY, WeightFormat(precision), Target.TENSORRT))
    plain = build_graph(model, GEOMETRY, WeightFormat(Precision.FP32), value_columns=False)
    assert widened.inputs == plain.inputs
    assert widened.outputs == plain.outputs
    to_narrow = [node for node in widened.nodes if node.op_type == "Cast" and attributes_of(node)["to"] != 1]
    assert {attributes_of(node)["to"] for node in to_narrow} == {TYPES[precision]}


def test_fp32_is_neither_narrowed_nor_widened() -> None:
    graph = _product(np.ones((2, 3), np.float32))
    assert narrow(graph, Precision.FP32) is graph
    assert [node.op_type for node in widen(graph).nodes] == ["Gemm", "Softmax"]


def test_a_weight_beyond_fp16_is_refused_and_bf16_holds_it(tmp_path: Path) -> None:
    weights = np.array([[1.0, 70_000.0]], np.float32)
    with pytest.raises(InvalidArgument, match=r"w has weights beyond what fp16 can hold") as caught:
        _session(widen(narrow(_product(weights), Precision.FP16)), tmp_path)
    assert caught.value.reason is Reason.CHECKPOINT_INVALID
    assert [violation.field for violation in caught.value.violations] == ["spec.precision"]
    _session(widen(narrow(_product(weights), Precision.BF16)), tmp_path)


def test_an_engine_in_bf16_holds_a_bf16_checkpoint_bit_by_bit(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", dtype="bfloat16", tokenizer=False)
    checkpoint, out = open_checkpoint(folder), tmp_path / "out"
    model = read_model(checkpoint.config)
    tensors = ModelTensors(checkpoint.tensors, model)
    write_model(model, tensors, GEOMETRY, WeightFormat(Precision.BF16), out, lambda _: None, target=Target.TENSORRT)
    (stored,) = [t for t in onnx.load(out / "model.onnx").graph.initializer if t.name == "embed_tokens.weight"]
    want = tensors.tensor("model.embed_tokens.weight")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored).astype(np.float32), want)


def _descriptions(graph: Graph) -> list[onnx.TensorProto]:
    return [describe(weight, "weights.bin", 0) for group in graph.groups for weight in group.weights]
