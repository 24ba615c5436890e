"""The words of turns: written in the transaction that ends a turn, dropped and copied with it. Calls block."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Connection,
    Executable,
    Integer,
    TableValuedAlias,
    and_,
    bindparam,
    cast,
    delete,
    insert,
    literal,
    select,
)

from runtime_service.domain.recall import Indexed
from runtime_service.storage.recall.numbers import TABLES, numbers_parameter
from runtime_service.storage.rows import pack, unpack
from runtime_service.storage.tables import recall_turns, recall_words


_FEW = 200
"""Turns whose words are looked up one by one to drop them; for more, all words of the session are read once."""


def add_words(connection: Connection, session_key: int, indexed: Indexed) -> None:
    """Let a turn be found by its words."""
    span = indexed.span
    row = {"session_key": session_key, "number": span.number, "position": span.position, "tokens": span.tokens}
    connection.execute(insert(recall_turns), {**row, "words": pack(indexed.words)})
    asked = {"session_key": session_key, "number": span.number, **numbers_parameter(connection, indexed.words)}
    connection.execute(_ADD[connection.dialect.name], asked)


def drop_words(connection: Connection, session_key: int, after: int) -> None:
    """Let no turn be found any more whose number is above `after`."""
    gone = and_(recall_turns.c.session_key == session_key, recall_turns.c.number > after)
    query = select(recall_turns.c.number, recall_turns.c.words).where(gone).limit(_FEW + 1)
    if len(found := connection.execute(query).all()) > _FEW:
        mine = and_(recall_words.c.session_key == session_key, recall_words.c.number > after)
        connection.execute(delete(recall_words).where(mine))
    else:
        for number, words in found:
            its = {"session_key": session_key, "number": number, **numbers_parameter(connection, unpack(words))}
            connection.execute(_DROP[connection.dialect.name], its)
    connection.execute(delete(recall_turns).where(gone))


def copy_words(connection: Connection, source_key: int, target_key: int, number: int) -> None:
    """Let turns up to a number be found in a session that has them from another."""
    for table in (recall_turns, recall_words):
        others = [column for column in table.c if column.name != "session_key"]
        kept = and_(table.c.session_key == source_key, table.c.number <= number)
        copied = select(literal(target_key), *others).where(kept)
        connection.execute(insert(table).from_select(["session_key", *(column.name for column in others)], copied))


_KEY = bindparam("session_key", type_=BigInteger)


def _add(each: TableValuedAlias) -> Executable:
    row = select(cast(_KEY, BigInteger), cast(each.c.value, Integer), cast(bindparam("number"), Integer))
    return insert(recall_words).from_select(["session_key", "word", "number"], row)


def _drop(each: TableValuedAlias) -> Executable:
    its = recall_words.c.word.in_(select(cast(each.c.value, Integer)))
    return delete(recall_words).where(
        recall_words.c.session_key == _KEY, its, recall_words.c.number == bindparam("number")
    )


_ADD = {name: _add(each) for name, each in TABLES.items()}
_DROP = {name: _drop(each) for name, each in TABLES.items()}
