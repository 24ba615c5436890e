"""How an engine holds its weights: the precision, the block of inputs that share a scale, and what is kept as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from builder_service.checkpoint.checkpoint import BlockFormat
from common.spec.model_spec import INT4_BLOCK, ModelSpec, Precision


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
