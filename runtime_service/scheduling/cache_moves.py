"""How often caches changed their place."""

from __future__ import annotations

from dataclasses import dataclass

from runtime_service.decoding.token_history import TokenHistory


@dataclass
class CacheMoves:
    """Counts since an engine was loaded. The scheduler's thread writes them; any may read one."""

    parked: int = 0
    """Caches that left their slot for host memory, to make room."""
    spilled: int = 0
    """Caches that left host memory for the local disk, to make room."""
    dropped: int = 0
    """Caches that left host memory, to make room: only their tokens are left."""
    unparked: int = 0
    """Caches that came back into a slot from host memory, restored ones among them."""
    restored: int = 0
    """Caches that came back from the local disk or from a snapshot."""
    replayed: int = 0
    """Caches that were lost, and are computed again."""
    replayed_tokens: int = 0
    """Tokens that are fed again for that."""

    def note_start(self, history: TokenHistory) -> None:
        """A cache starts empty, and is a lost one if tokens have to be fed again for it."""
        again = history.unfed - (history.length - history.fed_before)
        if history.fed_before and again > 0:
            self.replayed += 1
            self.replayed_tokens += again
