"""What is fed of a turn that is read again, and what it is found by."""

from __future__ import annotations

from collections.abc import Sequence

from runtime_service.decoding.text import Text
from runtime_service.domain.recall import Indexed
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Message, Turn, TurnInput
from runtime_service.recall.words import kept_words


def own_tokens(turn: Turn, tokens: Sequence[int], session: Session, text: Text) -> tuple[int, ...]:
    """Of the `tokens` that a turn added to the history those that it did not recall itself, as a turn in the middle.

    The first turn of some templates begins otherwise: it is wrapped as any other.
    """
    assert turn.result is not None, turn
    usage, request = turn.result.usage, turn.request
    first = usage.position - len(tokens) == len(session.opening) and request.input.token_ids is None
    if not (first and text.begins_otherwise(session.opening)):
        return tuple(tokens[usage.recalled_tokens :])
    messages = request.input.messages or (Message("user", request.input.text or ""),)
    before = () if request.no_reply else text.assistant_before
    return (*text.messages(messages, no_reply=request.no_reply), *before, *tokens[usage.prompt_tokens :])


def indexed(turn: Turn, tokens: int, text: Text) -> Indexed | None:
    """What a turn is found by that added so many tokens; None: it cannot be read again, or has no words."""
    if (span := turn.past(tokens)) is None:
        return None
    words = kept_words(said_in(turn, text))
    return Indexed(span, words) if words else None


def said_in(turn: Turn, text: Text) -> tuple[str, ...]:
    """What was said in a turn: input and reply."""
    result = turn.result
    calls = () if result is None else (f"{call.name} {call.arguments}" for call in result.tool_calls)
    return (*said_by_user(turn.request.input, text), "" if result is None else result.text, *calls)


def said_by_user(given: TurnInput, text: Text) -> tuple[str, ...]:
    """What went in, as text: of bare tokens what they are decoded to."""
    if given.messages is not None:
        return tuple(message.content for message in given.messages)
    if given.token_ids is not None:
        detokenizer = text.detokenizer()
        return ("".join(map(detokenizer.push, given.token_ids)),)
    return (given.text or "",)
