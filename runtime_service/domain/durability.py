"""What of a session outlives its server."""

from __future__ import annotations

from enum import StrEnum


class Durability(StrEnum):
    """What of a session outlives its server; names as on the wire."""

    NONE = "NONE"
    """Nothing of what is said: it is in memory alone, and the session ends with its server."""
    TOKENS = "TOKENS"
    """Every turn: the cache is computed again from the tokens."""
    TOKENS_AND_KV = "TOKENS_AND_KV"
    """Snapshots of the cache besides, so that less is computed again."""
