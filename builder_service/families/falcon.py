"""Falcon: layer norms, attention and feed-forward side by side, one key/value head (7B) or some (40B)."""

from __future__ import annotations

from builder_service.families.family import Family
from builder_service.families.llama import read_shapes
from builder_service.model.config_fields import Fields, unsupported
from builder_service.model.config_values import Config, count, epsilon, flag
from builder_service.model.model import Activation, Model, Norm
from builder_service.model.rope import read_rope_config
from builder_service.model.tensor_names import Fused, Names

RENAMED = {
    "model.embed_tokens": "transformer.word_embeddings",
    "model.norm": "transformer.ln_f",
    "self_attn.q_proj": "self_attention.query_key_value",
    "self_attn.k_proj": "self_attention.query_key_value",
    "self_attn.v_proj": "self_attention.query_key_value",
    "self_attn.o_proj": "self_attention.dense",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}
TWO_NORMS = {"input_layernorm": "ln_attn", "post_attention_layernorm": "ln_mlp"}


def _read(config: Config) -> Model:
    grouped, parallel = flag(config, "new_decoder_architecture"), flag(config, "parallel_attn", default=True)
    heads, hidden = count(config, "num_attention_heads"), count(config, "hidden_size")
    single = 1 if flag(config, "multi_query", default=True) else heads
    kv_heads = count(config, "num_kv_heads", heads) if grouped else single
    norms = count(config, "num_ln_in_parallel_attn", 2) if grouped else 1
    if parallel and norms > 2:
        raise unsupported("num_ln_in_parallel_attn", f"num_ln_in_parallel_attn is {norms}; 1 or 2 is needed")
    inner = count(config, "ffn_hidden_size", 4 * hidden)
    sizes = {**config, "num_key_value_heads": kv_heads, "intermediate_size": inner}
    shapes = read_shapes(sizes, "falcon", 1)
    rope = read_rope_config(config, shapes.head_dim, count(config, "max_position_embeddings", 2048))
    biased, parallel = flag(config, "bias"), parallel or grouped
    two = grouped and norms == 2
    return Model(
        architecture=shapes.model_copy(update={"trained_context": rope.trained_context}),
        norm=Norm(epsilon(config, "layer_norm_epsilon", 1e-5), centred=True, bias=True),
        rope=rope,
        tied=flag(config, "tie_word_embeddings", default=True),
        attention_bias=biased,
        output_bias=biased,
        mlp_bias=biased,
        gated=False,
        activation=Activation.GELU,
        parallel=parallel,
        shared_norm=parallel and not two,
        names=Names("transformer.h", RENAMED | (TWO_NORMS if two else {}), Fused.BY_GROUP),
    )


FALCON = Family(
    "falcon",
    ("FalconForCausalLM", "RWForCausalLM"),
    Fields(
        frozenset(
            "vocab_size hidden_size num_hidden_layers num_attention_heads num_kv_heads multi_query parallel_attn "  # noqa: SIM905 - a list of words
            "new_decoder_architecture num_ln_in_parallel_attn bias ffn_hidden_size max_position_embeddings "
            "layer_norm_epsilon tie_word_embeddings rope_theta rope_scaling rope_parameters".split()
        ),
        {"alibi": (False,), "activation": ("gelu",)},
        frozenset({"apply_residual_connection_post_layernorm", "auto_map"}),
    ),
    _read,
)
