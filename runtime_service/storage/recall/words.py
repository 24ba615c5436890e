"""The words of turns: written in the transaction that ends a turn, dropped and copied with it. Calls block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    TableValuedAlias,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from runtime_service.domain.recall import Indexed
from runtime_service.storage.recall.newest import DEPTH, WIDTH, packed, unpacked
from runtime_service.storage.recall.numbers import TABLES, numbered, numbers_parameter
from runtime_service.storage.rows import pack, unpack
from runtime_service.storage.tables import recall_turns, recall_words

_FEW = DEPTH
"""Turns whose own words are looked up to drop them; for more, all words of the session are read once."""
_AT_ONCE = 1000


def add_words(connection: Connection, session_key: int, indexed: Indexed) -> None:
    """Let a turn be found by its words; it is the newest of its session."""
    span = indexed.span
    row = {"session_key": session_key, "number": span.number, "position": span.position, "tokens": span.tokens}
    connection.execute(insert(recall_turns), {**row, "words": pack(indexed.words)})
    asked = {"session_key": session_key, "newest": packed(span.number), **numbers_parameter(connection, indexed.words)}
    connection.execute(_ADD[connection.dialect.name], asked)


def drop_words(connection: Connection, session_key: int, after: int) -> None:
    """Let no turn be found any more whose number is above `after`.

    Of a word that more turns had than are kept of it, fewer are left.
    """
    gone = and_(recall_turns.c.session_key == session_key, recall_turns.c.number > after)
    dropped = list(connection.scalars(select(recall_turns.c.words).where(gone).limit(_FEW + 1)))
    changes = _all_changes(connection, session_key, after) if len(dropped) > _FEW else iter([_changes(dropped)])
    for change in changes:
        for count in sorted(set(change.values())):
            _cut_off(connection, session_key, count, [word for word, turns in change.items() if turns == count])
    connection.execute(delete(recall_turns).where(gone))


def copy_words(connection: Connection, source_key: int, target_key: int, number: int) -> None:
    """Let turns up to a number be found in a session that has them from another."""
    for table in (recall_turns, recall_words):
        others = [column for column in table.c if column.name != "session_key"]
        copied = select(literal(target_key), *others).where(table.c.session_key == source_key)
        connection.execute(insert(table).from_select(["session_key", *(column.name for column in others)], copied))
    drop_words(connection, target_key, number)


def _cut_off(connection: Connection, session_key: int, count: int, words: list[int]) -> None:
    """Let words have so many turns less, the newest."""
    dialect, asked = connection.dialect.name, {"of_session": session_key, **numbers_parameter(connection, words)}
    connection.execute(_CUT[dialect], {**asked, "count": count})
    connection.execute(_EMPTY[dialect], asked)


def _changes(dropped: list[bytes]) -> Counter[int]:
    """How many of the turns that are dropped have each word, given the words of each."""
    return Counter(word for words in dropped for word in unpack(words))


def _all_changes(connection: Connection, session_key: int, after: int) -> Iterator[Counter[int]]:
    """The same for all words of a session, as far as their newest turns tell, some at a time."""
    first = -(1 << 31)
    mine = recall_words.c.session_key == session_key
    query = select(recall_words.c.word, recall_words.c.newest).order_by(recall_words.c.word).limit(_AT_ONCE)
    while rows := connection.execute(query.where(mine, recall_words.c.word >= first)).all():
        counts = {word: int((unpacked(newest) > after).sum()) for word, newest in rows}
        yield Counter({word: count for word, count in counts.items() if count})
        if len(rows) < _AT_ONCE:
            return
        first = rows[-1].word + 1


_KEY = bindparam("session_key", type_=BigInteger)


def _add(each: TableValuedAlias, new: Any) -> Executable:  # noqa: ANN401 - a dialect's own insert
    row = select(cast(_KEY, BigInteger), cast(each.c.value, Integer), literal(1), cast(bindparam("newest"), Text))
    added = new(recall_words).from_select(["session_key", "word", "turns", "newest"], row.where(true()))
    newest: ColumnElement[str] = added.excluded.newest + recall_words.c.newest
    values = {"turns": recall_words.c.turns + 1, "newest": func.substr(newest, 1, DEPTH * WIDTH)}
    upsert: Executable = added.on_conflict_do_update(index_elements=["session_key", "word"], set_=values)
    return upsert


def _these(each: TableValuedAlias) -> ColumnElement[bool]:
    its = recall_words.c.session_key == bindparam("of_session", type_=BigInteger)
    return and_(its, numbered(recall_words.c.word, each))


def _cut(each: TableValuedAlias) -> Executable:
    count = bindparam("count", type_=Integer)
    values = {"turns": recall_words.c.turns - count, "newest": func.substr(recall_words.c.newest, 1 + WIDTH * count)}
    return update(recall_words).where(_these(each)).values(values)


_INSERT = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_ADD = {name: _add(each, _INSERT[name]) for name, each in TABLES.items()}
_CUT = {name: _cut(each) for name, each in TABLES.items()}
_EMPTY = {name: delete(recall_words).where(_these(each), recall_words.c.newest == "") for name, each in TABLES.items()}
