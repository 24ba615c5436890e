"""The SQL database: SQLite by default, PostgreSQL by URL, one code for both.

Modules declare their tables on `metadata`. Calls block: from asyncio, use `asyncio.to_thread`. Every write runs in
`write()`, which on SQLite takes the write lock at once, so that a transaction that has read never fails to write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Dialect,
    Engine,
    Integer,
    MetaData,
    Table,
    TypeDecorator,
    create_engine,
    event,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from common.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted, Unavailable

SCHEMA_VERSION = 1
LOCAL_PRINCIPAL = "local"
"""Owner of everything as long as nobody is authenticated."""

_BUSY_TIMEOUT_S = 30
_PG_FULL = "53100"  # disk_full
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

_schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))


class Time(TypeDecorator[datetime]):
    """An instant, as microseconds since 1970: SQLite has no type for it that sorts and keeps its zone."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """To the database."""
        del dialect
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        del dialect
        return None if value is None else _EPOCH + timedelta(microseconds=value)


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


class Database:
    """An open database. `read` and `write` give a connection inside a transaction; many threads may use it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # A read sees one snapshot. On SQLite every transaction does.
        one_snapshot = {} if engine.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        self._reader = engine.execution_options(**one_snapshot)
        self._writer = engine.execution_options(sinkserve_write=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, from one snapshot."""
        with self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; committed at the end, rolled back if the block raises.

        Raises ResourceExhausted (OUT_OF_DISK) where the database has no room left.
        """
        try:
            with self._writer.begin() as connection:
                yield connection
        except DBAPIError as error:
            if not _is_full(error.orig):
                raise
            name = self._engine.url.database
            message = f"the database {name} has no room left: {error.orig}; free some, then try again"
            raise ResourceExhausted(Reason.OUT_OF_DISK, message, database=name) from error

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Open the database at a SQLAlchemy URL and create what of the schema is missing.

    Raises InvalidArgument for a URL that cannot be used, FailedPrecondition for a schema of another version,
    ResourceExhausted for a full disk, and Unavailable for a database that does not answer or is not one.
    """
    engine = _engine(url)
    database = Database(engine)
    try:
        found = _create(database)
    except DBAPIError as error:
        database.close()
        where = engine.url.render_as_string(hide_password=True)
        raise Unavailable(Reason.INTERNAL, f"the database {where} cannot be used: {error.orig}") from None
    except ResourceExhausted:
        database.close()
        raise
    if found not in (None, SCHEMA_VERSION):
        database.close()
        raise FailedPrecondition(
            Reason.INTERNAL,
            f"the database has schema version {found} and this program needs {SCHEMA_VERSION}: "
            "use the release that wrote it, or another database",
            found=found,
            expected=SCHEMA_VERSION,
        )
    return database


def _create(database: Database) -> int | None:
    """Create the tables that are missing; returns the version of the schema that was there."""
    with database.write() as connection:
        metadata.create_all(connection)
        found: int | None = connection.scalar(select(_schema_version.c.version))
        if found is None:
            connection.execute(_schema_version.insert().values(version=SCHEMA_VERSION))
    return found


def _is_full(error: BaseException | None) -> bool:
    """Whether the driver's error says that a disk is full."""
    return (
        getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or getattr(error, "sqlstate", None) == _PG_FULL
    )


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, ImportError) as error:
        raise InvalidArgument(Reason.INVALID_FIELD, f"database_url cannot be used: {error}") from None
    if not parsed.database or parsed.database == ":memory:":
        raise InvalidArgument(Reason.INVALID_FIELD, "database_url: SQLite needs a file, such as sqlite:////var/x.db")
    _make_folder(Path(parsed.database).parent)
    engine = create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(Reason.INTERNAL, f"the database's folder {folder} cannot be made: {error}") from None


def _set_up_sqlite(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
    del record
    connection.isolation_level = None  # the driver begins nothing by itself: `_begin_sqlite` does
    # FULL: what was committed is there after a power failure too, not only after a crash.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("sinkserve_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
