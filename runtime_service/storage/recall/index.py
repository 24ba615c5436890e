"""Which turns have a word, in SQL; how words get there is in `words`. Calls block.

A row for each word of a session has the newest turns that have it, so a search costs the same however many there are,
whichever the database. A row for each turn says where it stands, and which words it has: so that a rewind finds them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, Select, TableValuedAlias, bindparam, cast, select

from common.db.database import Database
from runtime_service.domain.recall import Indexed, Span
from runtime_service.domain.session import Session
from runtime_service.storage.recall.newest import unpacked
from runtime_service.storage.recall.numbers import TABLES, numbers_parameter
from runtime_service.storage.rows import unpack
from runtime_service.storage.tables import recall_turns, recall_words


@dataclass(frozen=True)
class Word:
    """A word of a session: its number, how many turns have it, and the newest of these, the newest first."""

    word: int
    having: int
    turns: tuple[int, ...]

    def is_of(self, newest: int) -> bool:
        """Whether turns up to this one have it."""
        return self.having > len(self.turns) or self.turns[-1] <= newest


@dataclass(frozen=True)
class Found:
    """Words that were asked for and are known. `newest` is the newest turn that may be recalled; 0: there is none."""

    newest: int
    words: tuple[Word, ...]


class RecallIndex:
    """Which turns have words. Sessions are told apart by their key, which is their principal's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def reading(self, session: Session) -> Iterator[RecallReader]:
        """What there is of a session, in one transaction."""
        with self._database.read() as connection:
            yield RecallReader(connection, session.key)


class RecallReader:
    """Reads what there is of one session."""

    def __init__(self, connection: Connection, session_key: int) -> None:
        self._connection = connection
        self._key = session_key

    def search(self, words: Collection[int], before: int) -> Found:
        """Turns that have words, whenever they began; those that may be recalled began before a position."""
        rows = self._read(_WORDS, words, before=before)
        newest = rows[0].newest_gone if rows else 0
        return Found(newest or 0, tuple(Word(word, having, unpacked(text)) for word, having, text, _ in rows if newest))

    def indexed(self, numbers: Collection[int]) -> list[Indexed]:
        """Where turns stand that are in the index, and what they are found by."""
        rows = self._read(_TURNS, numbers)
        return [
            Indexed(Span(number, position, tokens), tuple(unpack(words))) for number, position, tokens, words in rows
        ]

    def _read(self, statements: Mapping[str, Select[Any]], numbers: Collection[int], **more: int) -> Sequence[Any]:
        asked = {"session_key": self._key, **more, **numbers_parameter(self._connection, numbers)}
        return self._connection.execute(statements[self._connection.dialect.name], asked).all()


_KEY = bindparam("session_key", type_=BigInteger)


def _words(each: TableValuedAlias) -> Select[Any]:
    its, turns = recall_words.c, recall_turns.c
    left = (turns.session_key == _KEY) & (turns.position < bindparam("before"))
    newest = select(turns.number).where(left).order_by(turns.number.desc()).limit(1).scalar_subquery()
    listed = its.word.in_(select(cast(each.c.value, Integer)))
    return select(its.word, its.turns, its.newest, newest.label("newest_gone")).where(its.session_key == _KEY, listed)


def _turns(each: TableValuedAlias) -> Select[Any]:
    its = recall_turns.c
    numbered = its.number.in_(select(cast(each.c.value, Integer)))
    return select(its.number, its.position, its.tokens, its.words).where(its.session_key == _KEY, numbered)


_WORDS = {name: _words(each) for name, each in TABLES.items()}
_TURNS = {name: _turns(each) for name, each in TABLES.items()}
