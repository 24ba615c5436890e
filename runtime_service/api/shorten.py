"""Turns as they are listed: what is longer than a message may be is cut."""

from __future__ import annotations

from dataclasses import replace

from runtime_service.domain.turn import Message, Turn, TurnInput

MOST_BYTES = 1 << 20
"""Of the input of a turn, and of its reply, in UTF-8."""
MOST_IDS = MOST_BYTES // 5
"""Token ids take at most five bytes each."""
_AROUND = 16  # bytes of a message around role and content


def shorten(turn: Turn) -> tuple[Turn, bool]:
    """The turn, cut if it has to be; and whether it was."""
    request = replace(turn.request, input=_shorter(turn.request.input))
    result = turn.result and replace(turn.result, text=_cut(turn.result.text, MOST_BYTES))
    short = replace(turn, request=request, result=result)
    return short, short != turn


def _shorter(given: TurnInput) -> TurnInput:
    if given.text is not None:
        return TurnInput(text=_cut(given.text, MOST_BYTES))
    if given.token_ids is not None:
        return TurnInput(token_ids=given.token_ids[:MOST_IDS])
    if given.messages is None:
        return given
    kept, left = [], MOST_BYTES
    for message in given.messages:
        kept.append(Message(message.role, _cut(message.content, left)))
        left -= len(message.content.encode()) + _AROUND
        if left <= 0:
            break
    return TurnInput(messages=tuple(kept))


def _cut(text: str, most: int) -> str:
    return text if len(data := text.encode()) <= most else data[:most].decode(errors="ignore")
