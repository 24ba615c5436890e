"""Of all turns that were found those whose words are worth reading. Pure.

Of a word that many turns have only the newest are known. An older turn may have it too, so it is taken to have it until
its own words are read: else it would count with its rare words alone, and lose to every newer one.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from runtime_service.storage.recall.index import Found, Word
from runtime_service.storage.recall.newest import unpacked

MOST_READ = 32
"""Turns whose words are read: so many that have left the window, and so many that the model still sees."""
_DIGITS = 9  # of scores: those that differ by the order in which they were added up are equal


def shortlist(found: Found, seen: Collection[int] = ()) -> list[int]:
    """Numbers of the turns that may be the best, without order. Turns behind `found.newest` are `seen` as well."""
    if not found.words:
        return []
    numbers, scores = _at_best(found)
    still = numbers > found.newest
    if seen:
        still |= np.isin(numbers, list(seen))
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
    lengths = np.array([word.kept for word in found.words])
    listed = unpacked("".join(word.newest for word in found.words))
    order = listed.argsort(kind="stable")
    ordered = listed[order]
    first = np.ones(len(ordered), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    numbers = ordered[first]
    scores = np.bincount(first.cumsum() - 1, weights.repeat(lengths)[order])
    more = np.array([word.having for word in found.words]) > lengths  # turns before its oldest have it too
    oldest = numbers.searchsorted(listed[lengths.cumsum() - 1][more])
    before = np.bincount(oldest, weights[more], len(numbers))
    return numbers, (scores + before.sum() - before.cumsum()).round(_DIGITS)


def _highest(numbers: NDArray[np.int64], scores: NDArray[np.float64]) -> list[int]:
    """Turns with the highest scores, of equal ones the newest."""
    best: list[int] = numbers[scores.argsort(kind="stable")[-MOST_READ:]].tolist()
    return best
