"""A decoder as the graph computes it, for every family: its shapes, and the choices of its layers.

Families differ by this description, and by where their checkpoints keep the tensors (`tensor_names`). The graph, the
reference and the quantization know tensors by one set of names, those of Llama.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
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
HEAD_BIAS = "lm_head.bias"
ATTENTION_NORM, MLP_NORM = "input_layernorm", "post_attention_layernorm"  # of what is read
ROUTER, EXPERTS = "router", "experts"  # of a layer's `mlp`
ATTENTION_OUTPUT_NORM, MLP_OUTPUT_NORM = "self_attn.output_norm", "mlp.output_norm"  # of what is written


class Activation(StrEnum):
    """What the feed-forward layer applies."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU_SQUARED = "relu_squared"


ACTIVATIONS: Mapping[str, Activation] = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), Activation.GELU_TANH),
    "relu2": Activation.RELU_SQUARED,
}
"""By the names that config.json has for them."""


@dataclass(frozen=True)
class Norm:
    """RMS norm, or layer norm where `centred`; `bias` is added behind its scale."""

    epsilon: float
    centred: bool = False
    bias: bool = False
    from_one: bool = False  # the checkpoint stores how much a scale differs from 1


@dataclass(frozen=True)
class Scales:
    """Factors, and bounds: `cap` of a number is ``cap * tanh(number / cap)``."""

    embedding: float = 1.0
    residual: float = 1.0  # of what attention and feed-forward layers add
    scores: float | None = None  # of attention, before its cap; None: 1 / sqrt(head_dim)
    logits: float = 1.0
    score_cap: float | None = None
    logit_cap: float | None = None


@dataclass(frozen=True)
class Experts:
    """A feed-forward layer in many gated parts, of which a router chooses some for each token.

    Their shares are softmaxes over the chosen ones' scores.
    """

    count: int
    used: int  # for each token
    width: int  # of each, as `Architecture.intermediate`


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
    experts: Experts | None = None  # in place of one feed-forward part; gated, with SILU
    parallel: bool = False  # the feed-forward layer reads what attention read, not what it wrote
    shared_norm: bool = False  # and through the same norm
    pre_norms: bool = True  # of what attention and the feed-forward layer read
    post_norms: bool = False  # of what they write, before it is added
    head_norm: bool = False  # RMS norm of every query and key head before rotation
    joint_head_norm: bool = False  # and that one norm for all heads together
    head_bias: bool = False  # of the output matrix
    scales: Scales = Scales()
    interleaved: bool = False  # rotation turns numbers that are neighbours, else those half a rotation apart
    local_rope: RopeConfig | None = None  # what `local_layers` are rotated by
    local_layers: frozenset[int] = frozenset()
    unrotated_layers: frozenset[int] = frozenset()
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
    tensors |= {HEAD_BIAS: (shapes.vocabulary,)} if model.head_bias else {}
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


def check_blocks(experts: Experts, hidden: int, block: int) -> None:
    """Raise InvalidArgument (INVALID_SPEC) where experts cannot be cut into blocks of `block` inputs."""
    if hidden % block or experts.width % block:
        message = f"spec.precision: experts of {hidden} by {experts.width} are not whole blocks of {block} inputs"
        raise InvalidArgument(Reason.INVALID_SPEC, f"{message}; fp32 needs none", field="spec.precision")


def _layer_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    shapes = model.architecture
    queries, keys = shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    hidden = shapes.hidden
    projections: list[tuple[str, int, int, bool]] = [
        ("self_attn.q_proj", queries, hidden, model.attention_bias),
        ("self_attn.k_proj", keys, hidden, model.attention_bias),
        ("self_attn.v_proj", keys, hidden, model.attention_bias),
        ("self_attn.o_proj", hidden, queries, model.output_bias),
        *(
            _feed_forward("mlp", model, shapes.intermediate)
            if model.experts is None
            else _mixture(model, model.experts)
        ),
    ]
    tensors: dict[str, tuple[int, ...]] = {}
    for name in layer_norms(model):
        tensors |= _norm_shapes(model, name)
    for name, outputs, inputs, bias in projections:
        tensors[f"{name}.weight"] = (outputs, inputs)
        tensors |= {f"{name}.bias": (outputs,)} if bias else {}
    widths = (queries, keys) if model.joint_head_norm else (shapes.head_dim, shapes.head_dim)
    if model.head_norm:
        tensors |= {f"self_attn.{part}_norm.weight": (width,) for part, width in zip("qk", widths, strict=True)}
    return tensors


def _feed_forward(part: str, model: Model, width: int) -> list[tuple[str, int, int, bool]]:
    hidden, biased = model.architecture.hidden, model.mlp_bias
    gate = [(f"{part}.gate_proj", width, hidden, biased)] if model.gated else []
    return [*gate, (f"{part}.up_proj", width, hidden, biased), (f"{part}.down_proj", hidden, width, biased)]


def _mixture(model: Model, experts: Experts) -> list[tuple[str, int, int, bool]]:
    parts = [_feed_forward(f"mlp.{EXPERTS}.{expert}", model, experts.width) for expert in range(experts.count)]
    return [(f"mlp.{ROUTER}", experts.count, model.architecture.hidden, False), *itertools.chain(*parts)]


def layer_norms(model: Model) -> tuple[str, ...]:
    """Names of a layer's norms over the whole width."""
    read = (ATTENTION_NORM, *(() if model.shared_norm else (MLP_NORM,))) if model.pre_norms else ()
    return (*read, *((ATTENTION_OUTPUT_NORM, MLP_OUTPUT_NORM) if model.post_norms else ()))


def _norm_shapes(model: Model, name: str) -> dict[str, tuple[int, ...]]:
    kinds = ("weight", "bias") if model.norm.bias else ("weight",)
    return {f"{name}.{kind}": (model.architecture.hidden,) for kind in kinds}
