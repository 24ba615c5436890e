"""What principals have used, by engine and day, in SQL: what they are billed by. Calls block.

A turn is added in the transaction that writes its end, and only by the write that ends it: see `storage.repository`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Executable, RowMapping, case, delete, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from common.db.database import Database, stream
from common.db.paging import Page, text_bytes
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Turn
from runtime_service.domain.usage import DayUsage
from runtime_service.storage.tables import usage

_SUMS = ("turns", "prompt_tokens", "generated_tokens")
_OF_MINUTE = ("minute_prompt_tokens", "minute_generated_tokens")
_KEY = [usage.c.principal, usage.c.day, usage.c.engine]
_NUMBERS_BYTES = 64  # of a message
_AT_ONCE = 1000
"""Rows that one transaction deletes: others write between two of them."""


def add_usage(connection: Connection, session: Session, turn: Turn) -> None:
    """Count a turn that has ended. The last statement of its transaction: its row is locked until that commits."""
    connection.execute(_ADD[connection.dialect.name], _row_of(session, turn))


def _row_of(session: Session, turn: Turn) -> dict[str, object]:
    assert turn.result is not None, turn
    assert turn.ended_at is not None, turn
    prompt, generated = turn.result.usage.prompt_tokens, turn.result.usage.generated_tokens
    return {
        "principal": session.principal,
        "day": turn.ended_at.astimezone(UTC).date().isoformat(),
        "engine": session.engine,
        "turns": 1,
        "prompt_tokens": prompt,
        "generated_tokens": generated,
        "minute": _minute(turn.ended_at),
        "minute_prompt_tokens": prompt,
        "minute_generated_tokens": generated,
    }


def _in_minute(new: Any, name: str) -> ColumnElement[int]:  # noqa: ANN401 - the columns of a dialect's own insert
    """Tokens of the latest minute of which there is a turn."""
    later = new.minute > usage.c.minute
    same = new.minute == usage.c.minute
    return case((later, new[name]), (same, usage.c[name] + new[name]), else_=usage.c[name])


def used_in_minute(connection: Connection, principal: str, now: datetime) -> tuple[int, int]:
    """Tokens of input and of replies of a principal's turns that have ended in the minute of `now`."""
    mine = (usage.c.principal == principal) & (usage.c.day == now.astimezone(UTC).date().isoformat())
    query = select(*(func.coalesce(func.sum(usage.c[name]), 0) for name in _OF_MINUTE))
    prompt, generated = connection.execute(query.where(mine & (usage.c.minute == _minute(now)))).one()
    return int(prompt), int(generated)


def _add_with(insert: Any) -> Executable:  # noqa: ANN401 - of a dialect
    """Insert a row, or add it to the one that is there."""
    statement = insert(usage)
    new = statement.excluded
    sums = {name: usage.c[name] + new[name] for name in _SUMS}
    of_minute = {name: _in_minute(new, name) for name in _OF_MINUTE}
    minute = case((new.minute > usage.c.minute, new.minute), else_=usage.c.minute)
    added: Executable = statement.on_conflict_do_update(
        index_elements=_KEY, set_={**sums, **of_minute, "minute": minute}
    )
    return added


_ADD = {"sqlite": _add_with(sqlite.insert), "postgresql": _add_with(postgresql.insert)}
"""Made once: it takes longer to make than to carry out."""


class UsageRecords:
    """What was used, for whom it is told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, principal: str | None, since: str, until: str, page: Page) -> tuple[list[DayUsage], str]:
        """A page of what was used by a principal (None: by everybody) from one day to another, both included.

        By principal, day and engine; an empty day is no bound. With the token of the next page.
        """
        query = select(usage).order_by(*_KEY).limit(page.size + 1)
        if principal is not None:
            query = query.where(usage.c.principal == principal)
        if since:
            query = query.where(usage.c.day >= since)
        if until:
            query = query.where(usage.c.day <= until)
        if page.after is not None:
            query = query.where(tuple_(*_KEY) > tuple_(*page.after))
        with self._database.read() as connection, stream(connection, query) as rows:
            kept, token = page.fill(rows, _size_of, lambda row: (row["principal"], row["day"], row["engine"]))
        return [_usage_of(row) for row in kept], token

    def delete_before(self, day: str) -> int:
        """Delete what was used on days before one, YYYY-MM-DD; returns of how many rows. Many may do so at once."""
        old = select(*_KEY).where(usage.c.day < day).order_by(*_KEY).limit(_AT_ONCE)
        deleted, some = 0, _AT_ONCE
        while some == _AT_ONCE:
            with self._database.read() as connection:  # first, since only one writing transaction may run at a time
                some = len(connection.execute(old).all())
            if some:
                with self._database.write_rows() as connection:
                    deleted += connection.execute(delete(usage).where(tuple_(*_KEY).in_(old))).rowcount
        return deleted


def first_kept_day(keep_days: int, now: datetime) -> str:
    """The first of the days of which usage is kept."""
    return (now.astimezone(UTC).date() - timedelta(days=keep_days)).isoformat()


def _minute(time: datetime) -> int:
    return int(time.timestamp() // 60)


def _size_of(row: RowMapping) -> int:
    return _NUMBERS_BYTES + text_bytes(row["principal"], row["day"], row["engine"])


def _usage_of(row: RowMapping) -> DayUsage:
    return DayUsage(**{name: row[name] for name in ("principal", "day", "engine", *_SUMS)})
