"""Of all turns that were found those whose words are worth reading. Pure.

Of a word that many turns have only the newest are known. An older turn may have it too, so it is taken to have it until
its own words are read: else it would count with its rare words alone, and lose to every newer one.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from runtime_service.storage.recall.index import Found, Word

MOST_READ = 32
"""Turns whose words are read: so many that have left the window, and so many that the model still sees."""


def shortlist(found: Found, seen: Collection[int] = ()) -> list[int]:
    """Numbers of the turns that may be the best, without order. Turns behind `found.newest` are `seen` as well."""
    if not found.words:
        return []
    numbers, scores = _at_best(found)
    still = (numbers > found.newest) | np.isin(numbers, list(seen))
    if still.all():
        return []
    return [number for part in (~still, still) for number in _highest(numbers[part], scores[part])]


def weight(word: Word, newest: int) -> float:
    """What a word counts, by how many of the `newest` turns have it."""
    return rarity(min(word.having, newest), newest)


def rarity(having: int, turns: int) -> float:
    """What something counts that so many of the turns have. Source: the inverse document frequency of BM25."""
    return math.log1p((turns - having + 0.5) / (having + 0.5))


def _at_best(found: Found) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Turns, the oldest first, and what each would count with every word that it may have."""
    weights = np.array([weight(word, found.newest) for word in found.words])
    lengths = [len(word.turns) for word in found.words]
    listed = np.fromiter(chain.from_iterable(word.turns for word in found.words), np.int64, sum(lengths))
    numbers, places = np.unique(listed, return_inverse=True)
    scores = np.bincount(places, np.repeat(weights, lengths)).astype(np.float64, copy=False)
    for word, its in zip(found.words, weights, strict=True):
        if word.having > len(word.turns):  # older ones have it too
            scores[: np.searchsorted(numbers, word.turns[-1])] += its
    return numbers, scores


def _highest(numbers: NDArray[np.int64], scores: NDArray[np.float64]) -> list[int]:
    """Turns with the highest scores, of equal ones the newest."""
    best: list[int] = numbers[np.lexsort((numbers, scores))[-MOST_READ:]].tolist()
    return best
