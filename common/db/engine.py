"""Connections to SQLite and PostgreSQL that behave the same: one writer at a time, and every wait is bounded."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from common.db.transactions import WRITES
from common.errors import InvalidArgument, Reason, Unavailable
from common.private import close_file, make_private_file

_LOCKED_S, _RETRY_S = 30, 0.05  # of a file: others write it, and nothing of it can fall silent


def make_engine(url: str, patience_s: float) -> Engine:
    """SQLAlchemy's engine for a URL, whose server has so long for an answer; raises InvalidArgument if it cannot be
    used, Unavailable for a folder.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql" or parsed.drivername == "postgres":
            from common.db.postgres import make_postgres_engine  # noqa: PLC0415 - its driver is wanted for this alone

            return make_postgres_engine(parsed, patience_s)
        if parsed.get_backend_name() == "sqlite":
            return _sqlite(parsed)
    except (ArgumentError, ImportError) as error:
        raise InvalidArgument(Reason.INVALID_FIELD, f"database_url cannot be used: {error}") from None
    message = f"database_url: {parsed.get_backend_name()} is not known; sqlite:////PATH and postgresql://HOST/NAME are"
    raise InvalidArgument(Reason.INVALID_FIELD, message)


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidArgument(Reason.INVALID_FIELD, "database_url: SQLite needs a file, such as sqlite:////var/x.db")
    _make_file(Path(url.database))
    engine = create_engine(url, connect_args={"timeout": _LOCKED_S})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_file(path: Path) -> None:
    """An empty file that is its owner's alone; SQLite's log and index beside it get the same permissions."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        message = f"the database's folder {path.parent} cannot be made: {error}"
        raise Unavailable(Reason.DATABASE_UNAVAILABLE, message) from None
    with suppress(OSError):  # SQLite says what is wrong with it
        make_private_file(path)
        for beside in ("-wal", "-shm"):
            close_file(path.with_name(path.name + beside))


def _set_up_sqlite(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
    del record
    connection.isolation_level = None  # the driver begins nothing by itself: `_begin_sqlite` does
    # FULL: what was committed is there after a power failure too, not only after a crash.
    _use_log(connection)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _use_log(connection: sqlite3.Connection) -> None:
    """Change to a write-ahead log; SQLite does not wait where others open a new file at the same moment."""
    for _ in range(int(_LOCKED_S / _RETRY_S)):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(_RETRY_S)
        else:
            return
    connection.execute("PRAGMA journal_mode = WAL")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
