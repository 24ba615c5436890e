"""What VERIFY says to an engine: two sessions that cross the ring's end, in words that the engine itself goes on with.

Both feed their sinks and jump to just before an end of the ring. What lies between is not seen: behind the jump the
window grows by one with each token, as if the session had only begun there. So every token sees nothing but real
text, whatever the engine's window is, and few tokens are enough. Once their windows are full they feed chunks,
single tokens and nothing at all by turns, so that splits, padding, idle slots, eviction and both angles take part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from builder_service.verify.reference_model import Stream
from common.engine.engine import Engine, Feed
from common.window import Geometry, SessionWindow, linear_run

MOST_SINKS, MOST_WINDOW, LEAST_WINDOW = 32, 32, 12  # of the two sessions, in tokens
BEFORE_THE_END = 5  # tokens between a full window and the ring's end
AFTER = 24  # tokens that are fed in steps of several
FAR = 1_000_000
SIZES = (4, 1, 0, 3, 1, 1, 64, 2, 0, 1, 7, 1)  # tokens of one step after another; what does not fit is cut
TEMPERATURE = 0.7  # of the text: likely, and not the same words again and again


@dataclass(frozen=True)
class Fed:
    """Tokens of a stream that went through an engine in one step, and the logits after the last."""

    stream: int
    tokens: range  # as they are counted in the stream
    slot: int
    logits: npt.NDArray[np.float32]


def plan_streams(engine: Engine) -> tuple[Stream, ...]:
    """A session with what the engine allows, and one with less far out; the text is the engine's own.

    Leaves all slots cleared.
    """
    geometry = engine.geometry
    sinks, window = min(geometry.sinks, MOST_SINKS), min(geometry.window, MOST_WINDOW)
    sessions = ((SessionWindow(sinks, window), 0), (SessionWindow(sinks // 2, min(window, LEAST_WINDOW)), FAR))
    return tuple(_stream(engine, session, after) for session, after in sessions)


def run(engine: Engine, streams: tuple[Stream, ...]) -> Iterator[Fed]:
    """Feed the streams, together where there are slots for it, with one free between them if possible."""
    slots = [min(2 * index, engine.geometry.slots - 1) for index in range(len(streams))]
    together = len(set(slots)) == len(slots)
    for group in [range(len(streams))] if together else [[index] for index in range(len(streams))]:
        _clear(engine)
        yield from _run_group(engine, {index: (slots[index], streams[index]) for index in group})
    _clear(engine)


def _stream(engine: Engine, window: SessionWindow, after: int) -> Stream:
    """Sinks, a window, and tokens across the first end of the ring behind `after`."""
    geometry, before = engine.geometry, window.window + BEFORE_THE_END
    laps = 1 + (after + before) // geometry.ring
    start = window.sinks + laps * geometry.ring - before
    positions = (*range(window.sinks), *range(start, start + window.window + AFTER))
    return Stream(window.sinks, window.window, positions, _write(engine, window, len(positions)))


def _write(engine: Engine, window: SessionWindow, count: int) -> tuple[int, ...]:
    """A text of `count` tokens: a first one by chance, then what the engine finds likely.

    None stands there twice where the vocabulary allows: where all tokens are one, it does not matter what is seen.
    """
    chance = np.random.default_rng(count)
    tokens = [int(chance.integers(engine.vocabulary_size))]
    while len(tokens) < count:
        (logits,) = engine.step((Feed(0, len(tokens) - 1, window, (tokens[-1],)),))
        likely = np.nan_to_num(logits.astype(np.float64)) / TEMPERATURE
        likely[tokens[-(engine.vocabulary_size // 2) :]] = -np.inf
        tokens.append(int(np.argmax(likely + chance.gumbel(size=likely.shape))))
    _clear(engine)
    return tuple(tokens)


def _clear(engine: Engine) -> None:
    for slot in range(engine.geometry.slots):
        engine.clear(slot)


def _run_group(engine: Engine, group: dict[int, tuple[int, Stream]]) -> Iterator[Fed]:
    done = dict.fromkeys(group, 0)
    turn = 0
    while any(done[index] < len(stream.tokens) for index, (_, stream) in group.items()):
        sizes = {index: SIZES[(turn + 5 * index) % len(SIZES)] for index in group}
        feeds = {index: _feed(engine.geometry, *group[index], done[index], sizes[index]) for index in group}
        turn += 1
        busy = [index for index, feed in feeds.items() if feed.tokens]
        if not busy:
            continue
        for index, logits in zip(busy, engine.step(tuple(feeds.values())), strict=True):
            start, done[index] = done[index], done[index] + len(feeds[index].tokens)
            yield Fed(index, range(start, done[index]), feeds[index].slot, logits)


def _feed(geometry: Geometry, slot: int, stream: Stream, done: int, size: int) -> Feed:
    """Up to `size` tokens that may go together, none across the jump; one by one while the window grows.

    None at the stream's end.
    """
    fed = done - stream.sinks  # behind the jump
    window = SessionWindow(stream.sinks, max(1, min(stream.window, fed + 1)))
    if done == len(stream.tokens):
        return Feed(slot, stream.positions[-1] + 1, window)
    most = linear_run(geometry, stream.sinks, stream.positions[done])
    if fed < stream.window:
        most = -fed if fed < 0 else 1
    size = min(size, most)
    return Feed(slot, stream.positions[done], window, stream.tokens[done : done + size])
