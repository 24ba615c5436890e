"""The builder's reference against the tests' own: two tellings of the paper that share no code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.fake_quantize import FakeQuantized
from builder_service.verify.reference_model import ReferenceModel, Sight, Stream
from common.spec.model_spec import Precision
from common.window import Geometry
from tests.samples import reference as independent
from tests.samples.checkpoints import write_checkpoint
from tests.samples.streams import random_tokens

GEOMETRY = Geometry(4, 24, 8, 1)


def reference_of(folder: Path) -> ReferenceModel:
    checkpoint = open_checkpoint(folder)
    model = read_model(checkpoint.config)
    weights = FakeQuantized(ModelTensors(checkpoint.tensors, model), WeightFormat(Precision.FP32))
    return ReferenceModel(weights, model, read_rope(model, GEOMETRY))


def whole(sinks: int, window: int, tokens: list[int]) -> Stream:
    return Stream(sinks, window, tuple(range(len(tokens))), tuple(tokens))


@pytest.mark.parametrize(
    ("shape", "sinks", "window"),
    [
        ({}, 4, 24),
        ({}, 0, 7),
        ({"tied": True, "bias": True}, 32, 3),
        ({"tied": True, "bias": True}, 1, 1),
        ({"heads": 6, "kv_heads": 1, "head_dim": 10}, 3, 5),
    ],
)
def test_it_agrees_with_the_token_by_token_scheme(
    tmp_path: Path, shape: dict[str, Any], sinks: int, window: int
) -> None:
    write_checkpoint(tmp_path, tokenizer=False, **shape)
    tokens = random_tokens(60, 384)
    (logits,) = reference_of(tmp_path).logits((whole(sinks, window, tokens),))
    want = independent.Reference(independent.Weights(tmp_path), sinks, window).stream(tokens)
    np.testing.assert_allclose(logits, want, rtol=0, atol=1e-12 * np.abs(want).max())


def test_streams_do_not_see_each_other(tmp_path: Path) -> None:
    reference = reference_of(write_checkpoint(tmp_path, tokenizer=False))
    first, second = whole(2, 9, random_tokens(30, 384)), whole(0, 4, random_tokens(17, 384, seed=1))
    together = reference.logits((first, second))
    for alone, logits in zip((first, second), together, strict=True):
        np.testing.assert_allclose(logits, reference.logits((alone,))[0], rtol=0, atol=1e-12)
    assert [len(logits) for logits in together] == [30, 17]


def test_skipped_tokens_are_seen_as_zeros(tmp_path: Path) -> None:
    """Scores of zero keys are zero: each takes an equal, empty share, until the window has passed over it."""
    stream = Stream(2, 5, (0, 1, 20, 21, 22, 23, 24, 25), tuple(random_tokens(8, 384)))
    assert [len(sight.unfed) for sight in stream.sights] == [0, 0, 4, 3, 2, 1, 0, 0]
    assert stream.sights[2].places.tolist() == [0, 1, 6]
    assert stream.sights[-1].places.tolist() == [0, 1, 2, 3, 4, 5, 6]
    reference = reference_of(write_checkpoint(tmp_path, tokenizer=False))
    query = np.zeros((4, 8))  # scores of zero, so that all that is seen weighs the same
    values = np.ones((2, 2, 8))
    sight = Sight(np.array([0, 1]), np.array([2, 3]), np.array([0, 1]))
    np.testing.assert_allclose(reference._mix(query, np.zeros((2, 2, 8)), values, sight), np.full((4, 8), 0.5))


@pytest.mark.parametrize("far", [1_000, 10_000_000])
def test_where_a_stream_stands_does_not_matter_once_its_window_is_full(tmp_path: Path, far: int) -> None:
    reference = reference_of(write_checkpoint(tmp_path, tokenizer=False))
    tokens = tuple(random_tokens(14, 384))
    near, out = (Stream(2, 6, (0, 1, *range(start, start + 12)), tokens) for start in (50, far))
    first, second = reference.logits((near, out))
    np.testing.assert_array_equal(first, second)


def test_progress_rises_to_one(tmp_path: Path) -> None:
    shares: list[float] = []
    reference = reference_of(write_checkpoint(tmp_path, tokenizer=False, layers=3))
    reference.logits((whole(0, 3, [1, 2]),), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) == 4


def test_noise_shakes_its_own_stream_alone_and_about_as_much_as_it_says(tmp_path: Path) -> None:
    reference = reference_of(write_checkpoint(tmp_path, tokenizer=False))
    stream = whole(2, 9, random_tokens(30, 384))
    calm, noisy = reference.logits((stream, replace(stream, noise=1e-6)))
    np.testing.assert_allclose(calm, reference.logits((stream,))[0], rtol=0, atol=1e-12)
    error = np.abs(noisy - calm).max() / np.abs(calm).max()
    assert 1e-7 < error < 1e-4
