"""MPT: layer norms without biases, and ALiBi (arXiv 2108.12409) in place of rotation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder_service.families.family import Family
from builder_service.families.llama import read_shapes
from builder_service.model.config_fields import FIXED, HARMLESS, Fields, unsupported
from builder_service.model.config_values import Config, count, epsilon, flag
from builder_service.model.model import Activation, Model, Norm
from builder_service.model.tensor_names import Fused, Names

NAMES = Names(
    layer="transformer.blocks",
    renamed={
        "model.embed_tokens": "transformer.wte",
        "model.norm": "transformer.norm_f",
        "input_layernorm": "norm_1",
        "post_attention_layernorm": "norm_2",
        "self_attn.q_proj": "attn.Wqkv",
        "self_attn.k_proj": "attn.Wqkv",
        "self_attn.v_proj": "attn.Wqkv",
        "self_attn.o_proj": "attn.out_proj",
        "mlp.up_proj": "ffn.up_proj",
        "mlp.down_proj": "ffn.down_proj",
    },
    fused_qkv=Fused.IN_BLOCKS,
)
ATTENTION: Mapping[str, tuple[object, ...]] = {  # fields of attn_config, and what they may be
    "alibi": (True,),
    "attn_type": ("multihead_attention",),
    "clip_qkv": (None,),
    "prefix_lm": (False,),
    "qk_ln": (False,),
    "rope": (False,),
    "sliding_window_size": (-1,),
    "softmax_scale": (None,),
}
FREE = {"attn_impl", "attn_pdrop", "attn_uses_sequence_id", "model_type", "alibi_bias_max", "kv_n_heads"}


def alibi_slopes(heads: int, largest: float) -> tuple[float, ...]:
    """Slope of each head: powers of two, the odd ones first where heads are no power of two themselves."""
    whole = 1 << (heads - 1).bit_length()
    slopes = [2.0 ** -(largest * (index + 1) / whole) for index in range(whole)]
    return tuple(slopes if whole == heads else [*slopes[1::2], *slopes[::2]][:heads])


def _read(config: Config) -> Model:
    attention = config.get("attn_config") or {}
    if not isinstance(attention, dict):
        raise unsupported("attn_config", f"config.json has attn_config = {attention!r:.80}; an object is needed")
    _check_attention(attention)
    hidden, heads = count(config, "d_model"), count(config, "n_heads")
    sizes = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": config.get("n_layers"),
        "intermediate_size": hidden * count(config, "expansion_ratio", 4),
        "vocab_size": config.get("vocab_size"),
    }
    return Model(
        architecture=read_shapes(sizes, "mpt", count(config, "max_seq_len", 2048)),
        norm=Norm(epsilon(config, "layer_norm_epsilon", 1e-5), centred=True),
        rope=None,
        tied=flag(config, "tie_word_embeddings", default=True),
        gated=False,
        activation=Activation.GELU,
        alibi_slopes=alibi_slopes(heads, count(attention, "alibi_bias_max", 8)),
        names=NAMES,
    )


def _check_attention(attention: Mapping[str, Any]) -> None:
    allowed = {**FIXED, **ATTENTION}
    for name, value in {"alibi": False, **attention}.items():
        if value is None or name in FREE | HARMLESS or name.startswith("_"):
            continue
        if value not in allowed.get(name, ()):
            options = " or ".join(repr(option) for option in allowed.get(name, ()))
            but = f"only {options} is supported" if options else "it is not known here"
            raise unsupported(f"attn_config.{name}", f"config.json has attn_config.{name} = {value!r:.80}; {but}")


MPT = Family(
    "mpt",
    ("MPTForCausalLM", "MptForCausalLM"),
    Fields(
        frozenset(
            "d_model n_heads n_layers expansion_ratio vocab_size max_seq_len layer_norm_epsilon "  # noqa: SIM905 - a list of words
            "attn_config tie_word_embeddings".split()
        ),
        {
            "embedding_fraction": (1,),
            "logit_scale": (),
            "no_bias": (True,),
            "norm_type": ("low_precision_layernorm", "layernorm"),
        },
        frozenset(
            "auto_map emb_pdrop hidden_size init_config init_device learned_pos_emb num_attention_heads "  # noqa: SIM905 - a list of words
            "num_hidden_layers resid_pdrop tokenizer_name use_norm_bias verbose".split()
        ),
    ),
    _read,
)
