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


_LAYER_NORMED = {name: value for name, value in _LLAMA.items() if name != "rms_norm_eps"} | {"layer_norm_eps": 1e-5}
_GEMMA2 = _LLAMA | {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_act": "gelu_pytorch_tanh",
    "head_dim": 12,
    "query_pre_attn_scalar": 16,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window": 300,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "cache_implementation": "hybrid",
}
_GEMMA3 = {name: value for name, value in _GEMMA2.items() if not name.endswith("softcapping")} | {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "num_hidden_layers": 3,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "sliding_window_pattern": 3,
}
_VISION = {  # whose tensors the tests do not write: nothing here reads them
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_OLMO3 = _LLAMA | {
    "architectures": ["Olmo3ForCausalLM"],
    "model_type": "olmo3",
    "num_hidden_layers": 4,
    "sliding_window": 300,
    "rope_theta": 500000.0,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "pad_token_id": 0,
}


def _named(architecture: str, model_type: str, **fields: Any) -> dict[str, Any]:
    return _LLAMA | {"architectures": [architecture], "model_type": model_type} | fields


CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": _named("LlamaForCausalLM", "llama"),
    "mistral": _named("MistralForCausalLM", "mistral", sliding_window=300, num_key_value_heads=1, head_dim=10),
    "qwen2": _named("Qwen2ForCausalLM", "qwen2", use_sliding_window=False, sliding_window=64, tie_word_embeddings=True),
    "qwen3": _named("Qwen3ForCausalLM", "qwen3", head_dim=10, tie_word_embeddings=True),
    "qwen3-moe": _named(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        hidden_size=64,
        moe_intermediate_size=32,
        head_dim=10,
        num_experts=8,
        num_experts_per_tok=3,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    ),
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
    "phi4-mini": _PHI3
    | {"partial_rotary_factor": 0.75, "head_dim": 16, "tie_word_embeddings": True, "full_attn_mod": 1}
    | {"interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False, "attention_bias": False},
    "granite": _named(
        "GraniteForCausalLM",
        "granite",
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        attention_multiplier=0.125,
        logits_scaling=8.0,
        tie_word_embeddings=True,
    ),
    "smollm3": _named(
        "SmolLM3ForCausalLM", "smollm3", num_hidden_layers=4, no_rope_layers=[1, 0, 1, 1], pad_token_id=0
    ),
    "seed-oss": _named("SeedOssForCausalLM", "seed_oss", head_dim=10, attention_bias=True, attention_out_bias=False),
    "arcee": _named("ArceeForCausalLM", "arcee", hidden_act="relu2"),
    "internlm2": _named("InternLM2ForCausalLM", "internlm2", bias=False, attn_implementation="eager"),
    "internlm3": _named("InternLM3ForCausalLM", "internlm3", bias=True, qkv_bias=True, head_dim=6),
    "gemma": {
        name: value for name, value in _GEMMA2.items() if "softcap" not in name and name[:5] not in ("query", "slidi")
    }
    | {"architectures": ["GemmaForCausalLM"], "model_type": "gemma", "num_key_value_heads": 1},
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma3-with-images": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "boi_token_index": 3,
        "eoi_token_index": 4,
        "image_token_index": 5,
        "mm_tokens_per_image": 4,
        "text_config": {name: value for name, value in _GEMMA3.items() if name != "architectures"},
        "vision_config": _VISION | {"model_type": "siglip_vision_model"},
    },
    "mistral3": {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "image_token_index": 5,
        "text_config": _LLAMA | {"model_type": "mistral", "head_dim": 10, "sliding_window": None},
        "vision_config": _VISION | {"model_type": "pixtral", "head_dim": 4},
    },
    "olmo2": _named("Olmo2ForCausalLM", "olmo2", pad_token_id=0),
    "olmo3": _OLMO3,
    "exaone4": _named(
        "Exaone4ForCausalLM",
        "exaone4",
        num_hidden_layers=3,
        sliding_window=300,
        sliding_window_pattern="LLG",
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    "glm": _named("GlmForCausalLM", "glm", head_dim=12, attention_bias=True, partial_rotary_factor=0.5, pad_token_id=0),
    "glm4": _named(
        "Glm4ForCausalLM", "glm4", head_dim=8, attention_bias=True, partial_rotary_factor=0.5, pad_token_id=0
    ),
    "command-r": _LAYER_NORMED
    | {"architectures": ["CohereForCausalLM"], "model_type": "cohere", "logit_scale": 0.25, "use_qk_norm": False}
    | {"tie_word_embeddings": True, "pad_token_id": 0},
    "command-r7b": _LAYER_NORMED
    | {"architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2", "logit_scale": 0.25, "sliding_window": 300}
    | {"tie_word_embeddings": True, "pad_token_id": 0, "num_hidden_layers": 3, "sliding_window_pattern": 3},
    "phi2": _LAYER_NORMED
    | {"architectures": ["PhiForCausalLM"], "model_type": "phi", "hidden_act": "gelu_new", "hidden_size": 40}
    | {"partial_rotary_factor": 0.4, "num_key_value_heads": 4, "embd_pdrop": 0.0, "qk_layernorm": False},
    "stablelm2": _LAYER_NORMED
    | {"architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "use_qkv_bias": True, "hidden_size": 32}
    | {"partial_rotary_factor": 0.25, "num_key_value_heads": 4, "use_parallel_residual": False},
    "stablelm2-in-parallel": _LAYER_NORMED
    | {"architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "hidden_size": 32}
    | {"partial_rotary_factor": 0.25, "use_parallel_residual": True},
    "starcoder2": _LAYER_NORMED
    | {"architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2", "hidden_act": "gelu_pytorch_tanh"}
    | {
        "layer_norm_eps": None,
        "norm_epsilon": 1e-5,
        "use_bias": True,
        "sliding_window": 300,
        "tie_word_embeddings": True,
    },
    "pythia": _NEOX,
    "gpt-neox-in-turn": _NEOX | {"use_parallel_residual": False, "rotary_pct": 1.0, "hidden_act": "gelu_new"},
    "falcon-7b": _FALCON,
    "falcon-40b": _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-in-turn": _FALCON | {"multi_query": False, "parallel_attn": False, "bias": True},
    "mpt": _MPT,
    "mpt-power-of-two": _MPT | {"n_heads": 4},
}

ON_EVERY_TARGET = tuple(name for name, config in CONFIGS.items() if "num_experts" not in config)
"""Mixtures of experts are built for ONNX Runtime only."""


def write_family(folder: Path, name: str, **overrides: Any) -> Path:
    """Write the tiny checkpoint `name`, without a tokenizer."""
    fields = {**CONFIGS[name], **overrides}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    write_weights(folder, fields)
    return folder
