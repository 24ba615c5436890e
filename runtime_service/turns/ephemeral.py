"""Turns of a session of which nothing is to be kept: in memory, as many as are needed, and gone with it."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from common.db.paging import Page
from runtime_service.domain.recall import Indexed
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Turn

MOST_TURNS = 256
"""Turns that are remembered; a turn id counts as used for as long."""
MOST_BYTES = 4 << 20
"""Memory that they may take, about; the last is remembered however long it is."""


class TurnHistory(Protocol):
    """What keeps the turns of a session: `SessionRepository`, or this."""

    def find_turn(self, session_key: int, turn_id: str) -> Turn | None: ...

    def add_turn(self, session: Session, turn: Turn) -> None: ...

    def note_attempt(self, session: Session, turn: Turn) -> None: ...

    def finish_turn(
        self, session: Session, turn: Turn, tokens: Sequence[int], indexed: Indexed | None = None
    ) -> None: ...

    def history(self, session: Session, count: int) -> tuple[list[int], int, list[int]]: ...

    def list_turns(self, session: Session, page: Page, *, newest_first: bool = False) -> tuple[list[Turn], str]: ...


class Counts(Protocol):
    """What the database may know of such a session: how long it is and what was used, not what was said."""

    def check_owned(self, session: Session) -> None: ...

    def note_progress(self, session: Session, turn: Turn) -> None: ...


class EphemeralTurns:
    """The turns of one session; memory is bounded by the window, by MOST_TURNS and by MOST_BYTES."""

    def __init__(self, session: Session, counts: Counts, most_tokens: int) -> None:
        """`most_tokens` is how many of the last tokens may be asked for."""
        self._counts = counts
        self._turns: OrderedDict[str, Turn] = OrderedDict()
        self._size_bytes = 0
        self._sinks = list(session.opening[: session.window.sinks])
        self._recent = deque(session.opening, maxlen=most_tokens + session.window.window)

    def find_turn(self, session_key: int, turn_id: str) -> Turn | None:
        """A turn by the client's id, if it is remembered."""
        del session_key
        return self._turns.get(turn_id)

    def add_turn(self, session: Session, turn: Turn) -> None:
        """Remember a turn before it runs; raises Aborted (SESSION_TAKEN_OVER) if another has the session."""
        self._counts.check_owned(session)
        self._remember(turn)

    def note_attempt(self, session: Session, turn: Turn) -> None:
        """Nothing: such a turn is never started again."""

    def finish_turn(self, session: Session, turn: Turn, tokens: Sequence[int], indexed: Indexed | None = None) -> None:
        """Remember how a turn ended, and the tokens that it added; none is found by its words."""
        del indexed
        self._counts.note_progress(session, turn)
        self._remember(turn)
        self._sinks += tokens[: session.window.sinks - len(self._sinks)]
        self._recent.extend(tokens)

    def history(self, session: Session, count: int) -> tuple[list[int], int, list[int]]:
        """First tokens of the history as many as sinks, and its last `count` or more with their first position."""
        assert count <= len(self._recent) or len(self._recent) == session.position, count
        return self._sinks, session.position - len(self._recent), list(self._recent)

    def list_turns(self, session: Session, page: Page, *, newest_first: bool = False) -> tuple[list[Turn], str]:
        """A page of the turns that are remembered, the oldest or the newest first, and the token of the next."""
        del session
        remembered = list(self._turns.values())
        following: Iterable[Turn] = reversed(remembered) if newest_first else remembered
        if page.after is not None:
            last = int(page.after[0])
            following = (turn for turn in following if (turn.number < last if newest_first else turn.number > last))
        return page.fill(following, _size_of, lambda turn: (turn.number,))

    def _remember(self, turn: Turn) -> None:
        self._size_bytes += _size_of(turn) - _size_of(self._turns.get(turn.turn_id))
        self._turns[turn.turn_id] = turn
        while len(self._turns) > MOST_TURNS or (self._size_bytes > MOST_BYTES and len(self._turns) > 1):
            _, oldest = self._turns.popitem(last=False)
            self._size_bytes -= _size_of(oldest)


def _size_of(turn: Turn | None) -> int:
    if turn is None:
        return 0
    return turn.request.size_bytes + (0 if turn.result is None else turn.result.size_bytes)
