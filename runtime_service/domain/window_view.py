"""Which turns of a session its model still sees, and which have left its window. Pure.

Tokens leave in their order, those behind the sinks first. A turn has left once one of its tokens has; one that lies in
the sinks alone never leaves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

MOST_NAMED = 100
"""Turns that a notice names; it counts them all."""


@dataclass(frozen=True)
class TurnStart:
    """Where the tokens of a turn begin, which has some."""

    position: int
    turn_id: str


@dataclass(frozen=True)
class WindowNotice:
    """The tokens from `start` to before `end` left the window in one turn, and with them the first of `turns` turns.

    `turn_ids` names those turns, the oldest first, MOST_NAMED at most.
    """

    start: int
    end: int
    turns: int
    turn_ids: tuple[str, ...]


class WholeTurns:
    """The newest turns of a session, as many as are whole in its view, the oldest first."""

    def __init__(self, sinks: int, starts: Iterable[TurnStart] = ()) -> None:
        self._sinks = sinks
        self._starts = deque(starts)

    @property
    def oldest(self) -> str:
        """The oldest of them; empty: there is none."""
        return self._starts[0].turn_id if self._starts else ""

    def add(self, turn: TurnStart, end: int, before: int, after: int) -> WindowNotice | None:
        """One more turn has ended, with tokens up to `end`; says what left, if something did.

        The oldest token in view behind the sinks was at `before`, and is at `after` now.
        """
        if end > turn.position:
            self._starts.append(turn)
        if after == before:
            return None
        left = list(self._leave(end, after))
        return WindowNotice(before, after, len(left), tuple(left[:MOST_NAMED]))

    def _leave(self, end: int, after: int) -> Iterable[str]:
        while self._starts and self._starts[0].position < after:
            turn = self._starts.popleft()
            turn_end = self._starts[0].position if self._starts else end
            if turn_end > self._sinks:
                yield turn.turn_id
