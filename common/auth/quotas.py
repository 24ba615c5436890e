"""How much of what all share one principal may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from common.errors import Reason, ResourceExhausted

Most = Annotated[int, Field(ge=0, strict=True)] | None


class Quotas(BaseModel):
    """Of each principal that a rule names; None: no bound but the server's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sessions: Most = None
    """That there are, in memory or not, at all runtimes of a database."""
    sessions_in_memory: Most = None
    """At one runtime; the longest unopened that is not busy leaves for another."""
    waiting_turns: Most = None
    """That wait or run at one runtime."""
    input_tokens_per_minute: Most = None
    """Of turns that have ended in this minute of the clock, at all runtimes; beyond, no more turns are taken."""
    output_tokens_per_minute: Most = None
    """Likewise, of replies."""
    queued_builds: Most = None
    """That wait, at all builders of a database."""
    running_builds: Most = None
    """At all builders of a database; more wait."""
    engine_bytes: Most = None
    """Files of engines that one owns, each once, at all builders of a database."""
    snapshot_bytes: Most = None
    """Snapshots of caches in the store, at all runtimes of a database; more are not kept."""

    @property
    def has_tokens(self) -> bool:
        """Whether tokens are bounded."""
        return self.input_tokens_per_minute is not None or self.output_tokens_per_minute is not None


UNBOUNDED = Quotas()
QuotasOf = Callable[[str], Quotas]
"""Of a principal by name, as the policy of now says."""


def unbounded(_principal: str) -> Quotas:
    """Nobody has quotas."""
    return UNBOUNDED


def check_quota(name: str, most: int | None, used: int, retry_after_s: float, more: int = 1) -> None:
    """Raise ResourceExhausted (QUOTA_EXCEEDED) if a principal, which has `used`, may not have `more`.

    `name` is a field of Quotas, of which it may have `most`.
    """
    if most is not None and used + more > most:
        raise quota_exceeded(name, most, used, retry_after_s, more)


def quota_exceeded(name: str, most: int, used: int, retry_after_s: float, more: int = 1) -> ResourceExhausted:
    """The error of `check_quota`."""
    asked = f", and this is {more} more" if more != 1 else ""
    what = f"quota {name}: the caller may have {most} and has {used}{asked}; try again when that is less"
    return ResourceExhausted(Reason.QUOTA_EXCEEDED, what, retry_after_s=retry_after_s, quota=name, used=used, most=most)
