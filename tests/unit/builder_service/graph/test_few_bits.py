"""Products in few bits as a GPU is given them, in the graph that ONNX Runtime runs in its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from builder_service.checkpoint.checkpoint import BlockFormat, PackedRows, Tensors
from builder_service.families.registry import read_model
from builder_service.graph.few_bits import FewBitLinear
from builder_service.graph.graph import Graph, describe
from builder_service.graph.half_precision import narrow
from builder_service.graph.linear import Matrix
from builder_service.graph.quantize import bfloat16, float8
from builder_service.graph.weights import layout, write
from builder_service.graph.widening import widen
from builder_service.model.weight_format import MOST_BYTES, WeightFormat, block_formats
from builder_service.pipeline.export import engine_graph
from builder_service.quantization.grid import grid_of
from builder_service.quantization.packed import packed_rows, unpacked
from common.spec.model_spec import Precision, Target
from common.window import Geometry
from tests.samples.families import CONFIGS, ON_EVERY_TARGET

GPU = BlockFormat(8, 64, short_scales=True, on_gpu=True)
FORMS = {
    "int8": GPU,
    "int4": replace(GPU, bits=4, block=32),
    "int4 in one block": replace(GPU, bits=4),
    "fp8": replace(GPU, floating=True),
}
GEOMETRY = Geometry(4, 17, 8, slots=2)
FEW = (Precision.INT8, Precision.INT4, Precision.FP8)


class Rounded:
    """Two matrices [5, 64] and [3, 64], rounded to the nearest."""

    names = ("a", "b")

    def __init__(self, form: BlockFormat) -> None:
        self.form = form

    def tensor(self, name: str) -> np.ndarray:
        return np.random.default_rng(ord(name)).normal(size=(5 if name == "a" else 3, 64)).astype(np.float32)

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        yield self.tensor(name)

    def packed(self, name: str) -> Iterator[PackedRows]:
        for rows in (self.tensor(name)[:2], self.tensor(name)[2:]):
            grid = grid_of(rows, self.form)
            yield replace(packed_rows(grid.nearest(rows), grid), read_scale=0.125)

    @property
    def weights(self) -> np.ndarray:
        return np.concatenate([unpacked(rows, self.form) for name in self.names for rows in self.packed(name)])


def product(form: BlockFormat) -> Graph:
    graph = Graph()
    rows = graph.input("x", np.float32, ("batch", 64))
    linear = FewBitLinear(graph, {"a": form, "b": form}, {"a": (5, 64), "b": (3, 64)})
    graph.node("Softmax", linear.project(linear.prepare(rows, "batch"), Matrix("ab", ("a", "b"), 64, 8)), out="y")
    graph.output("y", np.float32, ("batch", 8))
    return narrow(graph, Precision.BF16)


def model_of(graph: Graph) -> onnx.ModelProto:
    offsets = layout(graph.groups)
    weights = [weight for group in graph.groups for weight in group.weights]
    return graph.model("one", [describe(weight, "weights.bin", offsets[weight.name]) for weight in weights])


def session(graph: Graph, tensors: Tensors, folder: Path) -> ort.InferenceSession:
    (folder / "model.onnx").write_bytes(model_of(graph).SerializeToString())
    write(graph.groups, tensors, folder / "weights.bin", lambda _: None)
    return ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", FORMS)
def test_it_multiplies_what_the_quantizer_says_the_weights_are(tmp_path: Path, kind: str) -> None:
    form = FORMS[kind]
    running, rounded = session(widen(product(form)), Rounded(form), tmp_path), Rounded(form)
    x = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    x[3, 3] = 1000  # beyond what float8 has at this scale
    read = float8(bfloat16(x) / 0.125) * 0.125 if form.floating else bfloat16(x)
    powers = bfloat16((read.astype(np.float64) @ rounded.weights.T).astype(np.float32)).astype(np.float64)
    want = np.exp(powers - powers.max(axis=1, keepdims=True))
    got = running.run(None, {"x": x})[0]
    np.testing.assert_allclose(got, want / want.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-7)
    alone = [running.run(None, {"x": x[row : row + 1]})[0][0] for row in range(6)]
    np.testing.assert_allclose(alone, got, rtol=1e-5, atol=1e-7, err_msg="a token does not depend on its neighbours")
    x[0, 0] = np.nan
    assert np.isnan(running.run(None, {"x": x})[0]).any(axis=1).tolist() == [True] + 5 * [False]


@pytest.mark.parametrize("kind", FORMS)
def test_its_types_are_those_of_a_strongly_typed_network(kind: str) -> None:
    inferred = onnx.shape_inference.infer_shapes(model_of(product(FORMS[kind])), check_type=True, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    narrow_nodes = [node for node in inferred.graph.node if node.op_type in {"Gemm", "DequantizeLinear"}]
    assert {types[node.output[0]] for node in narrow_nodes} == {onnx.TensorProto.BFLOAT16}


@pytest.mark.parametrize("precision", FEW)
def test_every_product_of_every_family_is_in_few_bits_and_rows_are_looked_up_in_16(precision: Precision) -> None:
    for name in ON_EVERY_TARGET:
        model = read_model(CONFIGS[name])
        nodes = engine_graph(model, GEOMETRY, WeightFormat(precision, on_gpu=True), Target.TENSORRT).nodes
        made = {node.output[0]: node.op_type for node in nodes}
        assert {made[node.input[1]] for node in nodes if node.op_type == "Gemm"} == {"DequantizeLinear"}, name
        assert not [node for node in nodes if node.op_type == "Gather" and node.input[0] in made], name


@pytest.mark.parametrize("block", [32, 64, 128])
def test_int4_is_a_size_and_what_has_no_whole_blocks_has_8_bits(block: int) -> None:
    wide = {"hidden_size": 128, "intermediate_size": 336, "num_hidden_layers": 8}
    model = read_model({**CONFIGS["llama"], **wide})
    formats = block_formats(model, WeightFormat(Precision.INT4, block, on_gpu=True))
    bits = {name.split(".", 3)[-1]: form.bits for name, form in formats.items() if ".layers.4." in name}
    assert bits["self_attn.q_proj.weight"] == bits["mlp.up_proj.weight"] == 4
    assert bits["mlp.down_proj.weight"] == 8  # 336 inputs
    assert formats["lm_head.weight"].bits == 8
    assert "model.embed_tokens.weight" not in formats
    four = [form for form in formats.values() if form.bits == 4]
    assert {form.bytes_each for form in four} == {0.5 + 2 / block}
    assert all(form.bytes_each < MOST_BYTES for form in four)
