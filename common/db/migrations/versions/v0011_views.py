"""A session says what its model sees; of those that are there it follows from their windows and turns."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Connection

revision = "0011"
down_revision = "0010"
compatible_from = "0007"

_SESSIONS = sa.table(
    "sessions",
    *(sa.column(name) for name in ("key", "options", "position", "window_start_position", "oldest_visible_turn")),
)
_TURNS = sa.table("turns", *(sa.column(name) for name in ("session_key", "number", "turn_id", "tokens")))
_TOKEN_BYTES, _AT_ONCE = 4, 64


def upgrade() -> None:
    op.add_column("turns", sa.Column("view", sa.Text))
    op.add_column("sessions", sa.Column("window_start_position", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("oldest_visible_turn", sa.String(64), nullable=False, server_default=""))
    connection = op.get_bind()
    found = connection.execute(sa.select(_SESSIONS.c.key, _SESSIONS.c.options, _SESSIONS.c.position)).all()
    for key, options, position in found:
        _fill(connection, key, json.loads(options), position)


def _fill(connection: Connection, key: int, options: dict[str, int], position: int) -> None:
    sinks, window = options.get("sink_tokens", 0), options.get("window_tokens", 0)
    start = max(sinks, position - window)
    oldest = _oldest_visible(connection, key, position, start if start > sinks else 0)
    values = {"window_start_position": start, "oldest_visible_turn": oldest}
    connection.execute(_SESSIONS.update().where(_SESSIONS.c.key == key).values(values))


def _oldest_visible(connection: Connection, key: int, position: int, first: int) -> str:
    size, oldest = sa.func.length(_TURNS.c.tokens), ""
    mine = (_TURNS.c.session_key == key) & (size > 0)
    query = sa.select(_TURNS.c.turn_id, size).where(mine).order_by(_TURNS.c.number.desc())
    with connection.execute(query.execution_options(yield_per=_AT_ONCE)) as rows:
        for turn_id, length in rows:
            position -= length // _TOKEN_BYTES
            if position < first:
                break
            oldest = turn_id
    return oldest
