"""The version of a database's schema: which it has, which this program needs, and how it gets there.

The steps are in `common.db.migrations`. Two processes that upgrade at once do it one after the other.
"""

from __future__ import annotations

from functools import cache

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from common.db.database import Database, connect
from common.errors import FailedPrecondition, Reason
from common.settings import DATABASE_TIMEOUT_S

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
    if (found := version_of(database)) == needed_version():
        return
    if not database.is_embedded:
        raise _mismatch(found)
    upgrade(database)


def upgrade(database: Database) -> tuple[str, str]:
    """Bring a database to the schema that this program needs; returns the versions before and after.

    Raises FailedPrecondition (SCHEMA_MISMATCH) for a schema that is newer than this program.
    """
    with database.write() as connection:
        before = _version(connection)
        if before not in (EMPTY, BEFORE, *known_versions()):
            raise _mismatch(before)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, needed_version()


def version_of(database: Database) -> str:
    """The version of a database's schema; EMPTY where there is none."""
    with database.read() as connection:
        return _version(connection)


def needed_version() -> str:
    """The version that this program needs."""
    return known_versions()[-1]


@cache
def known_versions() -> tuple[str, ...]:
    """All versions that this program knows, the oldest first."""
    steps = ScriptDirectory.from_config(_config()).walk_revisions()
    return tuple(step.revision for step in steps)[::-1]


def _version(connection: Connection) -> str:
    if (found := MigrationContext.configure(connection).get_current_revision()) is not None:
        return found
    return BEFORE if inspect(connection).has_table("schema_version") else EMPTY


def _remedy(found: str) -> str:
    if found == EMPTY:
        return "run `sinkserve db upgrade`"
    if found in (BEFORE, *known_versions()):
        return "stop all services and run `sinkserve db upgrade`"
    return "use the release that wrote it, or a newer one"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "common.db:migrations")
    return config


def _mismatch(found: str) -> FailedPrecondition:
    needed = needed_version()
    message = f"the database has schema {found} and this program needs {needed}: {_remedy(found)}"
    return FailedPrecondition(Reason.SCHEMA_MISMATCH, message, found=found, needed=needed)
