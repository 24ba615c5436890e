"""Whether replies are still language: how much of them repeats itself.

A model that has lost its attention sinks, or that talks past what it was trained for, says one thing over and over.
Counted in words, so that engines with other tokenizers can be compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

LOOP = 4
"""Words in a row that a reply does not say twice by chance."""
PAIR = 2


def repeated(replies: Iterable[str]) -> float:
    """Share of four words in a row that stand earlier in the same reply already, over all replies; NaN of none."""
    rows = [_rows(reply, LOOP) for reply in replies]
    every = sum(map(len, rows))
    return (every - sum(len(set(found)) for found in rows)) / every if every else math.nan


def distinct(replies: Iterable[str]) -> float:
    """Share of different pairs of neighbouring words among all of the replies; NaN of none.

    Falls with the number of words: compare as many replies of the same questions.
    """
    counts = Counter(pair for reply in replies for pair in _rows(reply, PAIR))
    return len(counts) / counts.total() if counts else math.nan


def _rows(reply: str, length: int) -> Sequence[tuple[str, ...]]:
    words = reply.split()
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
