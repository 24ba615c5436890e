"""Bounds of one engine's scheduler, and what they say about a cache that was lost."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import FailedPrecondition, Reason, SinkServeError
from common.window import SessionWindow
from runtime_service.decoding.token_history import TokenHistory


@dataclass(frozen=True)
class Limits:
    """Bounds of one engine's scheduler."""

    layers: int
    """Layers of the model: so many windows back reaches what a token depends on."""
    max_replay_tokens: int
    """Most tokens that may be fed to compute a lost cache again."""
    parked_bytes: int
    """Host memory for parked caches."""
    stall_s: float
    """How long a chunk of somebody's input may hold up those who are decoding."""
    slow_form_s: float = 2.0
    """How long it may take to find one mask of a reply with a form."""

    def tokens_to_replay(self, window: SessionWindow) -> int:
        """Tokens right before a position that, after the sinks, make its cache exact again."""
        return max(window.window, self.layers * (window.window - 1))

    def replay_refused(self, history: TokenHistory) -> SinkServeError | None:
        """Why the cache of a session cannot be computed again, if it cannot."""
        tokens = min(history.length, history.window.sinks + self.tokens_to_replay(history.window))
        if tokens <= self.max_replay_tokens:
            return None
        return FailedPrecondition(
            Reason.REPLAY_TOO_LONG,
            f"the session's cache is lost and {tokens} tokens would have to be fed again; "
            f"the server allows {self.max_replay_tokens} (max_replay_tokens)",
            tokens=tokens,
            max_replay_tokens=self.max_replay_tokens,
        )
