"""What an engine ought to say: the model in float64, one layer's matrix in memory at a time, all positions at once.

Distances are the paper's, told as the paper tells them: a query lists the tokens it sees, and every key is rotated by
its place in that list. No code is shared with the planner, the angles or the graph. A stream may skip positions:
nobody sees what was skipped, so a short stream can stand anywhere.

Source: StreamingLLM (arXiv 2309.17453), section 3.2; models as in Hugging Face's `modeling_*.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from builder_service.model.model import Activation, Model
from builder_service.verify.fake_quantize import Weights
from common.spec.manifest import Architecture, Rope

Array = npt.NDArray[np.float64]
_ERF = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class Stream:
    """Tokens of one session at ascending `positions`, and what the session keeps."""

    sinks: int
    window: int
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    noise: float = 0.0
    """Relative noise on all that is multiplied: how much the model makes of the errors of float32."""
    given: tuple[Array, ...] = ()
    """States of the residual stream to go on from in place of those computed, two a layer: [token, hidden].

    A row of NaN is not given. So one part after another is judged by itself, on what it was really given.
    """

    @cached_property
    def seen(self) -> tuple[npt.NDArray[np.int64], ...]:
        """For each token, which of the stream's it sees, oldest first, itself included."""
        positions = np.array(self.positions)
        return tuple(
            np.flatnonzero((positions <= own) & ((positions < self.sinks) | (positions > own - self.window)))
            for own in positions
        )


@dataclass(frozen=True)
class Part:
    """What a part of the model made of the streams: one array [token, width] each, before and after it."""

    name: str
    before: list[Array]
    after: list[Array]


@dataclass(frozen=True)
class ReferenceModel:
    """A model and its rotation."""

    weights: Weights
    model: Model
    rope: Rope

    @property
    def architecture(self) -> Architecture:
        """Its shapes."""
        return self.model.architecture

    def logits(self, streams: tuple[Stream, ...]) -> list[Array]:
        """Logits after every token: one array of [token, vocabulary] a stream."""
        *_, last = self.parts(streams)
        return last.after

    def parts(self, streams: tuple[Stream, ...]) -> Iterator[Part]:
        """Attention and feed-forward of every layer as they change the residual stream, then the logits."""
        x = self._embed([token for stream in streams for token in stream.tokens])  # [token, hidden]
        for layer in range(self.architecture.layers):
            computed, normed = self._attention(layer, x, streams)
            yield Part(f"attention of layer {layer}", _split(x, streams), _split(computed, streams))
            y = _given(computed, streams, 2 * layer)
            computed = y + self._feed_forward(layer, normed, y if not self.model.parallel else x, streams)
            yield Part(f"feed-forward of layer {layer}", _split(y, streams), _split(computed, streams))
            x = _given(computed, streams, 2 * layer + 1)
        tied = "lm_head.weight" not in self.weights.names
        head = "model.embed_tokens.weight" if tied else "lm_head.weight"
        logits = self._product(head, self._prepare(self._norm("model.norm", x), streams, last=True))
        yield Part("logits", _split(np.zeros_like(logits), streams), _split(logits, streams))

    def _attention(self, layer: int, x: Array, streams: tuple[Stream, ...]) -> tuple[Array, Array]:
        """The stream behind it, and what it read."""
        name = f"model.layers.{layer}"
        normed = self._prepare(self._norm(f"{name}.input_layernorm", x), streams)
        query, key, value = (self._linear(f"{name}.self_attn.{part}_proj", normed) for part in ("q", "k", "v"))
        query, key = (
            self._norm_heads(f"{name}.self_attn.{part}_norm.weight", y)
            for part, y in zip("qk", (query, key), strict=True)
        )
        parts = (_split(rows, streams) for rows in (query, key, value))
        mixed = [self._attend(*one) for one in zip(streams, *parts, strict=True)]
        return x + self._linear(f"{name}.self_attn.o_proj", self._prepare(np.concatenate(mixed), streams)), normed

    def _feed_forward(self, layer: int, normed: Array, read: Array, streams: tuple[Stream, ...]) -> Array:
        """What it adds to the stream; `normed` is what attention read."""
        name = f"model.layers.{layer}.mlp"
        if not self.model.shared_norm:
            normed = self._prepare(self._norm(f"model.layers.{layer}.post_attention_layernorm", read), streams)
        up = self._linear(f"{name}.up_proj", normed)
        mixed = (
            self._activate(self._linear(f"{name}.gate_proj", normed)) * up if self.model.gated else self._activate(up)
        )
        return self._linear(f"{name}.down_proj", self._prepare(mixed, streams))

    def _activate(self, x: Array) -> Array:
        match self.model.activation:
            case Activation.SILU:
                factor: Array = 1 / (1 + np.exp(-x))
            case Activation.GELU:
                factor = 0.5 * (1 + _ERF(x / math.sqrt(2)))
            case Activation.GELU_TANH:
                factor = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return x * factor

    def _prepare(self, x: Array, streams: tuple[Stream, ...], *, last: bool = False) -> Array:
        """Activations as the precision multiplies them, after the noise of each stream."""
        scale = np.concatenate([np.full((len(stream.tokens), 1), stream.noise) for stream in streams])
        if scale.any():
            x = x * (1 + scale * np.random.default_rng(x.shape[1]).standard_normal(x.shape))
        return self.weights.activations(x, last=last)

    def _attend(self, stream: Stream, query: Array, key: Array, value: Array) -> Array:
        """[token, heads * head_dim], from what each token sees."""
        shapes = self.architecture
        query = query.reshape(len(query), shapes.heads, shapes.head_dim)
        key, value = (x.reshape(len(x), shapes.kv_heads, shapes.head_dim) for x in (key, value))
        out = np.empty((len(query), shapes.heads * shapes.head_dim))
        for i, seen in enumerate(stream.seen):
            places = np.arange(len(seen))
            turned, own = self._rotate(key[seen], places), self._rotate(query[i : i + 1], places[-1:])[0]
            out[i] = self._mix(own, turned, value[seen]).reshape(-1)
        return out

    def _mix(self, query: Array, keys: Array, values: Array) -> Array:
        """[heads, head_dim] for one query, which is that of the last key."""
        shapes = self.architecture
        grouped = query.reshape(shapes.kv_heads, shapes.heads // shapes.kv_heads, shapes.head_dim)
        scores = np.einsum("kgd,tkd->kgt", grouped, keys) / np.sqrt(shapes.head_dim)
        slopes = np.array(self.model.alibi_slopes or np.zeros(shapes.heads)).reshape(grouped.shape[:2])[:, :, None]
        scores = scores - slopes * np.arange(len(keys))[::-1]
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed: Array = np.einsum("kgt,tkd->kgd", weights / weights.sum(axis=-1, keepdims=True), values)
        return mixed.reshape(shapes.heads, shapes.head_dim)

    def _rotate(self, x: Array, places: npt.NDArray[np.int64]) -> Array:  # x: [token, head, head_dim]
        frequencies = np.array(self.rope.inverse_frequencies, np.float32).astype(np.float64)
        angle = (places[:, None] * frequencies)[:, None, :]  # [token, 1, head_dim / 2]
        cos, sin = np.cos(angle) * self.rope.attention_scale, np.sin(angle) * self.rope.attention_scale
        half = len(frequencies)
        first, second, rest = np.split(x, [half, 2 * half], axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)

    def _embed(self, tokens: list[int]) -> Array:
        """Rows of the embedding, [token, hidden]."""
        ids, start = np.array(tokens), 0
        x = np.empty((len(ids), self.architecture.hidden))
        for block in self.weights.embedding("model.embed_tokens.weight"):
            here = (ids >= start) & (ids < start + len(block))
            x[here] = block[ids[here] - start]
            start += len(block)
        return x

    def _linear(self, name: str, x: Array) -> Array:
        y = self._product(f"{name}.weight", x)
        return y + self.weights.vector(f"{name}.bias") if f"{name}.bias" in self.weights.names else y

    def _product(self, name: str, x: Array) -> Array:
        """``x @ W.T``, a block of the rows of W at a time."""
        return np.concatenate([x @ block.T for block in self.weights.matrix(name)], axis=1)

    def _norm(self, name: str, x: Array) -> Array:
        norm = self.model.norm
        x = x - x.mean(axis=-1, keepdims=True) if norm.centred else x
        scale: Array = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + norm.epsilon)
        y = x * scale * self.weights.vector(f"{name}.weight")
        return y + self.weights.vector(f"{name}.bias") if norm.bias else y

    def _norm_heads(self, name: str, x: Array) -> Array:  # x: [token, heads * head_dim]
        if not self.model.head_norm:
            return x
        heads = x.reshape(len(x), -1, self.architecture.head_dim)
        scale: Array = 1 / np.sqrt(np.mean(heads * heads, axis=-1, keepdims=True) + self.model.norm.epsilon)
        return (heads * scale * self.weights.vector(name)).reshape(x.shape)


def _given(x: Array, streams: tuple[Stream, ...], state: int) -> Array:
    """The state of the residual stream with the rows that are given in place of those computed."""
    given = [s.given[state] if s.given else np.full((len(s.tokens), x.shape[1]), np.nan) for s in streams]
    rows = np.concatenate(given)
    return np.where(np.isnan(rows), x, rows)


def _split(x: Array, streams: tuple[Stream, ...]) -> list[Array]:
    """Cut rows that belong to several streams: one [token, ...] a stream."""
    return np.split(x, np.cumsum([len(stream.tokens) for stream in streams])[:-1])
