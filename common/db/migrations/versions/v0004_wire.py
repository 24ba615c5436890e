"""Builds are found by name and sessions by label, and a runtime is told when another one has changed a session.

What a lost connection does to a session is a word where it was a flag.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_builds = sa.table("builds", sa.column("build_id"), sa.column("spec"), sa.column("name"))
_sessions = sa.table("sessions", sa.column("key"), sa.column("labels"), sa.column("options"))
_labels = sa.table("session_labels", sa.column("label", sa.LargeBinary), sa.column("session_key"))


def upgrade() -> None:
    op.add_column("builds", sa.Column("name", sa.String(63), nullable=False, server_default=""))
    op.create_index("ix_builds_name", "builds", ["principal", "name", "create_time"])
    op.add_column("sessions", sa.Column("changed_for", sa.String(255)))
    op.create_index("ix_sessions_changed_for", "sessions", ["changed_for"])
    op.create_table(
        "session_labels",
        sa.Column("label", sa.LargeBinary(32), nullable=False),
        sa.Column("session_key", _KEY, nullable=False),
        sa.PrimaryKeyConstraint("label", "session_key", name="pk_session_labels"),
        sa.ForeignKeyConstraint(
            ["session_key"], ["sessions.key"], name="fk_session_labels_session_key", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_session_labels_session_key", "session_labels", ["session_key"])
    _name_builds(op.get_bind())
    _convert_sessions(op.get_bind())


def _name_builds(connection: sa.Connection) -> None:
    for build_id, spec in connection.execute(sa.select(_builds.c.build_id, _builds.c.spec)).all():
        named = {"name": json.loads(spec)["name"]}
        connection.execute(sa.update(_builds).where(_builds.c.build_id == build_id).values(named))


def _convert_sessions(connection: sa.Connection) -> None:
    for key, labels, options in connection.execute(sa.select(_sessions)).all():
        values = {"options": json.dumps(_with_a_word(json.loads(options)), separators=(",", ":"))}
        connection.execute(sa.update(_sessions).where(_sessions.c.key == key).values(values))
        for label in json.loads(labels).items():
            row = {"label": hashlib.sha256(json.dumps(label).encode()).digest(), "session_key": key}
            connection.execute(sa.insert(_labels).values(row))


def _with_a_word(options: Mapping[str, object]) -> dict[str, object]:
    others = {name: value for name, value in options.items() if name != "continue_when_disconnected"}
    goes_on = options.get("continue_when_disconnected", False)
    return others | {"on_disconnect": "CONTINUE" if goes_on else "CANCEL"}
