from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable

from common.catalog import tables
from common.db.database import Database, Time, metadata
from common.db.schema import open_database
from common.errors import InvalidArgument, Reason, ResourceExhausted, Unavailable


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'deep' / 'down' / 'x.db'}"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url)
    yield opened
    opened.close()


def _name(name: str, version: int = 0) -> dict[str, str | int]:
    return {"name": name, "last_version": version}


def test_a_database_is_made_and_opened_again(database: Database, url: str) -> None:
    with database.write() as connection:
        connection.execute(insert(tables.names).values(_name("demo", 3)))
    again = open_database(url)
    with again.read() as connection:
        assert connection.scalar(select(tables.names.c.last_version)) == 3
    again.close()


@pytest.mark.parametrize("url", ["rubbish", "sqlite://", "sqlite:///:memory:", "nonsense://x"])
def test_a_url_that_is_no_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="database_url"):
        open_database(url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"this is not a database, and longer than a header of a hundred bytes" * 3)
    with pytest.raises(Unavailable, match=r"x\.db cannot be used: file is not a database"):
        open_database(f"sqlite:///{tmp_path / 'x.db'}")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="file/deep"):
        open_database(f"sqlite:///{tmp_path / 'file' / 'deep' / 'x.db'}")


def test_what_fails_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute(insert(tables.names).values(_name("demo")))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as connection:
        assert connection.scalars(select(tables.names.c.name)).all() == []


def test_foreign_keys_count(database: Database) -> None:
    def orphan() -> None:
        with database.write() as connection:
            connection.execute(insert(tables.aliases).values(name="demo", alias="prod", version=1))

    with pytest.raises(IntegrityError):
        orphan()


def test_a_read_sees_one_moment_while_others_write(database: Database) -> None:
    with database.read() as reader:
        assert reader.scalars(select(tables.names.c.name)).all() == []
        with database.write() as writer:
            writer.execute(insert(tables.names).values(_name("demo")))
        assert reader.scalars(select(tables.names.c.name)).all() == []


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_survives_to_the_microsecond(time: datetime) -> None:
    kind, dialect = Time(), postgresql.dialect()  # type: ignore[no-untyped-call]
    assert kind.process_result_value(kind.process_bind_param(time, dialect), dialect) == time


def test_an_instant_of_another_zone_is_the_same_instant() -> None:
    kind, dialect = Time(), postgresql.dialect()  # type: ignore[no-untyped-call]
    there = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    here = datetime(2026, 1, 1, tzinfo=UTC)
    assert kind.process_bind_param(there, dialect) == kind.process_bind_param(here, dialect)
    assert kind.process_bind_param(None, dialect) is None
    assert kind.process_result_value(None, dialect) is None


def test_every_table_can_be_made_on_postgresql() -> None:
    for table in metadata.sorted_tables:
        assert str(CreateTable(table).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]


def test_a_full_disk_is_said_and_writing_goes_on_when_there_is_room(database: Database) -> None:
    def fill() -> None:
        with database.write() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            connection.execute(insert(tables.names), [_name("demo" * 50 + str(number)) for number in range(1000)])

    with pytest.raises(ResourceExhausted, match=r"x\.db has no room left: database or disk is full") as caught:
        fill()
    assert caught.value.reason is Reason.OUT_OF_DISK
    with database.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        connection.execute(insert(tables.names).values(_name("demo")))
    with database.read() as connection:
        assert connection.scalars(select(tables.names.c.name)).all() == ["demo"]
