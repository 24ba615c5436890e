"""config.json of well-known checkpoints as they were published, in what matters here, and how many numbers each has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from builder_service.families.registry import read_model
from tests.samples.families import CONFIGS

_SILU = {"hidden_act": "silu", "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True}
_SEVENS: dict[str, Any] = {"hidden_size": 4096, "num_attention_heads": 32}

PUBLISHED: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    "Qwen2.5-0.5B": (
        494_032_768,
        _SILU
        | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864}
        | {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151_936}
        | {"max_position_embeddings": 32768, "max_window_layers": 24, "sliding_window": 32768, "rms_norm_eps": 1e-6}
        | {"rope_theta": 1e6, "tie_word_embeddings": True, "use_mrope": False, "use_sliding_window": False},
    ),
    "Qwen3-30B-A3B": (
        30_532_122_624,
        _SILU
        | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False}
        | {"decoder_sparse_step": 1, "head_dim": 128, "hidden_size": 2048, "intermediate_size": 6144}
        | {"max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": []}
        | {"moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128}
        | {"num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4}
        | {"output_router_logits": False, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1e6}
        | {"router_aux_loss_coef": 0.001, "sliding_window": None, "tie_word_embeddings": False}
        | {"use_sliding_window": False, "vocab_size": 151_936},
    ),
    "Phi-4-mini-instruct": (
        3_836_021_760,
        _SILU
        | {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "auto_map": {"AutoConfig": "x"}}
        | {"attention_bias": False, "embd_pdrop": 0.0, "full_attn_mod": 1, "hidden_size": 3072}
        | {"intermediate_size": 8192, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False}
        | {"max_position_embeddings": 131_072, "num_attention_heads": 24, "num_hidden_layers": 32}
        | {"num_key_value_heads": 8, "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75}
        | {"resid_pdrop": 0.0, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "sliding_window": 262_144}
        | {"rope_scaling": {"type": "longrope", "long_factor": [1.5] * 48, "short_factor": [1.0] * 48}}
        | {"tie_word_embeddings": True, "vocab_size": 200_064},
    ),
    "granite-3.1-2b-instruct": (
        2_533_531_648,
        _SILU
        | {"architectures": ["GraniteForCausalLM"], "model_type": "granite", "attention_bias": False}
        | {"attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "logits_scaling": 8.0}
        | {"residual_multiplier": 0.22, "mlp_bias": False, "hidden_size": 2048, "intermediate_size": 8192}
        | {"max_position_embeddings": 131_072, "num_attention_heads": 32, "num_hidden_layers": 40}
        | {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 5e6}
        | {"tie_word_embeddings": True, "vocab_size": 49155},
    ),
    "SmolLM3-3B": (
        3_075_098_624,
        _SILU
        | {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "attention_bias": False}
        | {"hidden_size": 2048, "intermediate_size": 11008, "layer_types": ["full_attention"] * 36}
        | {"max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": False, "no_rope_layer_interval": 4}
        | {"no_rope_layers": [1, 1, 1, 0] * 9, "num_attention_heads": 16, "num_hidden_layers": 36}
        | {"num_key_value_heads": 4, "pretraining_tp": 2, "rms_norm_eps": 1e-6, "rope_scaling": None}
        | {"rope_theta": 5e6, "sliding_window": None, "use_sliding_window": False, "vocab_size": 128_256},
    ),
    "internlm2_5-7b-chat": (
        7_737_708_544,
        _SILU
        | _SEVENS
        | {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "attn_implementation": "eager"}
        | {"auto_map": {"AutoConfig": "x"}, "bias": False, "intermediate_size": 14336, "num_hidden_layers": 32}
        | {"max_position_embeddings": 32768, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6}
        | {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "tie_word_embeddings": False, "vocab_size": 92544},
    ),
    "internlm3-8b-instruct": (
        8_804_241_408,
        _SILU
        | _SEVENS
        | {"architectures": ["InternLM3ForCausalLM"], "model_type": "internlm3", "auto_map": {"AutoConfig": "x"}}
        | {"bias": False, "qkv_bias": False, "head_dim": 128, "intermediate_size": 10240, "num_hidden_layers": 48}
        | {"max_position_embeddings": 32768, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 5e7}
        | {
            "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
            "tie_word_embeddings": False,
            "vocab_size": 128_512,
        },
    ),
    "gemma-2-2b-it": (
        2_614_341_888,
        {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": False}
        | {"attention_dropout": 0.0, "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid"}
        | {"final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh"}
        | {"hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216}
        | {"max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 26}
        | {"num_key_value_heads": 4, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
        | {"sliding_window": 4096, "vocab_size": 256_000},
    ),
    "gemma-3-1b-it": (
        999_885_952,
        {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "attention_bias": False}
        | {"attn_logit_softcapping": None, "cache_implementation": "hybrid", "final_logit_softcapping": None}
        | {"head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912}
        | {"max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26}
        | {"num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
        | {"rope_local_base_freq": 10000, "rope_scaling": None, "sliding_window": 512, "sliding_window_pattern": 6}
        | {"vocab_size": 262_144},
    ),
    "OLMo-2-1124-7B": (
        7_298_617_344,
        _SILU
        | _SEVENS
        | {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": False}
        | {"intermediate_size": 11008, "max_position_embeddings": 4096, "num_hidden_layers": 32}
        | {"num_key_value_heads": 32, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 500000}
        | {"tie_word_embeddings": False, "vocab_size": 100_352},
    ),
    "GLM-4-9B-0414": (
        9_400_279_040,
        _SILU
        | _SEVENS
        | {"architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "attention_bias": True, "head_dim": 128}
        | {"intermediate_size": 13696, "max_position_embeddings": 32768, "num_hidden_layers": 40}
        | {"num_key_value_heads": 2, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5, "rope_theta": 1e4}
        | {"tie_word_embeddings": False, "vocab_size": 151_552},
    ),
    "c4ai-command-r7b-12-2024": (
        8_028_033_024,
        _SILU
        | _SEVENS
        | {"architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2", "attention_bias": False, "head_dim": 128}
        | {"cache_implementation": "hybrid", "intermediate_size": 14336, "layer_norm_eps": 1e-5, "layer_switch": 4}
        | {"logit_scale": 0.25, "max_position_embeddings": 8192, "num_hidden_layers": 32, "num_key_value_heads": 8}
        | {"order_of_interleaved_layers": "local_attn_first", "position_embedding_type": "rope_gptj"}
        | {"rope_scaling": None, "rope_theta": 50000, "rotary_pct": 1.0, "sliding_window": 4096}
        | {"sliding_window_pattern": 4, "use_embedding_sharing": True, "use_gated_activation": True}
        | {"use_parallel_block": True, "use_parallel_embedding": True, "vocab_size": 256_000},
    ),
    "phi-2": (
        2_779_683_840,
        {"architectures": ["PhiForCausalLM"], "model_type": "phi", "attention_dropout": 0.0, "embd_pdrop": 0.0}
        | {"hidden_act": "gelu_new", "hidden_size": 2560, "intermediate_size": 10240, "layer_norm_eps": 1e-5}
        | {"max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 32}
        | {"num_key_value_heads": 32, "partial_rotary_factor": 0.4, "qk_layernorm": False, "resid_pdrop": 0.1}
        | {"rope_scaling": None, "rope_theta": 1e4, "tie_word_embeddings": False, "vocab_size": 51200},
    ),
    "stablelm-2-1_6b": (
        1_644_515_328,
        _SILU
        | {"architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "hidden_size": 2048}
        | {"intermediate_size": 5632, "max_position_embeddings": 4096, "layer_norm_eps": 1e-5}
        | {"num_attention_heads": 32, "num_hidden_layers": 24, "num_key_value_heads": 32}
        | {"partial_rotary_factor": 0.25, "rope_theta": 10000, "tie_word_embeddings": False, "use_qkv_bias": True}
        | {"vocab_size": 100_352},
    ),
    "starcoder2-3b": (
        3_030_371_328,
        {"architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2", "attention_dropout": 0.1}
        | {"residual_dropout": 0.1, "embedding_dropout": 0.1, "hidden_act": "gelu_pytorch_tanh"}
        | {"hidden_size": 3072, "initializer_range": 0.018042, "intermediate_size": 12288, "mlp_type": "default"}
        | {"max_position_embeddings": 16384, "norm_epsilon": 1e-5, "norm_type": "layer_norm"}
        | {"num_attention_heads": 24, "num_hidden_layers": 30, "num_key_value_heads": 2, "use_bias": True}
        | {"rope_theta": 999999.4420358813, "sliding_window": 4096, "vocab_size": 49152},
    ),
    "Mistral-Small-3.1-24B-Instruct-2503": (
        23_572_403_200,
        {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "image_token_index": 10}
        | {"multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2}
        | {"vision_config": {"model_type": "pixtral"}, "vision_feature_layer": -1}
        | {
            "text_config": {"attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120}
            | {"initializer_range": 0.02, "intermediate_size": 32768, "max_position_embeddings": 131_072}
            | {"model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 40}
            | {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e9, "sliding_window": None}
            | {"use_cache": True, "vocab_size": 131_072}
        },
    ),
}
"""Numbers of the text part, where a model has another."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read_whole(name: str) -> None:
    parameters, config = PUBLISHED[name]
    assert read_model(config).architecture.parameters == parameters


def test_a_text_model_without_words_of_its_own_is_what_its_library_means() -> None:
    """Gemma 3's config.json with images says little of its text part: these are the published 4B's fields."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    model = read_model({**CONFIGS["gemma3-with-images"], "text_config": text})
    shapes = model.architecture
    assert (shapes.heads, shapes.kv_heads, shapes.head_dim, shapes.vocabulary) == (8, 4, 256, 262_208)
    assert (shapes.trained_context, shapes.sliding_window, model.tied) == (131_072, 1024, True)
    assert shapes.parameters == 3_880_263_168
    assert model.rope is not None
    assert model.local_rope is not None
    assert (model.rope.theta, model.local_rope.theta) == (1e6, 1e4)
    assert sorted(set(range(34)) - model.local_layers) == [5, 11, 17, 23, 29]
