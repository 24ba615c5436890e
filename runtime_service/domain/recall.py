"""Turns that have left the window and are read again: what a client asks for, what is found by, what was read.

Plain data and rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.controls import check_name
from common.errors import FailedPrecondition, InvalidArgument, Reason

_SHARE = 4
_LONGEST_ID = 64
MOST_NAMED = 64
"""Turns that a turn may name."""
TURN_FIELD = "turn.recall"


def most_recalled(window: int) -> int:
    """Tokens that may be recalled in a turn, and those that pinned turns may have, with a window of so many."""
    return window // _SHARE


def check_budget(tokens: int, window: int, field: str) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for more tokens than a session with such a window may recall in a turn."""
    most = most_recalled(window)
    if not 0 <= tokens <= most:
        what = f"{field} has to be 0 to {most}, a quarter of the session's window of {window}; it is {tokens}"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field=field, value=tokens, most=most)


def check_turn_ids(turn_ids: Sequence[str]) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for more turns to recall than may be named, and for what names none."""
    field = f"{TURN_FIELD}.turn_ids"
    if len(turn_ids) > MOST_NAMED:
        what = f"{field} names {len(turn_ids)} turns; at most {MOST_NAMED} are allowed"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field=field)
    for index, turn_id in enumerate(turn_ids):
        check_name(turn_id, f"{field}[{index}]", _LONGEST_ID, least=1)


def with_pin(pins: tuple[PastTurn, ...], turn: PastTurn, window: int) -> tuple[PastTurn, ...]:
    """Pinned turns and one more, the oldest first; raises FailedPrecondition (PINS_FULL)."""
    if turn.number in {pin.number for pin in pins}:
        return pins
    taken, most = sum(pin.tokens for pin in pins), most_recalled(window)
    if taken + turn.tokens > most:
        what = (
            f"turn {turn.turn_id!r} has {turn.tokens} tokens and the pinned turns have {taken}; together they may have "
            f"{most}, a quarter of the session's window; unpin one"
        )
        raise FailedPrecondition(Reason.PINS_FULL, what, tokens=turn.tokens, pinned=taken, most=most)
    return tuple(sorted((*pins, turn), key=lambda pin: pin.number))


@dataclass(frozen=True)
class Recall:
    """What a turn asks for: another budget than the session's, or these turns instead of a search."""

    tokens: int | None = None
    turn_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Span:
    """Where a turn's own tokens stand in the history, without those that it recalled itself."""

    number: int
    position: int
    tokens: int


@dataclass(frozen=True)
class Indexed:
    """What a turn is found by: the numbers of its words."""

    span: Span
    words: tuple[int, ...]


@dataclass(frozen=True)
class PastTurn(Span):
    """A turn that is read again, or is to be: where it stands, and how many tokens are read of it."""

    turn_id: str
