"""Which of the turns that were found are the best. Pure.

By words: a word counts for the more, the fewer turns have it, as in BM25, but is counted once a turn. So does a pair of
words that stand together as in the question, since words alone do not tell who did what to whom. Long turns, which have
many words by chance, count for less. Of turns with the same words and pairs of the question, if they are nearly as
good, the newer is better. What a turn corrects that the model still sees is not recalled: it would stand behind its
correction.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from runtime_service.domain.recall import Indexed, Span
from runtime_service.recall.shortlist import rarity, weight
from runtime_service.storage.recall.index import Found

MOST_CANDIDATES = 32
"""Turns that are looked at more closely."""
_LEAST = 0.25  # of what a turn with all words would have; what has less is of another matter
_CLEAR = 0.5  # of the best turn's score, in view or not; what has less is of another matter too
_ORDER = 2.0  # what a pair counts, against a word that is as rare
_LENGTH = 0.4  # how much the length counts: 0 not at all, 1 in full
_NEAR = 0.7  # of a turn's score: a newer one with the same words that has as much is the better
_SAME = 0.6  # of a turn's words: a newer one that has as many of them repeats or corrects it
_QUESTION = 4  # words: what begins with fewer may well be an answer
_REPEATED = 0.75  # what a turn counts that says nothing but the question: it hardly tells more than the question does


@dataclass(frozen=True)
class Candidate:
    """A turn that may be recalled, and how well it fits."""

    span: Span
    score: float


Pair = tuple[int, int]


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


@dataclass(frozen=True)
class _Match:
    """A turn, how well it fits, which words and pairs of the question it has, and whether it says only the question."""

    turn: Indexed
    score: float
    words: frozenset[int]
    pairs: frozenset[Pair]
    repeats: bool

    def outdoes(self, other: _Match) -> bool:
        """Whether it tells later what the other may tell."""
        newer = self.turn.span.number > other.turn.span.number
        same = newer and self.words == other.words and self.pairs >= other.pairs
        return same and not self.repeats and self.score >= _NEAR * other.score

    def corrects(self, other: _Match) -> bool:
        """Whether it says later nearly the same, so that it repeats or corrects the other."""
        its = other.turn.words
        return self.outdoes(other) and len(set(self.turn.words).intersection(its)) >= _SAME * len(its)


def candidates(
    found: Found, asked: Sequence[int], read: Iterable[Indexed], seen: Collection[int] = ()
) -> list[Candidate]:
    """At most MOST_CANDIDATES of the turns that were `read`, the best first, none of them `seen` by the model.

    `asked` are all words of the question; turns behind `found.newest` are `seen` as well.
    """
    left, still = list[_Match](), list[_Match]()
    for match in _matches(found, asked, read):
        number = match.turn.span.number
        (still if number > found.newest or number in seen else left).append(match)
    clear = _CLEAR * max((match.score for match in (*left, *still) if not match.repeats), default=0.0)
    known = [match for match in left if match.score >= clear and not any(other.corrects(match) for other in still)]
    return [Candidate(match.turn.span, match.score) for match in _ordered(known)]


def _matches(found: Found, asked: Sequence[int], read: Iterable[Indexed]) -> list[_Match]:
    """Turns with scores by all of their words and pairs, without those that are of another matter."""
    weights = {word.word: weight(word, found.newest) for word in found.words if word.is_of(found.newest)}
    least, question = _LEAST * sum(weights.values()), frozenset(asked)
    shared = [(turn, frozenset(filter(weights.__contains__, turn.words))) for turn in read]
    sums = [(turn, words, sum(map(weights.__getitem__, words))) for turn, words in shared]
    fitting = [each for each in sums if each[2] >= least]
    usual = sum(turn.span.tokens for turn, _, _ in fitting) / max(1, len(fitting))
    ordered = _in_order(asked, [turn for turn, _, _ in fitting])
    matches = []
    for (turn, words, score), (pairs, order) in zip(fitting, ordered, strict=True):
        repeats = len(question) >= _QUESTION and frozenset(turn.words[: len(question)]) == question
        raised = _REPEATED * score if repeats else score + order
        lowered = raised / (1 - _LENGTH + _LENGTH * turn.span.tokens / usual)
        matches.append(_Match(turn, lowered, words, pairs, repeats))
    return matches


def _in_order(asked: Sequence[int], turns: Sequence[Indexed]) -> list[tuple[frozenset[Pair], float]]:
    """The pairs of the question that each turn has, and what they count: the more, the fewer of these turns have them.

    Of a word that a turn has more than once its first place is known.
    """
    wanted = frozenset(pairwise(asked))
    found = [wanted.intersection(pairwise(turn.words)) for turn in turns]
    having = Counter(pair for pairs in found for pair in pairs)
    counts = {pair: _ORDER * rarity(turns_with, len(turns)) for pair, turns_with in having.items()}
    return [(pairs, sum(map(counts.__getitem__, pairs))) for pairs in found]


def _ordered(matches: Iterable[_Match]) -> list[_Match]:
    """The best first, but before each of them those that outdo it, the newest first."""
    rest = heapq.nlargest(MOST_CANDIDATES, matches, key=lambda match: (match.score, match.turn.span.number))
    ordered: list[_Match] = []
    while rest:
        best = max((match for match in rest if match.outdoes(rest[0])), key=_number, default=rest[0])
        ordered.append(best)
        rest.remove(best)
    return ordered


def _number(match: _Match) -> int:
    return match.turn.span.number
