"""What an engine's precision costs: the same text through the engine and through its checkpoint in fp32.

Every figure is of pairs: what the two say of the same token behind the same tokens. The text goes through one session,
past the end of its window as sessions do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.engine.engine import Engine, Feed, FloatArray
from common.errors import Internal, Reason
from common.window import SessionWindow, linear_run
from sinkserve.evaluation.progress import Track
from sinkserve.evaluation.workbench import Workbench

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A mean over the judged tokens, and its standard error."""

    mean: float
    error: float


@dataclass(frozen=True)
class Summary:
    """Of pairs: `loss` is how much larger the perplexity is, relative; `divergence` in nats; `same_best` a share."""

    perplexity: float
    fp32_perplexity: float
    loss: Figure
    divergence: Figure
    same_best: Figure


@dataclass(frozen=True)
class Quality:
    """`loss` is how much larger the perplexity is, relative; `divergence` in nats; `same_best` a share of tokens."""

    engine: str
    precision: str
    tokens: int
    judged: int
    cache_tokens: int
    perplexity: float
    fp32_perplexity: float
    loss: Figure
    divergence: Figure
    same_best: Figure


def measure_quality(bench: Workbench, tokens: Sequence[int], track: Track) -> Quality:
    """Feed `tokens`, of which all but the first are judged. Raises what `Workbench.in_fp32` does."""
    pairs: list[Array] = []
    with bench.in_fp32() as exact, track(bench.manifest.reference, len(tokens) - 1) as advance:
        for start, found, wanted in _fed(bench.engine, exact, tokens[:-1]):
            following = np.array(tokens[start + 1 : start + 1 + len(found)])
            pairs.append(compare(found, wanted, following))
            advance(len(found))
    return _summary(bench, np.concatenate(pairs), len(tokens))


def compare(found: FloatArray, wanted: FloatArray, following: npt.NDArray[np.int64]) -> Array:
    """Four numbers for each token, from logits [token, vocabulary] and the tokens that follow.

    The log-probability of what follows, the same by the `wanted` logits, the divergence from those in nats, and
    whether the best token is theirs.
    """
    own, exact, rows = _log_softmax(found), _log_softmax(wanted), np.arange(len(following))
    divergence = (np.exp(exact) * (exact - own)).sum(axis=1, dtype=np.float64)
    same = found.argmax(axis=1) == wanted.argmax(axis=1)
    return np.stack([own[rows, following], exact[rows, following], divergence, same], axis=1)


def _fed(engine: Engine, exact: Engine, tokens: Sequence[int]) -> Iterator[tuple[int, FloatArray, FloatArray]]:
    """Feed both; yields the first token of a step and the logits of either after each of its tokens."""
    geometry, position = engine.geometry, 0
    window = SessionWindow(geometry.sinks, geometry.window)
    engine.clear(0)
    exact.clear(0)
    while position < len(tokens):
        most = min(linear_run(geometry, window.sinks, position), engine.draft_rows or 1, exact.draft_rows or 1)
        fed = tuple(tokens[position : position + most])
        feeds = (Feed(0, position, window, fed, wanted=len(fed)),)
        found, wanted = engine.step(feeds), exact.step(feeds)
        if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
            raise Internal(Reason.NON_FINITE_LOGITS, "the model gave logits that are not finite")
        yield position, found, wanted
        position += len(fed)


def _summary(bench: Workbench, pairs: Array, tokens: int) -> Quality:
    manifest = bench.manifest
    return Quality(
        engine=manifest.reference,
        precision=manifest.spec.precision,
        tokens=tokens,
        judged=len(pairs),
        cache_tokens=bench.capacity,
        **vars(summarize(pairs)),
    )


def summarize(pairs: Array) -> Summary:
    """Figures of what `compare` gave, [token, 4]."""
    own, exact, divergence, same = pairs.T
    more = _figure(exact - own)
    return Summary(
        perplexity=math.exp(-own.mean()),
        fp32_perplexity=math.exp(-exact.mean()),
        loss=Figure(math.expm1(more.mean), more.error * math.exp(more.mean)),
        divergence=_figure(divergence),
        same_best=_figure(same),
    )


def _figure(values: Array) -> Figure:
    return Figure(float(values.mean()), float(values.std() / math.sqrt(len(values))))


def _log_softmax(logits: FloatArray) -> FloatArray:
    """In single precision but for the sum: a vocabulary of 150,000 for each token is what takes the time."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)
    found: FloatArray = shifted - np.log(total).astype(np.float32)
    return found
