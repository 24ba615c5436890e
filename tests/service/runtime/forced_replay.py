"""Whole histories fed to an engine again: was every token that was chosen as the best one within tolerance of it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.engine.engine import Engine, Feed
from common.window import SessionWindow, linear_run

_MOST = 8  # tokens of a feed: the others of a batch wait for the longest


@dataclass(frozen=True)
class History:
    """All tokens of a session; `chosen` are the positions of those that were chosen greedily."""

    name: str
    window: SessionWindow
    tokens: Sequence[int]
    chosen: frozenset[int]


@dataclass(frozen=True)
class Gap:
    """How far a chosen token was below the best, relative to the largest logit; infinite if a logit is not finite."""

    session: str
    position: int
    gap: float


def replay(engine: Engine, histories: Sequence[History]) -> Iterator[Gap]:
    """Every token that was chosen, in any order."""
    ordered = sorted(histories, key=lambda history: len(history.tokens))
    slots = engine.geometry.slots
    for begin in range(0, len(ordered), slots):
        yield from _together(engine, ordered[begin : begin + slots])


def _together(engine: Engine, histories: Sequence[History]) -> Iterator[Gap]:
    """One history in each slot."""
    for slot in range(engine.geometry.slots):
        engine.clear(slot)
    positions = [0] * len(histories)
    while any(position < len(history.tokens) for position, history in zip(positions, histories, strict=True)):
        feeds = tuple(_feed(engine, slot, positions[slot], history) for slot, history in enumerate(histories))
        fed = [feed for feed in feeds if feed.tokens]
        for feed, logits in zip(fed, engine.step(feeds), strict=True):
            history = histories[feed.slot]
            positions[feed.slot] = end = feed.position + len(feed.tokens)
            if end in history.chosen:
                gap = float((logits.max() - logits[history.tokens[end]]) / np.abs(logits).max())
                yield Gap(history.name, end, gap if np.isfinite(gap) else np.inf)


def _feed(engine: Engine, slot: int, position: int, history: History) -> Feed:
    """Tokens up to the next one that was chosen."""
    most = min(_MOST, linear_run(engine.geometry, history.window.sinks, position))
    count = next((n for n in range(1, most) if position + n in history.chosen), most)
    return Feed(slot, position, history.window, tuple(history.tokens[position : position + count]))
