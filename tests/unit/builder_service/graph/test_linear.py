"""Each precision's product against plain arithmetic, run by onnxruntime with weights from a real file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from safetensors.numpy import save_file

from builder_service.checkpoint.checkpoint import BlockFormat
from builder_service.checkpoint.folder import open_checkpoint
from builder_service.graph.graph import Graph, describe
from builder_service.graph.kept import KeptLinear
from builder_service.graph.linear import LINEAR, Matrix
from builder_service.graph.weights import layout, write
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.fake_quantize import FakeQuantized
from common.spec.model_spec import Precision
from tests.unit.builder_service.graph.nearest import Nearest

# Of the largest output: float32 sums; activations in 8 bits and weights in 7; weights in 4.
TOLERANCE = {Precision.FP32: 1e-6, Precision.INT8: 0.03, Precision.INT4: 0.15}


class Product:
    """`rows @ W.T + bias` in one precision; W from two tensors of a checkpoint."""

    def __init__(
        self,
        folder: Path,
        precision: Precision,
        inputs: int,
        outputs: tuple[int, int],
        shape: Callable[[np.ndarray], np.ndarray] = np.asarray,
        *,
        block: int = 32,
    ) -> None:
        generator = np.random.default_rng(inputs)
        self.parts = [shape(generator.standard_normal((count, inputs)).astype(np.float32)) for count in outputs]
        self.biases = [generator.standard_normal(count).astype(np.float32) for count in outputs]
        tensors = {"a": self.parts[0], "b": self.parts[1], "c": self.biases[0], "d": self.biases[1]}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
        self._rounded = FakeQuantized(open_checkpoint(folder).tensors, WeightFormat(precision, block))
        graph = Graph()
        graph.input("x", np.float32, ("rows", inputs))
        names, shapes = ("a", "b"), {name: (count, inputs) for name, count in zip("ab", outputs, strict=True)}
        formats = dict.fromkeys(names, BlockFormat(4, block, short_scales=True)) if precision is Precision.INT4 else {}
        linear = KeptLinear(graph, formats, shapes) if formats else LINEAR[precision](graph)
        matrix = Matrix("ab", names, inputs, sum(outputs), ("c", "d"))
        graph.node("Identity", linear.project(linear.prepare("x", "rows"), matrix), out="y")
        graph.output("y", np.float32, ("rows", sum(outputs)))
        self._held = Nearest(open_checkpoint(folder).tensors, formats)
        write(graph.groups, self._held, folder / "weights.bin", lambda _: None)
        offsets = layout(graph.groups)
        weights = [weight for group in graph.groups for weight in group.weights]
        external = [describe(weight, "weights.bin", offsets[weight.name]) for weight in weights]
        (folder / "model.onnx").write_bytes(graph.model("product", external).SerializeToString())
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self._session = ort.InferenceSession(folder / "model.onnx", options, providers=providers)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run(None, {"x": rows})[0])

    def rounded(self, rows: np.ndarray) -> np.ndarray:
        """What the reference takes it for."""
        weights = np.concatenate([self._held.weights(name) for name in "ab"]).astype(np.float64)
        return np.asarray(self._rounded.activations(rows.astype(np.float64)) @ weights.T + np.concatenate(self.biases))

    def exact(self, rows: np.ndarray) -> np.ndarray:
        return rows.astype(np.float64) @ np.concatenate(self.parts).T.astype(np.float64) + np.concatenate(self.biases)


@pytest.mark.parametrize(("inputs", "outputs"), [(64, (32, 32)), (50, (33, 7)), (20, (3, 2)), (96, (1, 130))])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_products_are_those_of_plain_arithmetic(
    tmp_path: Path, precision: Precision, inputs: int, outputs: tuple[int, int]
) -> None:
    product = Product(tmp_path, precision, inputs, outputs)
    rows = np.random.default_rng(0).standard_normal((17, inputs)).astype(np.float32)
    expected = product.exact(rows)
    error = np.abs(product(rows) - expected).max() / np.abs(expected).max()
    assert error < TOLERANCE[precision]


@pytest.mark.parametrize("count", [1, 17])
@pytest.mark.parametrize("inputs", [20, 50, 64, 96, 128, 200, 352, 512])
@pytest.mark.parametrize("block", [32, 64, 128])
def test_int4_is_what_the_reference_takes_it_for(tmp_path: Path, block: int, inputs: int, count: int) -> None:
    """With weights around a mean, so that their zero points differ; inputs fewer than a block, and a part of one."""
    product = Product(tmp_path, Precision.INT4, inputs, (33, 7), lambda part: part + part[:, :1], block=block)
    rows = np.random.default_rng(0).standard_normal((count, inputs)).astype(np.float32)
    expected = product.rounded(rows)
    error = np.abs(product(rows) - expected) / np.abs(expected).max()
    assert np.median(error) < 1e-6
    assert error.max() < 2e-2  # on another processor an activation may fall on the other side of a rounding


@pytest.mark.parametrize("block", [32, 64, 128])
def test_int4_of_zeros_of_one_sign_and_of_no_size_is_what_it_is(tmp_path: Path, block: int) -> None:
    """Rows of zeros, of one sign, as small as floats go, and as large as a product may be."""

    def shape(part: np.ndarray) -> np.ndarray:
        part = np.abs(part)
        part[0], part[1], part[2] = 0, -part[1], part[2] * 1e-44
        part[3] *= 1e30
        return part

    product = Product(tmp_path, Precision.INT4, 200, (4, 4), shape, block=block)
    rows = np.random.default_rng(0).standard_normal((3, 200)).astype(np.float32)
    got, expected = product(rows), product.rounded(rows)
    assert np.isfinite(got).all()
    bias = np.concatenate(product.biases)
    np.testing.assert_array_equal(got[:, [0, 2, 4, 6]], np.tile(bias[[0, 2, 4, 6]], (3, 1)))
    assert (np.abs(got - expected) <= 2e-2 * np.abs(expected).max(axis=0)).all()


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_row_does_not_change_with_its_neighbours(tmp_path: Path, precision: Precision) -> None:
    product = Product(tmp_path, precision, 64, (32, 32))
    rows = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    loud = rows.copy()
    loud[1:] *= 1000
    np.testing.assert_array_equal(product(rows)[0], product(loud)[0])


def test_int8_does_not_saturate_where_all_weights_and_activations_are_at_their_peak(tmp_path: Path) -> None:
    product = Product(tmp_path, Precision.INT8, 64, (32, 32), np.sign)
    rows = np.sign(product.parts[0][:8])
    np.testing.assert_allclose(product(rows), product.exact(rows), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_int8_is_as_exact_for_quiet_rows_as_for_loud_ones(tmp_path: Path, scale: float) -> None:
    product = Product(tmp_path, Precision.INT8, 64, (32, 32))
    rows = (np.random.default_rng(0).standard_normal((4, 64)) * scale).astype(np.float32)
    bias = np.concatenate(product.biases)
    expected = product.exact(rows) - bias
    resolution = TOLERANCE[Precision.INT8] * np.abs(expected).max() + 1e-6 * np.abs(bias).max()
    assert np.abs(product(rows) - bias - expected).max() < resolution


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_row_of_zeros_gives_the_bias(tmp_path: Path, precision: Precision) -> None:
    product = Product(tmp_path, precision, 64, (32, 32))
    np.testing.assert_allclose(product(np.zeros((2, 64), np.float32)), [np.concatenate(product.biases)] * 2, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_number_that_is_not_finite_is_seen_in_its_own_row_only(
    tmp_path: Path, precision: Precision, bad: float
) -> None:
    product = Product(tmp_path, precision, 96, (32, 32))
    rows = np.random.default_rng(0).standard_normal((5, 96)).astype(np.float32)
    clean = product(rows)
    rows[2, 70] = bad
    poisoned = product(rows)
    assert not np.isfinite(poisoned[2]).any()
    np.testing.assert_array_equal(np.delete(poisoned, 2, axis=0), np.delete(clean, 2, axis=0))
