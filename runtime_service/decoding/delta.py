"""A piece of a reply on its way out, and how pieces that wait for a slow receiver become fewer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from runtime_service.decoding.parts.pieces import CallPiece, join_calls

T = TypeVar("T")

MOST_TOKENS = 64
"""Tokens that joined pieces have at most, so that no message grows without bound."""
MOST_BYTES = 1 << 16
"""About how many bytes they have at most: with log-probabilities a token may have thousands."""
_TOKEN_BYTES = 8
_LOGPROB_BYTES = 100
_CALL_BYTES = 50


@dataclass(frozen=True)
class TopLogprob:
    """One of the likeliest tokens: natural-log probability, and bytes."""

    token_id: int
    logprob: float
    token: bytes


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities at one generated token."""

    token_id: int
    logprob: float
    token: bytes
    top: tuple[TopLogprob, ...]


@dataclass(frozen=True)
class Delta:
    """A piece of a reply. `logprobs` has one entry for each token id, or none at all."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        size = len(self.text) + len(self.reasoning) + _TOKEN_BYTES * len(self.token_ids)
        if self.calls:
            size += sum(_CALL_BYTES + len(piece.arguments) for piece in self.calls)
        if self.logprobs:
            size += _LOGPROB_BYTES * sum(1 + len(entry.top) for entry in self.logprobs)
        return size


def join(pieces: Sequence[Delta]) -> Delta:
    """Pieces of one reply that follow one another, as one."""
    if len(pieces) == 1:
        return pieces[0]
    calls = [call for piece in pieces for call in piece.calls]
    return Delta(
        text="".join([piece.text for piece in pieces]),
        token_ids=tuple(chain.from_iterable([piece.token_ids for piece in pieces])),
        logprobs=tuple(chain.from_iterable([piece.logprobs for piece in pieces])),
        reasoning="".join([piece.reasoning for piece in pieces]),
        calls=join_calls(calls) if calls else (),
    )


def coalesce(
    events: Iterable[T], delta_of: Callable[[T], Delta | None], with_delta: Callable[[T, Delta], T]
) -> Iterator[T]:
    """`events` of one reply in order; pieces that follow one another are one, as long as that is within the bounds.

    `delta_of` gives the piece that an event has, if it has one. Joined pieces come in place of the last of their
    events, by `with_delta`. A single piece beyond the bounds stays as it is.
    """
    waiting: list[tuple[T, Delta]] = []
    tokens = size = 0

    def joined() -> T:
        return with_delta(waiting[-1][0], join([delta for _, delta in waiting]))

    for event in events:
        delta = delta_of(event)
        more, bigger = (0, 0) if delta is None else (len(delta.token_ids), delta.size_bytes)
        if waiting and (delta is None or tokens + more > MOST_TOKENS or size + bigger > MOST_BYTES):
            yield joined()
            waiting, tokens, size = [], 0, 0
        if delta is None:
            yield event
        else:
            waiting.append((event, delta))
            tokens, size = tokens + more, size + bigger
    if waiting:
        yield joined()
