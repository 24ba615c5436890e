"""How an engine holds its weights: the precision, and the block of inputs that share a scale."""

from __future__ import annotations

from dataclasses import dataclass

from common.spec.model_spec import INT4_BLOCK, ModelSpec, Precision


@dataclass(frozen=True)
class WeightFormat:
    """What the graph, the quantizer, the reference and the estimate have to agree on."""

    precision: Precision
    block: int = INT4_BLOCK
    """Inputs that share a scale and a zero point; it matters in int4 only."""

    @property
    def turned(self) -> bool:
        """Whether the model is held in another basis (`turned_tensors`)."""
        return self.precision is Precision.INT8

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> WeightFormat:
        """The format that a spec asks for."""
        return cls(spec.precision, spec.options.onnxruntime.int4_block)
