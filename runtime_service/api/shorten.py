"""Turns as they are listed: what is longer than a message may be is cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

from common.text.tools.values import ToolCall
from runtime_service.domain.turn import Result, Turn, TurnInput

MOST_BYTES = 1 << 20
"""Of the input of a turn, and of its reply, in UTF-8."""
MOST_IDS = MOST_BYTES // 5
"""Token ids take at most five bytes each."""
_AROUND = 16  # bytes of a message around role and content


def shorten(turn: Turn) -> tuple[Turn, bool]:
    """The turn, cut if it has to be; and whether it was."""
    request = replace(turn.request, input=_shorter(turn.request.input))
    result = turn.result and _shorter_result(turn.result)
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
        calls, spent = _fitting(message.tool_calls, left - len(message.content.encode()))
        kept.append(replace(message, content=_cut(message.content, left), tool_calls=calls))
        left -= len(message.content.encode()) + spent + _AROUND
        if left <= 0:
            break
    return TurnInput(messages=tuple(kept))


def _shorter_result(result: Result) -> Result:
    calls, _ = _fitting(result.tool_calls, MOST_BYTES)
    text, reasoning = (_cut(said, MOST_BYTES // 2) for said in (result.text, result.reasoning))
    if not result.reasoning:
        text = _cut(result.text, MOST_BYTES)
    return replace(result, text=text, reasoning=reasoning, tool_calls=calls)


def _fitting(calls: tuple[ToolCall, ...], most: int) -> tuple[tuple[ToolCall, ...], int]:
    """Whole calls as far as they fit, and the bytes of all: half a call would be another."""
    sizes = [len(call.arguments.encode()) + len(call.name) + _AROUND for call in calls]
    fitting = sum(total <= most for total in accumulate(sizes))
    return calls[:fitting], sum(sizes)


def _cut(text: str, most: int) -> str:
    return text if len(data := text.encode()) <= most else data[:most].decode(errors="ignore")
