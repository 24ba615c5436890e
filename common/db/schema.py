"""The version of a database's schema: which it has, which this program needs, and how it gets there.

The steps are in `common.db.migrations`. Two processes that upgrade at once do it one after the other. A database that
has the schema already is opened without the library that carries the steps out, which takes long to import.

A step that only adds says so by its `compatible_from`: the oldest schema whose programs can do with what it leaves. The
database keeps that, so that programs of before, which do not know the step, go on with it and start on it.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from sqlalchemy import Column, Connection, String, Table, delete, insert, inspect, select, text

from common.db.database import Database, connect, metadata
from common.db.migrations import versions
from common.errors import FailedPrecondition, Reason
from common.timeouts import DATABASE_TIMEOUT_S

COMPATIBILITY = Table("schema_compatibility", metadata, Column("compatible_from", String(32), primary_key=True))
"""One row, of whoever upgraded last. It is made beside the steps: programs that know fewer of them can read it."""
EMPTY = "none"
BEFORE = "0"  # of a database that was made before there were steps


def open_database(url: str, patience_s: float = DATABASE_TIMEOUT_S) -> Database:
    """Open the database at a SQLAlchemy URL with the schema that this program needs; a file of ours is brought there.

    Raises what `connect` raises, and FailedPrecondition (SCHEMA_MISMATCH) for another schema.
    """
    database = connect(url, patience_s)
    try:
        _ensure(database)
    except BaseException:
        database.close()
        raise
    return database


def _ensure(database: Database) -> None:
    with database.read() as connection:
        found = _version(connection)
        if found == needed_version() or _can_do_with(found, connection):
            return
    if not database.is_embedded:
        raise _mismatch(found)
    upgrade(database)


def upgrade(database: Database) -> tuple[str, str]:
    """Bring a database to the schema that this program needs; returns the versions before and after.

    A newer one that this program can do with stays as it is. Raises FailedPrecondition (SCHEMA_MISMATCH) for one that
    it cannot do with.
    """
    with database.write() as connection:
        before = _version(connection)
        if _can_do_with(before, connection):
            return before, before
        if before not in (EMPTY, BEFORE, *known_versions()):
            raise _mismatch(before)
        _carry_out(connection)
        _keep_compatibility(connection)
    return before, needed_version()


def _can_do_with(found: str, connection: Connection) -> bool:
    """Whether a newer program has said that this one can use what it made of the database."""
    if found in (EMPTY, BEFORE, *known_versions()) or not inspect(connection).has_table(COMPATIBILITY.name):
        return False
    oldest = connection.scalar(select(COMPATIBILITY.c.compatible_from))
    return oldest is not None and oldest <= needed_version()


def _keep_compatibility(connection: Connection) -> None:
    COMPATIBILITY.create(connection, checkfirst=True)
    connection.execute(delete(COMPATIBILITY))
    connection.execute(insert(COMPATIBILITY).values(compatible_from=compatible_from()))


def compatible_from() -> str:
    """The oldest schema whose programs can do with that of this one; no step takes back what one before it asked."""
    steps = [import_module(f"{versions.__name__}.{step.name}") for step in iter_modules(versions.__path__)]
    return max(str(getattr(step, "compatible_from", step.revision)) for step in steps)


def _carry_out(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - most services find the schema that they need
    from alembic.config import Config  # noqa: PLC0415 - likewise

    config = Config()
    config.set_main_option("script_location", "common.db:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def version_of(database: Database) -> str:
    """The version of a database's schema; EMPTY where there is none."""
    with database.read() as connection:
        return _version(connection)


def needed_version() -> str:
    """The version that this program needs."""
    return known_versions()[-1]


@cache
def known_versions() -> tuple[str, ...]:
    """All versions that this program knows, the oldest first: a step's module is named by it, as `v0001_first`."""
    return tuple(sorted(step.name[1:5] for step in iter_modules(versions.__path__)))


def _version(connection: Connection) -> str:
    tables = inspect(connection)
    found = None
    if tables.has_table("alembic_version"):
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return str(found or (BEFORE if tables.has_table("schema_version") else EMPTY))


def _remedy(found: str) -> str:
    if found == EMPTY:
        return "run `sinkserve db upgrade`"
    if found in known_versions() and found >= compatible_from():
        return "run `sinkserve db upgrade`; services that run may go on"
    if found in (BEFORE, *known_versions()):
        return "stop all services and run `sinkserve db upgrade`"
    return "use the release that wrote it, or a newer one"


def _mismatch(found: str) -> FailedPrecondition:
    needed = needed_version()
    message = f"the database has schema {found} and this program needs {needed}: {_remedy(found)}"
    return FailedPrecondition(Reason.SCHEMA_MISMATCH, message, found=found, needed=needed)
