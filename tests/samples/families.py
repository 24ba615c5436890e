"""Tiny random checkpoints of every family, with the choices that its real ones make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.samples.checkpoints import write_weights

_COMMON = {"vocab_size": 96, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32"}
_LLAMA = _COMMON | {
    "hidden_size": 24,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
_NEOX = _COMMON | {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 512,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}
_FALCON = _COMMON | {
    "architectures": ["FalconForCausalLM"],
    "model_type": "falcon",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 512,
    "alibi": False,
    "bias": False,
    "multi_query": True,
    "parallel_attn": True,
    "new_decoder_architecture": False,
    "rope_theta": 10000.0,
}
_MPT = _COMMON | {
    "architectures": ["MptForCausalLM"],
    "model_type": "mpt",
    "d_model": 48,
    "n_heads": 6,
    "n_layers": 2,
    "expansion_ratio": 4,
    "max_seq_len": 512,
    "no_bias": True,
    "layer_norm_epsilon": 1e-5,
    "attn_config": {"alibi": True, "alibi_bias_max": 8, "attn_type": "multihead_attention"},
}
_PHI3 = _LLAMA | {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_size": 48,
    "sliding_window": 511,
    "pad_token_id": 0,
    "original_max_position_embeddings": 512,
}


def _named(architecture: str, model_type: str, **fields: Any) -> dict[str, Any]:
    return _LLAMA | {"architectures": [architecture], "model_type": model_type} | fields


CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": _named("LlamaForCausalLM", "llama"),
    "mistral": _named("MistralForCausalLM", "mistral", sliding_window=300, num_key_value_heads=1, head_dim=10),
    "qwen2": _named("Qwen2ForCausalLM", "qwen2", use_sliding_window=False, sliding_window=64, tie_word_embeddings=True),
    "qwen3": _named("Qwen3ForCausalLM", "qwen3", head_dim=10, tie_word_embeddings=True),
    "phi3": _PHI3,
    "phi3-longrope": _PHI3
    | {
        "max_position_embeddings": 2048,
        "sliding_window": 2047,
        "partial_rotary_factor": 0.5,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.2],
            "long_factor": [1.0, 2.0, 5.0],
        },
    },
    "pythia": _NEOX,
    "gpt-neox-in-turn": _NEOX | {"use_parallel_residual": False, "rotary_pct": 1.0, "hidden_act": "gelu_new"},
    "falcon-7b": _FALCON,
    "falcon-40b": _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-in-turn": _FALCON | {"multi_query": False, "parallel_attn": False, "bias": True},
    "mpt": _MPT,
    "mpt-power-of-two": _MPT | {"n_heads": 4},
}


def write_family(folder: Path, name: str, **overrides: Any) -> Path:
    """Write the tiny checkpoint `name`, without a tokenizer."""
    fields = {**CONFIGS[name], **overrides}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    write_weights(folder, fields)
    return folder
