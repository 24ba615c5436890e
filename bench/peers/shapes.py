"""Shapes that every peer runs in: the published configurations with random weights, and the demo model as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A model to measure, and the rows of cache that every session has: 4 sinks and the rest as window."""

    name: str
    cache: int
    config: dict[str, Any]
    """As in config.json; empty for the demo model, whose checkpoint is in the repository."""


def _llama(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, **others: object) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **others,
    }


_QWEN = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("demo", 256, {}),
        Shape("smollm-135m", 1024, _llama(576, 1536, 30, 9, 3, vocab_size=49152, tie_word_embeddings=True)),
        Shape("qwen2.5-0.5b", 1024, _llama(896, 4864, 24, 14, 2, vocab_size=151936, tie_word_embeddings=True, **_QWEN)),
        Shape("tinyllama-1.1b", 1024, _llama(2048, 5632, 22, 32, 4, vocab_size=32000)),
    )
}
