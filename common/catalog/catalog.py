"""The published engines. A version exists when its row does.

Rows are in SQL and files in the blob store; `blob_claims` has the rule that keeps the two together. Calls block:
from asyncio, use `asyncio.to_thread`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, RowMapping, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from common.auth.principal import EVERY_ENGINE, LOCAL_PRINCIPAL, EngineScope
from common.catalog.aliases import ALIAS_BYTES
from common.catalog.blob_claims import Sweeper, claimed_by, release_claims
from common.catalog.garbage import Collected, collect_garbage
from common.catalog.rows import (
    check_owner,
    find_engine,
    find_same,
    follows,
    insert_engine,
    is_version,
    not_found,
    owner_of,
    refuse_if_held,
    stored_manifest,
    to_engine,
    within,
)
from common.catalog.tables import engines, holds
from common.db.database import Database, stream, utc_now
from common.db.paging import Page, text_bytes
from common.digest import digest_of
from common.errors import Aborted, DataLoss, InvalidArgument, Reason
from common.spec.engine_reference import parse_reference
from common.spec.manifest import EngineFile, Manifest
from common.spec.published_engine import PublishedEngine
from common.store.blob_store import BlobStore

Also = Callable[[Connection, PublishedEngine], None]
Sign = Callable[[Manifest], str]
"""Vouches for an engine; see `signature`."""


def _nothing(_connection: Connection, _engine: PublishedEngine) -> None:
    pass


def unsigned(_manifest: Manifest) -> str:
    """No signature."""
    return ""


class Catalog:
    """Published engines in a database and a store. What is published is signed by `sign`."""

    def __init__(self, database: Database, store: BlobStore, sign: Sign = unsigned) -> None:
        self._database = database
        self._sign = sign
        self._store = store
        self._sweeper = Sweeper(database, store)

    def resolve(self, reference: str, field: str = "reference", scope: EngineScope = EVERY_ENGINE) -> PublishedEngine:
        """The engine that a reference names now; raises InvalidArgument, or NotFound (ENGINE_NOT_FOUND).

        Here and below, what `scope` does not cover is not found.
        """
        parsed = parse_reference(reference, field)
        with self._database.read() as connection:
            return find_engine(connection, parsed, scope)

    def owner_of(self, name: str) -> str:
        """Whose a name is; empty for one that nobody has."""
        with self._database.read() as connection:
            return owner_of(connection, name)

    def list(self, page: Page, name: str = "", scope: EngineScope = EVERY_ENGINE) -> tuple[list[PublishedEngine], str]:
        """A page of engines, by name and then the newest first, and the token of the next; `name` filters."""
        query = select(engines).where(within(scope, engines.c.name))
        query = query.order_by(engines.c.name, engines.c.version.desc()).limit(page.size + 1)
        if name:
            query = query.where(engines.c.name == name)
        if page.after is not None:
            query = query.where(follows(page))
        with self._database.read() as connection:
            with stream(connection, query) as rows:
                kept, token = page.fill(rows, _row_bytes, lambda row: (row["name"], row["version"]))
            return [to_engine(connection, row) for row in kept], token

    def with_build_key(self, build_key: str) -> Sequence[PublishedEngine]:
        """Engines with a build key, the newest first."""
        query = select(engines).where(engines.c.build_key == build_key).order_by(engines.c.create_time.desc())
        with self._database.read() as connection:
            return [to_engine(connection, row) for row in connection.execute(query).mappings()]

    def publish(
        self,
        draft: Manifest,
        holder: str,
        also: Also = _nothing,
        *,
        new_version: bool = True,
        owner: str = LOCAL_PRINCIPAL,
        signature: str = "",
    ) -> PublishedEngine:
        """Give a draft the next version of its name, for `owner`, and publish it; `also` runs in the same transaction.

        A `signature` that it has already is kept. Without `new_version` nothing is published where the same engine
        exists under that name, which is returned. The files are in the store, claimed by `holder`; the claims end here.
        Raises Aborted if one is not claimed, and AlreadyExists (ENGINE_NAME_TAKEN) for a name of another owner.
        """
        with self._database.write() as connection:
            if missing := {file.digest for file in draft.files} - claimed_by(connection, holder):
                raise Aborted(Reason.INTERNAL, f"{holder} does not claim {sorted(missing)}; nothing was published")
            check_owner(connection, draft.name, owner)
            engine = None if new_version else find_same(connection, draft)
            engine = engine or insert_engine(connection, draft, owner, signature or self._sign(draft))
            release_claims(connection, holder)
            also(connection, engine)
        return engine

    def drop_claims(self, holder: str) -> None:
        """Release the claims of a publisher, and delete those of its blobs that nothing else needs."""
        with self._database.write() as connection:
            released = release_claims(connection, holder)
        self._sweeper.sweep(released)

    def delete(self, reference: str, *, force: bool = False, scope: EngineScope = EVERY_ENGINE) -> None:
        """Delete a version and the blobs that only it has; its number is never used again.

        Raises InvalidArgument for a reference that names no fixed version, NotFound, and FailedPrecondition
        (ENGINE_IN_USE) while it is held, unless forced.
        """
        parsed = parse_reference(reference)
        if not parsed.is_pinned:
            message = f"reference: {reference!r} may move; name what to delete as NAME@VERSION or NAME@sha256:HEX"
            raise InvalidArgument(Reason.INVALID_FIELD, message, field="reference", value=reference)
        with self._database.write() as connection:
            engine = find_engine(connection, parsed, scope)
            if not force:
                refuse_if_held(connection, engine)
            connection.execute(delete(engines).where(is_version(engines, engine.name, engine.version)))
        self._sweeper.sweep({file.digest for file in engine.manifest.files})

    def finish_deletions(self) -> None:
        """Finish deletions that dead processes had begun."""
        self._sweeper.finish()

    def collect_garbage(self, *, dry_run: bool) -> Collected:
        """Delete blobs that no engine has and no holder claims, or only count them."""
        return collect_garbage(self._database, self._store, dry_run=dry_run)

    def verify(self, reference: str, scope: EngineScope = EVERY_ENGINE) -> tuple[int, int]:
        """Read every file again, in pieces; returns their number and bytes.

        Raises DataLoss (STORE_CORRUPT) naming the file and its digest.
        """
        parsed = parse_reference(reference, "reference")
        with self._database.read() as connection:
            engine = find_engine(connection, parsed, scope)
            manifest = stored_manifest(connection, engine)
        if digest_of(manifest) != engine.digest:
            raise DataLoss(Reason.STORE_CORRUPT, f"the manifest of {engine.reference} does not have its digest")
        sizes = [self._verify_file(engine, file) for file in engine.manifest.files]
        return len(sizes), sum(sizes)

    def _verify_file(self, engine: PublishedEngine, file: EngineFile) -> int:
        try:
            return self._store.verify(file.digest)
        except DataLoss as error:
            self.resolve(engine.reference)  # raises NotFound if it was deleted meanwhile, and its files with it
            message = f"{file.path} of {engine.reference}: {error.message}"
            raise DataLoss(
                Reason.STORE_CORRUPT, message, engine=engine.reference, file=file.path, blob=file.digest
            ) from None

    def hold(self, engine: PublishedEngine, holder: str) -> None:
        """Keep a version from being deleted; the same hold twice is one. Raises NotFound if it has gone.

        The error of a refused deletion names the `holder`, such as `runtime 127.0.0.1:50071` or `sessions/ID`.
        """
        try:
            with self._database.write() as connection:
                add_hold(connection, engine.name, engine.version, holder)
        except IntegrityError:
            raise not_found(engine.reference, "it was deleted") from None

    def release(self, engine: PublishedEngine, holder: str) -> None:
        """End a hold; nothing happens if there is none."""
        with self._database.write() as connection:
            drop_hold(connection, engine.name, engine.version, holder)

    def release_gone(self, is_gone: Callable[[str], bool]) -> None:
        """Release every hold whose holder is gone, such as a process that died."""
        with self._database.write() as connection:
            gone = [holder for holder in connection.scalars(select(holds.c.holder).distinct()) if is_gone(holder)]
            connection.execute(delete(holds).where(holds.c.holder.in_(gone)))


def _row_bytes(row: RowMapping) -> int:
    return text_bytes(row["manifest"]) + ALIAS_BYTES


def add_hold(connection: Connection, name: str, version: int, holder: str) -> None:
    """Hold an engine inside a transaction; IntegrityError at its end, at the latest, if the engine has gone."""
    mine = and_(is_version(holds, name, version), holds.c.holder == holder)
    if not connection.execute(update(holds).where(mine).values(create_time=utc_now())).rowcount:
        values = {"name": name, "version": version, "holder": holder, "create_time": utc_now()}
        connection.execute(insert(holds).values(values))


def drop_hold(connection: Connection, name: str, version: int, holder: str) -> None:
    """End a hold inside a transaction; nothing happens if there is none."""
    connection.execute(delete(holds).where(is_version(holds, name, version), holds.c.holder == holder))
