"""Phi-3 to Phi-4-mini: Llama with fused matrices, part of each head rotated, and a sliding window of its own."""

from __future__ import annotations

from dataclasses import replace

from builder_service.families.family import Family
from builder_service.families.llama import SILU, USED, WINDOW, read_like_llama, rotated_share
from builder_service.model.config_fields import Fields
from builder_service.model.config_values import Config, sliding_window
from builder_service.model.model import Model
from builder_service.model.tensor_names import Fused, Names

FUSED = Names(
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
    known = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, **config}
    model = read_like_llama(known, "phi3", window=sliding_window(config), rotated=rotated_share(config, 1.0))
    return replace(model, names=FUSED)


PHI3 = Family(
    "phi3",
    ("Phi3ForCausalLM",),
    Fields(
        USED | WINDOW | {"partial_rotary_factor"},
        SILU
        | dict.fromkeys(("attention_bias", "lm_head_bias", "mlp_bias"), (False,))
        | dict.fromkeys(("full_attn_mod", "interpolate_factor"), (1,)),
        frozenset({"embd_pdrop", "resid_pdrop", "auto_map"}),
    ),
    _read,
)
