"""The SQL database: SQLite by default, PostgreSQL by URL, one code for both.

Modules declare their tables on `metadata`; `common.db.migrations` makes them. Calls block: from asyncio, use
`asyncio.to_thread`. Every write runs in `write()`, of which there is one at a time: what it has read stays true.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Dialect,
    Engine,
    MetaData,
    Pool,
    RowMapping,
    Select,
    TypeDecorator,
    select,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from common.db.engine import make_engine
from common.db.errors import meaning
from common.db.outage import Outage
from common.db.transactions import ALONE, WRITES
from common.errors import Reason, Unavailable
from common.timeouts import DATABASE_TIMEOUT_S

ROWS_AT_ONCE = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)


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


class DatabaseTime(FunctionElement[datetime]):
    """The database's own clock: the one that all its clients share."""

    type = Time()
    inherit_cache = True


@compiles(DatabaseTime, "sqlite")
def _sqlite_time(_element: DatabaseTime, _compiler: object, **_: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    """In whole milliseconds, which is all that SQLite knows."""
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000"


@compiles(DatabaseTime, "postgresql")
def _postgres_time(_element: DatabaseTime, _compiler: object, **_: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


def database_time(connection: Connection) -> datetime:
    """The time on the database's clock."""
    return connection.execute(select(DatabaseTime())).scalar_one()


@contextmanager
def stream(connection: Connection, query: Select[Any]) -> Iterator[Iterator[RowMapping]]:
    """Rows of a query, a few at a time, by column; what is not taken is not read."""
    with connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)) as rows:
        yield iter(rows.mappings())


class Database:
    """An open database. `read` and `write` give a connection inside a transaction; many threads may use it.

    Both raise ResourceExhausted (OUT_OF_DISK) where it has no room left, and Unavailable (DATABASE_UNAVAILABLE) where
    it does not answer.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._outage = Outage()
        self._closed: Pool | None = None
        # A read sees one snapshot. On SQLite every transaction does.
        one_snapshot = {} if self.is_embedded else {"isolation_level": "REPEATABLE READ"}
        self._reader = engine.execution_options(**one_snapshot)
        self._direct = engine if self.is_embedded else engine.execution_options(isolation_level="AUTOCOMMIT")
        self._row_writer = engine.execution_options(**{WRITES: True})
        self._writer = engine.execution_options(**{WRITES: True, ALONE: True})

    @property
    def is_embedded(self) -> bool:
        """Whether it is an SQLite file, not a server."""
        return self._engine.name == "sqlite"

    @property
    def shown(self) -> str:
        """Its URL without a password."""
        url = self._engine.url
        return url.set(drivername=url.get_backend_name(), query={}).render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, from one snapshot."""
        with self._meaning(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def direct(self) -> Iterator[Connection]:
        """Without a transaction, for statements of `common.db.direct`."""
        with self._meaning(), self._direct.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; committed at the end, rolled back if the block raises.

        No other of its kind runs meanwhile: what it reads stays true until it commits.
        """
        with self._meaning(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def write_rows(self) -> Iterator[Connection]:
        """A transaction that writes rows on conditions in its statements, and reads nothing that others may change.

        On a server many of them run at once.
        """
        with self._meaning(), self._row_writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection; one that a thread still uses, when that is done."""
        self._closed = self._engine.pool
        self._engine.dispose()

    @contextmanager
    def _meaning(self) -> Iterator[None]:
        self._outage.check()
        try:
            yield
        except (DBAPIError, PoolTimeout) as error:
            if (better := meaning(error, self.shown)) is None:
                raise
            self._outage.note(error, better)
            raise better from error
        finally:
            if self._closed is not None:
                self._closed.dispose()


def connect(url: str, patience_s: float = DATABASE_TIMEOUT_S) -> Database:
    """The database at a SQLAlchemy URL, whatever schema it has: see `schema.open_database`.

    A server gets `patience_s` for each answer. Raises InvalidArgument for a URL that cannot be used, ResourceExhausted
    for a full disk, and Unavailable for a database that does not answer or is not one.
    """
    database = Database(make_engine(url, patience_s))
    try:
        with database.read() as connection:
            database_time(connection)
            connection.exec_driver_sql("SELECT 1")
    except DBAPIError as error:
        database.close()
        message = f"the database {database.shown} cannot be used: {error.orig}"
        raise Unavailable(Reason.DATABASE_UNAVAILABLE, message) from None
    except BaseException:
        database.close()
        raise
    return database
