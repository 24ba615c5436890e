"""One step laid out over slots: who is in the batch, how far it is padded, where everybody writes. No tensors."""

from __future__ import annotations

from dataclasses import dataclass

from common.engine import Feed
from common.window import Geometry, SessionWindow, linear_run, row

_UNUSED = SessionWindow(0, 1)


@dataclass(frozen=True)
class Batch:
    """One step over the slots ``first .. first + size - 1``, every one padded to `step` tokens.

    A slot writes rows ``rows[i] .. rows[i] + step - 1``: its own tokens, then padding. Idle slots in between
    write nothing but padding, at the row of their next token; slots that nobody named, at row 0.
    """

    first: int
    step: int
    feeds: tuple[Feed, ...]  # [size], by slot
    rows: tuple[int, ...]  # [size]

    @property
    def size(self) -> int:
        """Slots in the batch."""
        return len(self.feeds)


def plan_batch(geometry: Geometry, feeds: tuple[Feed, ...], *, multiple: int = 1) -> Batch:
    """Lay out a step over the smallest range of slots that holds all tokens and starts at a multiple of `multiple`.

    Raises ValueError for a slot that is named twice or does not exist, a window larger than the engine's, more
    tokens than `linear_run`, or no tokens at all.
    """
    for feed in feeds:
        _check(geometry, feed)
    named = {feed.slot: feed for feed in feeds}
    busy = [feed.slot for feed in feeds if feed.tokens]
    if len(named) < len(feeds) or not busy:
        raise ValueError(f"a step needs tokens, and every slot once: {feeds}")
    first = min(busy) // multiple * multiple
    batch = tuple(named.get(slot) or Feed(slot, 0, _UNUSED) for slot in range(first, max(busy) + 1))
    return Batch(
        first=first,
        step=max(len(feed.tokens) for feed in batch),
        feeds=batch,
        rows=tuple(row(geometry, feed.window.sinks, feed.position) for feed in batch),
    )


def _check(geometry: Geometry, feed: Feed) -> None:
    window = feed.window
    if not (0 <= window.sinks <= geometry.sinks and 1 <= window.window <= geometry.window):
        raise ValueError(f"{window} does not fit {geometry}")
    if not (0 <= feed.slot < geometry.slots and feed.position >= 0):
        raise ValueError(f"slot {feed.slot} at position {feed.position} does not exist in {geometry}")
    most = linear_run(geometry, window.sinks, feed.position)
    if len(feed.tokens) > most:
        raise ValueError(f"{len(feed.tokens)} tokens at position {feed.position}; at most {most} follow linearly")
