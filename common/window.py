"""The sink + window geometry in pure integers: which row a token takes, what a query sees, at which distance.

A session at position ``p`` keeps its first ``n'`` tokens (sinks) and its last ``w'`` (the window). Sinks lie in
rows ``0..n-1`` of the engine's cache, the others in a ring of ``r = w + c - 1`` rows behind them, and ``c - 1``
spare rows follow that nobody ever sees, where the padding of a batch goes::

    | sinks: n | ring: w + c - 1 | spare: c - 1 |

The ring is ``c - 1`` rows longer than the window so that a step of ``c`` tokens never overwrites what its first
query sees; equally, ``c`` tokens can be taken back by not advancing the position. Until the ring has come round nothing
is overwritten, and a step of one session may be longer.

Source: StreamingLLM (arXiv 2309.17453), section 3.2: positions are those in the cache, not in the text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """Cache of an engine: sinks ``n``, window ``w``, chunk ``c``, all in tokens, and its slots."""

    sinks: int
    window: int
    chunk: int
    slots: int

    def __post_init__(self) -> None:
        assert self.sinks >= 0, self
        assert min(self.window, self.chunk, self.slots) >= 1, self

    @property
    def ring(self) -> int:
        """Rows of the ring."""
        return self.window + self.chunk - 1

    @property
    def rows(self) -> int:
        """Rows of a slot: sinks, ring and spare."""
        return self.sinks + self.ring + self.chunk - 1


@dataclass(frozen=True)
class SessionWindow:
    """What one session freezes before its first token: ``n' <= n`` sinks and ``w' <= w`` tokens of window."""

    sinks: int
    window: int

    @property
    def capacity(self) -> int:
        """Tokens that the session keeps when its cache is full."""
        return self.sinks + self.window

    def evicted(self, position: int) -> int:
        """Tokens that a session of `position` tokens no longer sees."""
        return max(0, position - self.capacity)

    def start(self, position: int) -> int:
        """The oldest token behind the sinks that a session of `position` tokens sees, once it is so long."""
        return self.sinks + self.evicted(position)

    def cache_index(self, position: int) -> int:
        """Place in the cache, as the paper counts it, of the token at `position` when it is the newest."""
        return min(position, self.capacity - 1)


def row(geometry: Geometry, sinks: int, position: int) -> int:
    """Row that the token at `position` takes in a session with `sinks` sinks."""
    if position < sinks:
        return position
    return geometry.sinks + (position - sinks) % geometry.ring


def linear_run(geometry: Geometry, sinks: int, position: int, longest: int = 0) -> int:
    """Most tokens one step may feed at `position`, in rows that follow one another: at most a chunk.

    Or `longest`, if that is more, until the ring has come round: before that a step overwrites nothing.
    """
    first, most = position - sinks, geometry.chunk
    if first < geometry.ring:
        most = max(most, longest)
    if first < 0 and sinks < geometry.sinks:  # its ring is not behind its sinks
        return min(most, -first)
    return min(most, geometry.sinks + geometry.ring - row(geometry, sinks, position))


def visible_rows(geometry: Geometry, window: SessionWindow, position: int) -> tuple[range, ...]:
    """Rows that a query at `position` sees, as at most three ranges that do not overlap.

    They hold the tokens ``j < n'`` with ``j <= position`` and those with ``j > position - w'``, each once,
    and always the query's own.
    """
    sinks = range(min(window.sinks, position + 1))
    kept = min(window.window, position + 1 - window.sinks)
    if kept <= 0:
        return (sinks,)
    newest = row(geometry, window.sinks, position)
    before = newest - geometry.sinks + 1  # rows from the ring's start to the newest
    if kept <= before:
        return (sinks, range(newest + 1 - kept, newest + 1))
    end = geometry.sinks + geometry.ring
    return (sinks, range(geometry.sinks, newest + 1), range(end - (kept - before), end))


def held_positions(window: SessionWindow, position: int) -> tuple[range, range]:
    """Tokens that the query at `position` will see besides itself: among its sinks, and in its window."""
    sinks = range(min(window.sinks, position))
    first = max(window.sinks, position + 1 - window.window)
    return sinks, range(first, max(first, position))


def held_rows(geometry: Geometry, window: SessionWindow, position: int) -> tuple[range, ...]:
    """Rows of `held_positions`, in their order: at most three ranges, none empty."""
    sinks, recent = held_positions(window, position)
    first = row(geometry, window.sinks, recent.start)
    before = min(len(recent), geometry.sinks + geometry.ring - first)  # rows up to the ring's end
    ranges = (sinks, range(first, first + before), range(geometry.sinks, geometry.sinks + len(recent) - before))
    return tuple(rows for rows in ranges if rows)


def earliest(geometry: Geometry, window: SessionWindow, written: int) -> int:
    """Lowest position that a session can be taken back to without recomputing.

    `written` is one past the highest position whose row any step has written since, padding included: for a
    step at `position` of a batch padded to `step` tokens, ``position + step``. Always ``<= written - chunk``, and 0
    until something was overwritten, so a single step can be taken back whole. A session that was imported cannot go
    back before its state.
    """
    if written <= window.sinks + geometry.ring:
        return 0
    return written - 1 - geometry.ring + window.window


def chunks(geometry: Geometry, sinks: int, position: int, count: int) -> tuple[int, ...]:
    """Sizes of the steps that feed `count` tokens from `position` on, each as large as it may be, at most a chunk."""
    sizes: list[int] = []
    while count > 0:
        sizes.append(min(count, linear_run(geometry, sinks, position)))
        position += sizes[-1]
        count -= sizes[-1]
    return tuple(sizes)
