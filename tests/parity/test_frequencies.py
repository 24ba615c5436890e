"""Inverse frequencies against those of Hugging Face, for every `rope_type`, head and length."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

from builder_service.families.registry import read_model, read_rope
from common.window import Geometry

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

MAX_POSITION = 4096


def _scalings(half: int) -> list[dict[str, Any]]:
    return [
        {},
        {"rope_type": "linear", "factor": 3.5},
        {"rope_type": "dynamic", "factor": 4.0},
        {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 256},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "attention_factor": 1.25},
        {"type": "yarn", "factor": 40, "original_max_position_embeddings": 128, "mscale": 1, "mscale_all_dim": 0.8},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "truncate": False},
        {
            "rope_type": "longrope",
            "original_max_position_embeddings": 1024,
            "short_factor": np.linspace(1, 2, half).tolist(),
            "long_factor": np.linspace(1, 60, half).tolist(),
        },
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
        {"rope_type": "proportional", "partial_rotary_factor": 0.25},
    ]  # fmt: skip


def _fields(index: int, head_dim: int, theta: float) -> dict[str, Any]:
    scaling = _scalings(head_dim // 2)[index]
    fields: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "hidden_size": 4 * head_dim,
        "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": MAX_POSITION, "rope_theta": theta,
    }  # fmt: skip
    return fields | ({"rope_scaling": scaling} if scaling else {})


def _cases() -> Iterator[tuple[int, int, float, int]]:
    """Every type with every head, base and length that it allows."""
    lengths = (64, 1500, MAX_POSITION, 3 * MAX_POSITION)
    for case in product(range(len(_scalings(1))), (64, 80, 128), (10_000.0, 500_000.0), lengths):
        if case[-1] <= read_model(_fields(*case[:3])).architecture.trained_context:
            yield case


@pytest.mark.parametrize(("index", "head_dim", "theta", "tokens"), list(_cases()))
def test_frequencies_equal_those_of_hugging_face(index: int, head_dim: int, theta: float, tokens: int) -> None:
    fields = _fields(index, head_dim, theta)
    ours = read_rope(read_model(fields), Geometry(sinks=4, window=tokens - 4, chunk=1, slots=1))
    rotation = _hugging_face(fields, tokens)

    theirs = rotation.inv_freq.numpy()
    np.testing.assert_array_max_ulp(
        np.array(ours.inverse_frequencies, np.float32), theirs, maxulp=_ulps(fields.get("rope_scaling", {}))
    )
    assert ours.attention_scale == pytest.approx(rotation.attention_scaling, rel=1e-7)


def _ulps(scaling: dict[str, Any]) -> int:
    """torch's vectorized power is right to one unit; what follows it adds one or two."""
    return {"llama3": 4, "yarn": 4, "dynamic": 3}.get(scaling.get("rope_type", scaling.get("type", "")), 2)


def _hugging_face(fields: dict[str, Any], tokens: int) -> Any:
    """Its rotation after it has seen `tokens` positions at once."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(**{name: value for name, value in fields.items() if name != "architectures"})
    rotation = LlamaRotaryEmbedding(config)
    rotation(torch.zeros(1, 1, 1), torch.arange(tokens)[None])
    return rotation
