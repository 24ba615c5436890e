"""How much of a turn is drafted, and when: learned from what came of its drafts so far. See `prompt_lookup`.

A draft that is right saves a step for each of its tokens; one that is wrong makes its step somewhat longer. So drafts
grow while they are right, and after wrong ones there are none for a while, longer each time.
"""

from __future__ import annotations

from runtime_service.decoding.prompt_lookup import PromptLookup
from runtime_service.decoding.token_history import TokenHistory

FIRST = 4
"""Tokens of a turn's first draft."""
LONGEST_WAIT = 32
"""Most steps without a draft after wrong ones."""


class Speculation:
    """Drafts of one turn, of at most `most` tokens each. Life: `draft` before a step, `note` after it."""

    def __init__(self, history: TokenHistory, most: int) -> None:
        self._history = history
        self._most = most
        self._reach = min(most, FIRST)
        self._wait = 0
        self._next_wait = 1
        self._lookup: PromptLookup | None = None  # once a draft is asked for
        self._seen = 0
        self.drafted = 0
        """Tokens that were fed on trial."""
        self.accepted = 0
        """Those of them that were right."""

    def draft(self, most: int) -> tuple[int, ...]:
        """At most `most` tokens that may come next, once all that was accepted but one is fed."""
        most = min(most, self._reach)
        if most < 1 or self._history.unfed != 1:
            return ()
        if self._wait:
            self._wait -= 1
            return ()
        return self._search().draft(most)

    def note(self, drafted: int, accepted: int) -> None:
        """Learn from a step with a draft of `drafted` tokens, of which the first `accepted` were right."""
        self.drafted += drafted
        self.accepted += accepted
        if accepted:
            self._reach = min(self._most, 2 * self._reach if accepted == drafted else accepted + 1)
            self._next_wait = 1
        elif drafted:
            self._reach = max(1, self._reach // 2)
            self._wait, self._next_wait = self._next_wait, min(LONGEST_WAIT, 2 * self._next_wait)

    def _search(self) -> PromptLookup:
        """The lookup, with every token that there is by now: the sinks too, as if they stood before the window."""
        history, window = self._history, self._history.window
        if self._lookup is None:
            self._lookup = PromptLookup(window.capacity + 1)
            self._lookup.push(history.view(min(window.window, history.kept(history.length))))
        else:
            self._lookup.push(history.tokens(self._seen))
        self._seen = history.length
        return self._lookup
