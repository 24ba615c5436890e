"""What a model sees of a session, token by token: the definition that what is told of it has to equal."""

from __future__ import annotations

from dataclasses import dataclass

from common.window import SessionWindow
from runtime_service.domain.window_view import WindowNotice


@dataclass(frozen=True)
class Span:
    """A turn and its tokens in the history."""

    turn_id: str
    tokens: range


def seen(window: SessionWindow, position: int) -> set[int]:
    """What the newest of `position` tokens sees."""
    return {j for j in range(position) if j < window.sinks or j > position - 1 - window.window}


def start_of(window: SessionWindow, position: int) -> int:
    """The oldest token behind the sinks that is seen; the first behind them where there is none."""
    return min((j for j in seen(window, position) if j >= window.sinks), default=window.sinks)


def oldest_visible(window: SessionWindow, position: int, spans: list[Span]) -> str:
    """The oldest turn from which on everything is seen."""
    visible, oldest = seen(window, position), ""
    for span in reversed([span for span in spans if span.tokens]):
        if not visible.issuperset(span.tokens) or not visible.issuperset(range(span.tokens.start, position)):
            break
        oldest = span.turn_id
    return oldest


def notice_of(window: SessionWindow, before: int, position: int, spans: list[Span]) -> WindowNotice | None:
    """What was seen, or new, when the session had `before` tokens, and is not any more."""
    gone = {j for j in range(position) if j not in seen(window, position)}
    new = sorted(j for j in gone if j >= before or j in seen(window, before))
    if not new:
        return None
    left = [
        span.turn_id
        for span in spans
        if gone.intersection(span.tokens) and not gone.difference(new).intersection(span.tokens)
    ]
    return WindowNotice(new[0], new[-1] + 1, len(left), tuple(left))
