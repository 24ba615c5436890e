"""Sessions belong to one of several runtimes, which say that they are alive; snapshots of their caches are stored."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("owner", sa.String(255)))
    op.add_column("sessions", sa.Column("wanted_by", sa.String(255)))
    op.create_index("ix_sessions_wanted_by", "sessions", ["wanted_by"])
    op.create_table(
        "replicas",
        sa.Column("replica", sa.String(255), nullable=False),
        sa.Column("lease_expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("replica", name="pk_replicas"),
    )
    op.create_table(
        "session_cancels",
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("turn_id", sa.String(64), nullable=False),
        sa.Column("discard", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("session_key", "turn_id", name="pk_session_cancels"),
        sa.ForeignKeyConstraint(
            ["session_key"], ["sessions.key"], name="fk_session_cancels_session_key", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "snapshots",
        sa.Column("object_key", sa.String(255), nullable=False),
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("object_key", name="pk_snapshots"),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.key"], name="fk_snapshots_session_key", ondelete="CASCADE"),
    )
    op.create_index("ix_snapshots_session", "snapshots", ["session_key", "position"])
