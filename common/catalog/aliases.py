"""Aliases: movable names for versions. `latest` is always the highest published version; it is computed, not stored."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from common.auth.principal import EVERY_ENGINE, EngineScope
from common.catalog.rows import find_engine, latest_version, not_found, within
from common.catalog.tables import aliases
from common.db.database import Database
from common.db.paging import Page
from common.errors import InvalidArgument, Reason
from common.spec.engine_reference import LATEST, is_alias, parse_reference

MOST_ALIASES = 1000
"""Aliases that a name may have."""
ALIAS_BYTES = 80 * MOST_ALIASES
"""What they take in a message, at most."""


@dataclass(frozen=True)
class Alias:
    """A movable name for a version."""

    name: str
    alias: str
    version: int


class Aliases:
    """Aliases in a database. Calls block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, reference: str, alias: str, scope: EngineScope = EVERY_ENGINE) -> Alias:
        """Create or move an alias; raises InvalidArgument (INVALID_ALIAS), also for one too many, and NotFound for the
        reference.
        """
        _check(alias)
        parsed = parse_reference(reference)
        with self._database.write() as connection:
            engine = find_engine(connection, parsed, scope)
            named = and_(aliases.c.name == engine.name, aliases.c.alias == alias)
            if not connection.execute(update(aliases).where(named).values(version=engine.version)).rowcount:
                _check_room(connection, engine.name)
                values = {"name": engine.name, "alias": alias, "version": engine.version}
                connection.execute(insert(aliases).values(values))
        return Alias(engine.name, alias, engine.version)

    def delete(self, name: str, alias: str, scope: EngineScope = EVERY_ENGINE) -> None:
        """Delete an alias; raises InvalidArgument (INVALID_ALIAS) for one that cannot be, or NotFound."""
        _check(alias)
        with self._database.write() as connection:
            named = and_(aliases.c.name == name, aliases.c.alias == alias, within(scope, aliases.c.name))
            if not connection.execute(delete(aliases).where(named)).rowcount:
                raise not_found(f"{name}:{alias}", "there is no such alias")

    def list(self, name: str, page: Page, scope: EngineScope = EVERY_ENGINE) -> tuple[list[Alias], str]:
        """A page of the aliases of a name, `latest` first, and the token of the next.

        Raises NotFound for a name without versions.
        """
        after = "" if page.after is None else str(page.after[0])
        with self._database.read() as connection:
            if (latest := latest_version(connection, name, scope)) is None:
                raise not_found(name, "no version of it is published")
            follows = and_(aliases.c.name == name, aliases.c.alias > after)
            query = select(aliases).where(follows).order_by(aliases.c.alias).limit(page.size + 1)
            found = [Alias(name, row["alias"], row["version"]) for row in connection.execute(query).mappings()]
        if page.after is None:
            found.insert(0, Alias(name, LATEST, latest))
        kept = found[: page.size]
        return kept, page.next_token(_key(kept[-1]) if len(found) > page.size else None)


def _check_room(connection: Connection, name: str) -> None:
    count: int = connection.scalar(select(func.count()).select_from(aliases).where(aliases.c.name == name)) or 0
    if count >= MOST_ALIASES:
        message = f"alias: {name} has {count} aliases, as many as a name may have; move or delete one"
        raise InvalidArgument(Reason.INVALID_ALIAS, message, field="alias", aliases=count)


def _key(alias: Alias) -> tuple[str]:
    """Its place in the list; `latest` comes before every other."""
    return ("" if alias.alias == LATEST else alias.alias,)


def _check(alias: str) -> None:
    if alias == LATEST:
        why = "is counted: it is always the highest published version"
    elif not is_alias(alias):
        why = "is not an alias: lower-case letters, digits, '.', '_' and '-', at most 63, never all digits"
    else:
        return
    raise InvalidArgument(Reason.INVALID_ALIAS, f"alias: {alias[:100]!r} {why}", field="alias", alias=alias[:100])
