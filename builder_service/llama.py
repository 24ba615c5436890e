"""The Llama family: what its config.json says, and which of it the graph can compute.

A field that is not known may change the maths, so it is refused by name unless the spec lists it as safe. Knows no
tensors' bytes and no graph.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from builder_service.checkpoint import Checkpoint
from builder_service.rope import RopeConfig, compute_rope, read_rope_config
from common.errors import InvalidArgument, Reason
from common.manifest import Architecture, Rope
from common.window import Geometry

FAMILY = "llama"
ARCHITECTURES = ("LlamaForCausalLM", "LLaMAForCausalLM")  # the second is what its first conversions wrote
Config = Mapping[str, Any]

# Read here or in `rope`.
USED = frozenset(
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "hidden_act max_position_embeddings rms_norm_eps tie_word_embeddings attention_bias mlp_bias rope_theta "
    "rope_scaling rope_parameters original_max_position_embeddings architectures model_type".split()
)
# Known not to change what the model computes: training, bookkeeping, defaults of generation.
HARMLESS = frozenset(
    "_attn_implementation _attn_implementation_autoset _name_or_path attention_dropout bad_words_ids "
    "begin_suppress_tokens bos_token_id chunk_size_feed_forward diversity_penalty do_sample dtype early_stopping "
    "encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id "
    "forced_eos_token_id hidden_dropout id2label initializer_range is_llama_config keys_to_ignore_at_inference "
    "label2id length_penalty max_length max_sequence_length min_length no_repeat_ngram_size num_beam_groups num_beams "
    "num_return_sequences output_attentions output_hidden_states output_scores pad_token_id prefix pretraining_tp "
    "problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id "
    "suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p torch_dtype "
    "torchscript transformers.js_config transformers_version typical_p unk_token_id unsloth_fixed unsloth_version "
    "use_bfloat16 use_cache".split()
)
# Known, and computed only with these values.
FIXED: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "is_decoder": (False, True),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (),
    "is_encoder_decoder": (False,),
    "partial_rotary_factor": (1,),
    "pruned_heads": ({},),
    "quantization_config": (),
    "rope_interleaved": (False,),
    "sliding_window": (),
    "tie_encoder_decoder": (False,),
    "use_sliding_window": (False,),
}


@dataclass(frozen=True)
class Llama:
    """A Llama model: its shapes, and the choices that its graph depends on."""

    architecture: Architecture
    rms_norm_eps: float
    tied: bool  # the output matrix is the embedding
    attention_bias: bool
    mlp_bias: bool
    rope: RopeConfig


def read_llama(config: Config, ignore: Collection[str] = ()) -> Llama:
    """Read config.json; `ignore` are unknown fields that the spec declares safe.

    Raises InvalidArgument: ARCHITECTURE_UNSUPPORTED, or CONFIG_UNSUPPORTED with the field.
    """
    _check_architecture(config)
    _check_fields(config, ignore)
    hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    kv_heads, head_dim = _count(config, "num_key_value_heads", heads), _head_dim(config, hidden, heads)
    if heads % kv_heads:
        message = f"num_key_value_heads is {kv_heads}, which does not divide num_attention_heads {heads}"
        raise _unsupported("num_key_value_heads", message)
    rope = read_rope_config(config, head_dim, _count(config, "max_position_embeddings", 2048))
    shapes = Architecture(
        family=FAMILY,
        layers=_count(config, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=_count(config, "intermediate_size"),
        vocabulary=_count(config, "vocab_size"),
        trained_context=rope.trained_context,
        parameters=0,
    )
    tied, attention_bias, mlp_bias = (
        _flag(config, name) for name in ("tie_word_embeddings", "attention_bias", "mlp_bias")
    )
    llama = Llama(shapes, _epsilon(config), tied, attention_bias, mlp_bias, rope)
    counted = shapes.model_copy(update={"parameters": _parameters(llama)})
    return Llama(counted, llama.rms_norm_eps, tied, attention_bias, mlp_bias, rope)


def read_architecture(config: Config, ignore: Collection[str] = ()) -> Architecture:
    """Shapes of the model; raises as `read_llama`."""
    return read_llama(config, ignore).architecture


def read_rope(config: Config, geometry: Geometry, ignore: Collection[str] = ()) -> Rope:
    """Rotation for an engine of this geometry; raises as `read_llama`."""
    return compute_rope(read_llama(config, ignore).rope, geometry.sinks + geometry.window)


def check_geometry(architecture: Architecture, geometry: Geometry) -> None:
    """Raise InvalidArgument (INVALID_SPEC) where sinks and window do not fit the trained context."""
    tokens = geometry.sinks + geometry.window
    if tokens > architecture.trained_context:
        most = architecture.trained_context - geometry.sinks
        message = (
            f"spec.cache.window_tokens is {geometry.window}: with {geometry.sinks} sinks that is {tokens} tokens, and "
            f"the checkpoint was trained with {architecture.trained_context}; "
        )
        message += f"at most {most} fit" if most > 0 else "lower spec.cache.sink_tokens first"
        raise InvalidArgument(Reason.INVALID_SPEC, message, field="spec.cache.window_tokens")


def tensor_shapes(llama: Llama) -> dict[str, tuple[int, ...]]:
    """Every tensor that the graph needs, with its shape in the checkpoint ([out, in] for matrices)."""
    shapes = llama.architecture
    tensors: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (shapes.vocabulary, shapes.hidden),
        "model.norm.weight": (shapes.hidden,),
    }
    if not llama.tied:
        tensors["lm_head.weight"] = (shapes.vocabulary, shapes.hidden)
    for layer in range(shapes.layers):
        tensors |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer_shapes(llama).items()}
    return tensors


def check_tensors(checkpoint: Checkpoint, llama: Llama) -> None:
    """Raise InvalidArgument (CHECKPOINT_INVALID) for the first tensor that is missing or has another shape."""
    for name, shape in tensor_shapes(llama).items():
        checkpoint.require(name, shape)


def _layer_shapes(llama: Llama) -> dict[str, tuple[int, ...]]:
    shapes = llama.architecture
    queries, keys = shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    attention = {
        "self_attn.q_proj": (queries, shapes.hidden),
        "self_attn.k_proj": (keys, shapes.hidden),
        "self_attn.v_proj": (keys, shapes.hidden),
        "self_attn.o_proj": (shapes.hidden, queries),
    }
    feed_forward = {
        "mlp.gate_proj": (shapes.intermediate, shapes.hidden),
        "mlp.up_proj": (shapes.intermediate, shapes.hidden),
        "mlp.down_proj": (shapes.hidden, shapes.intermediate),
    }
    tensors: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (shapes.hidden,),
        "post_attention_layernorm.weight": (shapes.hidden,),
    }
    for matrices, bias in ((attention, llama.attention_bias), (feed_forward, llama.mlp_bias)):
        tensors |= {f"{name}.weight": shape for name, shape in matrices.items()}
        tensors |= {f"{name}.bias": shape[:1] for name, shape in matrices.items() if bias}
    return tensors


def _parameters(llama: Llama) -> int:
    total = 0
    for shape in tensor_shapes(llama).values():
        size = 1
        for extent in shape:
            size *= extent
        total += size
    return total


def _check_architecture(config: Config) -> None:
    named = config.get("architectures")
    names = named if isinstance(named, list) and named else ["none"]
    if names[0] not in ARCHITECTURES or config.get("model_type", FAMILY) != FAMILY:
        message = (
            f"architecture {names[0]} (model type {config.get('model_type')}) is not supported; "
            f"supported: {ARCHITECTURES[0]} (model type {FAMILY})"
        )
        raise InvalidArgument(
            Reason.ARCHITECTURE_UNSUPPORTED, message, field="source.config.json.architectures", architecture=names[0]
        )


def _check_fields(config: Config, ignore: Collection[str]) -> None:
    for name, value in config.items():
        if value is None or name in ignore or name in (USED | HARMLESS) - FIXED.keys():
            continue
        if name not in FIXED:
            message = (
                f"config.json has a field that is not known here: {name} = {value!r}. If it does not change what the "
                "model computes, list it under options.ignore_config_fields"
            )
            raise _unsupported(name, message)
        if value not in FIXED[name]:
            allowed = " or ".join(repr(option) for option in FIXED[name]) or "nothing"
            raise _unsupported(name, f"config.json has {name} = {value!r}; only {allowed} is supported")


def _count(config: Config, name: str, default: int | None = None) -> int:
    """A field that is a whole number from 1; absent or null means `default`."""
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _unsupported(name, f"config.json has {name} = {value!r}; a whole number from 1 is needed")
    return value


def _flag(config: Config, name: str) -> bool:
    value = config.get(name)
    if value not in (None, False, True):
        raise _unsupported(name, f"config.json has {name} = {value!r}; true or false is needed")
    return bool(value)


def _head_dim(config: Config, hidden: int, heads: int) -> int:
    if config.get("head_dim") is None and hidden % heads:
        message = f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and head_dim is not given"
        raise _unsupported("head_dim", message)
    head_dim = _count(config, "head_dim", hidden // heads)
    if head_dim % 2:
        raise _unsupported("head_dim", f"head_dim is {head_dim}; rotation needs an even one")
    return head_dim


def _epsilon(config: Config) -> float:
    value = config.get("rms_norm_eps", 1e-6)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise _unsupported("rms_norm_eps", f"config.json has rms_norm_eps = {value!r}; a number in [0, 1) is needed")
    return float(value)


def _unsupported(name: str, message: str) -> InvalidArgument:
    return InvalidArgument(Reason.CONFIG_UNSUPPORTED, message, field=f"source.config.json.{name}")
