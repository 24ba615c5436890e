"""The runtimes of a database, which are its replicas: each renews a lease for as long as it is alive.

A lease is a time on the database's clock, so that replicas need not agree on theirs. Rows, inside a transaction that
somebody else has begun.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Connection, delete, insert, select, update

from common.db import processes
from common.db.database import database_time
from runtime_service.storage.tables import replicas

RENEWALS = 3
"""How often a lease is renewed while it lasts."""


def new_replica() -> str:
    """A name for one runtime of this process."""
    return f"{secrets.token_hex(4)}@{processes.this_process()}"


def is_alive(replica: str) -> bool:
    """Whether the process of a replica still runs, as far as can be told from here."""
    return processes.is_alive(replica.partition("@")[2])


def renew(connection: Connection, replica: str, lease: timedelta) -> None:
    """Say that `replica` is alive, and has what it has for another `lease`."""
    row = {"lease_expires": database_time(connection) + lease}
    if not connection.execute(update(replicas).where(replicas.c.replica == replica).values(row)).rowcount:
        connection.execute(insert(replicas).values(replica=replica, **row))


def remove(connection: Connection, replica: str) -> None:
    """Say that `replica` has nothing any more."""
    connection.execute(delete(replicas).where(replicas.c.replica == replica))


def alive(connection: Connection, is_alive: Callable[[str], bool]) -> set[str]:
    """Replicas whose lease lasts and whose process runs, as far as can be told from here."""
    rows = connection.execute(select(replicas).where(replicas.c.lease_expires > database_time(connection))).all()
    return {row.replica for row in rows if is_alive(row.replica)}


def forget_dead(connection: Connection, lease: timedelta) -> None:
    """Remove replicas that have not been heard of for long."""
    connection.execute(delete(replicas).where(replicas.c.lease_expires < database_time(connection) - 10 * lease))
