"""Changes of a session by request, in SQL, whichever replica has it. Calls block.

Who has a session writes neither its labels, its options nor its pins, so a change needs no claim: it is made in the
row, and the replica that has the session in memory is told to go by it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from sqlalchemy import Connection, RowMapping, and_, select, update

from common.db.database import Database, database_time
from runtime_service.domain.recall import with_pin
from runtime_service.domain.session import Session
from runtime_service.domain.session_update import SessionUpdate
from runtime_service.storage import replicas
from runtime_service.storage.claims import Key, check_kept, find_row
from runtime_service.storage.labels import index_labels
from runtime_service.storage.recall.past_turns import past_turn
from runtime_service.storage.rows import session_from_row, session_to_row
from runtime_service.storage.tables import sessions

_CHANGED = ("labels", "options", "delete_after_idle_s", "expires_at")
_PINS = ("pins",)


class SessionUpdates:
    """Changes that `replica` makes, and those that others made of its sessions."""

    def __init__(self, database: Database, replica: str, is_alive: Callable[[str], bool] = replicas.is_alive) -> None:
        self._database = database
        self._replica = replica
        self._is_alive = is_alive

    def keep(self, key: Key, change: SessionUpdate) -> Session:
        """Change a session; another replica that has it is told. Raises NotFound (SESSION_NOT_FOUND)."""
        with self._database.write() as connection:
            row = find_row(connection, *key)
            busy = self._owner(connection, row) is not None and row["expires_at"] is None
            session = change.apply(session_from_row(row), database_time(connection), busy=busy)
            self._write(connection, row, session, _CHANGED)
            index_labels(connection, session.key, session.labels)
        return session

    def pin(self, key: Key, turn_id: str, *, pinned: bool) -> Session:
        """Pin a turn of a session, or let it go; another replica that has the session is told.

        Raises NotFound (SESSION_NOT_FOUND, TURN_NOT_FOUND), FailedPrecondition (SESSION_NOT_KEPT, TURN_NOT_FINISHED,
        PINS_FULL), and InvalidArgument for a turn of which nothing is in the conversation.
        """
        with self._database.write() as connection:
            row = find_row(connection, *key)
            session = session_from_row(row)
            check_kept(session)
            if pinned:
                pins = with_pin(session.pins, past_turn(connection, session, turn_id), session.window.window)
            else:
                pins = tuple(pin for pin in session.pins if pin.turn_id != turn_id)
            session = replace(session, pins=pins)
            self._write(connection, row, session, _PINS)
        return session

    def _owner(self, connection: Connection, row: RowMapping) -> str | None:
        """The replica that has a session, if it is alive."""
        return row["owner"] if row["owner"] in replicas.alive(connection, self._is_alive) else None

    def _write(self, connection: Connection, row: RowMapping, session: Session, changed: Collection[str]) -> None:
        owner = self._owner(connection, row)
        values = {name: value for name, value in session_to_row(session).items() if name in changed}
        told = None if owner == self._replica else owner
        mine = sessions.c.key == session.key
        connection.execute(update(sessions).where(mine).values(**values, changed_for=told))

    def pending(self) -> list[Key]:
        """Sessions of this replica that others have changed."""
        changed = sessions.c.changed_for == self._replica
        with self._database.read() as connection:
            found = connection.execute(select(sessions.c.principal, sessions.c.session_id).where(changed)).all()
        return [(row.principal, row.session_id) for row in found]

    def take(self, key: Key) -> Session | None:
        """A session as another replica changed it, once; None: it did not, or this one does not have it any more."""
        named = and_(sessions.c.principal == key[0], sessions.c.session_id == key[1])
        changed = and_(named, sessions.c.changed_for == self._replica)
        with self._database.write() as connection:
            row = connection.execute(select(sessions).where(changed)).mappings().first()
            connection.execute(update(sessions).where(changed).values(changed_for=None))
        return None if row is None else session_from_row(row)
