"""Builds that are asked for, and leases on them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from sqlalchemy import update

from builder_service.queue import tables
from builder_service.queue.build import Build
from builder_service.queue.capability import Capability
from builder_service.queue.failure import Failure
from builder_service.queue.queue import BuildQueue, Lease
from common.db.database import Database, database_time
from common.digest import digest_of
from common.errors import Internal, Reason
from common.spec.model_spec import ModelSpec, Source

SPEC = ModelSpec(name="demo", source=Source(uri="/m"))
OTHER = ModelSpec(name="other", source=Source(uri="/m"))
KEY = digest_of(b"key")
FAILURE = Failure.of(Internal(Reason.BUILD_CRASHED, "crashed"))
ANYTHING = Capability(folders=(Path("/"),), prefixes=("hf://",))


def take(queue: BuildQueue) -> Build:
    return leased(queue).build


def leased(queue: BuildQueue) -> Lease:
    lease = queue.lease_next()
    assert lease is not None
    return lease


def expire(database: Database) -> None:
    """Let every lease have passed."""
    with database.write() as connection:
        for table in (tables.builds, tables.builders):
            connection.execute(update(table).values(lease_expires=database_time(connection) - timedelta(seconds=1)))
