"""Feeds given tokens to an engine's slots, as sessions would be fed, and yields the logits after them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.engine.engine import Engine, Feed, FloatArray
from common.errors import Internal, Reason
from common.window import SessionWindow, held_positions, linear_run


@dataclass(frozen=True)
class Lane:
    """A session of `window` whose tokens are all known."""

    tokens: Sequence[int]
    window: SessionWindow


def forced(engine: Engine, lanes: Sequence[Lane], start: int = 0) -> Iterator[tuple[int, FloatArray]]:
    """Feed every lane its tokens, each in a slot of its own; yields logits after every position, in order.

    From position `start` on: the slots hold what is before.
    A step feeds as many tokens as the engine gives logits of at once, which changes no lane: yields the first position
    of a step, and [lane, token, vocabulary]. Lanes are equally long. Raises Internal (NON_FINITE_LOGITS).
    """
    (length,) = {len(lane.tokens) for lane in lanes}
    for slot in range(len(lanes) if start == 0 else 0):
        engine.clear(slot)
    position = start
    while position < length:
        count = min(length - position, _most(engine, lanes, position))
        feeds = (
            Feed(slot, position, lane.window, tuple(lane.tokens[position : position + count]), wanted=count)
            for slot, lane in enumerate(lanes)
        )
        yield position, _finite(engine.step(tuple(feeds))).reshape(len(lanes), count, -1)
        position += count


def _most(engine: Engine, lanes: Sequence[Lane], position: int) -> int:
    """Tokens that a step can feed to every lane, with logits after each."""
    runs = [linear_run(engine.geometry, lane.window.sinks, position) for lane in lanes]
    return max(1, min([*runs, engine.draft_rows // len(lanes)]))


def recomputed(
    engine: Engine, tokens: Sequence[int], kept: SessionWindow, positions: Sequence[int]
) -> Iterator[tuple[int, FloatArray]]:
    """For each of `positions`, what follows the tokens that `kept` leaves of those up to it, read anew from position 0.

    As many at once as there are slots; yields the position and [vocabulary]. Raises Internal (NON_FINITE_LOGITS).
    """
    slots = engine.geometry.slots
    for start in range(0, len(positions), slots):
        group = positions[start : start + slots]
        texts = [_left(tokens, kept, position) for position in group]
        yield from zip(group, read_anew(engine, texts), strict=True)


def _left(tokens: Sequence[int], kept: SessionWindow, position: int) -> tuple[int, ...]:
    sinks, recent = held_positions(kept, position)
    return (*tokens[sinks.start : sinks.stop], *tokens[recent.start : recent.stop], tokens[position])


def read_anew(engine: Engine, texts: Sequence[tuple[int, ...]]) -> list[FloatArray]:
    """Logits [vocabulary] after each of `texts`, at most as many as slots, from empty caches, in steps of a chunk."""
    geometry = engine.geometry
    window = SessionWindow(geometry.sinks, geometry.window)
    assert max(map(len, texts)) <= window.capacity, "what is read anew fits the cache whole"
    for slot in range(len(texts)):
        engine.clear(slot)
    found: dict[int, FloatArray] = {}
    fed = [0] * len(texts)
    while len(found) < len(texts):
        feeds = []
        for slot, (text, start) in enumerate(zip(texts, fed, strict=True)):
            run = linear_run(geometry, window.sinks, start)
            feeds.append(Feed(slot, start, window, text[start : start + run]))
        busy = [feed for feed in feeds if feed.tokens]
        for feed, logits in zip(busy, _finite(engine.step(tuple(feeds))), strict=True):
            fed[feed.slot] += len(feed.tokens)
            if fed[feed.slot] == len(texts[feed.slot]):
                found[feed.slot] = logits
    return [found[slot] for slot in range(len(texts))]


def _finite(logits: FloatArray) -> FloatArray:
    if not np.isfinite(logits).all():
        raise Internal(Reason.NON_FINITE_LOGITS, "the model gave logits that are not finite")
    return logits
