"""Attention over keys and values of 8 bits with a scale a token and head, multiplied as they lie.

Keys lie by column and values by row, as `MatMulIntegerToFloat` takes its second factor. What they are multiplied by is
rounded to two whole numbers of 7 bits, one of which holds what the other leaves: together some 13 bits, which a weight
beside a sink's needs, and neither can saturate a sum of two products in 16 bits.

A step of many tokens reads what it has to multiply often: it makes float32 of keys and values first.

What is not finite shows in a token's scales, and so in all that is multiplied by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from onnx import TensorProto

from builder_service.graph.attention.attention import Attention, HeadNorms
from builder_service.graph.graph import CONTRIB
from builder_service.graph.inputs import Rotation
from builder_service.graph.quantize import INT8_LARGEST

FEW_TOKENS = 4
"""Of each slot in a step: so many are multiplied by 8 bits. With more, float32 is faster (measured)."""
HALF = 63
"""A whole number of 7 bits lies between this and its negative."""
_SMALLEST_PEAK = 1e-8
_SUM_SHARE = 1e-9  # of a sum that is below the largest of its terms, however many there are


@dataclass(frozen=True)
class Held:
    """A layer's caches with the rows of this step."""

    keys: str  # int8 [batch, kv_heads, dim, rows]
    key_scales: str  # float32 [batch, kv_heads, 1, rows]
    values: str  # int8 [batch, kv_heads, rows, dim]
    value_scales: str  # float32 [batch, kv_heads, 1, rows]


class NarrowAttention(Attention):
    """What every layer's attention adds to a graph whose caches are of 8 bits."""

    def attend(self, layer: int, qkv: str, norms: HeadNorms, rotation: Rotation) -> str:
        query, key, value = self._heads(qkv, norms)
        key = self._rotate(key, rotation.cos, rotation.sin, self.shapes.kv_heads)
        held = self._hold(layer, key, value)
        ring = self._stack(self._rotate(query, rotation.cos, rotation.sin, self.shapes.heads))
        sinks = self._sink_scores(query, held, rotation) if rotation.sink_cos else ""
        _ = self.bias, self._grouped_shape, self._stacked_shape, self._stacked_bias  # made here, for branches to read
        multiplied, widened = (partial(way, ring, sinks, held) for way in (self._multiplied, self._widened))
        return self._merge_heads(self.graph.choose(self._few, multiplied, widened))

    @cached_property
    def _few(self) -> str:
        """Whether a step has few tokens."""
        step = self.graph.node("Shape", self.inputs.tokens, start=1)
        return self.graph.node("LessOrEqual", step, self._integers(FEW_TOKENS))

    @cached_property
    def _stacked_bias(self) -> str:
        """The bias of queries as they are stacked, [batch, kv_heads or 1, group * step, rows]; of few tokens alone."""
        bias, shape = self.bias, self._stacked_shape

        def stacked() -> str:
            each = self.graph.node("Expand", bias, self._integers(1, 1, self.group, 1, 1))
            return self.graph.node("Reshape", each, shape)

        return self.graph.choose(self._few, stacked, lambda: self.graph.node("Identity", self._float(0)))

    def _hold(self, layer: int, key: str, value: str) -> Held:
        """Round a step's keys and values, and write them into the caches."""
        graph, kv_heads, dim = self.graph, self.shapes.kv_heads, self.shapes.head_dim
        both = graph.node("Concat", key, value, axis=-1)
        both = graph.node("Reshape", both, self._integers(0, 0, 2 * kv_heads, dim))
        scales = self._scales(both)
        rounded = graph.node("QuantizeLinear", both, scales, axis=3, block_size=dim, output_dtype=TensorProto.INT8)
        halves = self._integers(kv_heads, kv_heads)
        keys, values = graph.split("Split", rounded, halves, out=("", ""), axis=2)
        key_shape, value_shape = (("batch", kv_heads, *inner) for inner in ((dim, self.rows), (self.rows, dim)))
        scales_shape = ("batch", 2 * kv_heads, 1, self.rows)
        written = self._write(f"kv_scales_{layer}", np.float32, scales_shape, scales, [0, 2, 3, 1])
        key_scales, value_scales = graph.split("Split", written, halves, out=("", ""), axis=1)
        return Held(
            self._write(f"key_bytes_{layer}", np.int8, key_shape, keys, [0, 2, 3, 1]),
            key_scales,
            self._write(f"value_bytes_{layer}", np.int8, value_shape, values, [0, 2, 1, 3]),
            value_scales,
        )

    def _scales(self, heads: str) -> str:
        """The scale of each head of each token, [..., 1]; NaN where a number is not finite."""
        graph, last = self.graph, self._integers(3)
        peak = graph.node("ReduceMax", graph.node("Abs", heads), last, keepdims=1)  # passes over NaN
        not_finite = graph.node("Mul", graph.node("ReduceSum", heads, last, keepdims=1), self._float(0))
        peak = graph.node("Max", peak, self._float(_SMALLEST_PEAK), not_finite)
        return graph.node("Mul", peak, self._float(1 / INT8_LARGEST))

    def _write(
        self, name: str, dtype: type[np.generic], shape: tuple[int | str, ...], rows: str, order: list[int]
    ) -> str:
        """Write [batch, step, heads, numbers] into the cache `name`, in place where bound so."""
        self.graph.input(name, dtype, shape)
        self.graph.output(f"{name}_out", dtype, shape)
        turned = self.graph.node("Transpose", rows, perm=order)
        axis = order.index(1) - len(order)
        return self.graph.node("TensorScatter", name, turned, self.inputs.write_rows, out=f"{name}_out", axis=axis)

    def _sink_scores(self, query: str, held: Held, rotation: Rotation) -> str:
        """Scores against the sinks, in float32: they are few, and get most of the weights."""
        query = self._stack(self._rotate(query, rotation.sink_cos, rotation.sink_sin, self.shapes.heads))
        bounds = self._integers(0), self._integers(self.sinks), self._integers(3)
        keys, scales = (self.graph.node("Slice", rows, *bounds) for rows in (held.keys, held.key_scales))
        return self._float_scores(query, self._wide(keys, scales), self.sinks)

    def _multiplied(self, query: str, sink_scores: str, held: Held) -> str:
        """[batch, kv_heads, group * step, dim], by products with 8 bits."""
        graph, last = self.graph, self._integers(3)
        norm = graph.node("ReduceL2", query, last, keepdims=1)  # no number is larger, and NaN stays
        scores = self._product(query, norm, held.keys, held.key_scales, "dim", self._score_scale)
        scores = self._capped(self._merged(self._shaped(scores, self.rows), sink_scores))
        masked = self._shaped(graph.node("Add", scores, self._stacked_bias), self.rows)
        weights = self._shaped(graph.node("Softmax", masked, axis=-1), self.rows)
        weights = self._shaped(graph.node("Mul", weights, held.value_scales), self.rows)
        share = graph.node("Mul", graph.node("ReduceSum", weights, last, keepdims=1), self._float(_SUM_SHARE))
        peak = graph.node("Max", graph.node("ReduceMax", weights, last, keepdims=1), share)  # which keeps NaN
        return self._product(weights, peak, held.values, self._float(1), self.rows)

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

    def _widened(self, query: str, sink_scores: str, held: Held) -> str:
        """The same by products with float32."""
        keys = self._wide(held.keys, held.key_scales)
        scores = self._merged(self._float_scores(query, keys, self.rows), sink_scores)
        weights = self._softmax(self._capped(scores))
        scales = self.graph.node("Transpose", held.value_scales, perm=[0, 1, 3, 2])
        return self.graph.node("MatMul", weights, self._wide(held.values, scales))

    def _merged(self, scores: str, sink_scores: str) -> str:
        return self._merge_scores(scores, sink_scores) if sink_scores else scores

    def _float_scores(self, query: str, keys: str, rows: int | str) -> str:
        return self._shaped(self.graph.node("FusedMatMul", query, keys, domain=CONTRIB, alpha=self._score_scale), rows)

    def _wide(self, numbers: str, scales: str) -> str:
        return self.graph.node("Mul", self.graph.node("Cast", numbers, to=TensorProto.FLOAT), scales)

    def _float(self, value: float) -> str:
        return self.graph.constant(value, np.float32)
