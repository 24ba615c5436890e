"""A build says whether it wants a version of its own where the same engine exists."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("builds", sa.Column("new_version", sa.Boolean, nullable=False, server_default=sa.false()))
