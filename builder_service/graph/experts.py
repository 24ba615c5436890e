"""A mixture of experts as nodes: a router chooses some of many gated feed-forward parts for each token.

One node a layer of ONNX Runtime's own: `MoE` in float32, `QMoE` with weights in blocks of 8 or 4 bits. They take gate
and up rows by turns, one of each; `QMoE` rounds activations by block, as `MatMulNBits` does at accuracy level 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.graph.graph import CONTRIB, Array, Graph, Weight, WeightGroup
from builder_service.graph.linear import FLOAT, UINT8, FloatLinear, Matrix, not_finite
from builder_service.graph.quantize import BLOCK, FloatArray, block_count, int4_blocks, int8_blocks
from builder_service.model.model import EXPERTS, ROUTER, Experts, check_blocks
from builder_service.model.weight_format import WeightFormat
from common.spec.model_spec import Precision

BITS = {Precision.INT8: 8, Precision.INT4: 4}


@dataclass(frozen=True)
class Mixture:
    """How one precision mixes experts, in one graph."""

    graph: Graph
    experts: Experts
    hidden: int
    weight_format: WeightFormat

    def mix(self, part: str, rows: str, extent: str) -> str:
        """What the chosen experts of `part` (a layer's feed-forward part) make of rows [extent, hidden]."""
        linear = FloatLinear(self.graph)
        router = Matrix(f"{part}.router", (f"{part}.{ROUTER}.weight",), self.hidden, self.experts.count)
        shares = linear.project(linear.prepare(rows, extent), router)
        if self.weight_format.precision not in BITS:
            first, second = self._float(part)
            return self._node("MoE", rows, shares, first, "", second)
        return self._quantized(part, rows, shares)

    def _quantized(self, part: str, rows: str, shares: str) -> str:
        bits = BITS[self.weight_format.precision]
        block = BLOCK if bits == 8 else self.weight_format.block
        check_blocks(self.experts, self.hidden, block)
        (first, scale, *zero), (second, scale_2, *zero_2) = (
            self.graph.weights(self._blocks(part, down=down, bits=bits, block=block)) for down in (False, True)
        )
        inputs = [rows, shares, first, scale, "", second, scale_2]
        inputs += ["", "", "", "", *zero, *zero_2] if zero else []
        form: dict[str, Any] = {"expert_weight_bits": bits, "block_size": block, "accuracy_level": 4}
        mixed = self._node("QMoE", *inputs, **form)
        return self.graph.node("Add", mixed, not_finite(self.graph, rows))  # which the operator loses

    def _node(self, operator: str, *inputs: str, **form: Any) -> str:  # noqa: ANN401 - attributes of ONNX
        gated = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}
        form |= {"k": self.experts.used, "normalize_routing_weights": 1, **gated}
        return self.graph.node(operator, *inputs, domain=CONTRIB, **form)

    def _float(self, part: str) -> tuple[str, str]:
        """float32 [expert, 2 * width, hidden] and [expert, hidden, width]."""
        names = []
        for down in (False, True):
            weight = Weight(f"{part}.{_stem(down=down)}.weight", FLOAT, (self.experts.count, *self._shape(down=down)))
            names += self.graph.weights(WeightGroup((weight,), partial(self._rows, part, down)))
        first, second = names
        return first, second

    def _blocks(self, part: str, *, down: bool, bits: int, block: int) -> WeightGroup:
        """uint8 [expert, out, in * bits / 8], scales [expert, out, blocks], and of 4 bits zero points."""
        quantize: Callable[[FloatArray], tuple[Array, ...]]
        quantize = int8_blocks if bits == 8 else partial(int4_blocks, block=block)

        def produce(tensors: Tensors) -> Iterator[Array]:
            others = []
            for rows in self._rows(part, down, tensors):
                values, *other = quantize(rows)
                others.append(other)
                yield values
            yield from map(np.concatenate, zip(*others, strict=True))

        (outputs, inputs), count, stem = self._shape(down=down), self.experts.count, f"{part}.{_stem(down=down)}"
        blocks = block_count(inputs, block)
        values = Weight(f"{stem}.int{bits}", UINT8, (count, outputs, inputs * bits // 8))
        scales = Weight(f"{stem}.scale", FLOAT, (count, outputs, blocks))
        zeros = Weight(f"{stem}.zero", UINT8, (count, outputs, -(-blocks // 2)))
        return WeightGroup((values, scales) if bits == 8 else (values, scales, zeros), produce)

    def _rows(self, part: str, down: bool, tensors: Tensors) -> Iterator[FloatArray]:
        """Matrices [out, in] of one expert after another."""
        for expert in range(self.experts.count):
            name = f"{part}.{EXPERTS}.{expert}"
            if down:
                yield tensors.tensor(f"{name}.down_proj.weight")
                continue
            pair = (tensors.tensor(f"{name}.{each}_proj.weight") for each in ("gate", "up"))
            yield np.stack(tuple(pair), axis=1).reshape(self._shape(down=False))

    def _shape(self, *, down: bool) -> tuple[int, int]:
        return (self.hidden, self.experts.width) if down else (2 * self.experts.width, self.hidden)


def _stem(*, down: bool) -> str:
    return f"{EXPERTS}.{'down' if down else 'gate_up'}"
