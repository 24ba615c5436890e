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
from builder_service.verify.reference_model import ReferenceModel, Stream
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


def test_skipped_tokens_are_seen_by_nobody() -> None:
    stream = Stream(2, 3, (0, 1, 20, 21, 22, 23), tuple(random_tokens(6, 384)))
    assert [seen.tolist() for seen in stream.seen] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [0, 1, 3, 4, 5],
    ]


@pytest.mark.parametrize("far", [50, 10_000_000])
def test_a_stream_that_jumps_is_one_that_began_there(tmp_path: Path, far: int) -> None:
    reference = reference_of(write_checkpoint(tmp_path, tokenizer=False))
    tokens = tuple(random_tokens(14, 384))
    whole_one, jumping = whole(2, 6, list(tokens)), Stream(2, 6, (0, 1, *range(far, far + 12)), tokens)
    first, second = reference.logits((whole_one, jumping))
    np.testing.assert_array_equal(first, second)


def test_parts_go_on_from_what_is_given(tmp_path: Path) -> None:
    """With its own states given nothing changes; another state changes what follows it, and nothing before."""
    reference = reference_of(write_checkpoint(tmp_path, tokenizer=False))
    stream = whole(2, 9, random_tokens(12, 384))
    own = [part.after[0] for part in reference.parts((stream,))]
    assert [part.name for part in reference.parts((stream,))] == [
        "attention of layer 0",
        "feed-forward of layer 0",
        "attention of layer 1",
        "feed-forward of layer 1",
        "logits",
    ]
    given = [*own[:-1]]
    same = [part.after[0] for part in reference.parts((replace(stream, given=tuple(given)),))]
    np.testing.assert_allclose(same[-1], own[-1], rtol=0, atol=1e-12)
    given[1] = np.full_like(given[1], np.nan)
    given[1][3:5] = own[1][3:5] + 1
    parts = list(reference.parts((replace(stream, given=tuple(given)),)))
    np.testing.assert_array_equal(parts[1].after[0], own[1])
    np.testing.assert_array_equal(parts[2].before[0][3:5], given[1][3:5])
    np.testing.assert_array_equal(parts[2].after[0][:3], own[2][:3])
    assert np.abs(parts[2].after[0][5:] - own[2][5:]).max() > 1e-3


def test_noise_shakes_its_own_stream_alone_and_about_as_much_as_it_says(tmp_path: Path) -> None:
    reference = reference_of(write_checkpoint(tmp_path, tokenizer=False))
    stream = whole(2, 9, random_tokens(30, 384))
    calm, noisy = reference.logits((stream, replace(stream, noise=1e-6)))
    np.testing.assert_allclose(calm, reference.logits((stream,))[0], rtol=0, atol=1e-12)
    error = np.abs(noisy - calm).max() / np.abs(calm).max()
    assert 1e-7 < error < 1e-4
