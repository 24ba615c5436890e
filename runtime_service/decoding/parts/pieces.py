"""What a reply consists of: text, reasoning and calls of tools, in pieces as they come and as a whole. Plain values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from common.text.tools.values import ToolCall


@dataclass(frozen=True)
class CallPiece:
    """A piece of the call `index` of a reply; id and name come with the first, and whole."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Pieces:
    """What a token adds to a reply."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()

    def __add__(self, other: Pieces) -> Pieces:
        calls = join_calls((*self.calls, *other.calls)) if self.calls and other.calls else self.calls + other.calls
        return Pieces(self.text + other.text, self.reasoning + other.reasoning, calls)


def join_calls(pieces: Iterable[CallPiece]) -> tuple[CallPiece, ...]:
    """Pieces in order, with those of one call as one."""
    texts, firsts = dict[int, list[str]](), dict[int, CallPiece]()
    for piece in pieces:
        firsts.setdefault(piece.index, piece)
        texts.setdefault(piece.index, []).append(piece.arguments)
    return tuple(replace(first, arguments="".join(texts[index])) for index, first in firsts.items())


def pieces_of(calls: Iterable[ToolCall]) -> tuple[CallPiece, ...]:
    """Whole calls, each in one piece."""
    return tuple(CallPiece(index, call.id, call.name, call.arguments) for index, call in enumerate(calls))
