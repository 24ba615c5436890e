"""The reference for texts of which every token sees all before it: attention to all of them at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from builder_service.verify.reference_model import Array, ReferenceModel, Stream, capped

MASKED = -np.inf


class DenseModel(ReferenceModel):
    """`ReferenceModel` of streams that begin at position 0, skip nothing and forget nothing."""

    def run(self, streams: tuple[Stream, ...], progress: Callable[[float], None]) -> Array:
        """What the logits are made from, [token, hidden] of all streams; `progress` gets the share done."""
        count = 2 * self.architecture.layers
        for number, part in enumerate(itertools.islice(self.parts(streams), count)):
            after = part.after
            progress((number + 1) / (count + 1))
        normed = self._norm("model.norm", np.concatenate(after)) * self.model.scales.logits
        return self.weights.activations(normed, last=True)

    def _attend(self, layer: int, stream: Stream, query: Array, key: Array, value: Array) -> Array:
        """[token, heads * head_dim]."""
        del stream  # the queries are all there is of it
        shapes, count = self.architecture, len(query)
        group = shapes.heads // shapes.kv_heads
        places = np.arange(count)
        turned = self._rotate(layer, query.reshape(count, shapes.heads, shapes.head_dim), places)
        queries = turned.reshape(count, shapes.kv_heads, group, shapes.head_dim).transpose(1, 2, 0, 3)
        keys = self._rotate(layer, key.reshape(count, shapes.kv_heads, shapes.head_dim), places).transpose(1, 2, 0)
        values = value.reshape(count, shapes.kv_heads, shapes.head_dim).transpose(1, 0, 2)
        scale = self.model.scales.scores
        scores = queries @ keys[:, None] * (shapes.head_dim**-0.5 if scale is None else scale)
        scores = capped(scores, self.model.scales.score_cap)  # [kv_heads, group, token, seen]
        distances = places[:, None] - places
        slopes = np.array(self.model.alibi_slopes or np.zeros(shapes.heads)).reshape(shapes.kv_heads, group, 1, 1)
        scores = np.where(distances >= 0, scores - slopes * distances, MASKED)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed: Array = weights @ values[:, None]
        rows: Array = mixed.transpose(2, 0, 1, 3).reshape(count, -1)
        return rows
