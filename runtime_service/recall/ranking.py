"""Which of the turns that were found are the best. Pure.

By words: a word counts for the more, the fewer turns have it, as in BM25, but is counted once a turn; long turns, which
have many words by chance, count for less. Of equal ones the newer is better.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime_service.domain.recall import Span
from runtime_service.storage.recall.index import Found, Word

MOST_CANDIDATES = 32
"""Turns that are looked at more closely."""
_LEAST = 0.25  # of what a turn with all words would have; what has less is of another matter
_LENGTH = 0.4  # how much the length counts: 0 not at all, 1 in full


@dataclass(frozen=True)
class Candidate:
    """A turn that may be recalled, and how well it fits."""

    span: Span
    score: float


class Ranker(Protocol):
    """Puts turns in order; any function of this form does. It is called in a thread, and may take its time there."""

    def __call__(
        self, asked: str, candidates: Sequence[Candidate], said: Callable[[], Sequence[str]]
    ) -> Sequence[Candidate]:
        """Those of the `candidates` that are worth recalling for what was `asked`, the best first.

        They come by words, the best first. `said` reads what was said in each, input and reply.
        """


def by_words(asked: str, candidates: Sequence[Candidate], said: Callable[[], Sequence[str]]) -> Sequence[Candidate]:
    """As they come."""
    del asked, said
    return candidates


def scores(found: Found, without: Collection[int] = ()) -> list[tuple[float, int]]:
    """Scores and numbers of at most MOST_CANDIDATES turns, the best first, `without` some."""
    sums: dict[int, float] = {}
    weights = [_weight(word, found.newest) for word in found.words]
    for weight, word in zip(weights, found.words, strict=True):
        for number in word.turns:
            sums[number] = sums.get(number, 0.0) + weight
    least = _LEAST * sum(weights)
    kept = ((score, number) for number, score in sums.items() if score >= least and number not in without)
    return heapq.nlargest(MOST_CANDIDATES, kept)


def candidates(scored: Sequence[tuple[float, int]], spans: Iterable[Span]) -> list[Candidate]:
    """Turns with their scores, long ones lowered, the best first."""
    by_number = {span.number: span for span in spans}
    known = [(score, by_number[number]) for score, number in scored if number in by_number]
    if not known:
        return []
    usual = sum(span.tokens for _, span in known) / len(known)
    lowered = [Candidate(span, score / (1 - _LENGTH + _LENGTH * span.tokens / usual)) for score, span in known]
    return sorted(lowered, key=lambda each: (each.score, each.span.number), reverse=True)


def _weight(word: Word, newest: int) -> float:
    """The weight of a word, by how many of the `newest` turns have it."""
    having = min(word.having, newest)
    return math.log1p((newest - having + 0.5) / (having + 0.5))
