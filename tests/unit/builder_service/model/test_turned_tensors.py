"""A model in another basis says what it said, in every family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.model import EMBEDDING, Model
from builder_service.model.tensors import ModelTensors
from builder_service.model.turned_tensors import TurnedTensors, held_tensors, inner_basis
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.fake_quantize import FakeQuantized
from builder_service.verify.reference_model import ReferenceModel, Stream
from common.spec.model_spec import Precision
from common.window import Geometry
from tests.samples.families import CONFIGS, write_family
from tests.samples.streams import random_tokens

GEOMETRY = Geometry(4, 24, 8, 1)
EXACT, INT8 = WeightFormat(Precision.FP32), WeightFormat(Precision.INT8)
MLP = "model.layers.0.mlp.up_proj.weight"


def read(folder: Path) -> tuple[Model, ModelTensors]:
    checkpoint = open_checkpoint(folder)
    model = read_model(checkpoint.config)
    return model, ModelTensors(checkpoint.tensors, model)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_logits_stay(name: str, tmp_path: Path) -> None:
    model, tensors = read(write_family(tmp_path, name))
    rope, stream = read_rope(model, GEOMETRY), Stream(4, 12, tuple(range(30)), tuple(random_tokens(30, 96)))
    turned = FakeQuantized(TurnedTensors(tensors, model), EXACT, inner_basis(model, INT8))
    (found,) = ReferenceModel(turned, model, rope).logits((stream,))
    (expected,) = ReferenceModel(FakeQuantized(tensors, EXACT), model, rope).logits((stream,))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "turns"), [("llama", True), ("qwen3", True), ("phi3", True), ("pythia", False)])
def test_a_stream_whose_norms_subtract_a_mean_stays_as_it_is(name: str, turns: bool, tmp_path: Path) -> None:
    model, tensors = read(write_family(tmp_path, name))
    turned = TurnedTensors(tensors, model)
    for matrix in (EMBEDDING, MLP):
        assert np.array_equal(turned.tensor(matrix), tensors.tensor(matrix)) is not turns
    norm = "model.layers.0.input_layernorm.weight"
    assert bool((turned.tensor(norm) == 1).all()) is turns


def test_no_weight_stands_out(tmp_path: Path) -> None:
    """A norm that makes one input a hundred times as large as the others makes no weight so."""
    model, tensors = read(write_family(tmp_path, "llama", hidden_size=64))

    class Loud(ModelTensors):
        def tensor(self, name: str) -> np.ndarray:
            found = super().tensor(name)
            return np.where(np.arange(64) == 7, 100, found) if "post_attention_layernorm" in name else found

    loud = Loud(open_checkpoint(tmp_path).tensors, model)
    scaled = tensors.tensor(MLP) * loud.tensor("model.layers.0.post_attention_layernorm.weight")
    turned = TurnedTensors(loud, model).tensor(MLP)
    peaks = [np.abs(rows).max(axis=1) / np.sqrt((rows**2).mean(axis=1)) for rows in (scaled, turned)]
    assert np.median(peaks[0]) > 7
    assert peaks[1].max() < 4


def test_only_int8_is_held_in_another_basis(tmp_path: Path) -> None:
    model, tensors = read(write_family(tmp_path, "llama"))
    for precision in Precision:
        held = held_tensors(tensors, model, WeightFormat(precision))
        assert (held is tensors) is (precision is not Precision.INT8)
