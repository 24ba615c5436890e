"""Phi-3 and Phi-3.5: Llama with fused matrices, part of each head rotated, and a sliding window of its own."""

from __future__ import annotations

from builder_service.families.family import Family
from builder_service.families.llama import SILU, USED, WINDOW, read_shapes
from builder_service.model.config_fields import Fields
from builder_service.model.config_values import Config, count, epsilon, flag, share, sliding_window
from builder_service.model.model import Model, Norm
from builder_service.model.rope import read_rope_config, rope_fields
from builder_service.model.tensor_names import Fused, Names

NAMES = Names(
    renamed={
        "self_attn.q_proj": "self_attn.qkv_proj",
        "self_attn.k_proj": "self_attn.qkv_proj",
        "self_attn.v_proj": "self_attn.qkv_proj",
        "mlp.gate_proj": "mlp.gate_up_proj",
        "mlp.up_proj": "mlp.gate_up_proj",
    },
    fused_qkv=Fused.IN_BLOCKS,
    fused_gate=True,
)


def _read(config: Config) -> Model:
    shapes = read_shapes(config, "phi3", 1, window=sliding_window(config))
    part = share({**rope_fields(config), **config}, "partial_rotary_factor", 1.0)
    longest = count(config, "max_position_embeddings", 4096)
    rope = read_rope_config(config, int(shapes.head_dim * part), longest, part=True)
    return Model(
        architecture=shapes.model_copy(update={"trained_context": rope.trained_context}),
        norm=Norm(epsilon(config, "rms_norm_eps", 1e-5)),
        rope=rope,
        tied=flag(config, "tie_word_embeddings"),
        names=NAMES,
    )


PHI3 = Family(
    "phi3",
    ("Phi3ForCausalLM",),
    Fields(
        USED | WINDOW | {"partial_rotary_factor"},
        SILU | {"attention_bias": (False,)},
        frozenset({"embd_pdrop", "resid_pdrop", "auto_map"}),
    ),
    _read,
)
