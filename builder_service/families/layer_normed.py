"""Phi-2, StableLM-2 and StarCoder2: layer norms with biases, under names that are Llama's but for a few."""

from __future__ import annotations

from dataclasses import replace

from builder_service.families.family import Family
from builder_service.families.llama import SILU, USED, WINDOW, read_like_llama, rotated_share
from builder_service.model.config_fields import Fields
from builder_service.model.config_values import Config, choice, epsilon, flag, sliding_window
from builder_service.model.model import ACTIVATIONS, Model, Norm
from builder_service.model.tensor_names import Names

PHI = Names(
    renamed={
        "model.norm": "model.final_layernorm",
        "self_attn.o_proj": "self_attn.dense",
        "mlp.up_proj": "mlp.fc1",
        "mlp.down_proj": "mlp.fc2",
    }
)
STARCODER2 = Names(renamed={"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"})


def _norm(config: Config, name: str) -> Norm:
    return Norm(epsilon(config, name, 1e-5), centred=True, bias=True)


def _read_phi(config: Config) -> Model:
    return replace(
        read_like_llama(config, "phi", rotated=rotated_share(config, 0.5)),
        norm=_norm(config, "layer_norm_eps"),
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
        gated=False,
        activation=choice(config, "hidden_act", ACTIVATIONS, "gelu_new"),
        parallel=True,
        shared_norm=True,
        names=PHI,
    )


def _read_stablelm(config: Config) -> Model:
    parallel = flag(config, "use_parallel_residual")
    known = {"max_position_embeddings": 4096, **config}
    return replace(
        read_like_llama(known, "stablelm", rotated=rotated_share(config, 0.25)),
        norm=_norm(config, "layer_norm_eps"),
        attention_bias=flag(config, "use_qkv_bias"),
        parallel=parallel,
        shared_norm=parallel,
    )


def _read_starcoder2(config: Config) -> Model:
    biased = flag(config, "use_bias", default=True)
    known = {"max_position_embeddings": 4096, "tie_word_embeddings": True, **config}
    return replace(
        read_like_llama(known, "starcoder2", window=sliding_window(config)),
        norm=_norm(config, "norm_epsilon"),
        attention_bias=biased,
        output_bias=biased,
        mlp_bias=biased,
        gated=False,
        activation=choice(config, "hidden_act", ACTIVATIONS, "gelu_pytorch_tanh"),
        names=STARCODER2,
    )


_USED = (USED - {"rms_norm_eps"}) | {"partial_rotary_factor"}
LAYER_NORMED = (
    Family(
        "phi",
        ("PhiForCausalLM",),
        Fields(
            _USED | {"layer_norm_eps", "hidden_act"},
            {"qk_layernorm": (False,), "tie_word_embeddings": (False,)},
            frozenset({"auto_map", "embd_pdrop", "resid_pdrop"}),
        ),
        _read_phi,
    ),
    Family(
        "stablelm",
        ("StableLmForCausalLM",),
        Fields(_USED | {"layer_norm_eps", "use_qkv_bias", "use_parallel_residual"}, SILU | {"qk_layernorm": (False,)}),
        _read_stablelm,
    ),
    Family(
        "starcoder2",
        ("Starcoder2ForCausalLM",),
        Fields(
            (_USED | WINDOW | {"norm_epsilon", "use_bias", "hidden_act"}) - {"partial_rotary_factor"},
            {"norm_type": ("layer_norm",), "mlp_type": ("default",)},
            frozenset({"embedding_dropout", "residual_dropout"}),
        ),
        _read_starcoder2,
    ),
)
