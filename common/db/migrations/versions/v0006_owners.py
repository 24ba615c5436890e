"""Names of engines have owners; those that are there belong to whoever calls without credentials."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("engine_names", sa.Column("owner", sa.String(255), nullable=False, server_default="local"))
