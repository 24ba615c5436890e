"""What a reply thought and called, beside its text."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
compatible_from = "0007"


def upgrade() -> None:
    op.add_column("turns", sa.Column("parts", sa.Text))
