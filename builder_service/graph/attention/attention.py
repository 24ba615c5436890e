"""Sink and window attention over a slot's rows, as nodes.

Keys lie in the cache rotated at their own positions. A query meets the ring's rows at its own angle and the sinks'
rows at the angle of its place in the cache; the two blocks of scores meet before one softmax. The mask says which rows
a query sees: this file knows no positions.

Query heads that share a key/value head are stacked along the step, so that a batch of plain matrix products does
grouped attention without repeating keys. `FusedMatMul` multiplies by the transposed keys; where values lie in columns,
by the transposed weights.

Source: StreamingLLM (arXiv 2309.17453), section 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from builder_service.graph.graph import CONTRIB, Graph
from builder_service.graph.inputs import Inputs, Rotation
from common.spec.manifest import Architecture


@dataclass(frozen=True)
class HeadNorms:
    """RMS norm of queries and of keys, of every head or of all `joint`: names of their scales, empty for none."""

    query: str = ""
    key: str = ""
    epsilon: float = 0.0
    joint: bool = False


@dataclass(frozen=True)
class Attention:
    """What every layer's attention adds to the graph."""

    graph: Graph
    shapes: Architecture
    sinks: int
    rows: int | str  # of a cache; a word where it varies
    inputs: Inputs
    rotary_dim: int = 0
    interleaved: bool = False
    scale: float | None = None  # of scores; None: 1 / sqrt(head_dim)
    cap: float | None = None  # of scores
    alibi_slopes: tuple[float, ...] = ()
    value_columns: bool = False
    """Whether the cache holds values by column, [batch, kv_heads, dim, rows]: then the product reads them as they lie,
    where it would first copy rows into the order that it multiplies in."""

    @cached_property
    def bias(self) -> str:
        """What is added to the scores of every layer: the mask, and with ALiBi how far away a row is."""
        if not self.alibi_slopes:
            return self.inputs.mask
        slopes = np.array(self.alibi_slopes).reshape(1, self.shapes.kv_heads, self.group, 1, 1)
        sloped = self.graph.node("Mul", self.inputs.distance, self.graph.constant(-slopes, np.float32))
        return self.graph.node("Add", sloped, self.inputs.mask)

    @property
    def query_width(self) -> int:
        return self.shapes.heads * self.shapes.head_dim

    @property
    def key_width(self) -> int:
        return self.shapes.kv_heads * self.shapes.head_dim

    @property
    def group(self) -> int:
        """Query heads that share a key/value head."""
        return self.shapes.heads // self.shapes.kv_heads

    def attend(self, layer: int, qkv: str, norms: HeadNorms, rotation: Rotation) -> str:
        """[batch, step, query + key + value widths] to [tokens, query width]; declares the layer's cache."""
        query, key, value = self._heads(qkv, norms)
        key = self._rotate(key, rotation.cos, rotation.sin, self.shapes.kv_heads)
        keys = self._append(f"key_cache_{layer}", key)
        weights = self._softmax(self._capped(self._all_scores(query, keys, rotation)))
        return self._merge_heads(self._mix(layer, weights, value))

    def _heads(self, qkv: str, norms: HeadNorms) -> tuple[str, str, str]:
        """Queries, keys and values, each [batch, step, its width], with the norms of their heads."""
        sizes = self._integers(self.query_width, self.key_width, self.key_width)
        query, key, value = self.graph.split("Split", qkv, sizes, out=("", "", ""), axis=-1)
        query = self._norm_heads(query, norms.query, norms, self.shapes.heads)
        return query, self._norm_heads(key, norms.key, norms, self.shapes.kv_heads), value

    def _mix(self, layer: int, weights: str, value: str) -> str:
        """Values by their weights: [batch, kv_heads, group * step, dim]; declares the values' cache."""
        if not self.value_columns:
            return self.graph.node("MatMul", weights, self._append(f"value_cache_{layer}", value))
        columns = self._append(f"value_columns_{layer}", value, axis=-1)
        mixed = self.graph.node("FusedMatMul", columns, weights, domain=CONTRIB, transB=1)
        return self.graph.node("Transpose", mixed, perm=[0, 1, 3, 2])

    def _append(self, name: str, rows: str, *, axis: int = -2) -> str:
        """Write a step's keys or values [batch, step, key width] into the cache `name`, in place where bound so.

        The cache's rows are its `axis`, the numbers of a head the other one.
        """
        kv_heads, dim = self.shapes.kv_heads, self.shapes.head_dim
        extents = (self.rows, dim) if axis == -2 else (dim, self.rows)
        cache_shape = ("batch", kv_heads, *extents)
        self.graph.input(name, np.float32, cache_shape)
        self.graph.output(f"{name}_out", np.float32, cache_shape)
        heads = self.graph.node("Reshape", rows, self._integers(0, 0, kv_heads, dim))
        heads = self.graph.node("Transpose", heads, perm=[0, 2, 1, 3] if axis == -2 else [0, 2, 3, 1])
        return self.graph.node("TensorScatter", name, heads, self.inputs.write_rows, out=f"{name}_out", axis=axis)

    def _all_scores(self, query: str, keys: str, rotation: Rotation) -> str:
        """Scores against every row, the sinks' at their own angle: [batch, kv_heads, group * step, rows]."""
        ring_query = self._rotate(query, rotation.cos, rotation.sin, self.shapes.heads)
        scores = self._scores(ring_query, keys, self.rows)
        if not rotation.sink_cos:  # no sinks, no angles, or distances that are in the bias
            return scores
        sink_query = self._rotate(query, rotation.sink_cos, rotation.sink_sin, self.shapes.heads)
        start, end, axis = self._integers(0), self._integers(self.sinks), self._integers(2)
        sink_keys = self.graph.node("Slice", keys, start, end, axis)
        sink_scores = self._scores(sink_query, sink_keys, self.sinks)
        return self._merge_scores(scores, sink_scores)

    def _merge_scores(self, scores: str, sink_scores: str) -> str:
        """The sinks' scores over the first columns, in place."""
        return self._shaped(self.graph.node("TensorScatter", scores, sink_scores, axis=3), self.rows)

    def _scores(self, query: str, keys: str, rows: int | str) -> str:
        """[batch, step, query width] and [batch, kv_heads, rows, dim] to [batch, kv_heads, group * step, rows]."""
        stacked, scale = self._stack(query), self._score_scale
        scores = self.graph.node("FusedMatMul", stacked, keys, domain=CONTRIB, transB=1, alpha=scale)
        return self._shaped(scores, rows)

    def _stack(self, query: str) -> str:
        """[batch, step, query width] to [batch, kv_heads, group * step, dim]."""
        split = self._integers(0, 0, self.shapes.kv_heads, self.group, self.shapes.head_dim)
        heads = self.graph.node("Transpose", self.graph.node("Reshape", query, split), perm=[0, 2, 3, 1, 4])
        return self.graph.node("Reshape", heads, self._integers(0, 0, -1, self.shapes.head_dim))

    @property
    def _score_scale(self) -> float:
        """What products of queries and keys are multiplied by; where there is a cap, before it is."""
        scale = 1 / math.sqrt(self.shapes.head_dim) if self.scale is None else self.scale
        return scale if self.cap is None else scale / self.cap

    def _capped(self, scores: str) -> str:
        """Scores that were divided by their cap, held within it; the shape stays."""
        if self.cap is None:
            return scores
        bent = self._shaped(self.graph.node("Tanh", scores), self.rows)
        capped = self.graph.node("Mul", bent, self.graph.constant(self.cap, np.float32))
        return self._shaped(capped, self.rows)

    def _softmax(self, scores: str) -> str:
        """Masked softmax over the rows; the shape stays."""
        scores = self._grouped(self.graph.node("Reshape", scores, self._grouped_shape))
        masked = self._grouped(self.graph.node("Add", scores, self.bias))
        weights = self._grouped(self.graph.node("Softmax", masked, axis=-1))
        return self.graph.node("Reshape", weights, self._stacked_shape)

    def _merge_heads(self, stacked: str) -> str:
        """[batch, kv_heads, group * step, dim] to [tokens, query width]."""
        heads = self.graph.node("Reshape", stacked, self._integers(0, 0, self.group, -1, self.shapes.head_dim))
        heads = self.graph.node("Transpose", heads, perm=[0, 3, 1, 2, 4])
        return self.graph.node("Reshape", heads, self._integers(-1, self.query_width))

    def _rotate(self, rows: str, cos: str, sin: str, heads: int) -> str:
        """Rotate [batch, step, heads * dim], or the first numbers of every head."""
        if not cos:
            return rows
        rotated = self.rotary_dim if self.rotary_dim != self.shapes.head_dim else 0  # 0: all
        return self.graph.node(
            "RotaryEmbedding",
            rows,
            cos,
            sin,
            num_heads=heads,
            rotary_embedding_dim=rotated,
            interleaved=int(self.interleaved),
        )

    def _norm_heads(self, rows: str, scale: str, norms: HeadNorms, heads: int) -> str:
        """RMS norm of every head of [batch, step, heads * dim], or of all of them together."""
        if not scale:
            return rows
        if norms.joint:
            return self.graph.node("RMSNormalization", rows, scale, axis=-1, epsilon=norms.epsilon)
        split = self.graph.node("Reshape", rows, self._integers(0, 0, heads, self.shapes.head_dim))
        normed = self.graph.node("RMSNormalization", split, scale, axis=-1, epsilon=norms.epsilon)
        return self.graph.node("Reshape", normed, self._integers(0, 0, heads * self.shapes.head_dim))

    @cached_property
    def _grouped_shape(self) -> str:
        """[batch, kv_heads, group, step, rows], for a Reshape."""
        return self._by_row(0, 0, self.group, -1)

    @cached_property
    def _stacked_shape(self) -> str:
        """[batch, kv_heads, group * step, rows], likewise."""
        return self._by_row(0, 0, -1)

    def _by_row(self, *extents: int) -> str:
        if isinstance(self.rows, int):
            return self._integers(*extents, self.rows)
        rows = self.graph.node("Shape", self.inputs.mask, start=4)
        return self.graph.node("Concat", self._integers(*extents), rows, axis=0)

    def _shaped(self, scores: str, rows: int | str) -> str:
        return self.graph.shaped(scores, np.float32, ("batch", self.shapes.kv_heads, "stacked", rows))

    def _grouped(self, scores: str) -> str:
        shape = ("batch", self.shapes.kv_heads, self.group, "step", self.rows)
        return self.graph.shaped(scores, np.float32, shape)

    def _integers(self, *values: int) -> str:
        return self.graph.constant(values, np.int64)
