"""A decoder as the graph computes it, for every family: its shapes, and the choices of its layers.

Families differ by this description, and by where their checkpoints keep the tensors (`tensor_names`). The graph, the
reference and the quantization know tensors by one set of names, those of Llama.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

from builder_service.model.rope_config import RopeConfig
from builder_service.model.tensor_names import Names
from common.errors import InvalidArgument, Reason
from common.spec.manifest import Architecture
from common.window import Geometry

LAYER = "model.layers"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


class Activation(StrEnum):
    """What the feed-forward layer applies."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"


@dataclass(frozen=True)
class Norm:
    """RMS norm, or layer norm where `centred`; `bias` is added behind its scale."""

    epsilon: float
    centred: bool = False
    bias: bool = False


@dataclass(frozen=True)
class Model:
    """One decoder. `rope` None: positions are ALiBi's, with slopes for each head from `alibi_slopes`."""

    architecture: Architecture
    norm: Norm
    rope: RopeConfig | None
    tied: bool = False  # the output matrix is the embedding
    attention_bias: bool = False  # of queries, keys and values
    output_bias: bool = False  # of what attention ends in
    mlp_bias: bool = False
    gated: bool = True  # down(act(gate) * up), else down(act(up))
    activation: Activation = Activation.SILU
    parallel: bool = False  # the feed-forward layer reads what attention read, not what it wrote
    shared_norm: bool = False  # and through the same norm
    head_norm: bool = False  # RMS norm of every query and key head before rotation
    alibi_slopes: tuple[float, ...] = ()
    names: Names = field(default_factory=Names)


def counted(model: Model) -> Model:
    """The model with its parameters counted."""
    total = sum(math.prod(shape) for shape in tensor_shapes(model).values())
    return replace(model, architecture=model.architecture.model_copy(update={"parameters": total}))


def tensor_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Every tensor that the graph needs by its name here, with its shape ([out, in] for matrices)."""
    shapes = model.architecture
    tensors: dict[str, tuple[int, ...]] = {EMBEDDING: (shapes.vocabulary, shapes.hidden)}
    tensors |= _norm_shapes(model, "model.norm")
    if not model.tied:
        tensors[HEAD] = (shapes.vocabulary, shapes.hidden)
    for layer in range(shapes.layers):
        tensors |= {f"{LAYER}.{layer}.{name}": shape for name, shape in _layer_shapes(model).items()}
    return tensors


def check_geometry(architecture: Architecture, geometry: Geometry) -> None:
    """Raise InvalidArgument (INVALID_SPEC) if sinks and window are more tokens than a layer was trained to see."""
    tokens, most = geometry.sinks + geometry.window, architecture.longest_context
    if tokens <= most:
        return
    why = f"the checkpoint was trained with {architecture.trained_context}"
    if most < architecture.trained_context:
        why = f"the checkpoint's own sliding_window lets a token see {most}"
    message = f"spec.cache.window_tokens is {geometry.window}: with {geometry.sinks} sinks that is {tokens} tokens, "
    message += f"and {why}; "
    left = most - geometry.sinks
    message += f"at most {left} fit" if left > 0 else "lower spec.cache.sink_tokens first"
    raise InvalidArgument(Reason.INVALID_SPEC, message, field="spec.cache.window_tokens")


def _layer_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    shapes = model.architecture
    queries, keys = shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    inner, hidden = shapes.intermediate, shapes.hidden
    projections: list[tuple[str, int, int, bool]] = [
        ("self_attn.q_proj", queries, hidden, model.attention_bias),
        ("self_attn.k_proj", keys, hidden, model.attention_bias),
        ("self_attn.v_proj", keys, hidden, model.attention_bias),
        ("self_attn.o_proj", hidden, queries, model.output_bias),
        *([("mlp.gate_proj", inner, hidden, model.mlp_bias)] if model.gated else []),
        ("mlp.up_proj", inner, hidden, model.mlp_bias),
        ("mlp.down_proj", hidden, inner, model.mlp_bias),
    ]
    tensors = _norm_shapes(model, "input_layernorm")
    if not model.shared_norm:
        tensors |= _norm_shapes(model, "post_attention_layernorm")
    for name, outputs, inputs, bias in projections:
        tensors[f"{name}.weight"] = (outputs, inputs)
        tensors |= {f"{name}.bias": (outputs,)} if bias else {}
    norms = ("self_attn.q_norm.weight", "self_attn.k_norm.weight") if model.head_norm else ()
    return tensors | dict.fromkeys(norms, (shapes.head_dim,))


def _norm_shapes(model: Model, name: str) -> dict[str, tuple[int, ...]]:
    kinds = ("weight", "bias") if model.norm.bias else ("weight",)
    return {f"{name}.{kind}": (model.architecture.hidden,) for kind in kinds}
