"""How an engine holds its weights: the precision, the block of inputs that share a scale, and what is kept as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from builder_service.checkpoint.checkpoint import BlockFormat
from builder_service.model.model import EMBEDDING, EXPERTS, HEAD, LAYER, ROUTER, Model, tensor_shapes
from common.spec.model_spec import INT4_BLOCK, ModelSpec, Precision

MOST_BYTES = 5 / 8
"""In int4: of a weight of a layer, on average, with its share of scales and zero points."""
ROUNDED = frozenset({Precision.INT8, Precision.INT4})
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

    @property
    def turned(self) -> bool:
        """Whether the model is held in another basis (`turned_tensors`)."""
        return self.precision is Precision.INT8

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> WeightFormat:
        """The format that a spec asks for, but for precision keep, for which the checkpoint is asked."""
        return cls(spec.precision, spec.options.onnxruntime.int4_block)


def block_formats(model: Model, weight_format: WeightFormat) -> Mapping[str, BlockFormat]:
    """Matrices that are held in blocks, but for those of experts."""
    if weight_format.precision is not Precision.INT4:
        return weight_format.kept
    four, eight = (BlockFormat(bits, weight_format.block, short_scales=True) for bits in (4, 8))
    shapes = {name: shape for name, shape in tensor_shapes(model).items() if len(shape) == 2 and not _apart(name)}
    formats = dict.fromkeys(shapes, four) | {name: eight for name in (EMBEDDING, HEAD) if name in shapes}
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if formats[name] is four}
    left = (MOST_BYTES - four.bytes_each) * sum(sizes.values())
    for name in filter(sizes.__contains__, _sensitive(model.architecture.layers)):
        left -= sizes[name] * (eight.bytes_each - four.bytes_each)
        if left < 0:
            break
        formats[name] = eight
    return formats


def _apart(name: str) -> bool:
    return f".{EXPERTS}." in name or name.endswith(f".{ROUTER}.weight")


def _sensitive(layers: int) -> Iterator[str]:
    """Matrices of which 4 bits cost most for their size, those first that cost most: values, then what the outer layers
    end in.
    """
    yield from (f"{LAYER}.{layer}.self_attn.v_proj.weight" for layer in range(layers))
    outer = sorted(range(layers), key=lambda layer: min(layer, layers - 1 - layer))
    yield from (f"{LAYER}.{layer}.mlp.down_proj.weight" for layer in outer)
