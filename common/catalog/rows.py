"""Rows of the catalog to engines and back. All functions work inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, and_, func, insert, not_, or_, select, true, update

from common.auth.principal import EVERY_ENGINE, LOCAL_PRINCIPAL, EngineScope
from common.catalog.tables import aliases, engines, files, holds, names
from common.db.database import utc_now
from common.db.paging import Page
from common.digest import digest_of
from common.errors import AlreadyExists, FailedPrecondition, NotFound, Reason
from common.spec.engine_reference import LATEST, EngineReference
from common.spec.manifest import Manifest
from common.spec.published_engine import PublishedEngine


def is_version(table: Table, name: str, version: int) -> ColumnElement[bool]:
    """Condition: a row of this version."""
    return and_(table.c.name == name, table.c.version == version)


def follows(page: Page) -> ColumnElement[bool]:
    """Condition: an engine that comes after the last one of the page before."""
    assert page.after is not None
    name, version = page.after
    return or_(engines.c.name > name, and_(engines.c.name == name, engines.c.version < version))


def not_found(what: str, why: str) -> NotFound:
    """The error for a reference that names nothing."""
    return NotFound(Reason.ENGINE_NOT_FOUND, f"engine {what} not found: {why}", reference=what)


def latest_version(connection: Connection, name: str, scope: EngineScope = EVERY_ENGINE) -> int | None:
    """Highest version of a name that is published; None if none is."""
    named = and_(engines.c.name == name, within(scope, engines.c.name))
    version: int | None = connection.scalar(select(func.max(engines.c.version)).where(named))
    return version


def within(scope: EngineScope, name: Column[Any]) -> ColumnElement[bool]:
    """Condition: an engine name is among those that somebody finds."""
    if scope.owner is None:
        return true()
    own = select(names.c.name).where(names.c.owner == scope.owner)
    begins = (name.startswith(each[:-1], autoescape=True) for each in scope.shared if each.endswith("*"))
    return or_(name.in_(own), name.in_([each for each in scope.shared if not each.endswith("*")]), *begins)


def find_engine(
    connection: Connection, reference: EngineReference, scope: EngineScope = EVERY_ENGINE
) -> PublishedEngine:
    """The engine that a reference names; raises NotFound saying what there is, as far as `scope` goes."""
    query = select(engines).where(engines.c.name == reference.name, within(scope, engines.c.name))
    if reference.digest is not None:
        query = query.where(engines.c.digest == reference.digest)
    else:
        query = query.where(engines.c.version == _version(connection, reference))
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise not_found(str(reference), _what_there_is(connection, reference.name, scope))
    return to_engine(connection, row)


def to_engine(connection: Connection, row: Mapping[Any, Any]) -> PublishedEngine:
    """An engine from its row."""
    named = select(aliases.c.alias).where(is_version(aliases, row["name"], row["version"])).order_by(aliases.c.alias)
    latest = (LATEST,) if latest_version(connection, row["name"]) == row["version"] else ()
    manifest = Manifest.model_validate_json(row["manifest"])
    shown = (*latest, *connection.scalars(named))
    owner = owner_of(connection, row["name"])
    return PublishedEngine(manifest, row["digest"], row["create_time"], shown, owner, row["signature"])


def owner_of(connection: Connection, name: str) -> str:
    """Whose a name is; empty for one that nobody has."""
    return connection.scalar(select(names.c.owner).where(names.c.name == name)) or ""


def owned_bytes(connection: Connection, owner: str, but_for: PublishedEngine | None = None) -> int:
    """Bytes of the files of an owner's engines, or of all but one of them; a file that several have counts once."""
    its = select(files.c.digest, files.c.size_bytes).join(names, names.c.name == files.c.name)
    its = its.where(names.c.owner == owner).distinct()
    if but_for is not None:
        its = its.where(not_(is_version(files, but_for.name, but_for.version)))
    sizes = its.subquery().c.size_bytes
    return int(connection.execute(select(func.coalesce(func.sum(sizes), 0))).scalar_one())


def check_owner(connection: Connection, name: str, owner: str) -> None:
    """Raise AlreadyExists (ENGINE_NAME_TAKEN) if a name is somebody else's."""
    if owner_of(connection, name) not in ("", owner):
        raise name_taken(name)


def name_taken(name: str) -> AlreadyExists:
    """The error for a name that is somebody else's."""
    message = f"spec.name: {name!r} is another principal's; choose another name"
    return AlreadyExists(Reason.ENGINE_NAME_TAKEN, message, field="spec.name", name=name)


def stored_manifest(connection: Connection, engine: PublishedEngine) -> bytes:
    """The manifest's bytes as they were published; an older program may have written fewer fields than this one."""
    query = select(engines.c.manifest).where(is_version(engines, engine.name, engine.version))
    return str(connection.scalars(query).one()).encode()


def insert_engine(
    connection: Connection, draft: Manifest, owner: str = LOCAL_PRINCIPAL, signature: str = ""
) -> PublishedEngine:
    """Publish a draft as the next version of its name, which is `owner`'s if it is new."""
    manifest = draft.model_copy(update={"version": _next_version(connection, draft.name, owner)})
    text, key = manifest.canonical(), {"name": manifest.name, "version": manifest.version}
    engine = PublishedEngine(manifest, digest_of(text), utc_now(), (LATEST,), owner, signature)
    values = {"digest": engine.digest, "build_key": manifest.build_key, "create_time": engine.create_time}
    connection.execute(insert(engines).values(**key, **values, manifest=text.decode(), signature=signature))
    for file in manifest.files:
        row = {"path": file.path, "digest": file.digest, "size_bytes": file.size_bytes}
        connection.execute(insert(files).values(**key, **row))
    return engine


def find_same(connection: Connection, draft: Manifest) -> PublishedEngine | None:
    """The newest version of a draft's name with the same build key and the same files."""
    key = and_(engines.c.name == draft.name, engines.c.build_key == draft.build_key)
    rows = connection.execute(select(engines).where(key).order_by(engines.c.version.desc())).mappings()
    wanted = {(file.path, file.digest) for file in draft.files}
    found = (to_engine(connection, row) for row in rows.all())
    return next((one for one in found if {(file.path, file.digest) for file in one.manifest.files} == wanted), None)


def refuse_if_held(connection: Connection, engine: PublishedEngine) -> None:
    """Raise FailedPrecondition (ENGINE_IN_USE), naming the holders, if the engine is held."""
    query = select(holds.c.holder).where(is_version(holds, engine.name, engine.version)).order_by(holds.c.holder)
    if not (holders := list(connection.scalars(query))):
        return
    shown = ", ".join(holders[:5]) + (f" and {len(holders) - 5} more" if len(holders) > 5 else "")
    raise FailedPrecondition(
        Reason.ENGINE_IN_USE,
        f"{engine.reference} is in use by {shown}; unload it, end the sessions, or force the deletion",
        engine=engine.reference,
        holders=shown,
    )


def _version(connection: Connection, reference: EngineReference) -> int | None:
    if reference.version is not None:
        return reference.version
    if reference.alias == LATEST:
        return latest_version(connection, reference.name)
    where = and_(aliases.c.name == reference.name, aliases.c.alias == reference.alias)
    return connection.scalar(select(aliases.c.version).where(where))


def _next_version(connection: Connection, name: str, owner: str) -> int:
    """Increment the counter of the name, in a row that every publisher has to lock."""
    counted = update(names).where(names.c.name == name).values(last_version=names.c.last_version + 1)
    version: int | None = connection.scalar(counted.returning(names.c.last_version))
    if version is None:
        version = 1
        connection.execute(insert(names).values(name=name, last_version=version, owner=owner))
    return version


def _what_there_is(connection: Connection, name: str, scope: EngineScope) -> str:
    visible = within(scope, engines.c.name)
    query = select(engines.c.version).where(engines.c.name == name, visible).order_by(engines.c.version.desc()).limit(6)
    if found := [str(version) for version in connection.scalars(query)]:
        return f"versions of {name} are {', '.join(found[:5])}{', ...' if len(found) > 5 else ''}"
    known = connection.scalars(select(engines.c.name).where(visible).distinct().order_by(engines.c.name).limit(6))
    some = list(known)
    return (
        f"published names are {', '.join(some[:5])}{', ...' if len(some) > 5 else ''}" if some else "none is published"
    )
