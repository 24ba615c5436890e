"""How long to wait before a try, and when to give up. Pure: the caller passes times and random numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """Exponential backoff with jitter, and its bounds. All times in seconds."""

    first_s: float = 0.1
    """Longest wait before the first try."""
    factor: float = 2.0
    """Every further wait may be this much longer."""
    longest_s: float = 5.0
    """No wait is longer."""
    give_up_after_s: float = 60.0
    """Give up when a stream could not be reopened for this long."""
    attempts_at_first: int = 3
    """Tries of the first open, before the server was reached once."""
    attempts_of_call: int = 5
    """Tries of a call that is no conversation, where the server that is asked is leaving and did nothing."""

    def wait_s(self, attempt: int, dice: float) -> float:
        """Seconds to wait before try number `attempt` (from 0); `dice` in [0, 1) spreads clients over half of it."""
        longest = min(self.longest_s, self.first_s * self.factor ** min(attempt, 60))
        return longest * (0.5 + 0.5 * dice)
