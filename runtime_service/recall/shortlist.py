"""Of all turns that were found those whose words are worth reading. Pure.

Of a word that many turns have only the newest are known. An older turn may have it too, so it is taken to have it until
its own words are read: else it would count with its rare words alone, and lose to every newer one.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Collection
from itertools import accumulate

from runtime_service.storage.recall.index import Found, Word

MOST_READ = 64
"""Turns whose words are read: so many that have left the window, and so many that the model still sees."""


def shortlist(found: Found, seen: Collection[int] = ()) -> list[int]:
    """Numbers of the turns that may be the best, without order. Turns behind `found.newest` are `seen` as well."""
    best = _at_best(found)
    left = [(score, number) for number, score in best.items() if number <= found.newest and number not in seen]
    if not left:
        return []
    still = [(score, number) for number, score in best.items() if number > found.newest or number in seen]
    return [number for some in (left, still) for _, number in heapq.nlargest(MOST_READ, some)]


def weight(word: Word, newest: int) -> float:
    """What a word counts, by how many of the `newest` turns have it."""
    having = min(word.having, newest)
    return math.log1p((newest - having + 0.5) / (having + 0.5))


def _at_best(found: Found) -> dict[int, float]:
    """Scores of turns with every word that they may have."""
    sums: dict[int, float] = {}
    cut_off: list[tuple[int, float]] = []  # the oldest turn that is known of a word that older ones have too
    for word in found.words:
        its = weight(word, found.newest)
        for number in word.turns:
            sums[number] = sums.get(number, 0.0) + its
        if word.having > len(word.turns):
            cut_off.append((word.turns[-1], its))
    oldest = [number for number, _ in sorted(cut_off)]
    behind = [*accumulate((its for _, its in sorted(cut_off, reverse=True)), initial=0.0)][::-1]
    return {number: score + behind[bisect_right(oldest, number)] for number, score in sums.items()}
