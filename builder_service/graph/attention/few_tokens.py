"""Attention of few tokens over keys and values of 8 bits: an operator of ours, and what it computes in others' words.

`common.engine.kernel` has the operator, where it could be compiled. Elsewhere the function below is put in its place:
keys lie by column and values by row, as `MatMulIntegerToFloat` takes its second factor. What they are multiplied by is
rounded to two whole numbers of 7 bits, one of which holds what the other leaves: together some 13 bits, which a weight
beside a sink's needs, and neither can saturate a sum of two products in 16 bits. The operator rounds nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from onnx import TensorProto

from builder_service.graph.attention.attention import Attention
from builder_service.graph.graph import CONTRIB, Graph

OPERATOR = "WindowAttention"
INPUTS = ("query", "sink_query", "keys", "values", "bias", "scales")
HALF = 63
"""A whole number of 7 bits lies between this and its negative."""
_SUM_SHARE = 1e-9  # of a sum that is below the largest of its terms, however many there are


class FewTokens(Attention):
    """The function's nodes, in a graph of their own."""

    @classmethod
    def of(cls, attention: Attention) -> FewTokens:
        """For the layers of `attention`; sinks are told apart only where layers rotate."""
        inputs = replace(attention.inputs, mask="bias")
        sinks = attention.sinks if attention.inputs.rotations else 0
        shapes, rows, scale, cap = attention.shapes, attention.rows, attention.scale, attention.cap
        return cls(Graph(), shapes, sinks, rows, inputs, scale=scale, cap=cap)

    def call(self, graph: Graph, *inputs: str, **fixed: float) -> str:
        """The operator in `graph`: [tokens, query width]. `inputs` as in `INPUTS`."""
        return graph.call(OPERATOR, lambda body: replace(self, graph=body).attended(), *inputs, names=INPUTS, **fixed)

    def attended(self) -> str:
        """Its nodes: [tokens, query width] of inputs called as in `INPUTS`."""
        graph, last = self.graph, self._integers(3)
        halves = self._integers(self.shapes.kv_heads, self.shapes.kv_heads)
        key_scales, value_scales = graph.split("Split", "scales", halves, out=("", ""), axis=1)
        query = self._stack("query")
        norm = graph.node("ReduceL2", query, last, keepdims=1)  # no number is larger, and NaN stays
        scores = self._product(query, norm, "keys", key_scales, "dim", self._score_scale)
        scores = self._capped(self._with_sinks(self._shaped(scores, self.rows), key_scales))
        masked = self._shaped(graph.node("Add", scores, self._stacked_bias), self.rows)
        weights = self._shaped(graph.node("Softmax", masked, axis=-1), self.rows)
        weights = self._shaped(graph.node("Mul", weights, value_scales), self.rows)
        share = graph.node("Mul", graph.node("ReduceSum", weights, last, keepdims=1), self._float(_SUM_SHARE))
        peak = graph.node("Max", graph.node("ReduceMax", weights, last, keepdims=1), share)  # which keeps NaN
        return self._merge_heads(self._product(weights, peak, "values", self._float(1), self.rows))

    @cached_property
    def _stacked_bias(self) -> str:
        """The bias of queries as they are stacked, [batch, kv_heads or 1, group * step, rows]."""
        each = self.graph.node("Expand", self.inputs.mask, self._integers(1, 1, self.group, 1, 1))
        return self.graph.node("Reshape", each, self._stacked_shape)

    def _with_sinks(self, scores: str, key_scales: str) -> str:
        """The sinks' scores at their own angle, in float32: they are few, and get most of the weights."""
        if not self.sinks:
            return scores
        bounds = self._integers(0), self._integers(self.sinks), self._integers(3)
        keys, scales = (self.graph.node("Slice", rows, *bounds) for rows in ("keys", key_scales))
        wide = self.graph.node("Mul", self.graph.node("Cast", keys, to=TensorProto.FLOAT), scales)
        stacked, scale = self._stack("sink_query"), self._score_scale
        sinks = self.graph.node("FusedMatMul", stacked, wide, domain=CONTRIB, alpha=scale)
        return self._merge_scores(scores, self._shaped(sinks, self.sinks))

    def _product(  # noqa: PLR0917 - two factors, and how each is held
        self, left: str, peak: str, right: str, right_scales: str, inner: int | str, factor: float = 1.0
    ) -> str:
        """`left` [batch, kv_heads, stacked, inner], of which nothing is above `peak` [..., 1], times `right`."""
        graph, zero, step = self.graph, self.graph.constant(HALF + 1, np.uint8), self._float(1 / HALF)
        left = self._shaped(graph.node("Div", left, peak), inner)
        wholes = graph.node("QuantizeLinear", left, step, zero)
        rest = graph.node("Sub", left, self._shaped(graph.node("DequantizeLinear", wholes, step, zero), inner))
        rests = graph.node("QuantizeLinear", rest, self._float(1 / (2 * HALF * HALF)), zero)
        both = graph.node("Concat", wholes, rests, axis=2)
        scale = self._float(factor / HALF)
        product = graph.node("MatMulIntegerToFloat", both, right, scale, right_scales, zero, domain=CONTRIB)
        first, second = graph.split("Split", product, out=("", ""), axis=2, num_outputs=2)
        total = graph.node("Add", first, graph.node("Mul", second, self._float(1 / (2 * HALF))))
        return graph.node("Mul", total, peak)

    def _float(self, value: float) -> str:
        return self.graph.constant(value, np.float32)
