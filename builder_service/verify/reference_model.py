"""What an engine ought to say: the model in float64, one layer's matrix in memory at a time, all positions at once.

Distances are the paper's, told as the paper tells them: a query lists the tokens it sees, and every key is rotated by
its place in that list. No code is shared with the planner, the angles or the graph. A stream may skip positions:
what was skipped is seen with key and value zero, as in a cache that was zeroed; so a short stream can stand anywhere.

Source: StreamingLLM (arXiv 2309.17453), section 3.2; models as in Hugging Face's `modeling_*.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
class Sight:
    """What one query sees: tokens of the stream and their places in the cache, and the places of those never fed."""

    tokens: npt.NDArray[np.int64]  # [seen]
    places: npt.NDArray[np.int64]  # [seen]; the last is the query's own
    unfed: npt.NDArray[np.int64]  # [never fed]: places of tokens that the stream skipped


@dataclass(frozen=True)
class Stream:
    """Tokens of one session at ascending `positions`, and what the session keeps."""

    sinks: int
    window: int
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    noise: float = 0.0
    """Relative noise on all that is multiplied: how much the model makes of the errors of float32."""

    def seen(self, position: int) -> tuple[int, ...]:
        """Positions that the query at `position` sees, oldest first, itself included."""
        first = max(0, position - self.window + 1)
        sinks = range(min(self.sinks, first))
        return (*sinks, *range(first, position + 1))

    @cached_property
    def sights(self) -> tuple[Sight, ...]:
        """What each of its tokens sees."""
        index = {position: i for i, position in enumerate(self.positions)}
        return tuple(_sight(index, self.seen(position)) for position in self.positions)


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

    def logits(self, streams: tuple[Stream, ...], progress: Callable[[float], None] = lambda _: None) -> list[Array]:
        """Logits after every token: one array of [token, vocabulary] a stream."""
        x = self._embed([token for stream in streams for token in stream.tokens])  # [token, hidden]
        for layer in range(self.architecture.layers):
            x = self._layer(layer, x, streams)
            progress((layer + 1) / (self.architecture.layers + 1))
        tied = "lm_head.weight" not in self.weights.names
        head = "model.embed_tokens.weight" if tied else "lm_head.weight"
        logits = self._product(head, self._prepare(self._norm("model.norm", x), streams, last=True))
        progress(1.0)
        return _split(logits, streams)

    def _layer(self, layer: int, x: Array, streams: tuple[Stream, ...]) -> Array:
        name = f"model.layers.{layer}"
        normed = self._prepare(self._norm(f"{name}.input_layernorm", x), streams)
        query, key, value = (self._linear(f"{name}.self_attn.{part}_proj", normed) for part in ("q", "k", "v"))
        query, key = (
            self._norm_heads(f"{name}.self_attn.{part}_norm.weight", y)
            for part, y in zip("qk", (query, key), strict=True)
        )
        parts = (_split(rows, streams) for rows in (query, key, value))
        mixed = [self._attend(*one) for one in zip(streams, *parts, strict=True)]
        y = x + self._linear(f"{name}.self_attn.o_proj", self._prepare(np.concatenate(mixed), streams))
        if not self.model.shared_norm:
            read = x if self.model.parallel else y
            normed = self._prepare(self._norm(f"{name}.post_attention_layernorm", read), streams)
        return y + self._feed_forward(f"{name}.mlp", normed, streams)

    def _feed_forward(self, name: str, x: Array, streams: tuple[Stream, ...]) -> Array:
        up = self._linear(f"{name}.up_proj", x)
        mixed = self._activate(self._linear(f"{name}.gate_proj", x)) * up if self.model.gated else self._activate(up)
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
        for i, sight in enumerate(stream.sights):
            turned = self._rotate(key[sight.tokens], sight.places)
            own = self._rotate(query[i : i + 1], sight.places[-1:])[0]
            out[i] = self._mix(own, turned, value[sight.tokens], sight).reshape(-1)
        return out

    def _mix(self, query: Array, keys: Array, values: Array, sight: Sight) -> Array:
        """[heads, head_dim] for one query; tokens that were never fed are seen with key and value zero."""
        shapes = self.architecture
        grouped = query.reshape(shapes.kv_heads, shapes.heads // shapes.kv_heads, shapes.head_dim)
        scores = np.einsum("kgd,tkd->kgt", grouped, keys) / np.sqrt(shapes.head_dim)
        slopes = np.array(self.model.alibi_slopes or np.zeros(shapes.heads)).reshape(grouped.shape[:2])[:, :, None]
        scores = scores - slopes * (sight.places[-1] - sight.places)
        unfed = -slopes * (sight.places[-1] - sight.unfed)  # [kv_heads, group, never fed]
        most = np.maximum(scores.max(axis=-1, keepdims=True), 0.0)
        weights = np.exp(scores - most)
        total = weights.sum(axis=-1, keepdims=True) + np.exp(unfed - most).sum(axis=-1, keepdims=True)
        mixed: Array = np.einsum("kgt,tkd->kgd", weights / total, values)
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


def _sight(index: dict[int, int], seen: tuple[int, ...]) -> Sight:
    fed = [(index[position], place) for place, position in enumerate(seen) if position in index]
    tokens, places = np.array(fed, np.int64).T
    unfed = [place for place, position in enumerate(seen) if position not in index]
    return Sight(tokens, places, np.array(unfed, np.int64))


def _split(x: Array, streams: tuple[Stream, ...]) -> list[Array]:
    """Cut rows that belong to several streams: one [token, ...] a stream."""
    return np.split(x, np.cumsum([len(stream.tokens) for stream in streams])[:-1])
