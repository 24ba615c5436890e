"""Which turns were read again lately, and are still in the window by that. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runtime_service.domain.turn import Result


class Copies:
    """Where turns stand that were read again. Memory is bounded by the window: what has left it is forgotten."""

    def __init__(self, ended: Iterable[tuple[Result, int]] = ()) -> None:
        """`ended` are results, the newest first, with how many tokens each turn added to the history."""
        self._positions: dict[int, int] = {}
        for result, tokens in ended:
            for number, position in _copies(result, tokens):
                self._positions.setdefault(number, position)

    def note(self, result: Result, tokens: int) -> None:
        """Take what a turn read again that has ended now."""
        self._positions.update(_copies(result, tokens))

    def forget(self, before: int) -> None:
        """Forget what begins before a position."""
        self._positions = {number: position for number, position in self._positions.items() if position >= before}

    def numbers(self, since: int) -> set[int]:
        """Turns that stand at a position or behind it."""
        return {number for number, position in self._positions.items() if position >= since}


def _copies(result: Result, tokens: int) -> Iterator[tuple[int, int]]:
    """Turns that were read again as a whole, and where."""
    position = result.usage.position - tokens
    end = position + min(tokens, result.usage.prompt_tokens)
    for turn in result.recalled:
        if position + turn.tokens <= end:
            yield turn.number, position
        position += turn.tokens
