"""Sessions and their turns in SQL. Calls block.

History is append-only: a turn's tokens are written once, with the turn, so a turn costs the same however long the
session is, and a lost cache is computed again from the last turns only. What a session's owner writes names the epoch
in which it claimed the session: see `storage.claims`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from common.auth.quotas import UNBOUNDED, Quotas
from common.catalog.catalog import add_hold, drop_hold
from common.catalog.rows import not_found
from common.db.database import Database, stream
from common.db.paging import Page, text_bytes
from common.errors import Aborted, AlreadyExists, NotFound, Reason
from runtime_service.domain.recall import Indexed
from runtime_service.domain.session import Session
from runtime_service.domain.session_filter import EVERY_SESSION, SessionFilter
from runtime_service.domain.turn import Turn
from runtime_service.storage.labels import has_labels, index_labels
from runtime_service.storage.quotas import check_sessions
from runtime_service.storage.recall.words import add_words
from runtime_service.storage.rows import (
    pack,
    parts_to_json,
    past_turns_to_json,
    result_to_json,
    session_from_row,
    session_to_row,
    turn_from_row,
    turn_to_row,
    unpack,
    view_to_json,
)
from runtime_service.storage.tables import sessions, turns
from runtime_service.storage.usage import add_usage

_TURNS_AT_ONCE = 64
_ROW_BYTES = 512  # of a message, for names, numbers and times
_PROGRESS = ("position", "turns", "last_active_at", "window_start_position")


class SessionRepository:
    """Sessions by principal and id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, session: Session, owner: str | None = None, quotas: Quotas = UNBOUNDED) -> Session:
        """Keep a new session, of `owner`, and hold its engine.

        Raises NotFound if the engine has gone, AlreadyExists by id, ResourceExhausted (QUOTA_EXCEEDED).
        """
        try:
            with self._database.write() as connection:
                check_sessions(connection, session.principal, quotas)
                values = {**session_to_row(session), "owner": owner}
                key = connection.execute(insert(sessions).values(values).returning(sessions.c.key)).scalar_one()
                index_labels(connection, key, session.labels)
                add_hold(connection, session.engine_name, session.engine_version, holder_of(session))
                return session_from_row(_row(connection, sessions.c.key == key))
        except IntegrityError:
            if self.find(session.principal, session.session_id) is None:
                raise not_found(session.engine, "it was deleted") from None
            raise session_exists(session.session_id) from None

    def find(self, principal: str, session_id: str) -> Session | None:
        """A session, if there is one."""
        with self._database.read() as connection:
            query = select(sessions).where(named(principal, session_id))
            row = connection.execute(query).mappings().first()
        return None if row is None else session_from_row(row)

    def get(self, principal: str, session_id: str) -> Session:
        """A session; raises NotFound (SESSION_NOT_FOUND)."""
        found = self.find(principal, session_id)
        if found is None:
            raise session_not_found(session_id)
        return found

    def owners(self, session_id: str) -> list[str]:
        """Principals that have a session of this id, in order."""
        query = select(sessions.c.principal).where(sessions.c.session_id == session_id).order_by(sessions.c.principal)
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def find_turn(self, session_key: int, turn_id: str) -> Turn | None:
        """A turn by the client's id, if there is one."""
        named = (turns.c.session_key == session_key) & (turns.c.turn_id == turn_id)
        with self._database.read() as connection:
            row = connection.execute(select(turns).where(named)).mappings().first()
        return None if row is None else turn_from_row(row)

    def add_turn(self, session: Session, turn: Turn) -> None:
        """Keep a turn before it runs; raises Aborted (SESSION_TAKEN_OVER) as all writes of an owner do."""
        with self._database.write_rows() as connection:
            change_owned(connection, session, last_active_at=turn.created_at)
            connection.execute(insert(turns).values(turn_to_row(session.key, turn)))

    def note_attempt(self, session: Session, turn: Turn) -> None:
        """Keep how often a turn was started, and stopped in good order."""
        values = {"attempt": turn.attempt, "stops": turn.stops}
        with self._database.write_rows() as connection:
            change_owned(connection, session, epoch=session.epoch)
            connection.execute(update(turns).where(_numbered(session.key, turn)).values(values))

    def finish_turn(self, session: Session, turn: Turn, tokens: Sequence[int], indexed: Indexed | None = None) -> None:
        """Keep how a turn ended, the `tokens` that it added, where the session is, what was used, and what the turn is
        found by if it is to be, all at once.

        The same again changes nothing: a turn that has ended is not counted again.
        """
        assert turn.result is not None, turn
        values = {
            "result": result_to_json(turn.result),
            "reason": turn.result.reason.value,
            "tokens": pack(tokens),
            "recalled": past_turns_to_json(turn.result.recalled),
            "view": view_to_json(turn.result),
            "parts": parts_to_json(turn.result),
            "ended_at": turn.ended_at,
        }
        new = {name: getattr(session, name) for name in (*_PROGRESS, "last_sequence", "oldest_visible_turn")}
        with self._database.write_rows() as connection:
            change_owned(connection, session, **new)
            unended = _numbered(session.key, turn) & turns.c.result.is_(None)
            if connection.execute(update(turns).where(unended).values(values)).rowcount:
                if indexed is not None:
                    add_words(connection, session.key, indexed)
                add_usage(connection, session, turn)

    def check_owned(self, session: Session) -> None:
        """Raise Aborted (SESSION_TAKEN_OVER) if another has the session."""
        with self._database.write_rows() as connection:
            change_owned(connection, session, epoch=session.epoch)

    def note_progress(self, session: Session, turn: Turn) -> None:
        """Keep how long a session is after a turn, of which nothing else is kept, and what was used.

        The same again changes nothing, as its turns tell.
        """
        counts = {name: getattr(session, name) for name in _PROGRESS}
        before = _owned(session) & (sessions.c.turns < session.turns)
        with self._database.write_rows() as connection:
            if connection.execute(update(sessions).where(before).values(counts)).rowcount:
                add_usage(connection, session, turn)
            else:
                change_owned(connection, session, epoch=session.epoch)

    def set_expiry(self, session: Session) -> None:
        """Write when the session is deleted if it is not used until then."""
        with self._database.write_rows() as connection:
            change_owned(connection, session, expires_at=session.expires_at)

    def history(self, session: Session, count: int) -> tuple[list[int], int, list[int]]:
        """First tokens of the history as many as sinks, and its last `count` or more with their first position."""
        with self._database.read() as connection:
            recent = self._last_tokens(connection, session, count)
            sinks = self._first_tokens(connection, session, session.window.sinks)
        return sinks, session.position - len(recent), recent

    def _last_tokens(self, connection: Connection, session: Session, count: int) -> list[int]:
        kept = (turns.c.session_key == session.key) & turns.c.tokens.is_not(None)
        query = select(turns.c.tokens).where(kept).order_by(turns.c.number.desc())
        pieces: list[list[int]] = []
        found = 0
        with connection.execution_options(yield_per=_TURNS_AT_ONCE).execute(query) as rows:
            for (tokens,) in rows:
                pieces.append(unpack(tokens))
                found += len(pieces[-1])
                if found >= count:
                    break
            else:
                pieces.append(list(session.opening))
        return [token for piece in reversed(pieces) for token in piece]

    def _first_tokens(self, connection: Connection, session: Session, count: int) -> list[int]:
        kept = (turns.c.session_key == session.key) & turns.c.tokens.is_not(None)
        query = select(turns.c.tokens).where(kept).order_by(turns.c.number)
        tokens = list(session.opening)
        with connection.execution_options(yield_per=_TURNS_AT_ONCE).execute(query) as rows:
            for (more,) in rows:
                if len(tokens) >= count:
                    break
                tokens += unpack(more)
        return tokens[:count]

    def list_sessions(
        self, principal: str | None, page: Page, only: SessionFilter = EVERY_SESSION
    ) -> tuple[list[Session], str]:
        """A page of sessions, the last active first, and the token of the next. None: everybody's."""
        order = (sessions.c.last_active_at.desc(), sessions.c.key.desc())
        query = select(sessions).where(*_passes(only))
        if principal is not None:
            query = query.where(sessions.c.principal == principal)
        query = query.order_by(*order).limit(page.size + 1)
        if page.after is not None:
            query = query.where(_after(page.after))
        with self._database.read() as connection, stream(connection, query) as rows:
            kept, token = page.fill(rows, _session_bytes, lambda row: (_micros(row["last_active_at"]), row["key"]))
        return [session_from_row(row) for row in kept], token

    def list_turns(self, session: Session, page: Page, *, newest_first: bool = False) -> tuple[list[Turn], str]:
        """A page of turns, the oldest or the newest first, and the token of the next."""
        mine, number = turns.c.session_key == session.key, turns.c.number
        if page.after is not None:
            mine &= number < int(page.after[0]) if newest_first else number > int(page.after[0])
        order = number.desc() if newest_first else number
        query = select(turns).where(mine).order_by(order).limit(page.size + 1)
        with self._database.read() as connection, stream(connection, query) as rows:
            kept, token = page.fill(rows, _turn_bytes, lambda row: (row["number"],))
        return [turn_from_row(row) for row in kept], token

    def delete(self, session: Session) -> bool:
        """Delete a session with its turns, and end its hold on its engine; False: it was gone, or has another owner."""
        with self._database.write() as connection:
            if not connection.execute(delete(sessions).where(_owned(session))).rowcount:
                return False
            drop_hold(connection, session.engine_name, session.engine_version, holder_of(session))
            return True


def session_not_found(session_id: str) -> NotFound:
    """There is no such session."""
    return NotFound(Reason.SESSION_NOT_FOUND, f"no session sessions/{session_id}", session=f"sessions/{session_id}")


def session_exists(session_id: str) -> AlreadyExists:
    """The id is taken by a session that differs."""
    name = f"sessions/{session_id}"
    message = f"{name} exists and was created by another request; open it by its name, or choose another id"
    return AlreadyExists(Reason.SESSION_EXISTS, message, session=name)


def holder_of(session: Session) -> str:
    """Who holds its engine."""
    return f"{session.principal}/{session.name}"


def named(principal: str, session_id: str) -> ColumnElement[bool]:
    """The session of a principal and an id."""
    return and_(sessions.c.principal == principal, sessions.c.session_id == session_id)


def _owned(session: Session) -> ColumnElement[bool]:
    return and_(sessions.c.key == session.key, sessions.c.epoch == session.epoch)


def change_owned(connection: Connection, session: Session, **values: object) -> None:
    """Write to a session's row in the epoch of its owner; raises Aborted if another epoch has begun."""
    if not connection.execute(update(sessions).where(_owned(session)).values(values)).rowcount:
        what = f"{session.name} was opened at another server, or deleted"
        raise Aborted(Reason.SESSION_TAKEN_OVER, what, session=session.name)


def _passes(only: SessionFilter) -> Iterator[ColumnElement[bool]]:
    """Conditions: a session is among those asked for."""
    yield from has_labels(only.labels)
    if only.engine is not None:
        yield sessions.c.engine_name == only.engine.name
        if only.engine.version is not None:
            yield sessions.c.engine_version == only.engine.version
        if only.engine.digest is not None:
            yield sessions.c.engine_digest == only.engine.digest


def _numbered(session_key: int, turn: Turn) -> ColumnElement[bool]:
    return and_(turns.c.session_key == session_key, turns.c.number == turn.number)


def _row(connection: Connection, where: ColumnElement[bool]) -> RowMapping:
    return connection.execute(select(sessions).where(where)).mappings().one()


def _after(key: tuple[str | int, ...]) -> ColumnElement[bool]:
    active, last = _EPOCH + timedelta(microseconds=int(key[0])), int(key[1])
    older = sessions.c.last_active_at < active
    return or_(older, and_(sessions.c.last_active_at == active, sessions.c.key < last))


def _session_bytes(row: RowMapping) -> int:
    return _ROW_BYTES + text_bytes(row["labels"], row["options"])


def _turn_bytes(row: RowMapping) -> int:
    return _ROW_BYTES + text_bytes(row["body"], row["result"], row["parts"])


def _micros(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
