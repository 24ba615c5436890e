"""Tables of the builds."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from common.db.database import Time, metadata

builds = Table(
    "builds",
    metadata,
    Column("build_id", String(32), primary_key=True),
    Column("principal", String(255), nullable=False),
    Column("request_id", String(128)),  # NULL: none was given
    Column("name", String(63), nullable=False),  # of the spec
    Column("spec", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String(16)),
    Column("progress", Float, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("create_time", Time, nullable=False),
    Column("start_time", Time),
    Column("end_time", Time),
    Column("engine", String(127)),
    Column("failure", Text),
    Column("builder", String(255), nullable=False),  # the process that accepted it
    Column("worker", String(255)),  # the process that runs it
    Column("lease_expires", Time),  # on the database's clock; the worker's lease holds until then
    Column("run", String(48)),  # the attempt's name; a build that takes over an attempt keeps the name
    Column("waits_for_key", String(71)),  # queued until no other build runs with this key
    Column("last_sequence", BigInteger, nullable=False),
    Column("new_version", Boolean, nullable=False, server_default=false()),  # also where the same engine exists
    Column("caller_span", String(55), nullable=False, server_default=""),  # W3C trace context of who asked for it
    UniqueConstraint("principal", "request_id"),
    Index("ix_builds_listing", "principal", "create_time", "build_id"),
    Index("ix_builds_name", "principal", "name", "create_time"),
    Index("ix_builds_state", "state", "create_time"),
)

events = Table(
    "build_events",
    metadata,
    Column("build_id", ForeignKey(builds.c.build_id, ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("time", Time, nullable=False),
    Column("event", Text, nullable=False),  # JSON of an events.Event
)

running_keys = Table(
    "running_build_keys",
    metadata,
    Column("build_key", String(71), primary_key=True),  # one running build a key
    Column("build_id", ForeignKey(builds.c.build_id, ondelete="CASCADE"), nullable=False, unique=True),
)

builders = Table(
    "builders",
    metadata,
    Column("builder", String(255), primary_key=True),  # a process that renews its lease
    Column("capability", Text, nullable=False),  # JSON of a capability.Capability
    Column("lease_expires", Time, nullable=False),  # on the database's clock
)
