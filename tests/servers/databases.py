"""Databases for tests: a file of SQLite, and an empty database of a real PostgreSQL.

The PostgreSQL is the one that SINKSERVE_TEST_POSTGRES_URL names; else one that is started here from an installed
`initdb`; else tests that need one are skipped by name, or fail where SINKSERVE_TEST_POSTGRES_REQUIRED is set.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from common.db.database import Database, connect
from common.db.schema import open_database, upgrade
from tests.nightly import LONG, one_in
from tests.servers.own_postgres import OwnPostgres, find_tools

VARIABLE = "SINKSERVE_TEST_POSTGRES_URL"
REQUIRED = "SINKSERVE_TEST_POSTGRES_REQUIRED"
KINDS = ("sqlite", "postgresql")


def one_by_day() -> list[Any]:
    """Parameters: PostgreSQL by day, or SQLite where there is none; the other is long.

    For services over either. What one database does and the other does not is seen by day in `tests/contract`.
    """
    has_postgres = VARIABLE in os.environ or REQUIRED in os.environ or find_tools() is not None
    return one_in(len(KINDS), reversed(KINDS) if has_postgres else KINDS, LONG)


_free: list[str] = []
"""Databases of this process that no test has."""
_TEMPLATE = f"sinkserve_template_{os.getpid()}"


@contextmanager
def new_database(kind: str, folder: Path) -> Iterator[Database]:
    """A database with the schema and nothing in it; nobody else has it meanwhile."""
    with _copied_file(folder) if kind == "sqlite" else _emptied() as url:
        database = open_database(url)
        try:
            yield database
        finally:
            database.close()


@contextmanager
def _copied_file(folder: Path) -> Iterator[str]:
    """A file with the schema: copied faster than made."""
    path = folder / f"{uuid.uuid4().hex}.db"
    path.write_bytes(_file_with_schema())
    yield f"sqlite:///{path}"


@cache
def _file_with_schema() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.db"
        open_database(f"sqlite:///{path}").close()
        return path.read_bytes()


@contextmanager
def _emptied() -> Iterator[str]:
    """A database that another test had, with nothing of it left: emptied faster than made."""
    if not _free:
        _make_template()
        _free.append(name := f"{_TEMPLATE}_{uuid.uuid4().hex}")
        _administer(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        atexit.register(_administer, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    name = _free.pop()
    try:
        yield _url_of(name)
    finally:
        if _empty(_url_of(name)):
            _free.append(name)


def _empty(url: str) -> bool:
    """Delete every row; False if a test has changed more than rows, so that no other can have the database."""
    engine = create_engine(_driven(url), poolclass=NullPool)
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    with engine.begin() as connection:
        connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))
        tables = ", ".join(set(inspect(connection).get_table_names()) - {"alembic_version"})
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
        return not connection.scalar(text("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"))


@contextmanager
def new_database_url(kind: str, folder: Path, *, with_schema: bool = False) -> Iterator[str]:
    """The URL of a database that is new and empty, or has the schema if it is a PostgreSQL; gone afterwards."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / f'{uuid.uuid4().hex}.db'}"
        return
    if with_schema:
        _make_template()
    name = f"sinkserve_{uuid.uuid4().hex}"
    _administer(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE if with_schema else 'template1'}")
    try:
        yield _url_of(name)
    finally:
        _administer(f"DROP DATABASE {name} WITH (FORCE)")


@cache
def _make_template() -> None:
    """A database with the schema: copied faster than made."""
    _administer(f"CREATE DATABASE {_TEMPLATE}")
    atexit.register(lambda: _administer(f"DROP DATABASE IF EXISTS {_TEMPLATE} WITH (FORCE)"))
    database = connect(_url_of(_TEMPLATE))
    upgrade(database)
    database.close()


def _administer(statement: str) -> None:
    admin = create_engine(_driven(_server()), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        connection.execute(text(statement))


def _url_of(name: str) -> str:
    return make_url(_server()).set(database=name).render_as_string(hide_password=False)


def _server() -> str:
    if (server := postgres_url()) is None:
        give_up = pytest.fail if os.environ.get(REQUIRED) else pytest.skip
        give_up(f"no PostgreSQL: set {VARIABLE}, or install initdb")
    return server


@cache
def postgres_url() -> str | None:
    """A server to make databases in; None: there is none, and none can be started."""
    if url := os.environ.get(VARIABLE):
        return url
    if (tools := find_tools()) is None:
        return None
    server = OwnPostgres(tools)
    atexit.register(server.remove)
    return server.url


def _driven(url: str) -> str:
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
