"""The words of turns in SQL: which turns have them, written in the transaction that ends a turn. Calls block.

A row for each word of a turn, in the order of session, word and number: the newest turns that have a word lie together,
so reading the newest DEPTH costs the same however many there are, whichever the database. A row for each turn says
where it stands, and which words it has: so that a rewind finds them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    String,
    TableValuedAlias,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from common.db.database import Database, stream
from common.errors import FailedPrecondition, InvalidArgument, NotFound, Reason
from runtime_service.domain.recall import Indexed, PastTurn, Span
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Result, Turn
from runtime_service.storage.rows import pack, result_from_json, turn_from_row, unpack
from runtime_service.storage.tables import recall_turns, recall_words, turns

DEPTH = 128
"""Of each word, the newest turns so many are looked at."""


@dataclass(frozen=True)
class Found:
    """For each word that was asked for and is known, the newest turns that have it, at most DEPTH, the newest first.

    `newest` is the newest of all turns that may be found; 0: there is none.
    """

    newest: int
    turns: tuple[tuple[int, ...], ...]


class RecallIndex:
    """Which turns have words, and those turns. Sessions are told apart by their key, which is their principal's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def search(self, session: Session, words: Collection[int], before: int) -> Found:
        """Turns that have words, of those that began before a position."""
        with self._database.read() as connection:
            newest = connection.scalar(_NEWEST, {"session_key": session.key, "before": before}) or 0
            if not (newest and words):
                return Found(newest, ())
            if connection.dialect.name == "postgresql":  # it may think a word rarer than it is, and read all its turns
                connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
            asked = {"session_key": session.key, "newest": newest, **_array(connection, words)}
            found = connection.scalars(_HAVING[connection.dialect.name], asked).all()
        return Found(newest, tuple(_numbers(text) for text in found if text))

    def spans(self, session: Session, numbers: Collection[int]) -> list[Span]:
        """Where turns stand that are in the index."""
        with self._database.read() as connection:
            rows = connection.execute(_SPANS, {"session_key": session.key, "numbers": list(numbers)}).all()
        return [Span(*row) for row in rows]

    def read(self, session: Session, numbers: Collection[int]) -> list[tuple[Turn, list[int]]]:
        """Turns that have ended, the oldest first, with all tokens that each added to the history."""
        return self._read(session, turns.c.number.in_(numbers) & turns.c.result.is_not(None))

    def read_named(self, session: Session, turn_ids: Collection[str]) -> list[tuple[Turn, list[int]]]:
        """Turns by the client's ids, the oldest first, with the tokens that each has added so far."""
        return self._read(session, turns.c.turn_id.in_(turn_ids))

    def _read(self, session: Session, where: ColumnElement[bool]) -> list[tuple[Turn, list[int]]]:
        query = select(turns).where(turns.c.session_key == session.key, where).order_by(turns.c.number)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [(turn_from_row(row), unpack(row["tokens"] or b"")) for row in rows]

    def results(self, session: Session, since: int) -> list[tuple[Result, int]]:
        """Results of the turns that end behind a position, the newest first, with how many tokens each has added."""
        ended = (turns.c.session_key == session.key) & turns.c.result.is_not(None)
        query = select(turns.c.result, turns.c.tokens).where(ended).order_by(turns.c.number.desc())
        found: list[tuple[Result, int]] = []
        with self._database.read() as connection, stream(connection, query) as rows:
            for row in rows:
                result = result_from_json(row["result"], tokens := unpack(row["tokens"] or b""))
                if result.usage.position <= since:
                    break
                found.append((result, len(tokens)))
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


def add_words(connection: Connection, session_key: int, indexed: Indexed) -> None:
    """Let a turn be found by its words."""
    span = indexed.span
    row = {"session_key": session_key, "number": span.number, "position": span.position, "tokens": span.tokens}
    connection.execute(insert(recall_turns), {**row, "words": pack(indexed.words)})
    asked = {"session_key": session_key, "number": span.number, **_array(connection, indexed.words)}
    connection.execute(_ADD[connection.dialect.name], asked)


def drop_words(connection: Connection, session_key: int, after: int) -> None:
    """Let no turn be found any more whose number is above `after`."""
    gone = and_(recall_turns.c.session_key == session_key, recall_turns.c.number > after)
    for number, words in connection.execute(select(recall_turns.c.number, recall_turns.c.words).where(gone)).all():
        its = {"session_key": session_key, "number": number, **_array(connection, unpack(words))}
        connection.execute(_DROP[connection.dialect.name], its)
    connection.execute(delete(recall_turns).where(gone))


def copy_words(connection: Connection, source_key: int, target_key: int, number: int) -> None:
    """Let turns up to a number be found in a session that has them from another."""
    for table in (recall_turns, recall_words):
        others = [column for column in table.c if column.name != "session_key"]
        kept = and_(table.c.session_key == source_key, table.c.number <= number)
        copied = select(literal(target_key), *others).where(kept)
        connection.execute(insert(table).from_select(["session_key", *(column.name for column in others)], copied))


def _array(connection: Connection, numbers: Iterable[int]) -> dict[str, object]:
    """The parameter of a table of numbers."""
    listed = list(numbers)
    return {"words": json.dumps(listed) if connection.dialect.name == "sqlite" else listed}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(int, text.split(",")), reverse=True))


_KEY = bindparam("session_key", type_=BigInteger)
_TABLES: Mapping[str, TableValuedAlias] = {
    "sqlite": func.json_each(bindparam("words")).table_valued("value"),
    "postgresql": func.unnest(bindparam("words", type_=ARRAY(Integer))).table_valued("value").render_derived(),
}
"""A table of numbers with the column `value`, as one parameter."""


def _add(each: TableValuedAlias) -> Executable:
    row = select(cast(_KEY, BigInteger), cast(each.c.value, Integer), cast(bindparam("number"), Integer))
    return insert(recall_words).from_select(["session_key", "word", "number"], row)


def _drop(each: TableValuedAlias) -> Executable:
    its = recall_words.c.word.in_(select(cast(each.c.value, Integer)))
    return delete(recall_words).where(
        recall_words.c.session_key == _KEY, its, recall_words.c.number == bindparam("number")
    )


def _having(each: TableValuedAlias) -> Executable:
    """For each word, the newest turns up to one that have it, as one text."""
    has = and_(
        recall_words.c.session_key == _KEY,
        recall_words.c.word == cast(each.c.value, Integer),
        recall_words.c.number <= bindparam("newest"),
    )
    newest = select(recall_words.c.number).where(has).order_by(recall_words.c.number.desc()).limit(DEPTH)
    its = newest.correlate(each).subquery()
    text = select(func.aggregate_strings(cast(its.c.number, String), ",")).scalar_subquery()
    return select(text).select_from(each)


_ADD = {name: _add(each) for name, each in _TABLES.items()}
_DROP = {name: _drop(each) for name, each in _TABLES.items()}
_HAVING = {name: _having(each) for name, each in _TABLES.items()}
_NEWEST = (
    select(recall_turns.c.number)
    .where(recall_turns.c.session_key == _KEY, recall_turns.c.position < bindparam("before"))
    .order_by(recall_turns.c.number.desc())
    .limit(1)
)
_SPANS = select(recall_turns.c.number, recall_turns.c.position, recall_turns.c.tokens).where(
    recall_turns.c.session_key == _KEY, recall_turns.c.number.in_(bindparam("numbers", expanding=True))
)
