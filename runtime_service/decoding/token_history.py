"""The tokens of one session, as far as its engine needs them: which are fed, which wait, which are in the cache.

Knows no engine and no text. Memory is bounded by the window, not by the length of the conversation: between turns
only the sinks, the window and what is not fed yet are kept; older tokens are in the database and come back by `refill`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.window import SessionWindow


class TokenHistory:
    """`length` tokens of history, of which those before `fed` have keys and values in the cache.

    Tokens from `fed` on are *pending*. After a loss of the cache `fed` starts again at 0 and, where not the whole
    history is kept, jumps from the end of the sinks to the first token kept (`start`). Those before
    `fed_before` were in a cache that was lost.
    """

    def __init__(self, window: SessionWindow, tokens: Iterable[int] = ()) -> None:
        self.window = window
        self.length = 0
        self.fed = 0
        self.start = 0
        self.fed_before = 0
        self.counts: dict[int, int] = {}
        self._sinks: list[int] = []
        self._recent: list[int] = []
        self.extend(tokens)

    @classmethod
    def stored(cls, window: SessionWindow, length: int) -> TokenHistory:
        """A session whose tokens are all in the database; `refill` comes before anything is fed."""
        history = cls(window)
        history.length = history.start = length
        history.fed_before = length
        return history

    @property
    def unfed(self) -> int:
        """Tokens to feed before the next can be sampled."""
        if self._in_sinks:
            return self._sink_end - self.fed + self.length - max(self.start, self._sink_end)
        return self.length - self.fed

    def kept(self, before: int) -> int:
        """Tokens at hand right before position `before`."""
        return before - self.start

    def append(self, token: int) -> None:
        """Take `token` as the next of the history."""
        if self.length < self.window.sinks:
            self._sinks.append(token)
        self._recent.append(token)
        self.length += 1
        self.counts[token] = self.counts.get(token, 0) + 1
        leaving = self.length - 1 - self.window.window
        if leaving >= self.window.sinks:
            self._uncount(self._recent[leaving - self.start])

    def extend(self, tokens: Iterable[int]) -> None:
        """Append each of `tokens`."""
        for token in tokens:
            self.append(token)

    def tokens(self, begin: int) -> tuple[int, ...]:
        """The history from `begin` on; `begin` has to be at hand."""
        assert begin >= self.start, (begin, self.start)
        return tuple(self._recent[begin - self.start :])

    def view(self, recent: int) -> tuple[int, ...]:
        """The sinks, and at most the `recent` newest of the tokens behind them, which have to be at hand."""
        return (*self._sinks, *self.tokens(max(self._sink_end, self.length - recent)))

    def next_tokens(self, most: int) -> tuple[int, ...]:
        """At most `most` tokens that follow one another at position `fed`."""
        if self._in_sinks:
            return tuple(self._sinks[self.fed : min(self.fed + most, self._sink_end)])
        return tuple(self._recent[self.fed - self.start : self.fed - self.start + most])

    def advance(self, count: int) -> None:
        """Note that `count` tokens were fed."""
        self.fed += count
        assert self.fed <= self.length, self
        self._skip_gap()

    def settle(self) -> None:
        """Note that every token was fed, for an engine that takes them whole."""
        self.fed = self.length

    def take_back(self, fed: int) -> None:
        """Note that the cache holds tokens before `fed` only."""
        assert self.start <= fed <= self.fed, (self.start, fed, self.fed)
        self.fed = fed

    def lose_cache(self) -> None:
        """Note that nothing is in the cache any more."""
        self.fed_before = max(self.fed_before, self.fed)
        self.fed = 0
        self._skip_gap()

    def truncate(self, length: int) -> None:
        """Drop the tokens from `length` on: at least those of the window before it are still at hand."""
        assert self.fed <= length <= self.length, (self.fed, length, self.length)
        if length == self.length:
            return
        del self._recent[length - self.start :]
        del self._sinks[length:]
        self.length = length
        self.fed_before = min(self.fed_before, length)
        self._recount()

    def refill(self, sinks: Sequence[int], start: int, recent: Sequence[int]) -> None:
        """Take older tokens back from the database, to compute the cache again from them.

        `sinks` are the first tokens of the history, `recent` those from `start` up to what is at hand or beyond.
        """
        overlap = start + len(recent) - self.start
        assert overlap >= 0, (start, len(recent), self.start)
        first = list(sinks[: min(self.window.sinks, self.length)])
        self._sinks = [*first, *self._sinks[len(first) :]]  # behind those of the database come a suspended turn's
        self._recent = [*recent[: len(recent) - overlap], *self._recent]
        self.start = start
        self._recount()
        self.lose_cache()

    def restore(self, fed: int) -> None:
        """Note that a cache with the tokens before `fed` is there again; those after it have to be at hand."""
        assert self.start <= fed <= self.length, (self.start, fed, self.length)
        self.fed = fed

    def trim(self) -> None:
        """Drop tokens that neither the window nor the next feed needs."""
        keep = min(self.fed, self.length - self.window.window)
        if keep > self.start:
            del self._recent[: keep - self.start]
            self.start = keep

    @property
    def _sink_end(self) -> int:
        return min(self.window.sinks, self.length)

    @property
    def _in_sinks(self) -> bool:
        return self.fed < self.start

    def _skip_gap(self) -> None:
        if self._sink_end <= self.fed < self.start:
            self.fed = self.start

    def _uncount(self, token: int) -> None:
        self.counts[token] -= 1
        if not self.counts[token]:
            del self.counts[token]

    def _recount(self) -> None:
        first = max(self._sink_end, self.length - self.window.window)
        assert first >= min(self.start, self.length), (first, self.start)
        self.counts = {}
        for token in (*self._sinks, *self._recent[first - self.start :]):
            self.counts[token] = self.counts.get(token, 0) + 1
