"""Which turns of a session are whole in the view of its model, by what is kept of them. In SQL.

Read backward from the newest, so it costs what the window has, not what the session has.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from common.db.database import stream
from runtime_service.domain.session import Session
from runtime_service.domain.window_view import TurnStart
from runtime_service.storage.rows import TOKEN_BYTES
from runtime_service.storage.tables import turns


def whole_turns(connection: Connection, session: Session, last: int | None = None) -> list[TurnStart]:
    """The turns that are whole in view at the session's position, the oldest first; `last` is the number of the last.

    None: its last, whatever number that has.
    """
    size = func.length(turns.c.tokens)
    kept = (turns.c.session_key == session.key) & (size > 0)
    if last is not None:
        kept &= turns.c.number <= last
    query = select(turns.c.turn_id, size.label("size")).where(kept).order_by(turns.c.number.desc())
    found: list[TurnStart] = []
    position, first = session.position, session.window_start_position if session.evicted_tokens else 0
    with stream(connection, query) as rows:
        for row in rows:
            position -= row["size"] // TOKEN_BYTES
            if position < first:
                break
            found.append(TurnStart(position, row["turn_id"]))
    return found[::-1]
