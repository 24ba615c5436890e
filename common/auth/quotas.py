"""How much of what all share one principal may have."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from common.errors import Reason, ResourceExhausted

Most = Annotated[int, Field(ge=0, strict=True)] | None


class Quotas(BaseModel):
    """Of each principal that a rule names; None: no bound but the server's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sessions: Most = None
    """That there are, in memory or not, at all runtimes of a database."""
    waiting_turns: Most = None
    """That wait or run at one runtime."""
    input_tokens_per_minute: Most = None
    """Of turns that have ended in this minute of the clock, at all runtimes; beyond, no more turns are taken."""
    output_tokens_per_minute: Most = None
    """Likewise, of replies."""
    queued_builds: Most = None
    """That wait, at all builders of a database."""

    @property
    def has_tokens(self) -> bool:
        """Whether tokens are bounded."""
        return self.input_tokens_per_minute is not None or self.output_tokens_per_minute is not None


UNBOUNDED = Quotas()


def check_quota(name: str, most: int | None, used: int, retry_after_s: float) -> None:
    """Raise ResourceExhausted (QUOTA_EXCEEDED) if a principal has `used` all that it may of one field of Quotas."""
    if most is None or used < most:
        return
    what = f"quota {name}: the caller may have {most} and has {used}; try again when that is less"
    raise ResourceExhausted(Reason.QUOTA_EXCEEDED, what, retry_after_s=retry_after_s, quota=name, used=used, most=most)
