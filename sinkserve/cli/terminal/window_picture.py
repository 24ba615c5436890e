"""A session's window as a person sees it: what the model still sees of the conversation, and what it has forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sinkserve.runtime.v1.conversation_service_pb2 import Session

WIDEST = 100
_NARROWEST = 8


@dataclass(frozen=True)
class Part:
    """A stretch of tokens from `start` on: `mark` draws it, also where there are no colours, `says` explains it."""

    name: str
    mark: str
    style: str
    start: int
    tokens: int
    says: str = ""


def parts_of(session: Session) -> tuple[Part, ...]:
    """Sinks, what was forgotten, what is visible behind it, and the room that is left, as far as there are any."""
    position, window = session.position, session.options.window_tokens
    sinks = min(session.options.sink_tokens, position)
    visible = max(0, position - max(sinks, session.window_start_position))
    full = "full" if visible >= window else f"{visible / window:.0%} full"
    parts = (
        Part("sinks", "█", "cyan", 0, sinks, "kept for ever"),
        Part("forgotten", "░", "dim", sinks, session.evicted_tokens, "out of the model's sight"),
        Part("visible", "▓", "green", position - visible, visible, f"of {window:,}, {full}"),
        Part("room", "·", "dim", position, 0 if session.evicted_tokens else max(0, window - visible)),
    )
    return tuple(part for part in parts if part.tokens)


def bar(parts: tuple[Part, ...], width: int) -> tuple[tuple[Part, int], ...]:
    """How many of `width` characters each part gets: at least one, and a long past at most a third of all."""
    width = max(_NARROWEST, min(width, WIDEST))
    kept = sum(part.tokens for part in parts if part.name != "forgotten")
    shares = [min(part.tokens, kept // 2) if part.name == "forgotten" else part.tokens for part in parts]
    lengths = [max(1, width * share // max(1, sum(shares))) for share in shares]
    widest = lengths.index(max(lengths))
    lengths[widest] += width - sum(lengths)
    return tuple(zip(parts, lengths, strict=True))


def picture(session: Session, width: int, oldest: str) -> Iterator[str]:
    """Lines with rich markup: a bar, and what it is made of; `oldest` is how the oldest visible turn is called."""
    parts = parts_of(session)
    if not parts:
        yield "nothing was said yet"
        return
    yield "".join(f"[{part.style}]{part.mark * length}[/]" for part, length in bar(parts, width))
    for part in parts:
        if part.name != "room":
            span = f"{part.start:,} to {part.start + part.tokens - 1:,}"
            yield f"[{part.style}]{part.mark}[/] {part.name:<10} {_tokens(part.tokens)} · {span} · {part.says}"
    if session.evicted_tokens:
        yield f"whole from here on: {oldest}" if oldest else "not even the last turn is whole in view"


def _tokens(count: int) -> str:
    return f"{count:,} {'token' if count == 1 else 'tokens'}"
