"""How many tokens a turn may read again, and whether what it asks for is allowed. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from common.errors import InvalidArgument, Reason
from runtime_service.domain.recall import TURN_FIELD, PastTurn, Span, check_budget, most_recalled
from runtime_service.domain.session import Session
from runtime_service.domain.turn import TurnRequest

_TOKENS, _TURN_IDS = f"{TURN_FIELD}.tokens", f"{TURN_FIELD}.turn_ids"
S = TypeVar("S", bound=Span)


def budget_of(session: Session, request: TurnRequest) -> int:
    """Tokens of turns that are named or found; pinned ones come besides. Without a reply nobody would read them."""
    asked = request.recall
    if asked is not None and asked.tokens is not None:
        return asked.tokens
    if asked is not None and asked.turn_ids:
        return most_recalled(session.window.window)
    return 0 if request.no_reply else session.options.recall_tokens


def recalls(session: Session, request: TurnRequest) -> bool:
    """Whether anything may have to be read again in a turn."""
    return session.is_kept and bool(session.pins or budget_of(session, request))


def fitting(spans: Iterable[S], most: int) -> list[S]:
    """Those that fit together into so many tokens: one that does not is left out for the next."""
    taken: list[S] = []
    for span in spans:
        if span.tokens <= most:
            taken.append(span)
            most -= span.tokens
    return taken


def check_recall(session: Session, request: TurnRequest) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for a budget that the session does not have."""
    asked = request.recall
    if asked is None or asked.tokens is None:
        return
    check_budget(asked.tokens, session.window.window, _TOKENS)
    if asked.tokens and not (session.options.recall_tokens or asked.turn_ids):
        what = (
            f"{_TOKENS} is {asked.tokens}, but the session has recall_tokens 0, so that nothing of it can be searched; "
            "begin one with recall_tokens, or name turn_ids"
        )
        raise InvalidArgument(Reason.INVALID_FIELD, what, field=_TOKENS, value=asked.tokens)


def check_named(named: Iterable[PastTurn], session: Session, request: TurnRequest, prompt: int) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for turns that do not fit together, beside a `prompt` of so many tokens."""
    tokens = sum(turn.tokens for turn in named)
    most = min(budget_of(session, request), max(0, session.window.window - prompt))
    if tokens > most:
        what = f"{_TURN_IDS} names turns of {tokens} tokens together, and this turn may recall {most}; name fewer"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field=_TURN_IDS, tokens=tokens, most=most)
