"""Statements that go straight through a driver: they see what was written, and fail as any other does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Integer, bindparam, literal_column, select
from sqlalchemy.exc import DBAPIError

from common.catalog.tables import names
from common.db.database import Database, connect
from common.db.direct import Direct
from common.db.schema import upgrade
from common.errors import Reason, Unavailable
from tests.servers.databases import KINDS, new_database_url

_NAMED = select(names.c.name, names.c.last_version).where(names.c.last_version >= bindparam("least", type_=Integer))
NAMED = Direct(dict.fromkeys(KINDS, _NAMED.order_by(names.c.name).limit(2)))
WRONG = Direct(dict.fromkeys(KINDS, select(literal_column("none_of_this"))))


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with new_database_url(request.param, tmp_path) as url:
        database = connect(url)
        upgrade(database)
        yield database
        database.close()


def named(database: Database, least: int) -> list[tuple[str, int]]:
    with database.direct() as connection:
        return [(name, version) for name, version in NAMED.rows(connection, {"least": least})]


def test_each_sees_what_was_written_before_it(database: Database) -> None:
    with database.direct() as connection:
        for count in range(4):
            assert len(NAMED.rows(connection, {"least": 0})) == min(count, 2)
            with database.write() as writer:
                writer.execute(names.insert().values(name=f"n{count}", last_version=count))
    assert named(database, 2) == [("n2", 2), ("n3", 3)]


def test_a_wrong_one_fails_as_any_other_and_the_next_is_right(database: Database) -> None:
    with pytest.raises(DBAPIError, match="none_of_this"), database.direct() as connection:
        WRONG.rows(connection, {})
    assert named(database, 0) == []


def test_a_connection_that_was_lost_says_so_and_the_next_is_new(database: Database) -> None:
    if database.is_embedded:
        return
    with pytest.raises(Unavailable) as lost, database.direct() as connection:
        used = connection.connection.dbapi_connection
        with database.write() as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({used.info.backend_pid})")  # type: ignore[union-attr]
        NAMED.rows(connection, {"least": 0})
    assert lost.value.reason is Reason.DATABASE_UNAVAILABLE
    assert named(database, 0) == []
