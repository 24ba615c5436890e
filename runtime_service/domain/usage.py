"""What a principal has used of an engine on a day. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from common.errors import InvalidArgument, Reason


@dataclass(frozen=True)
class DayUsage:
    """Turns that ended on a day of UTC, YYYY-MM-DD, and their tokens. `engine` is NAME@VERSION."""

    principal: str
    day: str
    engine: str
    turns: int
    prompt_tokens: int
    generated_tokens: int


def check_day(day: str, field: str) -> None:
    """Raise InvalidArgument for a text that is neither a day nor empty."""
    try:
        if not day or date.fromisoformat(day).isoformat() == day:
            return
    except ValueError:
        pass
    what = f"{field}: {day[:100]!r} is not a day as 2026-01-31"
    raise InvalidArgument(Reason.INVALID_FIELD, what, field=field, value=day[:100])
