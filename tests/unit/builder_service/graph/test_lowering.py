"""Every family's graph for TensorRT: documented, and as good as the one for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model
from builder_service.graph.graph import CONTRIB, Graph
from builder_service.graph.lowering import lower
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.export import engine_graph
from common.spec.manifest import GRAPH_PATH, WEIGHTS_PATH
from common.spec.model_spec import PRECISIONS, Precision, Target
from common.window import Geometry, SessionWindow
from tests.nightly import by_turns, one_in
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine, export_graph
from tests.samples.families import CONFIGS, ON_EVERY_TARGET, write_family
from tests.samples.streams import feed_all, largest_error, random_tokens

GEOMETRY, WINDOW = Geometry(4, 17, 8, slots=2), SessionWindow(4, 17)
WITHOUT_SINKS = Geometry(0, 9, 4, slots=1)
TOLERANCES = {Precision.FP32: 2e-6, Precision.FP16: 32 * 2**-11, Precision.BF16: 32 * 2**-8}
"""Relative to a token's largest logit. Measured: 7e-7, 6e-3 and 6e-2, which is some 15 roundings in 16 bits."""


def _run(graph: Graph, **inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(graph.model("one", []).SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("name", "precision"), by_turns(ON_EVERY_TARGET, list(TOLERANCES)))
def test_every_family_says_for_tensorrt_what_it_says_for_onnx_runtime(
    tmp_path: Path, name: str, precision: Precision
) -> None:
    folder, tokens = write_family(tmp_path / name, name), random_tokens(40, 96)
    plain = build_engine(folder, GEOMETRY)
    want = feed_all(plain, 1, WINDOW, tokens, [3, 1, 8])
    engine = build_engine(folder, GEOMETRY, precision, target=Target.TENSORRT)
    got = feed_all(engine, 1, WINDOW, tokens, [3, 1, 8])
    assert got.keys() == want.keys()
    error = max(largest_error({0: got[at]}, [want[at]]) for at in got)
    assert error < TOLERANCES[precision]
    assert precision is Precision.FP32 or error > TOLERANCES[Precision.FP32]  # it does round
    engine.close()
    plain.close()


@pytest.mark.parametrize("precision", PRECISIONS[Target.TENSORRT])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"tied": True, "bias": True},
        {"heads": 6, "kv_heads": 1, "head_dim": 10, "hidden": 36},
        {"kv_heads": 4, "dtype": "bfloat16"},
    ],
)
def test_every_shape_of_llama_is_documented_without_sinks_too(
    tmp_path: Path, precision: Precision, shape: dict[str, object]
) -> None:
    folder = write_checkpoint(tmp_path / "c", tokenizer=False, **shape)  # type: ignore[arg-type]
    for geometry in (GEOMETRY, WITHOUT_SINKS):
        assert (export_graph(folder, geometry, precision, Target.TENSORRT) / GRAPH_PATH).exists()


@pytest.mark.parametrize("name", one_in(3, ON_EVERY_TARGET))
def test_half_the_bits_are_half_the_bytes(tmp_path: Path, name: str) -> None:
    folder = write_family(tmp_path / name, name)
    sizes = {p: (export_graph(folder, GEOMETRY, p, Target.TENSORRT) / WEIGHTS_PATH) for p in ("fp32", "fp16", "bf16")}
    wide = onnx.load(sizes["fp32"].parent / GRAPH_PATH).graph.initializer
    for precision in ("fp16", "bf16"):
        narrow = {t.name: t for t in onnx.load(sizes[precision].parent / GRAPH_PATH).graph.initializer}
        halved = [t.name for t in wide if t.name in narrow and 2 * len(narrow[t.name].raw_data) == len(t.raw_data)]
        assert sum(len(list(t.dims)) == 2 and t.name.endswith(".weight") for t in wide) == sum(
            name.endswith(".weight") for name in halved
        )


def test_silu_is_in_documented_operators() -> None:
    graph, x = Graph(), _random(3, 5)
    graph.input("x", np.float32, (3, 5))
    graph.node("QuickGelu", "x", out="y", domain=CONTRIB, alpha=1.0)
    graph.output("y", np.float32, (3, 5))
    lowered = lower(graph)
    assert [node.op_type for node in lowered.nodes] == ["Sigmoid", "Mul"]
    np.testing.assert_allclose(_run(lowered, x=x)[0], x / (1 + np.exp(-x)), rtol=1e-6)


def test_a_scaled_product_by_transposed_keys_is_in_documented_operators() -> None:
    graph, a, b = Graph(), _random(2, 3, 4, 5), _random(2, 3, 7, 5)
    graph.input("a", np.float32, a.shape)
    graph.input("b", np.float32, b.shape)
    graph.node("FusedMatMul", "a", "b", out="y", domain=CONTRIB, transB=1, alpha=0.25)
    graph.output("y", np.float32, (2, 3, 4, 7))
    lowered = lower(graph)
    assert [node.op_type for node in lowered.nodes] == ["Mul", "Transpose", "MatMul"]
    np.testing.assert_allclose(_run(lowered, a=a, b=b)[0], 0.25 * a @ b.swapaxes(2, 3), rtol=1e-5, atol=1e-6)


def test_a_form_of_the_product_that_no_rule_knows_stays_for_the_checker_to_refuse() -> None:
    graph = Graph()
    graph.node("FusedMatMul", "a", "b", domain=CONTRIB, transA=1)
    assert [node.domain for node in lower(graph).nodes] == [CONTRIB]


def test_scores_over_the_first_columns_are_cut_and_joined() -> None:
    graph, scores, over = Graph(), _random(2, 3, 4, 9), -_random(2, 3, 4, 2)
    graph.input("scores", np.float32, scores.shape)
    graph.input("x", np.float32, over.shape)
    sinks = graph.shaped(graph.node("Neg", "x"), np.float32, over.shape)
    graph.node("TensorScatter", "scores", sinks, out="y", axis=3)
    graph.output("y", np.float32, scores.shape)
    got = _run(lower(graph), scores=scores, x=over)[0]
    np.testing.assert_array_equal(got, np.concatenate([-over, scores[..., 2:]], axis=3))
    np.testing.assert_array_equal(got, _run(graph, scores=scores, x=over)[0])


@pytest.mark.parametrize("rotated", [0, 4])
def test_rotation_of_heads_apart_is_that_of_heads_in_a_row(rotated: int) -> None:
    graph, rows = Graph(), _random(2, 3, 4 * 6)
    angle = np.random.default_rng(1).uniform(0, 9, (2, 3, (rotated or 6) // 2)).astype(np.float32)
    graph.input("rows", np.float32, rows.shape)
    graph.input("cos", np.float32, angle.shape)
    graph.input("sin", np.float32, angle.shape)
    graph.node("RotaryEmbedding", "rows", "cos", "sin", out="y", num_heads=4, rotary_embedding_dim=rotated)
    graph.output("y", np.float32, rows.shape)
    ports = {"rows": rows, "cos": np.cos(angle), "sin": np.sin(angle)}
    np.testing.assert_allclose(_run(lower(graph), **ports)[0], _run(graph, **ports)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ON_EVERY_TARGET)
def test_no_operator_of_onnx_runtimes_own_is_left(name: str) -> None:
    for precision in PRECISIONS[Target.TENSORRT]:
        weight_format = WeightFormat(precision, on_gpu=True)
        graph = engine_graph(read_model(CONFIGS[name]), GEOMETRY, weight_format, Target.TENSORRT)
        assert {node.domain for node in graph.nodes} == {""}
        assert len({name for node in graph.nodes for name in node.output}) == sum(len(n.output) for n in graph.nodes)


def test_the_graph_for_onnx_runtime_is_not_touched(tmp_path: Path) -> None:
    model = read_model(open_checkpoint(write_checkpoint(tmp_path / "c", tokenizer=False)).config)
    graph = engine_graph(model, GEOMETRY, WeightFormat(Precision.FP32), Target.ONNXRUNTIME)
    before = [node.SerializeToString() for node in graph.nodes]
    lower(graph)
    assert [node.SerializeToString() for node in graph.nodes] == before
