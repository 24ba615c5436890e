"""What the database itself saw of writes that must not be: triggers that note each of them, in both databases."""

from __future__ import annotations

from sqlalchemy import text

from common.db.database import Database

_CHANGED = " OR ".join(f"NEW.{column} <> OLD.{column}" for column in ("result", "tokens", "attempt", "stops"))
# Sequences have the epoch of whoever wrote them in their upper half.
_FORBIDDEN = {
    "an epoch went back, or skipped one": ("sessions", "NEW.epoch NOT IN (OLD.epoch, OLD.epoch + 1)"),
    "a turn ended in an epoch that was over": (
        "sessions",
        "NEW.last_sequence <> OLD.last_sequence AND (NEW.last_sequence >> 32) <> NEW.epoch",
    ),
    "sequences went back": ("sessions", "NEW.last_sequence < OLD.last_sequence"),
    "history became shorter": ("sessions", "NEW.position < OLD.position OR NEW.turns < OLD.turns"),
    "a turn changed after its end": ("turns", f"OLD.result IS NOT NULL AND ({_CHANGED})"),
    "a turn became another": ("turns", "NEW.turn_id <> OLD.turn_id OR NEW.body <> OLD.body"),
    "attempts went back": ("turns", "NEW.attempt < OLD.attempt OR NEW.stops < OLD.stops"),
}
_NOTE = """
CREATE FUNCTION note_violation() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO violations VALUES (TG_ARGV[0] || ': ' || NEW::text); RETURN NEW; END $$
"""


def install(database: Database) -> None:
    """From now on note every forbidden write."""
    with database.write() as connection:
        connection.execute(text("CREATE TABLE violations (what TEXT NOT NULL)"))
        if not database.is_embedded:
            connection.execute(text(_NOTE))
        for number, (what, (table, condition)) in enumerate(_FORBIDDEN.items()):
            head = f"CREATE TRIGGER audit_{number} AFTER UPDATE ON {table} FOR EACH ROW WHEN ({condition})"
            embedded = f"{head} BEGIN INSERT INTO violations VALUES ('{what}'); END"
            served = f"{head} EXECUTE FUNCTION note_violation('{what}')"
            connection.execute(text(embedded if database.is_embedded else served))


def violations(database: Database) -> list[str]:
    """What was noted."""
    with database.read() as connection:
        return list(connection.scalars(text("SELECT what FROM violations")))
