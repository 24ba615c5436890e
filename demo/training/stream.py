"""A network over a long stream with a cache of sinks and a window, exactly, all positions of a layer at once.

The scheme is the paper's: positions count within the cache, one token leaves as one comes. Instead of moving keys, each
key is rotated once at its own position and each query twice: at its own position `p` for the window's keys and at
`min(p, sinks + window - 1)` for the sinks, which gives the same distances.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from demo.training.network import Attention, Network, angles, rotate

CHUNK = 256


@dataclass(frozen=True)
class Cache:
    """`sinks` first tokens and the `window` most recent ones, the query's own included."""

    sinks: int
    window: int


@dataclass(frozen=True)
class Rotations:
    """Cosines and sines at every position of the stream, and at every query's distance from the stream's start."""

    here: tuple[Tensor, Tensor]
    from_sinks: tuple[Tensor, Tensor]


@torch.no_grad()
def predict(network: Network, ids: Tensor, cache: Cache) -> tuple[Tensor, Tensor]:
    """The log-probability of every next token of `ids [batch, time]`, and whether it is the likeliest one."""
    at = torch.arange(ids.shape[1])
    turns = Rotations(angles(at, network.shape), angles(at.clamp(max=cache.sinks + cache.window - 1), network.shape))
    x = network.model.embed_tokens(ids)
    for layer in network.blocks():
        x = layer.finish(x + attend(layer.self_attn, layer.input_layernorm(x), cache, turns))
    return _compare(network, x, ids)


def _compare(network: Network, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    scores, right = [], []
    for start in range(0, ids.shape[1] - 1, CHUNK):
        target = ids[:, start + 1 : start + 1 + CHUNK]
        logits = network.head(x[:, start : start + target.shape[1]]).log_softmax(-1)
        scores.append(logits.gather(-1, target[..., None])[..., 0])
        right.append(logits.argmax(-1) == target)
    return torch.cat(scores, 1), torch.cat(right, 1)


def attend(attention: Attention, x: Tensor, cache: Cache, turns: Rotations) -> Tensor:
    """One layer's attention over the whole stream, a chunk of queries at a time."""
    q, k, v = attention.project(x)
    keys = rotate(k, *turns.here)
    near, far = rotate(q, *turns.here), rotate(q, *turns.from_sinks)
    parts = []
    for start in range(0, x.shape[1], CHUNK):
        stop = min(start + CHUNK, x.shape[1])
        begin = max(0, start - cache.window + 1)
        seen, sunk = visible(start, stop, begin, cache)
        recent = scores(near[..., start:stop, :], keys[..., begin:stop, :], seen)
        first = scores(far[..., start:stop, :], keys[..., : cache.sinks, :], sunk)
        weights = torch.cat((first, recent), -1).softmax(-1)
        parts.append(weights @ torch.cat((v[..., : cache.sinks, :], v[..., begin:stop, :]), -2))
    return attention.join(torch.cat(parts, -2))


def visible(start: int, stop: int, begin: int, cache: Cache) -> tuple[Tensor, Tensor]:
    """Which keys `begin..stop` and which sinks each query of `start..stop` sees; a sink counts once, as a sink."""
    p, j = torch.arange(start, stop)[:, None], torch.arange(begin, stop)[None]
    sunk = torch.arange(cache.sinks)[None] <= p
    return (j >= cache.sinks) & (j <= p) & (j > p - cache.window), sunk


def scores(q: Tensor, k: Tensor, seen: Tensor) -> Tensor:
    """Scaled products, with unseen keys far below the others."""
    products: Tensor = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return products.masked_fill(~seen, -1e9)
