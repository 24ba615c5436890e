"""Turns a database's errors into ours: no room left, or unavailable now. Any other is a fault of this program."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from common.errors import Reason, ResourceExhausted, SinkServeError, Unavailable

_FULL = ("53100",)
_AWAY = (
    "08",  # connection lost
    "53300",  # too many connections
    "55P03",  # waited too long for a lock
    "25P03",  # stood still in a transaction
    "57P",  # shut down, or starting
)
_RETRY_S = 5.0
# Source: PostgreSQL, appendix A, "PostgreSQL Error Codes"; https://sqlite.org/rescode.html.


def meaning(error: DBAPIError | PoolTimeout, name: str) -> SinkServeError | None:
    """The error to raise instead, for the database `name`; None: it is not one that a person could act on."""
    if isinstance(error, PoolTimeout):
        return _away(name, "all connections to it are in use, and none became free in time")
    cause = error.orig
    code, state = getattr(cause, "sqlite_errorcode", None), getattr(cause, "sqlstate", None) or ""
    if code == sqlite3.SQLITE_FULL or state in _FULL:
        message = f"the database {name} has no room left: {cause}; free some, then try again"
        return ResourceExhausted(Reason.OUT_OF_DISK, message, database=name)
    busy = code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    unreached = isinstance(error, OperationalError) and code is None and not state  # no connection, so no state
    if busy or unreached or error.connection_invalidated or state.startswith(_AWAY):
        return _away(name, cause)
    return None


def _away(name: str, cause: object) -> Unavailable:
    message = f"the database {name} does not answer: {cause}"
    return Unavailable(Reason.DATABASE_UNAVAILABLE, message, retry_after_s=_RETRY_S, database=name)
