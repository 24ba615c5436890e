"""What an engine makes of golden streams: they are fed together where there are slots for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.engine.engine import Engine, Feed, FloatArray
from common.engine.packed_rows import as_floats
from common.golden.golden import GoldenStep, GoldenStream
from common.window import SessionWindow


@dataclass(frozen=True)
class Answer:
    """What an engine made of one stream."""

    logits: tuple[FloatArray, ...]
    """Behind every step, [vocabulary]."""
    keys: FloatArray
    """Of the sinks and the last tokens, [layer, token, channel]; channels are counted through the heads."""
    values: FloatArray


def rehearse(engine: Engine, streams: Sequence[GoldenStream]) -> tuple[Answer, ...]:
    """Feed the streams from their beginning; leaves all slots cleared."""
    if engine.geometry.slots >= len(streams):
        return tuple(_feed_together(engine, dict(enumerate(streams))))
    return tuple(answer for stream in streams for answer in _feed_together(engine, {0: stream}))


def _feed_together(engine: Engine, streams: dict[int, GoldenStream]) -> list[Answer]:
    """Answers in the order of `streams`, which are by slot."""
    logits: dict[int, list[FloatArray]] = {slot: [] for slot in streams}
    for slot in streams:
        engine.clear(slot)
    for turn in range(max(len(stream.steps) for stream in streams.values())):
        feeds = tuple(_feed(slot, stream, turn) for slot, stream in streams.items())
        busy = [feed.slot for feed in feeds if feed.tokens]
        for slot, row in zip(busy, engine.step(feeds), strict=True):
            logits[slot].append(row.copy())
    answers = [_answer(engine, slot, stream, logits[slot]) for slot, stream in streams.items()]
    for slot in streams:
        engine.clear(slot)
    return answers


def _feed(slot: int, stream: GoldenStream, turn: int) -> Feed:
    """A step of the stream; nothing at its end."""
    if turn >= len(stream.steps):
        return Feed(slot, stream.end, _window(stream, stream.steps[-1]))
    step = stream.steps[turn]
    return Feed(slot, step.position, _window(stream, step), step.tokens)


def _window(stream: GoldenStream, step: GoldenStep) -> SessionWindow:
    return SessionWindow(stream.sinks, step.window)


def _answer(engine: Engine, slot: int, stream: GoldenStream, logits: list[FloatArray]) -> Answer:
    state = engine.export_slot(slot, stream.end, SessionWindow(stream.sinks, stream.kept + 1))
    return Answer(tuple(logits), _by_token(state.keys), _by_token(state.values))


def _by_token(array: npt.NDArray[np.generic]) -> FloatArray:
    """[layer, kv_head, token, dim] as [layer, token, channel]."""
    floats = as_floats(array)
    layers, heads, tokens, dim = floats.shape
    return floats.swapaxes(1, 2).reshape(layers, tokens, heads * dim)
