"""GGUF's architectures: the class of config.json that computes the same, and what its files say otherwise than others.

Source: llama.cpp, `conversion` (what is written) and `src/models` (what is computed where a key is missing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from builder_service.checkpoint.files import invalid

Fields = dict[str, Any]
_GEMMA_27B = {"gemma2": 46, "gemma3": 62}
"""Layers of the models whose scores are scaled by hidden size over heads, and not by a head's width."""


@dataclass(frozen=True)
class Kind:
    """A GGUF architecture."""

    architecture: str
    model_type: str
    interleaved: bool = False
    """Whether rows of queries and keys are ordered for rotation of neighbours, and not of halves."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Tensors, of a layer or outside, that are called otherwise than in `tensors.LAYER_NAMES` and `OTHER_NAMES`."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Fields of config.json by keys that others do not have, without the architecture's name before them."""
    biases: Mapping[str, str] = field(default_factory=dict)
    """Fields that say whether there are biases, and the bias of the first layer that is one of them."""
    said: Mapping[str, object] = field(default_factory=dict)
    """What no key says."""
    complete: Callable[[Fields, Fields, str], None] = lambda _own, _config, _file: None
    """Makes the rest of config.json (the second) from the keys that nobody read (the first) of a file."""
    part_rotated: bool = False
    """Whether config.json means a part of each head unless it says how much."""
    norms_plus_one: bool = False
    """Whether scales of norms are stored as they are, where a checkpoint has how much they differ from 1."""


def _windows(every: int | None) -> Callable[[Fields, Fields, str], None]:
    """Which layers have a window of their own; where the file does not say, all but each `every`-th."""

    def complete(own: Fields, config: Fields, _file: str) -> None:
        pattern = own.pop("attention.sliding_window_pattern", every)
        if "sliding_window" not in config:
            config["sliding_window_pattern"] = 1
        elif isinstance(pattern, list):
            config["layer_types"] = ["sliding_attention" if each else "full_attention" for each in pattern]
        elif pattern is not None:
            config["sliding_window_pattern"] = pattern

    return complete


def _gemma(own: Fields, config: Fields, file: str) -> None:
    layers, heads, hidden = (config.get(name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    kind = "gemma2" if config["model_type"] == "gemma2" else "gemma3"
    scale = config.get("head_dim")
    if layers == _GEMMA_27B[kind] and isinstance(hidden, int) and isinstance(heads, int):
        scale = hidden // heads
    config["query_pre_attn_scalar"] = scale
    if kind == "gemma3":
        _windows(6)(own, config, file)


def _granite(own: Fields, config: Fields, file: str) -> None:
    if own.get("rope.scaling.finetuned") is False:
        message = f"{file} has granite.rope.scaling.finetuned = false: without rotation, which is not computed here"
        raise invalid(message, file=file)
    if "attention_multiplier" not in config and isinstance(config.get("head_dim"), int):
        config["attention_multiplier"] = config["head_dim"] ** -0.5


_ATTENTION = {"attention_bias": "attn_q.bias"}
_POST_NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_LAYER_NORM = {"attention.layer_norm_epsilon": "layer_norm_eps"}
_SOFT_CAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_FOUR_NORMS = _POST_NORMS | {"ffn_norm": "pre_feedforward_layernorm"}
_GLM4 = {
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    "ffn_up": "mlp.gate_up_proj",
}
_PHI2 = {
    "output_norm": "model.final_layernorm",
    "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    **{f"ffn_{part}_exps": f"mlp.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")},
}
_EXPERT_KEYS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_MULTIPLIERS = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "logit_scale": "logits_scaling",
}
_LLAMA_BIASES = {**_ATTENTION, "mlp_bias": "ffn_up.bias"}

KINDS: Mapping[str, Kind] = {
    "llama": Kind("LlamaForCausalLM", "llama", interleaved=True, biases=_LLAMA_BIASES),
    "qwen2": Kind("Qwen2ForCausalLM", "qwen2"),
    "qwen3": Kind("Qwen3ForCausalLM", "qwen3"),
    "qwen3moe": Kind(
        "Qwen3MoeForCausalLM", "qwen3_moe", renamed=_EXPERTS, keys=_EXPERT_KEYS, said={"norm_topk_prob": True}
    ),
    "phi2": Kind("PhiForCausalLM", "phi", renamed=_PHI2, keys=_LAYER_NORM, part_rotated=True),
    "phi3": Kind("Phi3ForCausalLM", "phi3", renamed={"ffn_up": "mlp.gate_up_proj"}),
    "gemma": Kind("GemmaForCausalLM", "gemma", norms_plus_one=True),
    "gemma2": Kind(
        "Gemma2ForCausalLM", "gemma2", renamed=_FOUR_NORMS, keys=_SOFT_CAPS, complete=_gemma, norms_plus_one=True
    ),
    "gemma3": Kind(
        "Gemma3ForCausalLM",
        "gemma3_text",
        renamed=_FOUR_NORMS,
        keys={
            "final_logit_softcapping": "final_logit_softcapping",
            "rope.freq_base_swa": "rope_local_base_freq",
        },
        complete=_gemma,
        norms_plus_one=True,
    ),
    "smollm3": Kind("SmolLM3ForCausalLM", "smollm3", interleaved=True, biases=_LLAMA_BIASES),
    "granite": Kind(
        "GraniteForCausalLM",
        "granite",
        interleaved=True,
        keys=_MULTIPLIERS,
        biases=_LLAMA_BIASES,
        complete=_granite,
    ),
    "arcee": Kind("ArceeForCausalLM", "arcee", interleaved=True, biases=_LLAMA_BIASES, said={"hidden_act": "relu2"}),
    "seed_oss": Kind(
        "SeedOssForCausalLM",
        "seed_oss",
        renamed={"post_attention_norm": "post_attention_layernorm"},
        biases={**_ATTENTION, "attention_out_bias": "attn_output.bias"},
    ),
    "starcoder2": Kind(
        "Starcoder2ForCausalLM",
        "starcoder2",
        renamed={"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
        keys={"attention.layer_norm_epsilon": "norm_epsilon"},
        biases={"use_bias": "attn_q.bias"},
    ),
    "stablelm": Kind(
        "StableLmForCausalLM",
        "stablelm",
        keys={**_LAYER_NORM, "use_parallel_residual": "use_parallel_residual"},
        biases={"use_qkv_bias": "attn_q.bias"},
        part_rotated=True,
    ),
    "olmo2": Kind("Olmo2ForCausalLM", "olmo2", renamed=_POST_NORMS, biases=_ATTENTION),
    "exaone4": Kind("Exaone4ForCausalLM", "exaone4", renamed=_POST_NORMS, complete=_windows(4)),
    "glm4": Kind("Glm4ForCausalLM", "glm4", renamed=_GLM4, biases=_ATTENTION, part_rotated=True),
    "command-r": Kind("CohereForCausalLM", "cohere", keys={**_LAYER_NORM, "logit_scale": "logit_scale"}),
    "cohere2": Kind(
        "Cohere2ForCausalLM", "cohere2", keys={**_LAYER_NORM, "logit_scale": "logit_scale"}, complete=_windows(4)
    ),
}
"""By `general.architecture`."""
WITH_WINDOW: Mapping[str, Kind] = {
    "llama": Kind("MistralForCausalLM", "mistral", interleaved=True),
    "olmo2": Kind("Olmo3ForCausalLM", "olmo3", renamed=_POST_NORMS, biases=_ATTENTION, complete=_windows(4)),
}
"""Models that are in a GGUF as another, and say so only by their window."""
