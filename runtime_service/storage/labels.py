"""The labels of sessions, indexed: a row for each, by which sessions are found again. A session's own row has them too.

Keys and values are any text, of which a database may take less or compare more loosely; their digest is exact.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from sqlalchemy import ColumnElement, Connection, delete, insert, select

from runtime_service.storage.tables import labels, sessions


def index_labels(connection: Connection, session_key: int, of_session: Mapping[str, str]) -> None:
    """Let a session be found by these labels and no others."""
    connection.execute(delete(labels).where(labels.c.session_key == session_key))
    if of_session:
        rows = [{"session_key": session_key, "label": _digest(*label)} for label in of_session.items()]
        connection.execute(insert(labels), rows)


def has_labels(wanted: tuple[tuple[str, str], ...]) -> Iterator[ColumnElement[bool]]:
    """Conditions: a session has each label."""
    for label in wanted:
        yield sessions.c.key.in_(select(labels.c.session_key).where(labels.c.label == _digest(*label)))


def _digest(key: str, value: str) -> bytes:
    return hashlib.sha256(json.dumps([key, value]).encode()).digest()
