"""The golden streams: few tokens in few steps across the ring's end, so that every load can afford them.

As in `streams`, nothing lies behind the jump that was not fed. Here whole steps go in while the window grows: all
tokens of a step see as many as lie behind its first one, itself included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from builder_service.verify.reference_model import Stream
from common.golden.golden import GoldenStep, GoldenStream
from common.window import Geometry, chunks, linear_run

MOST_WINDOW = 12
"""Tokens."""
SIZES = ((1, 3, 8, 1, 4), (1, 4, 6, 1, 5))
"""Of the steps behind the sinks, of one stream and the other; what does not fit is cut."""
BEFORE_THE_END = 9
"""Tokens behind the jump that lie before the ring's end."""
KEPT = 3
"""Last tokens whose keys and values are compared."""
_SINKS = (4, 2)
_AFTER = (0, 1_000_000)
"""Position that a stream jumps over."""


def plan_golden(geometry: Geometry, texts: Sequence[Sequence[int]]) -> tuple[GoldenStream, ...]:
    """Streams of the beginnings of `texts`, without what is expected of them."""
    plans = zip(_SINKS, _AFTER, SIZES, texts, strict=True)
    return tuple(
        _stream(geometry, min(geometry.sinks, sinks), after, sizes, text) for sinks, after, sizes, text in plans
    )


def as_reference(stream: GoldenStream) -> Stream:
    """The same for the reference."""
    windows = tuple(step.window for step in stream.steps for _ in step.tokens)
    return Stream(stream.sinks, max(windows), stream.positions, stream.tokens, windows=windows)


def _stream(geometry: Geometry, sinks: int, after: int, sizes: Sequence[int], text: Sequence[int]) -> GoldenStream:
    steps = tuple(_steps(geometry, sinks, after, sizes, text))
    return GoldenStream(sinks=sinks, steps=steps, kept=min(KEPT, geometry.window - 1))


def _steps(
    geometry: Geometry, sinks: int, after: int, sizes: Sequence[int], text: Sequence[int]
) -> Iterator[GoldenStep]:
    done = 0
    for size in chunks(geometry, sinks, 0, sinks):
        yield GoldenStep(position=done, window=1, tokens=tuple(text[done : done + size]))
        done += size
    laps = 1 + (after + BEFORE_THE_END) // geometry.ring
    start, fed = sinks + laps * geometry.ring - BEFORE_THE_END, 0
    for size in sizes:
        end = fed + size
        while fed < end:
            window = min(geometry.window, MOST_WINDOW, fed + 1)
            count = min(end - fed, linear_run(geometry, sinks, start + fed))
            tokens = tuple(text[sinks + fed : sinks + fed + count])
            yield GoldenStep(position=start + fed, window=window, tokens=tokens)
            fed += count
