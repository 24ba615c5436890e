"""Feeding a session's tokens to an engine in chunks, and comparing what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle

import numpy as np

from common.engine.engine import Engine, Feed, FloatArray
from common.window import SessionWindow, linear_run


def random_tokens(count: int, vocabulary: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, vocabulary, count)]


def feed_of(  # noqa: PLR0917 - a slot, a session, and how much of it
    engine: Engine, slot: int, window: SessionWindow, tokens: Sequence[int], done: int, size: int
) -> Feed:
    """The next up to `size` of a session's tokens, as many as follow one another in rows."""
    size = min(size, linear_run(engine.geometry, window.sinks, done, engine.longest_step(done)))
    return Feed(slot, done, window, tuple(tokens[done : done + size]))


def feed_all(
    engine: Engine,
    slot: int,
    window: SessionWindow,
    tokens: Sequence[int],
    sizes: Iterable[int],
    *,
    start: int = 0,
) -> dict[int, FloatArray]:
    """Feed `tokens` from `start` on in steps of `sizes`, over and over; logits by position of the step's last token."""
    return dict(_feed(engine, slot, window, tokens, cycle(sizes), start))


def _feed(  # noqa: PLR0917 - as feed_all
    engine: Engine, slot: int, window: SessionWindow, tokens: Sequence[int], sizes: Iterator[int], done: int
) -> Iterator[tuple[int, FloatArray]]:
    while done < len(tokens):
        feed = feed_of(engine, slot, window, tokens, done, next(sizes))
        (logits,) = engine.step((feed,))
        done += len(feed.tokens)
        yield done - 1, logits


def largest_error(got: Mapping[int, FloatArray], want: Sequence[np.ndarray] | np.ndarray) -> float:
    """Largest error of any logit at any position, relative to the largest logit of that position."""
    return max(float(np.abs(logits - want[p]).max() / np.abs(want[p]).max()) for p, logits in got.items())
