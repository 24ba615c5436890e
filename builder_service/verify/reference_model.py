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
from typing import Protocol

import numpy as np
import numpy.typing as npt

from builder_service.model.model import Activation, Experts, Model
from builder_service.verify.fake_quantize import Weights, per_token
from builder_service.verify.sink_attention import SinkAttention
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
    windows: tuple[int, ...] = ()
    """Of each token, where its window is another than the session's."""

    def forgets(self, position: int) -> bool:
        """Whether the query at `position` no longer sees all tokens between the sinks and itself."""
        return self.sinks > 0 and not self.windows and position >= self.sinks + self.window

    @cached_property
    def seen(self) -> tuple[npt.NDArray[np.int64], ...]:
        """For each token, which of the stream's it sees, oldest first, itself included."""
        positions = np.array(self.positions)
        windows = self.windows or (self.window,) * len(positions)
        return tuple(
            np.flatnonzero((positions <= own) & ((positions < self.sinks) | (positions > own - window)))
            for own, window in zip(positions, windows, strict=True)
        )


class KeptRows(Protocol):
    """Something that wants to know what layers keep of streams."""

    def wants(self, layer: int, stream: Stream) -> bool:
        """Whether to tell of this layer."""

    def take(self, layer: int, stream: Stream, keys: Array, values: Array) -> None:
        """Both [token, kv_head, dim]; keys are rotated at the tokens' positions, as a cache holds them."""


@dataclass(frozen=True)
class Part:
    """What a part of the model made of the streams: one array [token, width] each, before and after it."""

    name: str
    before: list[Array]
    after: list[Array]
    attends: bool = False


@dataclass(frozen=True)
class ReferenceModel:
    """A model and its rotation."""

    weights: Weights
    model: Model
    rope: Rope
    sink_attention: SinkAttention | None = None
    """Where to collect how much attention the sinks get; streams with noise are left out."""
    kept: KeptRows | None = None
    """What is told of the keys and values."""
    narrow_cache: bool = False
    """Whether keys and values are rounded to 8 bits, as a cache holds them."""

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
        scales = self.model.scales
        x = self._embed([token for stream in streams for token in stream.tokens]) * scales.embedding  # [token, hidden]
        for layer in range(self.architecture.layers):
            computed, normed = self._attention(layer, x, streams)
            yield Part(f"attention of layer {layer}", _split(x, streams), _split(computed, streams), attends=True)
            y = _given(computed, streams, 2 * layer)
            computed = y + self._feed_forward(layer, normed, y if not self.model.parallel else x, streams)
            yield Part(f"feed-forward of layer {layer}", _split(y, streams), _split(computed, streams))
            x = _given(computed, streams, 2 * layer + 1)
        tied = "lm_head.weight" not in self.weights.names
        head = "model.embed_tokens.weight" if tied else "lm_head.weight"
        logits = self.weights.product(
            head, self._prepare(self._norm("model.norm", x) * scales.logits, streams, last=True)
        )
        if self.model.head_bias:
            logits += self.weights.vector("lm_head.bias")
        logits = capped(logits, scales.logit_cap)
        yield Part("logits", _split(np.zeros_like(logits), streams), _split(logits, streams))

    def _attention(self, layer: int, x: Array, streams: tuple[Stream, ...]) -> tuple[Array, Array]:
        """The stream behind it, and what it read."""
        name = f"model.layers.{layer}"
        normed = self._prepare(self._layer_norm(f"{name}.input_layernorm", x), streams)
        query, key, value = (self._linear(f"{name}.self_attn.{part}_proj", normed) for part in ("q", "k", "v"))
        query, key = (
            self._norm_heads(f"{name}.self_attn.{part}_norm.weight", y)
            for part, y in zip("qk", (query, key), strict=True)
        )
        parts = (_split(rows, streams) for rows in (query, key, value))
        mixed = [self._attend(layer, *one) for one in zip(streams, *parts, strict=True)]
        written = self._linear(f"{name}.self_attn.o_proj", self._prepare(np.concatenate(mixed), streams))
        written = self._layer_norm(f"{name}.self_attn.output_norm", written)
        return x + self.model.scales.residual * written, normed

    def _feed_forward(self, layer: int, normed: Array, read: Array, streams: tuple[Stream, ...]) -> Array:
        """What it adds to the stream; `normed` is what attention read."""
        name, experts = f"model.layers.{layer}.mlp", self.model.experts
        if not self.model.shared_norm:
            read = self._shake(self._layer_norm(f"model.layers.{layer}.post_attention_layernorm", read), streams)
            normed = read if experts else self.weights.activations(read)
        if experts:
            written = self._mix_experts(name, normed, experts)
        else:
            up = self._linear(f"{name}.up_proj", normed)
            mixed = (
                self._activate(self._linear(f"{name}.gate_proj", normed)) * up
                if self.model.gated
                else self._activate(up)
            )
            written = self._linear(f"{name}.down_proj", self._prepare(self.weights.inner(mixed), streams))
        return self.model.scales.residual * self._layer_norm(f"{name}.output_norm", written)

    def _mix_experts(self, name: str, x: Array, experts: Experts) -> Array:
        """What the chosen experts say of each token, by the softmax of their scores among the chosen."""
        scores = x @ self.weights.vector(f"{name}.router.weight").T
        chosen = np.argsort(-scores, axis=1)[:, : experts.used]
        shares = np.exp(np.take_along_axis(scores, chosen, axis=1) - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        taken, out = self.weights.expert_activations(x), np.zeros_like(x)
        for expert in range(experts.count):
            part, (tokens, places) = f"{name}.experts.{expert}", np.nonzero(chosen == expert)
            if not len(tokens):
                continue
            gate, up = (self._linear(f"{part}.{each}_proj", taken[tokens]) for each in ("gate", "up"))
            mixed = self.weights.expert_activations(self._activate(gate) * up)
            out[tokens] += shares[tokens, places, None] * self._linear(f"{part}.down_proj", mixed)
        return out

    def _activate(self, x: Array) -> Array:
        match self.model.activation:
            case Activation.SILU:
                factor: Array = 1 / (1 + np.exp(-x))
            case Activation.GELU:
                factor = 0.5 * (1 + _ERF(x / math.sqrt(2)))
            case Activation.GELU_TANH:
                factor = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
            case Activation.RELU_SQUARED:
                factor = np.maximum(x, 0)
        return x * factor

    def _prepare(self, x: Array, streams: tuple[Stream, ...], *, last: bool = False) -> Array:
        """Activations as the precision multiplies them, after the noise of each stream."""
        return self.weights.activations(self._shake(x, streams), last=last)

    def _shake(self, x: Array, streams: tuple[Stream, ...]) -> Array:
        scale = np.concatenate([np.full((len(stream.tokens), 1), stream.noise) for stream in streams])
        if scale.any():
            x = x * (1 + scale * np.random.default_rng(x.shape[1]).standard_normal(x.shape))
        return x

    def _attend(self, layer: int, stream: Stream, query: Array, key: Array, value: Array) -> Array:
        """[token, heads * head_dim], from what each token sees."""
        shapes = self.architecture
        query = query.reshape(len(query), shapes.heads, shapes.head_dim)
        key, value = (x.reshape(len(x), shapes.kv_heads, shapes.head_dim) for x in (key, value))
        positions = np.array(stream.positions)
        held = self._rotate(layer, key, positions)
        if self.narrow_cache:  # a key is rounded as it is held, and every distance is told from there
            held, value = (per_token(x.reshape(-1, shapes.head_dim)).reshape(x.shape) for x in (held, value))
            key = self._rotate(layer, held, positions, back=True)
        if self.kept is not None and self.kept.wants(layer, stream):
            self.kept.take(layer, stream, held, value)
        out = np.empty((len(query), shapes.heads * shapes.head_dim))
        for i, seen in enumerate(stream.seen):
            places = np.arange(len(seen))
            turned = self._rotate(layer, key[seen], places)
            mixed, weights = self._mix(self._rotate(layer, query[i : i + 1], places[-1:])[0], turned, value[seen])
            out[i] = mixed.reshape(-1)
            if self.sink_attention is not None and not stream.noise and stream.forgets(stream.positions[i]):
                sinks = sum(stream.positions[token] < stream.sinks for token in seen)
                self.sink_attention.add(layer, weights, sinks)
        return out

    def _mix(self, query: Array, keys: Array, values: Array) -> tuple[Array, Array]:
        """[heads, head_dim] for one query, that of the last key, and its weights [kv_heads, group, seen]."""
        shapes = self.architecture
        grouped = query.reshape(shapes.kv_heads, shapes.heads // shapes.kv_heads, shapes.head_dim)
        scale = self.model.scales.scores
        scores = np.einsum("kgd,tkd->kgt", grouped, keys) * (shapes.head_dim**-0.5 if scale is None else scale)
        scores = capped(scores, self.model.scales.score_cap)
        slopes = np.array(self.model.alibi_slopes or np.zeros(shapes.heads)).reshape(grouped.shape[:2])[:, :, None]
        scores = scores - slopes * np.arange(len(keys))[::-1]
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.einsum("kgt,tkd->kgd", weights, values).reshape(shapes.heads, shapes.head_dim), weights

    def _rotate(self, layer: int, x: Array, places: npt.NDArray[np.int64], *, back: bool = False) -> Array:
        if layer in self.model.unrotated_layers:
            return x
        frequencies, scale = self.rope.inverse_frequencies, self.rope.attention_scale
        if layer in self.model.local_layers:
            frequencies, scale = self.rope.local_inverse_frequencies, self.rope.local_attention_scale
        angle = (places[:, None] * np.array(frequencies, np.float32).astype(np.float64))[:, None, :]
        turn = (scale * np.exp(1j * angle)) ** (-1 if back else 1)  # [token, 1, rotated / 2]
        half = len(frequencies)
        pairs = np.s_[: 2 * half : 2], np.s_[1 : 2 * half : 2]
        first, second = pairs if self.model.interleaved else (np.s_[:half], np.s_[half : 2 * half])
        turned = (x[..., first] + 1j * x[..., second]) * turn
        out = x.copy()
        out[..., first], out[..., second] = turned.real, turned.imag
        return out

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
        y = self.weights.product(f"{name}.weight", x)
        return y + self.weights.vector(f"{name}.bias") if f"{name}.bias" in self.weights.names else y

    def _layer_norm(self, name: str, x: Array) -> Array:
        """A norm of a layer, where the model has one there."""
        return self._norm(name, x) if f"{name}.weight" in self.weights.names else x

    def _norm(self, name: str, x: Array) -> Array:
        norm = self.model.norm
        x = x - x.mean(axis=-1, keepdims=True) if norm.centred else x
        scale: Array = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + norm.epsilon)
        y = x * scale * self._norm_scale(f"{name}.weight")
        return y + self.weights.vector(f"{name}.bias") if norm.bias else y

    def _norm_heads(self, name: str, x: Array) -> Array:  # x: [token, heads * head_dim]
        if not self.model.head_norm:
            return x
        heads = x[:, None] if self.model.joint_head_norm else x.reshape(len(x), -1, self.architecture.head_dim)
        scale: Array = 1 / np.sqrt(np.mean(heads * heads, axis=-1, keepdims=True) + self.model.norm.epsilon)
        return (heads * scale * self._norm_scale(name)).reshape(x.shape)

    def _norm_scale(self, name: str) -> Array:
        return self.weights.vector(name) + (1.0 if self.model.norm.from_one else 0.0)


def capped(x: Array, cap: float | None) -> Array:
    return x if cap is None else cap * np.tanh(x / cap)


def _given(x: Array, streams: tuple[Stream, ...], state: int) -> Array:
    """The state of the residual stream with the rows that are given in place of those computed."""
    given = [s.given[state] if s.given else np.full((len(s.tokens), x.shape[1]), np.nan) for s in streams]
    rows = np.concatenate(given)
    return np.where(np.isnan(rows), x, rows)


def _split(x: Array, streams: tuple[Stream, ...]) -> list[Array]:
    """Cut rows that belong to several streams: one [token, ...] a stream."""
    return np.split(x, np.cumsum([len(stream.tokens) for stream in streams])[:-1])
