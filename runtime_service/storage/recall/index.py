"""Which turns have a word, in SQL; how words get there is in `words`. Calls block.

A row for each word of a session has the newest turns that have it, so a search costs the same however many there are,
whichever the database. A row for each turn says where it stands, and which words it has: so that a rewind finds them.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Select, TableValuedAlias, bindparam, select

from common.db.database import Database
from common.db.direct import Direct
from runtime_service.domain.recall import Span
from runtime_service.domain.session import Session
from runtime_service.storage.recall.newest import WIDTH
from runtime_service.storage.recall.numbers import TABLES, numbered, numbers_parameter
from runtime_service.storage.rows import unpack_array
from runtime_service.storage.tables import recall_turns, recall_words


class Word(NamedTuple):
    """A word of a session: its number, how many turns have it, and the newest of these, packed, the newest first."""

    word: int
    having: int
    newest: str

    @property
    def kept(self) -> int:
        """How many turns are known to have it."""
        return len(self.newest) // WIDTH

    def is_of(self, newest: int) -> bool:
        """Whether turns up to this one have it."""
        return self.having > self.kept or int(self.newest[-WIDTH:], 16) <= newest


@dataclass(frozen=True)
class Found:
    """Words that were asked for and are known. `newest` is the newest turn that may be recalled; 0: there is none."""

    newest: int
    words: tuple[Word, ...]


class Entry(NamedTuple):
    """A turn: where it stands, and the words that it is found by, packed."""

    number: int
    position: int
    tokens: int
    packed: bytes

    @property
    def words(self) -> array[int]:
        """Numbers of its words, in the order in which they first come."""
        return unpack_array(self.packed)

    @property
    def span(self) -> Span:
        """Where it stands."""
        return Span(self.number, self.position, self.tokens)


class RecallIndex:
    """Which turns have words. Sessions are told apart by their key, which is their principal's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def reading(self, session: Session) -> Iterator[RecallReader]:
        """What there is of a session. A turn whose words go between two statements is not read."""
        with self._database.direct() as connection:
            yield RecallReader(connection, session.key)


class RecallReader:
    """Reads what there is of one session."""

    def __init__(self, connection: Connection, session_key: int) -> None:
        self._connection = connection
        self._key = session_key

    def search(self, words: Collection[int], before: int) -> Found:
        """Turns that have words, whenever they began; those that may be recalled began before a position."""
        rows = self._read(_WORDS, words, before=before)
        newest = rows[0][-1] if rows else None
        return Found(newest or 0, tuple(Word(*row[:-1]) for row in rows if newest))

    def entries(self, numbers: Collection[int]) -> list[Entry]:
        """Turns that are in the index."""
        return list(map(Entry._make, self._read(_TURNS, numbers)))

    def _read(self, statement: Direct, numbers: Collection[int], **more: int) -> Sequence[Any]:
        asked = {"session_key": self._key, **more, **numbers_parameter(self._connection, numbers)}
        return statement.rows(self._connection, asked)


_KEY = bindparam("session_key", type_=BigInteger)


def _words(each: TableValuedAlias) -> Select[Any]:
    its, turns = recall_words.c, recall_turns.c
    left = (turns.session_key == _KEY) & (turns.position < bindparam("before"))
    newest = select(turns.number).where(left).order_by(turns.number.desc()).limit(1).scalar_subquery()
    listed = (its.session_key == _KEY) & numbered(its.word, each)
    return select(its.word, its.turns, its.newest, newest.label("newest_gone")).where(listed)


def _turns(each: TableValuedAlias) -> Select[Any]:
    its = recall_turns.c
    listed = (its.session_key == _KEY) & numbered(its.number, each)
    return select(its.number, its.position, its.tokens, its.words).where(listed)


_WORDS = Direct({name: _words(each) for name, each in TABLES.items()})
_TURNS = Direct({name: _turns(each) for name, each in TABLES.items()})
