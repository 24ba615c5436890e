"""Builders lease builds, for a time on the database's clock, and say that they are alive.

A build goes on for another of its key when it is cancelled. The version of the schema is alembic's from here on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("builds", sa.Column("lease_expires", sa.BigInteger()))
    op.add_column("builds", sa.Column("run", sa.String(48)))
    op.create_table(
        "builders",
        sa.Column("builder", sa.String(255), nullable=False),
        sa.Column("capability", sa.Text(), nullable=False),
        sa.Column("lease_expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("builder", name="pk_builders"),
    )
    op.drop_table("schema_version", if_exists=True)
