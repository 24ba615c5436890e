"""Lays out one step over slots: which slots are in the batch, how far it is padded, and which rows each writes.

No tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from common.engine.engine import Feed
from common.window import Geometry, SessionWindow, linear_run, row

_UNUSED = SessionWindow(0, 1)
_LENGTHS = (256, 192, 128)  # of steps that are longer than a chunk: a few, since shapes of steps are bound
_MOST_SCORES = 1 << 16  # of a head in such a step: with more, reading them costs what is saved (measured)


@dataclass(frozen=True)
class Batch:
    """One step over the slots ``first .. first + size - 1``, every one padded to `step` tokens.

    A slot writes rows ``rows[i] .. rows[i] + step - 1``: its own tokens, then padding. Idle slots in between
    write nothing but padding, at the row of their next token; slots that are not named in `feeds`, at row 0.
    """

    first: int
    step: int
    feeds: tuple[Feed, ...]  # [size], by slot
    rows: tuple[int, ...]  # [size]

    @property
    def size(self) -> int:
        """Slots in the batch."""
        return len(self.feeds)

    @cached_property
    def outputs(self) -> tuple[int, ...]:
        """Tokens, counted through the batch, whose logits it gives: each slot's last, or all where it checks a draft.

        So there are few shapes of steps, whatever the drafts. An idle slot has one of its padding.
        """
        if any(feed.wanted > 1 for feed in self.feeds):
            return tuple(range(self.size * self.step))
        return tuple(index * self.step + max(0, len(feed.tokens) - 1) for index, feed in enumerate(self.feeds))

    def answers(self, feeds: tuple[Feed, ...]) -> list[int]:
        """Places among `outputs` of the tokens that `feeds`, those of the batch, want logits after."""
        busy = [(feed, (feed.slot - self.first) * self._each) for feed in feeds if feed.tokens]
        if self._each == 1:
            return [place for _, place in busy]
        ends = [(feed, place + len(feed.tokens)) for feed, place in busy]
        return [place for feed, end in ends for place in range(end - feed.wanted, end)]

    def idle(self) -> Iterator[tuple[int, int]]:
        """Slots of the batch without tokens, as places in it, each with the place of one of its `outputs`."""
        return ((index, index * self._each) for index, feed in enumerate(self.feeds) if not feed.tokens)

    @property
    def _each(self) -> int:
        """How many `outputs` a slot has."""
        return len(self.outputs) // self.size


def longest_step(geometry: Geometry, position: int) -> int:
    """Most tokens at `position` that are worth a step on a processor: of young sessions more than a chunk."""
    fitting = (length for length in _LENGTHS if length * (position + length) <= _MOST_SCORES)
    return max(geometry.chunk, next(fitting, 0))


def plan_batch(
    geometry: Geometry,
    feeds: tuple[Feed, ...],
    *,
    multiple: int = 1,
    draft_rows: int = 0,
    longest: Callable[[int], int] = lambda _: 0,
) -> Batch:
    """Lay out a step over the smallest range of slots that holds all tokens and starts at a multiple of `multiple`.

    A slot alone may have as many tokens as `longest` says of its position.

    Raises ValueError for a slot that is named twice or does not exist, a window larger than the engine's, more
    tokens than `linear_run`, no tokens at all, logits of more tokens than there are, and drafts in more than
    `draft_rows` rows.
    """
    named = {feed.slot: feed for feed in feeds}
    busy = [feed.slot for feed in feeds if feed.tokens]
    for feed in feeds:
        _check(geometry, feed, longest(feed.position) if len(busy) == 1 else 0)
    if len(named) < len(feeds) or not busy:
        raise ValueError(f"a step needs tokens, and every slot once: {feeds}")
    first = min(busy) // multiple * multiple
    slots = tuple(named.get(slot) or Feed(slot, 0, _UNUSED) for slot in range(first, max(busy) + 1))
    batch = Batch(
        first=first,
        step=max(len(feed.tokens) for feed in slots),
        feeds=slots,
        rows=tuple(row(geometry, feed.window.sinks, feed.position) for feed in slots),
    )
    if any(feed.wanted > 1 for feed in slots) and batch.size * batch.step > draft_rows:
        raise ValueError(
            f"{batch.size} slots of {batch.step} tokens with drafts; at most {draft_rows} rows may have any"
        )
    return batch


def _check(geometry: Geometry, feed: Feed, longest: int) -> None:
    window = feed.window
    if not (0 <= window.sinks <= geometry.sinks and 1 <= window.window <= geometry.window):
        raise ValueError(f"{window} does not fit {geometry}")
    if not (0 <= feed.slot < geometry.slots and feed.position >= 0):
        raise ValueError(f"slot {feed.slot} at position {feed.position} does not exist in {geometry}")
    most = linear_run(geometry, window.sinks, feed.position, longest)
    if len(feed.tokens) > most:
        raise ValueError(f"{len(feed.tokens)} tokens at position {feed.position}; at most {most} follow linearly")
    if not 1 <= feed.wanted <= max(1, len(feed.tokens)):
        raise ValueError(f"logits after {feed.wanted} tokens are wanted, of {len(feed.tokens)}")
