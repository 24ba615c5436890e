"""Which runtime owns a session: it is claimed by one at a time, requested from it by others, and handed over. In SQL.

A claim begins the session's next epoch, and every write names the epoch of its writer. So a replica that was paused,
and whose sessions others have claimed meanwhile, changes nothing when it goes on. Calls block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, func, insert, or_, select, update

from common.db.database import Database, database_time
from common.errors import FailedPrecondition, Reason
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Turn
from runtime_service.domain.window_view import TurnStart
from runtime_service.storage import replicas
from runtime_service.storage.repository import named, session_not_found
from runtime_service.storage.rows import session_from_row, turn_from_row
from runtime_service.storage.tables import cancels, sessions, turns
from runtime_service.storage.whole_turns import whole_turns

_FLEETING = '"durability":"NONE"'  # in the options of a session of which nothing is kept

Key = tuple[str, str]  # principal, session id


@dataclass(frozen=True)
class Claimed:
    """A session that this replica has now, the turns that never ended, the number of its next turn, and its view."""

    session: Session
    unended: list[Turn]
    next_number: int
    whole_turns: list[TurnStart] = field(default_factory=list)


class SessionClaims:
    """The sessions of `replica`, and what it needs to know of those of others."""

    def __init__(
        self, database: Database, replica: str, lease_s: float, is_alive: Callable[[str], bool] = replicas.is_alive
    ) -> None:
        self.replica = replica
        self.lease_s = lease_s
        self._database = database
        self._is_alive = is_alive

    def renew(self) -> None:
        """Say that this replica is alive: more often than a lease is long."""
        with self._database.write() as connection:
            replicas.renew(connection, self.replica, timedelta(seconds=self.lease_s))
            replicas.forget_dead(connection, timedelta(seconds=self.lease_s))

    def release_all(self) -> None:
        """Give up all that this replica has."""
        with self._database.write() as connection:
            mine = sessions.c.owner == self.replica
            connection.execute(update(sessions).where(mine).values(owner=None))
            replicas.remove(connection, self.replica)

    def alive(self) -> set[str]:
        """All replicas that are alive."""
        with self._database.read() as connection:
            return replicas.alive(connection, self._is_alive)

    def claim(self, principal: str, session_id: str) -> Claimed | None:
        """Own a session that no live replica owns; None: another does, and is asked to hand it over now.

        Raises NotFound (SESSION_NOT_FOUND), and FailedPrecondition (SESSION_NOT_KEPT) where asking would end it.
        """
        with self._database.write() as connection:
            row = find_row(connection, principal, session_id)
            if self._is_taken(connection, row["owner"]):
                check_kept(session_from_row(row))
                _request(connection, row, self.replica)
                return None
            none = dict.fromkeys(("wanted_by", "changed_for", "expires_at"))
            values = {"epoch": row["epoch"] + 1, "owner": self.replica, **none}
            connection.execute(update(sessions).where(sessions.c.key == row["key"]).values(values))
            return _claimed(connection, session_from_row(find_row(connection, principal, session_id)))

    def release(self, session: Session) -> None:
        """Let others have a session, unless they do already."""
        mine = and_(sessions.c.key == session.key, sessions.c.epoch == session.epoch, sessions.c.owner == self.replica)
        with self._database.write_rows() as connection:
            connection.execute(update(sessions).where(mine).values(owner=None, wanted_by=None))

    def is_owner(self, session: Session) -> bool:
        """Whether this replica still owns a session: nobody has claimed it since, or deleted it."""
        epoch = select(sessions.c.epoch).where(sessions.c.key == session.key)
        with self._database.read() as connection:
            return connection.scalar(epoch) == session.epoch

    def requested(self) -> list[Key]:
        """Sessions of this replica that others ask for."""
        asked = and_(sessions.c.wanted_by.is_not(None), sessions.c.owner == self.replica)
        with self._database.read() as connection:
            found = connection.execute(select(sessions.c.principal, sessions.c.session_id).where(asked)).all()
        return [(row.principal, row.session_id) for row in found]

    def request_cancel(self, session: Session, turn_id: str, *, discard: bool) -> None:
        """Ask the owner of a session, or the next one, to cancel a turn; one that has ended stays as it is."""
        unended = and_(turns.c.session_key == session.key, turns.c.turn_id == turn_id, turns.c.result.is_(None))
        named = and_(cancels.c.session_key == session.key, cancels.c.turn_id == turn_id)
        with self._database.write() as connection:
            runs = connection.scalar(select(turns.c.number).where(unended)) is not None
            if (runs or not session.is_kept) and connection.execute(select(cancels).where(named)).first() is None:
                values = {"session_key": session.key, "turn_id": turn_id, "discard": discard}
                connection.execute(insert(cancels).values(values))

    def take_cancel_requests(self) -> list[tuple[Key, str, bool]]:
        """Sessions of this replica, their turns that others ask to cancel, and whether to discard them; once each."""
        mine = and_(cancels.c.session_key == sessions.c.key, sessions.c.owner == self.replica)
        columns = (sessions.c.principal, sessions.c.session_id, cancels.c.turn_id, cancels.c.discard, sessions.c.key)
        with self._database.read() as connection:
            found = connection.execute(select(*columns).where(mine)).all()
        for row in found:
            told = and_(cancels.c.session_key == row.key, cancels.c.turn_id == row.turn_id)
            with self._database.write_rows() as connection:
                connection.execute(delete(cancels).where(told))
        return [((row.principal, row.session_id), row.turn_id, row.discard) for row in found]

    def expired(self) -> list[Session]:
        """Sessions whose time has passed, and which no other replica has."""
        with self._database.read() as connection:
            past = sessions.c.expires_at <= database_time(connection)
            rows = connection.execute(select(sessions).where(past & self._not_others(connection))).mappings()
            return [session_from_row(row) for row in rows]

    def set_missing_expiries(self) -> None:
        """Let sessions whose replica died expire, from now on; those of which nothing is kept, now."""
        fleeting = sessions.c.options.contains(_FLEETING)
        lost = (sessions.c.delete_after_idle_s.is_not(None) | fleeting) & sessions.c.expires_at.is_(None)
        with self._database.write() as connection:
            now = database_time(connection)
            free = lost & self._not_others(connection) & (sessions.c.owner.is_distinct_from(self.replica))
            found = connection.execute(select(sessions).where(free)).mappings().all()
            for key, session in [(row["key"], session_from_row(row)) for row in found]:
                values = {"expires_at": session.expiry(now) if session.is_kept else now}
                connection.execute(update(sessions).where(sessions.c.key == key).values(values))

    def _is_taken(self, connection: Connection, owner: str | None) -> bool:
        if owner is None or owner == self.replica:
            return False
        return owner in replicas.alive(connection, self._is_alive)

    def _not_others(self, connection: Connection) -> ColumnElement[bool]:
        others = replicas.alive(connection, self._is_alive) - {self.replica}
        return or_(sessions.c.owner.is_(None), sessions.c.owner.not_in(others))


def check_kept(session: Session) -> None:
    """Raise FailedPrecondition (SESSION_NOT_KEPT) for a session that only its owner can go on with."""
    if not session.is_kept:
        what = f"nothing of {session.name} is kept (durability none): it goes on only at its server, and only forward"
        raise FailedPrecondition(Reason.SESSION_NOT_KEPT, what, session=session.name)


def find_row(connection: Connection, principal: str, session_id: str) -> RowMapping:
    """Everything that is kept of a session itself; raises NotFound (SESSION_NOT_FOUND)."""
    row = connection.execute(select(sessions).where(named(principal, session_id))).mappings().first()
    if row is None:
        raise session_not_found(session_id)
    return row


def _request(connection: Connection, row: RowMapping, replica: str) -> None:
    if row["wanted_by"] is None:
        connection.execute(update(sessions).where(sessions.c.key == row["key"]).values(wanted_by=replica))


def _claimed(connection: Connection, session: Session) -> Claimed:
    mine = turns.c.session_key == session.key
    unended = select(turns).where(mine & turns.c.result.is_(None)).order_by(turns.c.number)
    found = [turn_from_row(row) for row in connection.execute(unended).mappings()]
    last = connection.scalar(select(func.max(turns.c.number)).where(mine))
    start = session.window.start(session.position)  # a program of before may have taken it further
    session = replace(session, window_start_position=max(start, session.window_start_position))
    whole = whole_turns(connection, session)
    session = replace(session, oldest_visible_turn=whole[0].turn_id if whole else "")
    return Claimed(session, found, (last or 0) + 1, whole)
