"""Tables of sessions, their turns, words and snapshots, of what was used, and of the runtimes that have them.

Whoever creates something owns it: every look-up names the principal.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from common.db.database import Time, metadata

# Counted by the database; SQLite counts only what is declared INTEGER.
_KEY = BigInteger().with_variant(Integer, "sqlite")

sessions = Table(
    "sessions",
    metadata,
    Column("key", _KEY, primary_key=True, autoincrement=True),
    Column("principal", String(255), nullable=False),
    Column("session_id", String(64), nullable=False),
    Column("engine_name", String(63), nullable=False),
    Column("engine_version", BigInteger, nullable=False),
    Column("engine_digest", String(71), nullable=False),
    Column("options", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("opening", LargeBinary, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("window_start_position", BigInteger, nullable=False),
    Column("oldest_visible_turn", String(64), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("last_active_at", Time, nullable=False),
    Column("delete_after_idle_s", Float),
    Column("expires_at", Time, index=True),
    Column("owner", String(255)),
    Column("wanted_by", String(255), index=True),
    Column("changed_for", String(255), index=True),  # the replica that has it in memory as it was
    Column("pins", Text),
    UniqueConstraint("principal", "session_id"),
    Index("ix_sessions_last_active", "principal", "last_active_at", "key"),
)

labels = Table(
    "session_labels",
    metadata,
    Column("label", LargeBinary(32), primary_key=True),  # SHA-256 of key and value
    Column("session_key", _KEY, ForeignKey("sessions.key", ondelete="CASCADE"), primary_key=True, index=True),
)

turns = Table(
    "turns",
    metadata,
    Column("session_key", _KEY, ForeignKey("sessions.key", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("turn_id", String(64), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("stops", Integer, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("ended_at", Time),
    Column("reason", String(16)),
    Column("result", Text),
    Column("tokens", LargeBinary),
    Column("recalled", Text),
    Column("view", Text),
    Column("parts", Text),
    UniqueConstraint("session_key", "turn_id"),
)

usage = Table(
    "usage",
    metadata,
    Column("principal", String(255), primary_key=True),
    Column("day", String(10), primary_key=True),  # YYYY-MM-DD, of UTC
    Column("engine", String(127), primary_key=True),  # NAME@VERSION; it outlives the engine
    Column("turns", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("generated_tokens", BigInteger, nullable=False),
    Column("minute", BigInteger, nullable=False),  # since 1970: the latest of which there is a turn
    Column("minute_prompt_tokens", BigInteger, nullable=False),
    Column("minute_generated_tokens", BigInteger, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("replica", String(255), primary_key=True),
    Column("lease_expires", Time, nullable=False),
)

cancels = Table(
    "session_cancels",
    metadata,
    Column("session_key", _KEY, ForeignKey("sessions.key", ondelete="CASCADE"), primary_key=True),
    Column("turn_id", String(64), primary_key=True),
    Column("discard", Boolean, nullable=False),
)

recall_turns = Table(
    "recall_turns",
    metadata,
    Column("session_key", _KEY, ForeignKey("sessions.key", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("words", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

recall_words = Table(
    "recall_words",
    metadata,
    Column("session_key", _KEY, ForeignKey("sessions.key", ondelete="CASCADE"), primary_key=True),
    Column("word", Integer, primary_key=True, autoincrement=False),
    Column("turns", Integer, nullable=False),  # how many have it
    Column("newest", Text, nullable=False),  # numbers of the newest of these, the newest first
    sqlite_with_rowid=False,
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("object_key", String(255), primary_key=True),
    Column("session_key", _KEY, ForeignKey("sessions.key", ondelete="CASCADE"), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", Time, nullable=False),
    Index("ix_snapshots_session", "session_key", "position"),
)
