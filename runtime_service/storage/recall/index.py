"""Which turns have a word, in SQL; how words get there is in `words`. Calls block.

A row for each word of a turn, in the order of session, word and number: the newest turns that have a word lie together,
so reading the newest DEPTH costs the same however many there are, whichever the database. A row for each turn says
where it stands, and which words it has: so that a rewind finds them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import BigInteger, Executable, Integer, String, TableValuedAlias, and_, bindparam, cast, func, select

from common.db.database import Database
from runtime_service.domain.recall import Span
from runtime_service.domain.session import Session
from runtime_service.storage.recall.numbers import TABLES, numbers_parameter
from runtime_service.storage.tables import recall_turns, recall_words

DEPTH = 64
"""Of each word, the newest turns so many are looked at."""


@dataclass(frozen=True)
class Found:
    """For each word that was asked for and is known, the newest turns that have it, at most DEPTH, the newest first.

    `newest` is the newest of all turns that may be found; 0: there is none.
    """

    newest: int
    turns: tuple[tuple[int, ...], ...]


class RecallIndex:
    """Which turns have words. Sessions are told apart by their key, which is their principal's."""

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
            asked = {"session_key": session.key, "newest": newest, **numbers_parameter(connection, words)}
            found = connection.scalars(_HAVING[connection.dialect.name], asked).all()
        return Found(newest, tuple(_numbers(text) for text in found if text))

    def spans(self, session: Session, numbers: Collection[int]) -> list[Span]:
        """Where turns stand that are in the index."""
        with self._database.read() as connection:
            rows = connection.execute(_SPANS, {"session_key": session.key, "numbers": list(numbers)}).all()
        return [Span(*row) for row in rows]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(int, text.split(",")), reverse=True))


_KEY = bindparam("session_key", type_=BigInteger)


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


_HAVING = {name: _having(each) for name, each in TABLES.items()}
_NEWEST = (
    select(recall_turns.c.number)
    .where(recall_turns.c.session_key == _KEY, recall_turns.c.position < bindparam("before"))
    .order_by(recall_turns.c.number.desc())
    .limit(1)
)
_SPANS = select(recall_turns.c.number, recall_turns.c.position, recall_turns.c.tokens).where(
    recall_turns.c.session_key == _KEY, recall_turns.c.number.in_(bindparam("numbers", expanding=True))
)
