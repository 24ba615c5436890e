from __future__ import annotations

import numpy as np
import pytest

from builder_service.checkpoint.checkpoint import StoredTensors
from builder_service.checkpoint.folder import open_checkpoint
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.fake_quantize import FakeQuantized
from common.spec.model_spec import Precision
from tests.samples.checkpoints import write_checkpoint

MATRIX = "model.layers.0.mlp.down_proj.weight"  # [32, 80]: its inputs are no multiple of an int4 block
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> StoredTensors:
    return open_checkpoint(write_checkpoint(tmp_path_factory.mktemp("checkpoint"), tokenizer=False)).tensors


def whole(rounded: FakeQuantized, name: str) -> np.ndarray:
    return np.concatenate(list(rounded.matrix(name)))


def test_fp32_leaves_everything_as_it_is(checkpoint: StoredTensors) -> None:
    rounded = FakeQuantized(checkpoint, WeightFormat(Precision.FP32))
    rows = np.random.default_rng(0).normal(size=(3, 80))
    np.testing.assert_array_equal(whole(rounded, MATRIX), checkpoint.tensor(MATRIX))
    np.testing.assert_array_equal(np.concatenate(list(rounded.embedding(EMBEDDING))), checkpoint.tensor(EMBEDDING))
    np.testing.assert_array_equal(rounded.activations(rows), rows)


def test_int8_weights_are_off_by_half_a_step_of_their_row(checkpoint: StoredTensors) -> None:
    exact = checkpoint.tensor(MATRIX)
    steps = np.abs(exact).max(axis=1, keepdims=True) / 64
    off = np.abs(whole(FakeQuantized(checkpoint, WeightFormat(Precision.INT8)), MATRIX) - exact)
    assert (off <= 0.501 * steps).all()
    assert off.max() > 0.3 * steps.min()


@pytest.mark.parametrize("size", [32, 64, 128])
def test_int4_weights_are_off_by_half_a_step_of_their_block(checkpoint: StoredTensors, size: int) -> None:
    exact = checkpoint.tensor(MATRIX)
    rounded = whole(FakeQuantized(checkpoint, WeightFormat(Precision.INT4, size)), MATRIX)
    assert rounded.shape == exact.shape
    for start in range(0, exact.shape[1], size):
        block = slice(start, start + size)
        reach = np.ptp(np.pad(exact[:, block], ((0, 0), (0, 1))), axis=1, keepdims=True)  # zero is in it
        assert (np.abs(rounded[:, block] - exact[:, block]) <= 0.501 * reach / 15).all()
        assert max(len(np.unique(row)) for row in rounded[:, block]) <= 16


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
def test_the_embedding_is_int8_where_weights_are_quantized(checkpoint: StoredTensors, precision: Precision) -> None:
    exact = checkpoint.tensor(EMBEDDING)
    off = np.abs(np.concatenate(list(FakeQuantized(checkpoint, WeightFormat(precision)).embedding(EMBEDDING))) - exact)
    assert (off <= 0.501 * np.abs(exact).max(axis=1, keepdims=True) / 127).all()
    assert off.any()


def test_int8_activations_have_a_scale_for_each_token(checkpoint: StoredTensors) -> None:
    rows = np.array([[127.0, 0.4, -3.6], [1.27, 0.004, -0.036], [0.0, 0.0, 0.0]])
    rounded = FakeQuantized(checkpoint, WeightFormat(Precision.INT8)).activations(rows)
    np.testing.assert_allclose(rounded, np.array([[127.0, 0, -4], [1.27, 0, -0.04], [0, 0, 0]]), atol=1e-12)


@pytest.mark.parametrize("size", [32, 64])
def test_int4_activations_have_a_scale_for_each_block(checkpoint: StoredTensors, size: int) -> None:
    rows = np.zeros((1, 80))
    rows[0, 0], rows[0, 1] = 127.0, 0.4
    rows[0, 32], rows[0, 33] = 1.27, 0.4
    rows[0, 64], rows[0, 65] = 1.27, 0.4
    rounded = FakeQuantized(checkpoint, WeightFormat(Precision.INT4, size)).activations(rows)
    second = (1.27, 0.4) if size == 32 else (1, 0)
    np.testing.assert_allclose(rounded[0, [0, 1, 32, 33, 64, 65]], [127, 0, *second, 1.27, 0.4], atol=1e-12)
    assert rounded.shape == rows.shape


def test_vectors_and_names_come_through(checkpoint: StoredTensors) -> None:
    rounded = FakeQuantized(checkpoint, WeightFormat(Precision.INT4))
    assert rounded.names == checkpoint.names
    np.testing.assert_array_equal(rounded.vector("model.norm.weight"), checkpoint.tensor("model.norm.weight"))
