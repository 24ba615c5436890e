"""Drafts by prompt lookup: what followed when the newest tokens of a session were there before.

Source: Saxena, Prompt Lookup Decoding (2023). Knows token ids only. Nothing depends on a draft but speed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST = 2
"""Newest tokens that have to have been there before; a single one is there by chance too often."""
LONGEST = 8
"""Newest tokens that are compared: of several places, those that agree in more of them are better."""
PLACES = 256
"""Most places that are compared, the newest first, so that a token which is everywhere costs no more than others."""


class PromptLookup:
    """The newest `keep` tokens of a session, searched for the end of themselves."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._buffer = np.zeros(2 * keep, np.int32)
        self._end = 0

    def push(self, tokens: Sequence[int]) -> None:
        """Take tokens that follow those before."""
        tokens = tokens[-self._keep :]
        if self._end + len(tokens) > len(self._buffer):
            kept = self._keep - len(tokens)
            self._buffer[:kept] = self._buffer[self._end - kept : self._end].copy()
            self._end = kept
        self._buffer[self._end : self._end + len(tokens)] = tokens
        self._end += len(tokens)

    def draft(self, most: int) -> tuple[int, ...]:
        """The `most` tokens that followed the newest ones at the place that agrees in most of them; none if nowhere.

        Of places that agree alike it is the newest. Where less than `most` followed, the text repeats from there on.
        """
        tokens = self._buffer[max(0, self._end - self._keep) : self._end]
        place = _place(tokens)
        return () if place is None else tuple(np.resize(tokens[place:], most).tolist())


def _place(tokens: np.ndarray) -> int | None:
    """Where what comes after the newest of `tokens` is, if the newest were there before."""
    newest = len(tokens) - 1
    if newest < LEAST:
        return None
    places = np.flatnonzero(tokens[:newest] == tokens[newest])[-PLACES:]
    for back in range(1, LONGEST):
        reaching = places[places >= back]
        agreeing = reaching[tokens[reaching - back] == tokens[newest - back]]
        if len(agreeing):
            places = agreeing
        else:
            return int(places[-1]) + 1 if back >= LEAST else None
    return int(places[-1]) + 1
