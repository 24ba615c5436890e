"""Turns of before, as they are read again. Calls block."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import BigInteger, Connection, Executable, Select, TableValuedAlias, bindparam, select

from common.db.database import Database, stream
from common.db.direct import Direct
from common.errors import FailedPrecondition, InvalidArgument, NotFound, Reason
from runtime_service.domain.recall import PastTurn
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Result, Turn
from runtime_service.storage.recall.numbers import TABLES, numbered, numbers_parameter
from runtime_service.storage.rows import TOKEN_BYTES, result_from_row, turn_from_row, unpack
from runtime_service.storage.tables import turns


class PastTurns:
    """Turns of sessions that are given by their rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tokens(self, session: Session, numbers: Collection[int]) -> dict[int, tuple[str, list[int]]]:
        """Of turns that have ended their ids, and all tokens that each added to the history; cheaper than `read`."""
        with self._database.direct() as connection:
            asked = {"session_key": session.key, **numbers_parameter(connection, numbers)}
            rows = _TOKENS.rows(connection, asked)
        return {number: (turn_id, unpack(tokens)) for number, turn_id, tokens in rows if tokens}

    def read(self, session: Session, numbers: Collection[int]) -> list[tuple[Turn, list[int]]]:
        """Turns that have ended, the oldest first, with all tokens that each added to the history."""
        return self._read(_NUMBERED, {"session_key": session.key, "numbers": list(numbers)})

    def read_named(self, session: Session, turn_ids: Collection[str]) -> list[tuple[Turn, list[int]]]:
        """Turns by the client's ids, the oldest first, with the tokens that each has added so far."""
        return self._read(_NAMED, {"session_key": session.key, "turn_ids": list(turn_ids)})

    def _read(self, query: Executable, asked: dict[str, object]) -> list[tuple[Turn, list[int]]]:
        with self._database.read() as connection:
            rows = connection.execute(query, asked).mappings().all()
        return [(turn_from_row(row), unpack(row["tokens"] or b"")) for row in rows]

    def results(self, session: Session, since: int) -> list[tuple[Result, int]]:
        """Results of the turns that end behind a position, the newest first, with how many tokens each has added."""
        ended = (turns.c.session_key == session.key) & turns.c.result.is_not(None)
        query = (
            select(turns.c.result, turns.c.tokens, turns.c.recalled, turns.c.view, turns.c.parts)
            .where(ended)
            .order_by(turns.c.number.desc())
        )
        found: list[tuple[Result, int]] = []
        with self._database.read() as connection, stream(connection, query) as rows:
            for row in rows:
                if (result := result_from_row(row)).usage.position <= since:
                    break
                found.append((result, len(row["tokens"] or b"") // TOKEN_BYTES))
        return found


def past_turn(connection: Connection, session: Session, turn_id: str) -> PastTurn:
    """Where a turn stands that can be read again.

    Raises NotFound (TURN_NOT_FOUND), FailedPrecondition (TURN_NOT_FINISHED), and InvalidArgument (INVALID_FIELD) for
    one that was taken back, failed, or was cancelled before it was read.
    """
    named = (turns.c.session_key == session.key) & (turns.c.turn_id == turn_id)
    row = connection.execute(select(turns).where(named)).mappings().first()
    if row is None:
        raise turn_not_found(session, turn_id)
    if row["result"] is None:
        what = f"turn {turn_id!r} of {session.name} has not finished; pin it when it has"
        raise FailedPrecondition(Reason.TURN_NOT_FINISHED, what, turn_id=turn_id)
    past = turn_from_row(row).past(len(unpack(row["tokens"] or b"")))
    if past is None:
        what = f"turn_id: turn {turn_id!r} of {session.name} is not whole in the conversation, so it cannot be pinned"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field="turn_id", turn_id=turn_id)
    return past


def turn_not_found(session: Session, turn_id: str, field: str = "") -> NotFound:
    """There is no such turn."""
    message = f"{field and field + ': '}{session.name} has no turn {turn_id!r}"
    return NotFound(Reason.TURN_NOT_FOUND, message, session=session.name, turn_id=turn_id)


_MINE = turns.c.session_key == bindparam("session_key", type_=BigInteger)
_ENDED = _MINE & turns.c.number.in_(bindparam("numbers", expanding=True)) & turns.c.result.is_not(None)
_NUMBERED = select(turns).where(_ENDED).order_by(turns.c.number)
_NAMED = (
    select(turns).where(_MINE & turns.c.turn_id.in_(bindparam("turn_ids", expanding=True))).order_by(turns.c.number)
)


def _tokens(each: TableValuedAlias) -> Select[Any]:
    ended = _MINE & turns.c.result.is_not(None) & numbered(turns.c.number, each)
    return select(turns.c.number, turns.c.turn_id, turns.c.tokens).where(ended)


_TOKENS = Direct({name: _tokens(each) for name, each in TABLES.items()})
