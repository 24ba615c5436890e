"""The registry of builders in the database: which are alive, until when their leases hold, and what each can build.

Lease times are on the database's clock, so that builders' clocks need not agree. All functions work inside the caller's
transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta

from sqlalchemy import Connection, and_, delete, insert, select, update

from builder_service.queue.build import State
from builder_service.queue.capability import Capability
from builder_service.queue.tables import builders, builds
from common.db.database import database_time

LEASE = timedelta(seconds=30)
RENEW_S = 10.0


def renew_leases(connection: Connection, builder: str, capability: Capability, runs: Collection[str]) -> None:
    """Renew the lease of `builder` and of the attempts `runs` that it runs, for another LEASE."""
    until = database_time(connection) + LEASE
    row = {"capability": capability.model_dump_json(), "lease_expires": until}
    if not connection.execute(update(builders).where(builders.c.builder == builder).values(row)).rowcount:
        connection.execute(insert(builders).values(builder=builder, **row))
    mine = and_(builds.c.worker == builder, builds.c.state == State.RUNNING.value, builds.c.run.in_(runs))
    connection.execute(update(builds).where(mine).values(lease_expires=until))


def unregister(connection: Connection, builder: str) -> None:
    """Remove `builder`: it takes no more builds."""
    connection.execute(delete(builders).where(builders.c.builder == builder))


def other_capabilities(connection: Connection, builder: str, is_alive: Callable[[str], bool]) -> list[Capability]:
    """Capabilities of the other builders that are alive."""
    now = database_time(connection)
    rows = connection.execute(select(builders).where(builders.c.builder != builder)).all()
    return [
        Capability.model_validate_json(row.capability)
        for row in rows
        if row.lease_expires > now and is_alive(row.builder)
    ]


def first_alive(connection: Connection, is_alive: Callable[[str], bool]) -> str | None:
    """Of the builders that are alive, the first by name."""
    leased = builders.c.lease_expires > database_time(connection)
    names = connection.scalars(select(builders.c.builder).where(leased).order_by(builders.c.builder))
    return next(filter(is_alive, names.all()), None)


def lost_builds(
    connection: Connection, builder: str, runs: Collection[str], is_alive: Callable[[str], bool]
) -> list[str]:
    """Ids of builds in state RUNNING that no worker runs.

    Their worker has died, or its lease has expired, or it is `builder` itself, which runs only `runs`.
    """
    now = database_time(connection)
    columns = (builds.c.build_id, builds.c.worker, builds.c.run, builds.c.lease_expires)
    running = select(*columns).where(builds.c.state == State.RUNNING.value)
    return [
        row.build_id
        for row in connection.execute(running)
        if row.lease_expires is None
        or row.lease_expires <= now
        or not is_alive(row.worker)
        or (row.worker == builder and row.run not in runs)
    ]


def remove_expired(connection: Connection) -> None:
    """Remove builders whose leases expired long ago."""
    connection.execute(delete(builders).where(builders.c.lease_expires < database_time(connection) - 10 * LEASE))
