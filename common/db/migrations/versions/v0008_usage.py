"""What principals have used is kept, by engine and day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
compatible_from = "0007"


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("engine", sa.String(127), nullable=False),
        sa.Column("turns", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("generated_tokens", sa.BigInteger, nullable=False),
        sa.Column("minute", sa.BigInteger, nullable=False),
        sa.Column("minute_prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("minute_generated_tokens", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("principal", "day", "engine", name=op.f("pk_usage")),
    )
