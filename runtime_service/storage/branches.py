"""Sessions that go back to an earlier turn, or begin as another session was at one. In SQL; calls block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, literal, select

from common.auth.quotas import UNBOUNDED, Quotas
from common.catalog.catalog import add_hold
from common.db.database import Database
from common.errors import FailedPrecondition, Reason
from runtime_service.domain.recall import PastTurn
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Turn
from runtime_service.storage.labels import index_labels
from runtime_service.storage.quotas import check_sessions
from runtime_service.storage.recall.past_turns import turn_not_found
from runtime_service.storage.recall.words import copy_words, drop_words
from runtime_service.storage.repository import change_owned, holder_of, session_not_found
from runtime_service.storage.rows import past_turns_to_json, session_from_row, session_to_row, turn_from_row
from runtime_service.storage.tables import sessions, snapshots, turns
from runtime_service.storage.whole_turns import whole_turns

_CHANGED = ("position", "turns", "window_start_position", "oldest_visible_turn")


@dataclass(frozen=True)
class Cut:
    """A place in a session's history: behind its turn `number`, 0 for the start.

    What is before `forgotten_to`, sinks aside, is not in view any more.
    """

    number: int
    position: int
    turns: int
    last_sequence: int
    forgotten_to: int


class SessionBranches:
    """Histories cut and copied. A turn's tokens are never changed, only dropped or copied with their turn."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rewind(self, session: Session, turn_id: str, *, drop_turn: bool) -> tuple[Session, list[str]]:
        """Drop all turns after a turn, and the turn itself if that is asked for.

        Returns the session as it is then, and the objects of snapshots that it is not at any more. Raises NotFound
        (TURN_NOT_FOUND), and Aborted (SESSION_TAKEN_OVER) if another has it now.
        """
        with self._database.write() as connection:
            cut = _cut(connection, session, turn_id, drop_turn=drop_turn)
            row = connection.execute(select(sessions).where(sessions.c.key == session.key)).mappings().first()
            pins = _up_to(cut, session.pins if row is None else session_from_row(row).pins)
            rewound = replace(_at(connection, session, session.key, cut), pins=pins)
            changed = {name: getattr(rewound, name) for name in _CHANGED}
            change_owned(connection, session, **changed, pins=past_turns_to_json(pins))
            connection.execute(delete(turns).where(_of(session), turns.c.number > cut.number))
            drop_words(connection, session.key, cut.number)
            past = and_(snapshots.c.session_key == session.key, snapshots.c.position > cut.position)
            gone = list(connection.scalars(select(snapshots.c.object_key).where(past)))
            connection.execute(delete(snapshots).where(past))
        return rewound, gone

    def fork(self, source: Session, turn_id: str, target: Session, quotas: Quotas = UNBOUNDED) -> Session:
        """Keep `target` with the turns of `source` up to a turn, all that have ended if none is named.

        Its id, engine and times are its own, its epoch the one that `source` has now. Raises NotFound
        (TURN_NOT_FOUND, SESSION_NOT_FOUND), FailedPrecondition
        (TURN_NOT_FINISHED), ResourceExhausted (QUOTA_EXCEEDED), and IntegrityError for an id that is taken or an engine
        that has gone.
        """
        with self._database.write() as connection:
            check_sessions(connection, target.principal, quotas)
            cut = _cut(connection, source, turn_id) if turn_id else _end(connection, source)
            named = _ended(connection, source, cut.number)
            if turn_id and named is None:
                what = f"turn {turn_id!r} of {source.name} has not finished; fork when it has"
                raise FailedPrecondition(Reason.TURN_NOT_FINISHED, what, turn_id=turn_id)
            epoch = connection.scalar(select(sessions.c.epoch).where(sessions.c.key == source.key))
            if epoch is None:
                raise session_not_found(source.session_id)
            row = replace(_at(connection, target, source.key, cut), last_sequence=cut.last_sequence, epoch=epoch)
            row = replace(row, pins=_up_to(cut, target.pins))
            key = connection.execute(
                insert(sessions).values(session_to_row(row)).returning(sessions.c.key)
            ).scalar_one()
            index_labels(connection, key, target.labels)
            add_hold(connection, target.engine_name, target.engine_version, holder_of(target))
            _copy_turns(connection, source, key, cut.number)
            copy_words(connection, source.key, key, cut.number)
            kept = select(sessions).where(sessions.c.key == key)
            return session_from_row(connection.execute(kept).mappings().one())


def _up_to(cut: Cut, pins: Iterable[PastTurn]) -> tuple[PastTurn, ...]:
    """Pinned turns that a history has which ends there."""
    return tuple(pin for pin in pins if pin.number <= cut.number)


def _cut(connection: Connection, session: Session, turn_id: str, *, drop_turn: bool = False) -> Cut:
    named = and_(_of(session), turns.c.turn_id == turn_id)
    number = connection.scalar(select(turns.c.number).where(named))
    if number is None:
        raise turn_not_found(session, turn_id)
    return _behind(connection, session, number - drop_turn)


def _end(connection: Connection, session: Session) -> Cut:
    ended = and_(_of(session), turns.c.result.is_not(None))
    return _behind(connection, session, connection.scalar(select(func.max(turns.c.number)).where(ended)) or 0)


def _behind(connection: Connection, session: Session, number: int) -> Cut:
    """The place behind a turn, whether or not there is one of this number, or it has ended."""
    kept = and_(_of(session), turns.c.number <= number, turns.c.result.is_not(None))
    last = connection.scalar(select(func.max(turns.c.number)).where(kept))
    if last is None:
        return Cut(number, len(session.opening), 0, 0, 0)
    ended = _ended(connection, session, last)
    assert ended is not None
    assert ended.result is not None
    count = connection.scalar(select(func.count()).select_from(turns).where(kept)) or 0
    usage = ended.result.usage
    start = usage.window_start_position or 0
    forgotten_to = start if start > session.window.sinks else 0
    return Cut(number, usage.position, count, ended.result.finished_sequence, forgotten_to)


def _at(connection: Connection, session: Session, source_key: int, cut: Cut) -> Session:
    """The session as it is at a place in the history of the one with `source_key`, which may have a larger window."""
    start = max(cut.forgotten_to, session.window.start(cut.position))
    there = replace(session, position=cut.position, turns=cut.turns, window_start_position=start)
    seen = whole_turns(connection, replace(there, key=source_key), cut.number)
    return replace(there, oldest_visible_turn=seen[0].turn_id if seen else "")


def _ended(connection: Connection, session: Session, number: int) -> Turn | None:
    """A turn by its number, if it has ended."""
    ended = and_(_of(session), turns.c.number == number, turns.c.result.is_not(None))
    row = connection.execute(select(turns).where(ended)).mappings().first()
    return None if row is None else turn_from_row(row)


def _copy_turns(connection: Connection, source: Session, target_key: int, number: int) -> None:
    others = [column.name for column in turns.c if column.name != "session_key"]
    kept = and_(_of(source), turns.c.number <= number, turns.c.result.is_not(None))
    copied = select(literal(target_key), *(turns.c[name] for name in others)).where(kept)
    connection.execute(insert(turns).from_select(["session_key", *others], copied))


def _of(session: Session) -> ColumnElement[bool]:
    return turns.c.session_key == session.key
