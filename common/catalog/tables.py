"""Tables of the published engines: what `catalog` and `blob_claims` read and write."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, Integer, String, Table, Text

from common.auth.principal import LOCAL_PRINCIPAL
from common.db.database import Time, metadata

names = Table(
    "engine_names",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("last_version", Integer, nullable=False),  # goes up only: versions are never used again
    Column("owner", String(255), nullable=False, server_default=LOCAL_PRINCIPAL),  # who published the first version
)

engines = Table(
    "engines",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(71), nullable=False, unique=True),
    Column("build_key", String(71), nullable=False, index=True),
    Column("manifest", Text, nullable=False),  # canonical JSON; `digest` is over these bytes
    Column("create_time", Time, nullable=False),
    Column("signature", Text, nullable=False, server_default=""),  # a DSSE envelope, or empty
)


def _of_engine() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["name", "version"], [engines.c.name, engines.c.version], ondelete="CASCADE")


files = Table(
    "engine_files",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("path", String(255), primary_key=True),
    Column("digest", String(71), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    _of_engine(),
    Index("ix_engine_files_digest", "digest"),
)

aliases = Table(
    "engine_aliases",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("alias", String(63), primary_key=True),
    Column("version", Integer, nullable=False),
    _of_engine(),
    Index("ix_engine_aliases_version", "name", "version"),
)

holds = Table(
    "engine_holds",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("holder", String(255), primary_key=True, index=True),
    Column("create_time", Time, nullable=False),
    _of_engine(),
)

blob_claims = Table(
    "blob_claims",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("holder", String(255), primary_key=True, index=True),
)

blob_tombstones = Table(
    "blob_tombstones",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("sweeper", String(255), nullable=False),  # the process that deletes it
)
