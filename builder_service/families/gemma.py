"""Gemma 1, 2 and 3 (text): norms whose scales are stored less 1, large embeddings, bounds of scores and logits."""

from __future__ import annotations

import math
from dataclasses import replace

from builder_service.families.family import Family
from builder_service.families.llama import ALL_OF_A_HEAD, USED, read_like_llama
from builder_service.model.config_fields import Fields
from builder_service.model.config_values import (
    Config,
    count,
    flag,
    number,
    optional_number,
    sliding_layers,
    sliding_window,
)
from builder_service.model.model import Activation, Model, Norm, Scales
from builder_service.model.rope import read_two_ropes
from builder_service.model.tensor_names import Names

FOUR_NORMS = Names(
    renamed={
        "post_attention_layernorm": "pre_feedforward_layernorm",
        "self_attn.output_norm": "post_attention_layernorm",
        "mlp.output_norm": "post_feedforward_layernorm",
    }
)
GEMMA = {"head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": True}
GEMMA2 = GEMMA | {"query_pre_attn_scalar": 256, "sliding_window": 4096}
GEMMA3 = GEMMA2 | {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
}
"""What is meant where config.json is silent, as those of models with images are about most of their text part."""


def _read_gemma(config: Config, family: str = "gemma", *, window: int | None = None) -> Model:
    known, biased = {**GEMMA, **config}, flag(config, "attention_bias")
    model = read_like_llama(known, family, window=window)
    return replace(
        model,
        norm=Norm(model.norm.epsilon, from_one=True),
        attention_bias=biased,
        output_bias=biased,
        activation=Activation.GELU_TANH,
        scales=Scales(embedding=math.sqrt(model.architecture.hidden)),
    )


def _read_gemma2(config: Config) -> Model:
    known = {**GEMMA2, **config}
    window = sliding_window(known) if sliding_layers(known, 2) else None
    model = _read_gemma(known, "gemma2", window=window)
    scales = replace(
        model.scales,
        scores=number(known, "query_pre_attn_scalar", 256.0) ** -0.5,
        score_cap=optional_number({"attn_logit_softcapping": 50.0, **config}, "attn_logit_softcapping"),
        logit_cap=optional_number({"final_logit_softcapping": 30.0, **config}, "final_logit_softcapping"),
    )
    return replace(model, scales=scales, post_norms=True, names=FOUR_NORMS)


def _read_gemma3(config: Config) -> Model:
    """Gemma 2, but that heads are normed, scores are not bounded, and layers with a window rotate otherwise."""
    known = {**GEMMA3, "attn_logit_softcapping": None, "final_logit_softcapping": None, **config}
    sliding = sliding_layers(known, count(known, "sliding_window_pattern", 6))
    model = _read_gemma2({name: value for name, value in known.items() if not name.startswith("rope_")})
    shapes, longest = model.architecture, count(known, "max_position_embeddings")
    rope, local = read_two_ropes(config, shapes.head_dim, longest, theta=1e6, local_theta=1e4)
    window = sliding_window(known) if sliding else None
    shapes = shapes.model_copy(update={"family": "gemma3_text", "trained_context": longest, "sliding_window": window})
    return replace(model, architecture=shapes, head_norm=True, rope=rope, local_rope=local, local_layers=sliding)


_TANH: dict[str, tuple[object, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "hidden_act": ("gelu_pytorch_tanh", "gelu"),  # the second is what Gemma wrote at first, and means the first
    "use_bidirectional_attention": (False,),
    **ALL_OF_A_HEAD,
}
_GEMMA2 = frozenset(
    "attention_bias query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping sliding_window "  # noqa: SIM905 - a list of words
    "layer_types".split()
)
GEMMAS = (
    Family("gemma", ("GemmaForCausalLM",), Fields(USED | {"attention_bias"}, _TANH), _read_gemma),
    Family(
        "gemma2",
        ("Gemma2ForCausalLM",),
        Fields(USED | _GEMMA2, _TANH, frozenset({"sliding_window_size"})),
        _read_gemma2,
    ),
    Family(
        "gemma3_text",
        ("Gemma3ForCausalLM",),
        Fields(
            (USED | _GEMMA2 | {"rope_local_base_freq", "sliding_window_pattern"}) - {"attn_logit_softcapping"},
            _TANH | {"attn_logit_softcapping": ()},
        ),
        _read_gemma3,
    ),
)
