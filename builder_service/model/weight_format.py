"""How an engine holds its weights: the precision, the block of inputs that share a scale, and what is kept as it is.

And how it holds keys and values, which all who ask for the one need to know too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from builder_service.checkpoint.checkpoint import BlockFormat
from builder_service.model.model import EMBEDDING, EXPERTS, HEAD, LAYER, ROUTER, Model, tensor_shapes
from common.spec.model_spec import PLAN_TARGETS, ModelSpec, Precision
from common.spec.target_options import INT4_BLOCK, KvPrecision

MOST_BYTES = 5 / 8
"""In int4: of a weight of a layer, on average, with its share of scales and zero points."""
ROUNDED = frozenset({Precision.INT8, Precision.INT4, Precision.FP8})
"""Precisions whose weights are rounded so that they make up for their own errors."""


@dataclass(frozen=True)
class WeightFormat:
    """What the graph, the quantizer, the reference and the estimate have to agree on."""

    precision: Precision
    block: int = INT4_BLOCK
    """Inputs that share a scale and a zero point; it matters in int4 only."""
    kept: Mapping[str, BlockFormat] = field(default_factory=dict)
    """Of precision keep: the matrices that are held in blocks as they are stored; others are float32."""
    kept_bytes_each: float = 4.0
    """Of precision keep: bytes of a weight, on average over all."""
    on_gpu: bool = False
    """Whether a GPU runs the engine: where weights are rounded, they are symmetric, and their products bfloat16."""

    narrow_cache: bool = False
    """Whether keys and values are of 8 bits with a scale a token and head; else they are as `arithmetic` says."""

    @property
    def turned(self) -> bool:
        """Whether the model is held in another basis (`turned_tensors`)."""
        return self.precision is Precision.INT8 and not self.on_gpu

    @property
    def arithmetic(self) -> Precision:
        """What products, keys and values are in, and so how far off an engine may be."""
        return Precision.BF16 if self.on_gpu and self.precision in ROUNDED else self.precision

    @property
    def judged(self) -> Precision:
        """Whose bounds hold: keys and values of 8 bits round as much as activations of int8 do."""
        return Precision.INT8 if self.narrow_cache and self.precision is Precision.FP32 else self.arithmetic

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> WeightFormat:
        """The format that a spec asks for, but for precision keep, for which the checkpoint is asked."""
        narrow = spec.options.onnxruntime.kv_precision is KvPrecision.INT8
        return cls(spec.precision, spec.int4_block, on_gpu=spec.target in PLAN_TARGETS, narrow_cache=narrow)


def block_formats(model: Model, weight_format: WeightFormat) -> Mapping[str, BlockFormat]:
    """Matrices that are held in blocks, but for those of experts."""
    if weight_format.on_gpu:
        return _gpu_formats(model, weight_format) if weight_format.precision in ROUNDED else {}
    if weight_format.precision is not Precision.INT4:
        return weight_format.kept
    four, eight = (BlockFormat(bits, weight_format.block, short_scales=True) for bits in (4, 8))
    shapes = _matrices(model)
    formats = dict.fromkeys(shapes, four) | {name: eight for name in (EMBEDDING, HEAD) if name in shapes}
    return _spared(model, formats, dict.fromkeys(shapes, eight))


def _gpu_formats(model: Model, weight_format: WeightFormat) -> Mapping[str, BlockFormat]:
    """Those that activations are multiplied by: rows of an embedding are looked up in 16 bits.

    Logits have whole numbers of 8 bits in all of them, and so has a matrix whose inputs are no whole blocks.
    """
    shapes = {name: shape for name, shape in _matrices(model).items() if name != EMBEDDING or model.tied}
    row = BlockFormat(8, 0, short_scales=True, on_gpu=True)
    eight = {name: replace(row, block=inputs) for name, (_, inputs) in shapes.items()}
    layers = {name: inputs for name, (_, inputs) in shapes.items() if name not in {EMBEDDING, HEAD}}
    if weight_format.precision is Precision.FP8:
        return eight | {name: replace(eight[name], floating=True) for name in layers}
    if weight_format.precision is Precision.INT8:
        return eight
    four = replace(row, bits=4, block=weight_format.block)
    return _spared(model, eight | {name: four for name, inputs in layers.items() if not inputs % four.block}, eight)


def _spared(
    model: Model, formats: Mapping[str, BlockFormat], eight: Mapping[str, BlockFormat]
) -> Mapping[str, BlockFormat]:
    """The formats with 8 bits in place of 4 where those cost most, for as long as there are MOST_BYTES."""
    found, shapes = dict(formats), _matrices(model)
    sizes = {name: math.prod(shapes[name]) for name, form in formats.items() if form.bits == 4}
    left = sum(size * (MOST_BYTES - formats[name].bytes_each) for name, size in sizes.items())
    for name in filter(sizes.__contains__, _sensitive(model.architecture.layers)):
        left -= sizes[name] * (eight[name].bytes_each - formats[name].bytes_each)
        if left < 0:
            break
        found[name] = eight[name]
    return found


def _matrices(model: Model) -> Mapping[str, tuple[int, ...]]:
    return {name: shape for name, shape in tensor_shapes(model).items() if len(shape) == 2 and not _apart(name)}


def _apart(name: str) -> bool:
    return f".{EXPERTS}." in name or name.endswith(f".{ROUTER}.weight")


def _sensitive(layers: int) -> Iterator[str]:
    """Matrices of which 4 bits cost most for their size, those first that cost most: values, then what the outer layers
    end in.
    """
    yield from (f"{LAYER}.{layer}.self_attn.v_proj.weight" for layer in range(layers))
    outer = sorted(range(layers), key=lambda layer: min(layer, layers - 1 - layer))
    yield from (f"{LAYER}.{layer}.mlp.down_proj.weight" for layer in outer)
