"""Kept blocks multiply as the reference says: the file's very weights, activations in int8 by the same blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, dequantize

from builder_service.checkpoint.checkpoint import BlockFormat, FloatArray
from builder_service.checkpoint.gguf.blocks import block_format
from builder_service.checkpoint.gguf.header import read_header
from builder_service.checkpoint.gguf.kinds import KINDS as ARCHITECTURES
from builder_service.checkpoint.gguf.tensors import GgufTensors
from builder_service.graph.graph import Graph, describe
from builder_service.graph.kept import KeptLinear
from builder_service.graph.linear import Matrix
from builder_service.graph.weights import layout, write
from builder_service.verify.fake_quantize import per_block
from tests.samples.gguf.blocks import encode

Q = GGMLQuantizationType
KINDS = [kind for kind in GGML_QUANT_SIZES if block_format(kind) is not None]
INPUTS = 512


class Product:
    """A multiplication by tensors of these types side by side, and rows of the first, run by onnxruntime."""

    def __init__(self, folder: Path, *kinds: GGMLQuantizationType) -> None:
        generator = np.random.default_rng(7)
        names = [f"blk.0.part{number}.weight" for number in range(len(kinds))]
        writer = GGUFWriter(folder / "x.gguf", "qwen2")
        self.parts: list[FloatArray] = []
        for name, kind in zip(names, kinds, strict=True):
            raw = encode(generator.standard_normal((24, INPUTS), np.float32), kind)
            self.parts.append(dequantize(raw, kind))
            writer.add_tensor(name, raw, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        stored = GgufTensors(list(read_header(folder / "x.gguf").tensors.values()), ARCHITECTURES["qwen2"], (1, 1))
        tensors = tuple(name for name in stored.names)
        found = {name: stored.block_format(name) for name in tensors}
        self.formats: list[BlockFormat | None] = list(found.values())
        graph = Graph()
        graph.input("x", np.float32, ("rows", INPUTS))
        graph.input("ids", np.int64, ("ids",))
        linear = KeptLinear(
            graph, {name: one for name, one in found.items() if one}, {name: stored.shape(name) for name in tensors}
        )
        product = linear.project(linear.prepare("x", "rows"), Matrix("m", tensors, INPUTS, 24 * len(kinds)))
        graph.node("Identity", product, out="y")
        graph.output("y", np.float32, ("rows", 24 * len(kinds)))
        if found[tensors[0]] is not None:
            graph.node("Identity", linear.gather(tensors[0], "ids"), out="taken")
            graph.output("taken", np.float32, ("ids", INPUTS))
        self.operators = [node.op_type for node in graph.nodes]
        write(graph.groups, stored, folder / "weights.bin", lambda _: None)
        offsets = layout(graph.groups)
        weights = [weight for group in graph.groups for weight in group.weights]
        external = [describe(weight, "weights.bin", offsets[weight.name]) for weight in weights]
        (folder / "model.onnx").write_bytes(graph.model("product", external).SerializeToString())
        self._session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run(["y"], {"x": rows, "ids": np.zeros(1, np.int64)})[0])

    def gather(self, ids: list[int]) -> np.ndarray:
        rows = np.zeros((1, INPUTS), np.float32)
        return np.asarray(self._session.run(["taken"], {"x": rows, "ids": np.array(ids)})[0])


ROWS = np.random.default_rng(1).standard_normal((5, INPUTS)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_product_loses_what_int8_activations_lose_and_nothing_else(
    tmp_path: Path, kind: GGMLQuantizationType
) -> None:
    product = Product(tmp_path, kind)
    (found,), (weights,) = product.formats, product.parts
    assert found is not None
    exact = ROWS.astype(np.float64) @ weights.T.astype(np.float64)
    got = product(ROWS)
    lost = np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2))
    assert lost < 0.02
    if not found.corrected:
        rounded = per_block(ROWS.astype(np.float64), found.block) @ weights.T.astype(np.float64)
        np.testing.assert_allclose(got, rounded, atol=2e-3 * np.abs(exact).max())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rows_are_those_of_the_file(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    product = Product(tmp_path, kind)
    taken = product.gather([3, 0, 23])
    np.testing.assert_allclose(taken, product.parts[0][[3, 0, 23]], rtol=1e-6, atol=1e-6 * np.abs(taken).max())


@pytest.mark.parametrize("kind", [Q.Q4_0, Q.Q4_1, Q.Q6_K], ids=lambda kind: kind.name)
def test_a_row_does_not_change_with_its_neighbours(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    product = Product(tmp_path, kind)
    alone = np.concatenate([product(row[None]) for row in ROWS])
    np.testing.assert_allclose(product(ROWS), alone, rtol=1e-5, atol=1e-6 * np.abs(alone).max())


@pytest.mark.parametrize("kind", [Q.Q4_0, Q.Q4_1], ids=lambda kind: kind.name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_seen_in_its_own_row_only(
    tmp_path: Path, kind: GGMLQuantizationType, value: float
) -> None:
    rows = ROWS.copy()
    rows[1, 40] = value
    finite = np.isfinite(Product(tmp_path, kind)(rows)).all(axis=1)
    assert finite.tolist() == [True, False, True, True, True]


def test_no_rows_are_no_rows(tmp_path: Path) -> None:
    assert Product(tmp_path, Q.Q4_1)(ROWS[:0]).shape == (0, 24)


@pytest.mark.parametrize(
    ("kinds", "products"),
    [
        ((Q.Q5_0, Q.Q8_0, Q.IQ4_NL), ["MatMulNBits"]),
        ((Q.Q4_K, Q.Q4_K, Q.Q6_K), ["MatMulNBits", "MatMulNBits"]),
        ((Q.Q4_0, Q.F32, Q.Q4_0), ["MatMulNBits", "MatMulNBits"]),
    ],
    ids=["alike", "one-differs", "one-is-float"],
)
def test_parts_stay_together_where_they_are_alike(
    tmp_path: Path, kinds: tuple[GGMLQuantizationType, ...], products: list[str]
) -> None:
    product = Product(tmp_path, *kinds)
    assert [operator for operator in product.operators if operator == "MatMulNBits"] == products
    exact = ROWS.astype(np.float64) @ np.concatenate(product.parts).T.astype(np.float64)
    for part in range(len(kinds)):
        got, want = (each[:, 24 * part : 24 * (part + 1)] for each in (product(ROWS), exact))
        assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 0.02
