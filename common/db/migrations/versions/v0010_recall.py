"""Turns are found by their words, and may be pinned."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
compatible_from = "0007"

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("sessions", sa.Column("pins", sa.Text))
    op.add_column("turns", sa.Column("recalled", sa.Text))
    op.create_table(
        "recall_turns",
        sa.Column("session_key", _KEY, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("words", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("session_key", "number", name="pk_recall_turns"),
        sa.ForeignKeyConstraint(
            ["session_key"], ["sessions.key"], name="fk_recall_turns_session_key", ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "recall_words",
        sa.Column("session_key", _KEY, nullable=False),
        sa.Column("word", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("turns", sa.Integer, nullable=False),
        sa.Column("newest", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("session_key", "word", name="pk_recall_words"),
        sa.ForeignKeyConstraint(
            ["session_key"], ["sessions.key"], name="fk_recall_words_session_key", ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
