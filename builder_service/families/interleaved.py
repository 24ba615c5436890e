"""GLM and GLM-4, Command-R and Command-R7B: rotation turns pairs of neighbours."""

from __future__ import annotations

from dataclasses import replace

from builder_service.families.family import Family
from builder_service.families.llama import ALL_OF_A_HEAD, SILU, USED, read_like_llama, rotated_share
from builder_service.families.phi3 import FUSED
from builder_service.model.config_fields import Fields
from builder_service.model.config_values import Config, count, epsilon, flag, number, sliding_layers, sliding_window
from builder_service.model.model import Model, Norm, Scales
from builder_service.model.tensor_names import Names

GLM = Names(renamed={name: fused for name, fused in FUSED.renamed.items() if name.startswith("mlp.")}, fused_gate=True)
GLM4 = replace(
    GLM,
    renamed={
        **GLM.renamed,
        "self_attn.output_norm": "post_self_attn_layernorm",
        "mlp.output_norm": "post_mlp_layernorm",
    },
)


def _read_glm(config: Config, family: str = "glm") -> Model:
    known = {"head_dim": 128, "max_position_embeddings": 131_072, "rms_norm_eps": 1.5625e-7, **config}
    return replace(
        read_like_llama(known, family, rotated=rotated_share(config, 0.5)),
        attention_bias=flag(config, "attention_bias", default=True),
        interleaved=True,
        names=GLM,
    )


def _read_glm4(config: Config) -> Model:
    return replace(_read_glm(config, "glm4"), post_norms=True, names=GLM4)


def _read_cohere(config: Config, family: str = "cohere", *, window: int | None = None) -> Model:
    known = {"rope_theta": 500_000.0, "max_position_embeddings": 8192, "tie_word_embeddings": True, **config}
    biased = flag(config, "attention_bias")
    return replace(
        read_like_llama(known, family, window=window),
        norm=Norm(epsilon(config, "layer_norm_eps", 1e-5), centred=True),
        attention_bias=biased,
        output_bias=biased,
        parallel=True,
        shared_norm=True,
        interleaved=True,
        scales=Scales(logits=number(config, "logit_scale", 0.0625)),
    )


def _read_cohere2(config: Config) -> Model:
    """Only layers with a window of their own are rotated."""
    sliding = sliding_layers(config, count(config, "sliding_window_pattern", 4))
    window = sliding_window(config, default=4096) if sliding else None
    model = _read_cohere({"rope_theta": 10_000.0, **config}, "cohere2", window=window)
    return replace(model, unrotated_layers=frozenset(range(model.architecture.layers)) - sliding)


_GLM = Fields(USED | {"attention_bias", "partial_rotary_factor"}, SILU)
_COHERE = (USED - {"rms_norm_eps"}) | {"attention_bias", "layer_norm_eps", "logit_scale"}
INTERLEAVED = (
    Family("glm", ("GlmForCausalLM",), _GLM, _read_glm),
    Family("glm4", ("Glm4ForCausalLM",), _GLM, _read_glm4),
    Family(
        "cohere",
        ("CohereForCausalLM",),
        Fields(_COHERE, SILU | ALL_OF_A_HEAD | {"use_qk_norm": (False,)}),
        _read_cohere,
    ),
    Family(
        "cohere2",
        ("Cohere2ForCausalLM",),
        Fields(
            _COHERE | {"sliding_window", "layer_types", "sliding_window_pattern"},
            SILU
            | ALL_OF_A_HEAD
            | {
                "order_of_interleaved_layers": ("local_attn_first",),
                "position_embedding_type": ("rope_gptj",),
                "rotary_pct": (1,),
                "use_embedding_sharing": (True,),
                "use_gated_activation": (True,),
                "use_parallel_block": (True,),
                "use_qk_norm": (False,),
            },
            frozenset({"layer_switch", "use_parallel_embedding"}),
        ),
        _read_cohere2,
    ),
)
