"""Which turns have a word, in SQL; how words get there is in `words`. Calls block.

A row for each word of a session has the newest turns that have it, so a search costs the same however many there are,
whichever the database. A row for each turn says where it stands, and which words it has: so that a rewind finds them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Integer, Select, TableValuedAlias, bindparam, cast, select

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

    def search(self, session: Session, words: Collection[int], before: int) -> Found:
        """Turns that have words, whenever they began; those that may be recalled began before a position."""
        with self._database.read() as connection:
            newest = connection.scalar(_NEWEST, {"session_key": session.key, "before": before}) or 0
            if not (newest and words):
                return Found(newest, ())
            rows = connection.execute(_WORDS, {"session_key": session.key, "words": list(words)}).all()
        return Found(newest, tuple(Word(word, having, unpacked(text)) for word, having, text in rows))

    def indexed(self, session: Session, numbers: Collection[int]) -> list[Indexed]:
        """Where turns stand that are in the index, and what they are found by."""
        with self._database.read() as connection:
            asked = {"session_key": session.key, **numbers_parameter(connection, numbers)}
            rows = connection.execute(_TURNS[connection.dialect.name], asked).all()
        return [
            Indexed(Span(number, position, tokens), tuple(unpack(words))) for number, position, tokens, words in rows
        ]


_KEY = bindparam("session_key", type_=BigInteger)
_NEWEST = (
    select(recall_turns.c.number)
    .where(recall_turns.c.session_key == _KEY, recall_turns.c.position < bindparam("before"))
    .order_by(recall_turns.c.number.desc())
    .limit(1)
)
_WORDS = select(recall_words.c.word, recall_words.c.turns, recall_words.c.newest).where(
    recall_words.c.session_key == _KEY, recall_words.c.word.in_(bindparam("words", expanding=True))
)


def _turns(each: TableValuedAlias) -> Select[Any]:
    its = recall_turns.c
    numbered = its.number.in_(select(cast(each.c.value, Integer)))
    return select(its.number, its.position, its.tokens, its.words).where(its.session_key == _KEY, numbered)


_TURNS = {name: _turns(each) for name, each in TABLES.items()}
