"""Finds stop texts in text that comes in pieces, and holds back what could be the beginning of one.

Knows characters only. A stop text is found at the first character that completes one, however the text is cut
into pieces; of several that end there, the longest is it. What comes before it is released, nothing after it is.

Every stop text is a Knuth-Morris-Pratt automaton: a step per character and stop text, whatever came before.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Takes text, gives back what can no longer be part of a stop text. After a match there is no more."""

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` are the texts to look for, none empty."""
        self._automata = [_Automaton(stop) for stop in stops]
        self._held = ""
        self.found: str | None = None
        """The stop text that was found."""

    def push(self, piece: str) -> str:
        """Take the next piece and return the text that is released by it."""
        assert self.found is None, "the text has ended"
        if not self._automata:
            return piece
        for index, character in enumerate(piece):
            found = self._step(character)
            if found:
                self.found = found
                return self._release(piece[: index + 1], keep=len(found), drop=True)
        return self._release(piece, keep=max(automaton.length for automaton in self._automata))

    def flush(self) -> str:
        """Return what was held back: the text ends here."""
        held, self._held = self._held, ""
        return held

    def _step(self, character: str) -> str:
        """Advance every automaton; the longest stop text that is complete now, or nothing."""
        complete = [automaton.stop for automaton in self._automata if automaton.step(character)]
        return max(complete, key=len, default="")

    def _release(self, piece: str, *, keep: int, drop: bool = False) -> str:
        text = self._held + piece
        cut = len(text) - keep
        self._held = "" if drop else text[cut:]
        return text[:cut]


class _Automaton:
    """How much of one stop text the text so far ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.length = 0
        self._borders = _borders(stop)

    def step(self, character: str) -> bool:
        """Take one character; True when the stop text is complete with it."""
        length = self.length
        while length and self.stop[length] != character:
            length = self._borders[length - 1]
        self.length = length + (self.stop[length] == character)
        return self.length == len(self.stop)


def _borders(stop: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[length] != stop[index]:
            length = borders[length - 1]
        length += stop[length] == stop[index]
        borders[index] = length
    return borders
