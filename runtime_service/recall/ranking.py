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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from runtime_service.domain.recall import Span
from runtime_service.recall.shortlist import rarity, weight
from runtime_service.storage.recall.index import Entry, Found
from runtime_service.storage.rows import pack

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


class _Shared(NamedTuple):
    """What a turn has of the question: words, first words of pairs, what the words count; does it only repeat it."""

    turn: Entry
    words: frozenset[int]
    pairs: frozenset[int]
    counts: float
    repeats: bool


class _Match(NamedTuple):
    """A turn, what it has of the question, and how well it fits."""

    shared: _Shared
    score: float

    @property
    def number(self) -> int:
        return self.shared.turn.number

    def outdoes(self, other: _Match) -> bool:
        """Whether it tells later what the other may tell."""
        its, others = self.shared, other.shared
        same = self.number > other.number and its.words == others.words and its.pairs >= others.pairs
        return same and not its.repeats and self.score >= _NEAR * other.score

    def corrects(self, other: _Match) -> bool:
        """Whether it says later nearly the same, so that it repeats or corrects the other."""
        if not self.outdoes(other):
            return False
        its = other.shared.turn.words
        return len(set(self.shared.turn.words).intersection(its)) >= _SAME * len(its)


def candidates(
    found: Found, asked: Sequence[int], read: Iterable[Entry], seen: Collection[int] = ()
) -> list[Candidate]:
    """At most MOST_CANDIDATES of the turns that were `read`, the best first, none of them `seen` by the model.

    `asked` are all words of the question; turns behind `found.newest` are `seen` as well.
    """
    left, still = list[_Match](), list[_Match]()
    for match in _matches(found, asked, read):
        (still if match.number > found.newest or match.number in seen else left).append(match)
    clear = _CLEAR * max((match.score for match in (*left, *still) if not match.shared.repeats), default=0.0)
    known = [match for match in left if match.score >= clear and not any(other.corrects(match) for other in still)]
    return [Candidate(match.shared.turn.span, match.score) for match in _ordered(known)]


def _matches(found: Found, asked: Sequence[int], read: Iterable[Entry]) -> list[_Match]:
    """Turns with scores by all of their words and pairs, without those that are of another matter."""
    weights = {word.word: weight(word, found.newest) for word in found.words if word.is_of(found.newest)}
    fitting = list(_fitting(weights, asked, read))
    usual = sum(each.turn.tokens for each in fitting) / max(1, len(fitting))
    having = Counter(pair for each in fitting for pair in each.pairs)
    order = {pair: _ORDER * rarity(turns, len(fitting)) for pair, turns in having.items()}
    matches = []
    for each in fitting:
        pairs = sum(map(order.__getitem__, each.pairs))
        raised = _REPEATED * each.counts if each.repeats else each.counts + pairs
        matches.append(_Match(each, raised / (1 - _LENGTH + _LENGTH * each.turn.tokens / usual)))
    return matches


def _fitting(weights: Mapping[int, float], asked: Sequence[int], read: Iterable[Entry]) -> Iterator[_Shared]:
    """Turns that have enough of a question. Of a word that a turn has more than once its first place is known."""
    question, least = frozenset(asked), _LEAST * sum(weights.values())
    joined = [(pair[0], pack(pair)) for pair in pairwise(asked)]  # bytes are found sooner than places
    for turn in read:
        words = turn.words
        its = question.intersection(words)
        counted = its.intersection(weights)
        if (counts := sum(map(weights.__getitem__, counted))) >= least:
            pairs = frozenset([first for first, pair in joined if first in its and pair in turn.packed])
            repeats = len(its) == len(question) >= _QUESTION and its == set(words[: len(its)])
            yield _Shared(turn, counted, pairs, counts, repeats)


def _ordered(matches: Iterable[_Match]) -> list[_Match]:
    """The best first, but before each of them those that outdo it, the newest first."""
    rest = heapq.nlargest(MOST_CANDIDATES, matches, key=lambda match: (match.score, match.number))
    ordered: list[_Match] = []
    while rest:
        best = max((match for match in rest if match.outdoes(rest[0])), key=lambda match: match.number, default=rest[0])
        ordered.append(best)
        rest.remove(best)
    return ordered
