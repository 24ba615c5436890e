"""A build knows the span of the call that asked for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
compatible_from = "0007"


def upgrade() -> None:
    op.add_column("builds", sa.Column("caller_span", sa.String(55), nullable=False, server_default=""))
