"""What config.json's class and llama.cpp take for granted differs: what a key does not say is said."""

from __future__ import annotations

from typing import Any

import pytest

from builder_service.checkpoint.gguf.config import read_config
from builder_service.families.registry import read_model
from builder_service.model.model import Model
from common.errors import InvalidArgument


def read(kind: str, **given: Any) -> Model:
    """The model of a file with these keys, `__` for a dot, besides those that all have."""
    sizes = {"block_count": 6, "embedding_length": 96, "feed_forward_length": 64, "context_length": 512}
    keys = {name.replace("__", "."): value for name, value in given.items()}
    own = {**sizes, "attention.head_count": 4, "vocab_size": 64, **keys}
    metadata = {"general.architecture": kind} | {f"{kind}.{key}": value for key, value in own.items()}
    return read_model(read_config(metadata, [], lambda _: [], "x.gguf"))


@pytest.mark.parametrize("kind", ["qwen3", "gemma", "gemma3", "seed_oss", "glm4", "smollm3", "llama"])
def test_without_keys_heads_and_rotation_are_those_of_llama_cpp(kind: str) -> None:
    model = read(kind)
    assert model.rope is not None
    assert (model.architecture.head_dim, model.architecture.kv_heads, model.rope.theta) == (24, 4, 10_000)
    assert model.rope.head_dim == 24


@pytest.mark.parametrize(("kind", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemma_scales_scores_by_its_width(kind: str, layers: int) -> None:
    large, small = read(kind, block_count=layers, attention__key_length=8), read(kind, attention__key_length=8)
    assert large.scales.scores == pytest.approx(24**-0.5)
    assert small.scales.scores == pytest.approx(8**-0.5)


def test_layers_of_a_gemma_without_a_window_are_all_alike() -> None:
    assert read("gemma3", attention__sliding_window=64).local_layers == {0, 1, 2, 3, 4}
    assert read("gemma3").local_layers == frozenset()


def test_a_granite_without_keys_scales_nothing_but_scores() -> None:
    scales = read("granite").scales
    assert (scales.embedding, scales.residual, scales.logits) == (1, 1, 1)
    assert scales.scores == pytest.approx(24**-0.5)


@pytest.mark.parametrize(
    ("kind", "keys", "words"),
    [
        ("granite", {"rope__scaling__finetuned": False}, "finetuned = false: without rotation"),
        ("gemma2", {"block_count": "many"}, "num_hidden_layers"),
        ("gemma3", {"attention__sliding_window": 64, "attention__sliding_window_pattern": [1]}, "layer_types"),
        ("granite", {"attention__scale": "wide"}, "attention_multiplier"),
        ("qwen3moe", {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": [8]}, "moe_inter"),
        ("qwen3moe", {"expert_shared_count": 1}, "qwen3moe.expert_shared_count"),
    ],
)
def test_what_is_not_computed_is_refused(kind: str, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        read(kind, **keys)
