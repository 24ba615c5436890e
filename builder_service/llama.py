"""The Llama family: what its config.json says, and which of it the graph can compute.

Knows the names and shapes of a checkpoint's tensors, not their bytes, and no graph.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from builder_service.checkpoint import Checkpoint
from builder_service.config_fields import check_fields, unsupported
from builder_service.rope import compute_rope, read_rope_config
from builder_service.rope_config import RopeConfig
from common.errors import InvalidArgument, Reason
from common.manifest import Architecture, Rope
from common.window import Geometry

FAMILY = "llama"
ARCHITECTURES = ("LlamaForCausalLM", "LLaMAForCausalLM")  # the second is what its first conversions wrote
COMPUTED = "rotary_emb.inv_freq"  # stored by early checkpoints, and computed anew
Config = Mapping[str, Any]


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
    check_fields(config, ignore)
    hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    kv_heads, head_dim = _count(config, "num_key_value_heads", heads), _head_dim(config, hidden, heads)
    if heads % kv_heads:
        message = f"num_key_value_heads is {kv_heads}, which does not divide num_attention_heads {heads}"
        raise unsupported("num_key_value_heads", message)
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
    """Raise InvalidArgument (CHECKPOINT_INVALID) for a tensor that is missing, has another shape, or is left over.

    A tensor of a layer that config.json does not speak of (a bias, a norm of queries) would change the maths.
    """
    needed = tensor_shapes(llama)
    for name, shape in needed.items():
        checkpoint.require(name, shape)
    for name in checkpoint.names:
        if name.startswith("model.layers.") and name not in needed and not name.endswith(COMPUTED):
            message = f"the checkpoint has a tensor {name}, which a model as in config.json does not have"
            raise InvalidArgument(Reason.CHECKPOINT_INVALID, message, field="spec.source.uri", tensor=name)


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


def _count(config: Config, name: str, default: int | None = None) -> int:
    """A field that is a whole number from 1; absent or null means `default`."""
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise unsupported(name, f"config.json has {name} = {value!r}; a whole number from 1 is needed")
    return value


def _flag(config: Config, name: str) -> bool:
    value = config.get(name)
    if value not in (None, False, True):
        raise unsupported(name, f"config.json has {name} = {value!r}; true or false is needed")
    return bool(value)


def _head_dim(config: Config, hidden: int, heads: int) -> int:
    if config.get("head_dim") is None and hidden % heads:
        message = f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and head_dim is not given"
        raise unsupported("head_dim", message)
    head_dim = _count(config, "head_dim", hidden // heads)
    if head_dim % 2:
        raise unsupported("head_dim", f"head_dim is {head_dim}; rotation needs an even one")
    return head_dim


def _epsilon(config: Config) -> float:
    value = config.get("rms_norm_eps", 1e-6)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise unsupported("rms_norm_eps", f"config.json has rms_norm_eps = {value!r}; a number in [0, 1) is needed")
    return float(value)
