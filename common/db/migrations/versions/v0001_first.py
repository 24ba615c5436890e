"""The tables of before there were migrations: a database of that time has some of them, or all."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "blob_claims",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("holder", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("digest", "holder", name="pk_blob_claims"),
        if_not_exists=True,
    )
    op.create_index("ix_blob_claims_holder", "blob_claims", ["holder"], if_not_exists=True)
    op.create_table(
        "blob_tombstones",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("sweeper", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_blob_tombstones"),
        if_not_exists=True,
    )
    op.create_table(
        "builds",
        sa.Column("build_id", sa.String(length=32), nullable=False),
        sa.Column("principal", sa.String(length=255), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=True),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=True),
        sa.Column("end_time", sa.BigInteger(), nullable=True),
        sa.Column("engine", sa.String(length=127), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("builder", sa.String(length=255), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.Column("waits_for_key", sa.String(length=71), nullable=True),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("build_id", name="pk_builds"),
        sa.UniqueConstraint("principal", "request_id", name="uq_builds_principal"),
        if_not_exists=True,
    )
    op.create_index("ix_builds_listing", "builds", ["principal", "create_time", "build_id"], if_not_exists=True)
    op.create_index("ix_builds_state", "builds", ["state", "create_time"], if_not_exists=True)
    op.create_table(
        "engine_names",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_engine_names"),
        if_not_exists=True,
    )
    op.create_table(
        "engines",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("build_key", sa.String(length=71), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name="pk_engines"),
        sa.UniqueConstraint("digest", name="uq_engines_digest"),
        if_not_exists=True,
    )
    op.create_index("ix_engines_build_key", "engines", ["build_key"], if_not_exists=True)
    op.create_table(
        "sessions",
        sa.Column("key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("principal", sa.String(length=255), nullable=False),
        sa.Column("session_id", sa.String(length=64), nullable=False),
        sa.Column("engine_name", sa.String(length=63), nullable=False),
        sa.Column("engine_version", sa.BigInteger(), nullable=False),
        sa.Column("engine_digest", sa.String(length=71), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("opening", sa.LargeBinary(), nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("turns", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_active_at", sa.BigInteger(), nullable=False),
        sa.Column("delete_after_idle_s", sa.Float(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key", name="pk_sessions"),
        sa.UniqueConstraint("principal", "session_id", name="uq_sessions_principal"),
        if_not_exists=True,
    )
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"], if_not_exists=True)
    op.create_index("ix_sessions_last_active", "sessions", ["principal", "last_active_at", "key"], if_not_exists=True)
    op.create_table(
        "build_events",
        sa.Column("build_id", sa.String(length=32), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["build_id"], ["builds.build_id"], name="fk_build_events_build_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("build_id", "sequence", name="pk_build_events"),
        if_not_exists=True,
    )
    op.create_table(
        "engine_aliases",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("alias", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["name", "version"], ["engines.name", "engines.version"], name="fk_engine_aliases_name", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("name", "alias", name="pk_engine_aliases"),
        if_not_exists=True,
    )
    op.create_index("ix_engine_aliases_version", "engine_aliases", ["name", "version"], if_not_exists=True)
    op.create_table(
        "engine_files",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["name", "version"], ["engines.name", "engines.version"], name="fk_engine_files_name", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("name", "version", "path", name="pk_engine_files"),
        if_not_exists=True,
    )
    op.create_index("ix_engine_files_digest", "engine_files", ["digest"], if_not_exists=True)
    op.create_table(
        "engine_holds",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(length=255), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["name", "version"], ["engines.name", "engines.version"], name="fk_engine_holds_name", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("name", "version", "holder", name="pk_engine_holds"),
        if_not_exists=True,
    )
    op.create_index("ix_engine_holds_holder", "engine_holds", ["holder"], if_not_exists=True)
    op.create_table(
        "running_build_keys",
        sa.Column("build_key", sa.String(length=71), nullable=False),
        sa.Column("build_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["build_id"], ["builds.build_id"], name="fk_running_build_keys_build_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("build_key", name="pk_running_build_keys"),
        sa.UniqueConstraint("build_id", name="uq_running_build_keys_build_id"),
        if_not_exists=True,
    )
    op.create_table(
        "turns",
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("turn_id", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stops", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(length=16), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("tokens", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.key"], name="fk_turns_session_key", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("session_key", "number", name="pk_turns"),
        sa.UniqueConstraint("session_key", "turn_id", name="uq_turns_session_key"),
        if_not_exists=True,
    )
