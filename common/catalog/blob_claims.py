"""The rule for when a blob may be deleted, in SQL. Only `Sweeper` touches the blobs themselves.

A blob is needed while a published engine has it or a holder claims it. Before a process stores or publishes a blob, it
claims the blob in a transaction of its own. Before a process deletes a blob, it adds a tombstone, in a transaction that
finds no need for the blob; then it deletes the bytes, then the tombstone. A claim waits until there is no tombstone. So
of a claim and a tombstone one comes first and the other sees it: a claimed blob is never deleted, and nobody looks for
a blob while it is being deleted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from common.catalog.tables import blob_claims, blob_tombstones, files
from common.db.database import Database
from common.db.processes import is_alive, this_process
from common.errors import Reason, Unavailable
from common.store.blob_store import BlobStore

_POLL_S = 0.05
_PATIENCE_S = 60.0


def claim_blobs(database: Database, digests: Iterable[str], holder: str) -> None:
    """Keep blobs, present or not, from being deleted until `release_claims`.

    Waits while one is being deleted; raises Unavailable if that takes a minute.
    """
    wanted = sorted(set(digests))
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with database.write() as connection:
            if not add_claims(connection, wanted, holder):
                return
        time.sleep(_POLL_S)
    raise Unavailable(Reason.INTERNAL, "a blob of this engine is being deleted; try again", retry_after_s=10)


def add_claims(connection: Connection, digests: Iterable[str], holder: str) -> set[str]:
    """Claim blobs inside a transaction; returns those being deleted, and then claims nothing."""
    wanted = set(digests)
    dying = set(connection.scalars(select(blob_tombstones.c.digest).where(blob_tombstones.c.digest.in_(wanted))))
    if not dying:
        mine = select(blob_claims.c.digest).where(blob_claims.c.holder == holder)
        for digest in wanted - set(connection.scalars(mine)):
            connection.execute(insert(blob_claims).values(digest=digest, holder=holder))
    return dying


def claimed_by(connection: Connection, holder: str) -> set[str]:
    """Digests that `holder` claims."""
    return set(connection.scalars(select(blob_claims.c.digest).where(blob_claims.c.holder == holder)))


def claim_holders(database: Database) -> set[str]:
    """All holders of claims."""
    with database.read() as connection:
        return set(connection.scalars(select(blob_claims.c.holder).distinct()))


def release_claims(connection: Connection, holder: str) -> set[str]:
    """Drop the claims of `holder`; returns their digests, for `Sweeper.sweep`."""
    released = claimed_by(connection, holder)
    connection.execute(delete(blob_claims).where(blob_claims.c.holder == holder))
    return released


@dataclass(frozen=True)
class Needs:
    """Which of some blobs are needed, and why; a blob may be in both sets."""

    claimed: set[str]
    published: set[str]

    @classmethod
    def among(cls, connection: Connection, digests: set[str]) -> Needs:
        """Those of a few hundred `digests` at most: each is a parameter of the query."""
        claimed = select(blob_claims.c.digest).where(blob_claims.c.digest.in_(digests))
        published = select(files.c.digest).where(files.c.digest.in_(digests))
        # In this order: a publisher's claims end with the transaction that gives its engine the blobs.
        return cls(set(connection.scalars(claimed)), set(connection.scalars(published)))

    @property
    def all(self) -> set[str]:
        """All blobs that must stay."""
        return self.claimed | self.published


class Sweeper:
    """Deletes blobs that nobody needs."""

    def __init__(self, database: Database, store: BlobStore) -> None:
        self._database = database
        self._store = store

    def sweep(self, digests: Iterable[str]) -> set[str]:
        """Delete those of a few hundred `digests` that no engine has and nobody claims; returns them."""
        with self._database.write() as connection:
            doomed = self._add_tombstones(connection, set(digests))
        self._delete_blobs(doomed)
        return doomed

    def finish(self) -> None:
        """Finish deletions that dead processes had begun."""
        with self._database.write() as connection:
            rows = connection.execute(select(blob_tombstones)).all()
            doomed = {row.digest for row in rows if not is_alive(row.sweeper)}
            mine = update(blob_tombstones).where(blob_tombstones.c.digest.in_(doomed))
            connection.execute(mine.values(sweeper=this_process()))
        self._delete_blobs(doomed)

    def _add_tombstones(self, connection: Connection, digests: set[str]) -> set[str]:
        """Add tombstones for those of `digests` that are not needed and not being deleted; returns these."""
        dying = connection.scalars(select(blob_tombstones.c.digest).where(blob_tombstones.c.digest.in_(digests)))
        doomed = digests - Needs.among(connection, digests).all - set(dying)
        if doomed:
            rows = [{"digest": digest, "sweeper": this_process()} for digest in sorted(doomed)]
            connection.execute(insert(blob_tombstones), rows)
        return doomed

    def _delete_blobs(self, doomed: set[str]) -> None:
        """Delete the blobs, and then the tombstones in every case: nothing is deleted after that."""
        try:
            for digest in doomed:
                self._store.delete(digest)
        finally:
            with self._database.write() as connection:
                connection.execute(delete(blob_tombstones).where(blob_tombstones.c.digest.in_(doomed)))
