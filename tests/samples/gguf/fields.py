"""The metadata of a GGUF as llama.cpp's converter writes them from a config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ARCHITECTURES = {
    "gemma3_text": "gemma3",
    "qwen3_moe": "qwen3moe",
    "olmo3": "olmo2",
    "phi": "phi2",
    "cohere": "command-r",
    "mistral": "llama",
}
"""What GGUF calls a `model_type`, where it calls it otherwise."""
_COUNTS = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "use_parallel_residual": "use_parallel_residual",
}
_NUMBERS = {
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "norm_epsilon": "attention.layer_norm_epsilon",
    "rope_theta": "rope.freq_base",
    "rope_local_base_freq": "rope.freq_base_swa",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention.scale",
    "logits_scaling": "logit_scale",
    "logit_scale": "logit_scale",
}
_NO_WINDOW = ("starcoder2",)  # whose converter leaves it out


def architecture(config: Mapping[str, Any]) -> str:
    """`general.architecture`."""
    kind: str = config["model_type"]
    return ARCHITECTURES.get(kind, kind)


def fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """All keys under the architecture's name."""
    name = architecture(config)
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    own = {key: config[field] for field, key in _COUNTS.items() if config.get(field) is not None}
    own |= {key: float(config[field]) for field, key in _NUMBERS.items() if config.get(field) is not None}
    own |= {"attention.key_length": width, "attention.value_length": width}
    own["rope.dimension_count"] = int(width * config.get("partial_rotary_factor", 1))
    if config.get("use_sliding_window", True) and config.get("sliding_window") and name not in _NO_WINDOW:
        own |= {"attention.sliding_window": config["sliding_window"], **_pattern(config)}
    if name == "phi3":
        own["rope.scaling.original_context_length"] = config["original_max_position_embeddings"]
    longest = config["max_position_embeddings"]
    own |= _scaling(config.get("rope_scaling") or {}, longest, config.get("original_max_position_embeddings", longest))
    return {f"{name}.{key}": value for key, value in own.items()}


def _pattern(config: Mapping[str, Any]) -> dict[str, Any]:
    if types := config.get("layer_types"):
        return {"attention.sliding_window_pattern": [each == "sliding_attention" for each in types]}
    every = config.get("sliding_window_pattern")
    if every is None and config["model_type"] == "olmo3":
        return {"attention.sliding_window_pattern": [(at + 1) % 4 != 0 for at in range(config["num_hidden_layers"])]}
    return {} if every is None else {"attention.sliding_window_pattern": every}


def _scaling(rope: Mapping[str, Any], longest: int, original: int) -> dict[str, Any]:
    kind = rope.get("rope_type", rope.get("type"))
    if kind == "longrope":
        return {"rope.scaling.attn_factor": math.sqrt(1 + math.log(longest / original) / math.log(original))}
    if kind not in ("linear", "yarn"):
        return {}
    found = {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    return found
