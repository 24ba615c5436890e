"""Who is fed what in the next step. Integers in, integers out.

Steps alternate: one in which every session with a single token to feed takes part (decoding), one that feeds a chunk
of one session's long input. So a long input never takes more than a chunk between two tokens of the others, and a
shorter one where chunks are slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST_CHUNK = 8
ALONE = 4
"""Times `stall_s` that a step longer than a chunk may take while nobody decodes: who comes or cancels waits for it."""


@dataclass(frozen=True)
class Candidate:
    """A session that could be fed `ready` tokens, in rows that follow one another."""

    slot: int
    ready: int


@dataclass(frozen=True)
class Step:
    """What one step feeds: tokens by slot; `chunk` is the slot of a long input whose step it is."""

    counts: dict[int, int]
    chunk: int | None = None


def plan(candidates: Sequence[Candidate], *, most: int, alone: int, before: Step, last_chunk: int) -> Step:
    """One token each to all that have one, or at most `most` to one that has more, `alone` while nobody decodes.

    Where there are both, they alternate (`before` is the step before). Among long inputs, slots take turns:
    `last_chunk` is the slot that had the last one.
    """
    singles = {candidate.slot: 1 for candidate in candidates if candidate.ready == 1}
    longs = {candidate.slot: candidate.ready for candidate in candidates if candidate.ready > 1}
    if not longs or (singles and before.chunk is not None):
        return Step(singles)
    slot = min(longs, key=lambda slot: (slot <= last_chunk, slot))
    return Step({slot: min(longs[slot], most if singles else alone)}, chunk=slot)


def most_drafted(step: Step, *, rows: int, multiple: int = 1) -> int:
    """Most tokens that each slot of a step may be fed on trial: it has at most `rows` rows then, with padding.

    Its slots begin at a multiple of `multiple`. None beside a chunk of a long input.
    """
    if step.chunk is not None or not step.counts:
        return 0
    slots = max(step.counts) - min(step.counts) // multiple * multiple + 1
    return max(0, rows // slots - 1)


class Pace:
    """How many tokens of a long input fit in `stall_s`, learned from the steps so far.

    Never less than a few: up to that, a step costs what a single token costs.
    """

    def __init__(self, stall_s: float, chunk: int) -> None:
        self._stall_s = stall_s
        self._chunk = chunk
        self._token_s = 0.0

    @property
    def tokens(self) -> int:
        """Tokens to feed while others decode."""
        if self._token_s * self._chunk <= self._stall_s:
            return self._chunk
        return min(self._chunk, max(LEAST_CHUNK, int(self._stall_s / self._token_s)))

    @property
    def alone(self) -> int:
        """Tokens to feed while nobody decodes, at least a chunk; no more until a step says how long one takes."""
        if not self._token_s:
            return self._chunk
        return max(self._chunk, int(ALONE * self._stall_s / self._token_s))

    def note(self, tokens: int, seconds: float) -> None:
        """Learn from a step that fed `tokens` of one input."""
        if tokens >= min(LEAST_CHUNK, self._chunk):
            self._token_s += 0.25 * (seconds / tokens - self._token_s)
