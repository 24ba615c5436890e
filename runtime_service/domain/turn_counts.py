"""How many turns of each principal wait or run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from common.auth.quotas import Quotas, check_quota

_RETRY_S = 1.0


class TurnCounts:
    """Of all sessions of a server. Belongs to the event loop."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, principal: str, count: int) -> None:
        """So many more wait or run; fewer, if it is negative."""
        self._counts[principal] += count
        if not self._counts[principal]:
            del self._counts[principal]

    @contextmanager
    def taken_in(self, principal: str, quotas: Quotas) -> Iterator[None]:
        """One more is being accepted meanwhile; raises ResourceExhausted (QUOTA_EXCEEDED)."""
        check_quota("waiting_turns", quotas.waiting_turns, self._counts[principal], _RETRY_S)
        self.add(principal, 1)
        try:
            yield
        finally:
            self.add(principal, -1)
