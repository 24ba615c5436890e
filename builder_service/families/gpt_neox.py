"""GPT-NeoX, which Pythia is: layer norms, attention and feed-forward side by side, a part of each head rotated."""

from __future__ import annotations

from builder_service.families.family import Family
from builder_service.families.llama import read_shapes
from builder_service.model.config_fields import Fields
from builder_service.model.config_values import Config, choice, count, epsilon, flag, share
from builder_service.model.model import ACTIVATIONS, Model, Norm
from builder_service.model.rope import read_rope_config, rope_fields
from builder_service.model.tensor_names import Fused, Names

NAMES = Names(
    layer="gpt_neox.layers",
    renamed={
        "model.embed_tokens": "gpt_neox.embed_in",
        "model.norm": "gpt_neox.final_layer_norm",
        "lm_head": "embed_out",
        "self_attn.q_proj": "attention.query_key_value",
        "self_attn.k_proj": "attention.query_key_value",
        "self_attn.v_proj": "attention.query_key_value",
        "self_attn.o_proj": "attention.dense",
        "mlp.up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
    },
    fused_qkv=Fused.BY_GROUP,
)


def _read(config: Config) -> Model:
    shapes = read_shapes(config, "gpt_neox", 1)
    fields = rope_fields(config)
    part = share(fields, "partial_rotary_factor", share(config, "rotary_pct", 0.25))
    rotation = {"rope_theta": config.get("rotary_emb_base"), "rope_parameters": fields}
    rope = read_rope_config(
        rotation, int(shapes.head_dim * part), count(config, "max_position_embeddings", 2048), part=True
    )
    biased = flag(config, "attention_bias", default=True)
    return Model(
        architecture=shapes.model_copy(update={"trained_context": rope.trained_context}),
        norm=Norm(epsilon(config, "layer_norm_eps", 1e-5), centred=True, bias=True),
        rope=rope,
        tied=flag(config, "tie_word_embeddings"),
        attention_bias=biased,
        output_bias=biased,
        mlp_bias=True,
        gated=False,
        activation=choice(config, "hidden_act", ACTIVATIONS, "gelu"),
        parallel=flag(config, "use_parallel_residual", default=True),
        names=NAMES,
    )


GPT_NEOX = Family(
    "gpt_neox",
    ("GPTNeoXForCausalLM",),
    Fields(
        frozenset(
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act "  # noqa: SIM905 - a list of words
            "max_position_embeddings layer_norm_eps tie_word_embeddings rotary_pct rotary_emb_base rope_scaling "
            "rope_parameters rope_theta partial_rotary_factor attention_bias use_parallel_residual".split()
        ),
        harmless=frozenset({"classifier_dropout"}),
    ),
    _read,
)
