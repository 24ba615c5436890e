"""Attention over keys and values of 8 bits with a scale a token and head.

A step of few tokens multiplies them as they lie (`few_tokens`). One of many tokens reads what it has to multiply often:
it makes float32 of keys and values first.

What is not finite shows in a token's scales, and so in all that is multiplied by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from onnx import TensorProto

from builder_service.graph.attention.attention import Attention, HeadNorms
from builder_service.graph.attention.few_tokens import FewTokens
from builder_service.graph.graph import CONTRIB
from builder_service.graph.inputs import Rotation
from builder_service.graph.quantize import INT8_LARGEST

FEW_TOKENS = 4
"""Of each slot in a step: so many are multiplied by 8 bits. With more, float32 is faster (measured)."""
_SMALLEST_PEAK = 1e-8


@dataclass(frozen=True)
class Held:
    """A layer's caches with the rows of this step."""

    keys: str  # int8 [batch, kv_heads, dim, rows]
    values: str  # int8 [batch, kv_heads, rows, dim]
    scales: str  # float32 [batch, 2 * kv_heads, 1, rows]: those of keys, then those of values


class NarrowAttention(Attention):
    """What every layer's attention adds to a graph whose caches are of 8 bits."""

    def attend(self, layer: int, qkv: str, norms: HeadNorms, rotation: Rotation) -> str:
        query, key, value = self._heads(qkv, norms)
        key = self._rotate(key, rotation.cos, rotation.sin, self.shapes.kv_heads)
        held = self._hold(layer, key, value)
        ring, sinks = self._rotate(query, rotation.cos, rotation.sin, self.shapes.heads), ""
        if rotation.sink_cos:
            sinks = self._rotate(query, rotation.sink_cos, rotation.sink_sin, self.shapes.heads)
        _ = self.bias, self._grouped_shape, self._stacked_shape  # made here, for branches to read
        multiplied, widened = (partial(way, ring, sinks, held) for way in (self._multiplied, self._widened))
        return self.graph.choose(self._few, multiplied, widened)

    @cached_property
    def _few(self) -> str:
        """Whether a step has few tokens."""
        step = self.graph.node("Shape", self.inputs.tokens, start=1)
        return self.graph.node("LessOrEqual", step, self._integers(FEW_TOKENS))

    def _multiplied(self, query: str, sink_query: str, held: Held) -> str:
        """[tokens, query width], by products with 8 bits."""
        few = FewTokens.of(self)
        inputs = (query, sink_query or query, held.keys, held.values, self.bias, held.scales)
        sizes = {"heads": self.shapes.heads, "sinks": few.sinks if sink_query else 0}
        return few.call(self.graph, *inputs, **sizes, scale=self._score_scale, cap=float(self.cap or 0))

    def _widened(self, query: str, sink_query: str, held: Held) -> str:
        """The same by products with float32."""
        halves = self._integers(self.shapes.kv_heads, self.shapes.kv_heads)
        key_scales, value_scales = self.graph.split("Split", held.scales, halves, out=("", ""), axis=1)
        keys = self._wide(held.keys, key_scales)
        scores = self._float_scores(self._stack(query), keys, self.rows)
        if sink_query:
            first = self.graph.node("Slice", keys, self._integers(0), self._integers(self.sinks), self._integers(3))
            scores = self._merge_scores(scores, self._float_scores(self._stack(sink_query), first, self.sinks))
        weights = self._softmax(self._capped(scores))
        value_scales = self.graph.node("Transpose", value_scales, perm=[0, 1, 3, 2])
        return self._merge_heads(self.graph.node("MatMul", weights, self._wide(held.values, value_scales)))

    def _hold(self, layer: int, key: str, value: str) -> Held:
        """Round a step's keys and values, and write them into the caches."""
        graph, kv_heads, dim = self.graph, self.shapes.kv_heads, self.shapes.head_dim
        both = graph.node("Concat", key, value, axis=-1)
        both = graph.node("Reshape", both, self._integers(0, 0, 2 * kv_heads, dim))
        scales = self._scales(both)
        rounded = graph.node("QuantizeLinear", both, scales, axis=3, block_size=dim, output_dtype=TensorProto.INT8)
        keys, values = graph.split("Split", rounded, self._integers(kv_heads, kv_heads), out=("", ""), axis=2)
        key_shape, value_shape = (("batch", kv_heads, *inner) for inner in ((dim, self.rows), (self.rows, dim)))
        scales_shape = ("batch", 2 * kv_heads, 1, self.rows)
        return Held(
            self._write(f"key_bytes_{layer}", np.int8, key_shape, keys, [0, 2, 3, 1]),
            self._write(f"value_bytes_{layer}", np.int8, value_shape, values, [0, 2, 1, 3]),
            self._write(f"kv_scales_{layer}", np.float32, scales_shape, scales, [0, 2, 3, 1]),
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

    def _float_scores(self, query: str, keys: str, rows: int | str) -> str:
        return self._shaped(self.graph.node("FusedMatMul", query, keys, domain=CONTRIB, alpha=self._score_scale), rows)

    def _wide(self, numbers: str, scales: str) -> str:
        return self.graph.node("Mul", self.graph.node("Cast", numbers, to=TensorProto.FLOAT), scales)

    def _float(self, value: float) -> str:
        return self.graph.constant(value, np.float32)
