"""Collects blobs that no engine has and no holder claims: leftovers of deletions and builds that were killed.

The rule is that of `blob_claims`: a blob that a build stores or is about to publish is claimed, and never touched.
Only blobs are looked at: uploads that are not finished and timing caches stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from common.catalog.blob_claims import Needs, Sweeper
from common.db.database import Database
from common.store.blob_store import BlobStore

_AT_ONCE = 100  # blobs with tombstones: a build that needs one of them waits until all are deleted


@dataclass(frozen=True)
class Collected:
    """Blobs that were, or would be, deleted, and those that stay."""

    deleted_blobs: int = 0
    deleted_bytes: int = 0
    published_blobs: int = 0
    """Stay because an engine has them."""
    claimed_blobs: int = 0
    """Stay because a build claims them, and no engine has them yet."""

    def plus(self, other: Collected) -> Collected:
        """Both together."""
        return Collected(
            self.deleted_blobs + other.deleted_blobs,
            self.deleted_bytes + other.deleted_bytes,
            self.published_blobs + other.published_blobs,
            self.claimed_blobs + other.claimed_blobs,
        )


def collect_garbage(database: Database, store: BlobStore, *, dry_run: bool) -> Collected:
    """Delete blobs that are not needed, or only count them; builds may run meanwhile.

    Reads the names of all blobs, a hundred at a time. Raises what the store does if it cannot be used; then what was
    deleted before stays deleted, and the rest is left to the next time.
    """
    sweeper = Sweeper(database, store)
    if not dry_run:
        sweeper.finish()
    total = Collected()
    for sizes in _batches(store):
        with database.read() as connection:
            needs = Needs.among(connection, set(sizes))
        doomed = sizes.keys() - needs.all
        if doomed and not dry_run:
            doomed = sweeper.sweep(doomed)
        total = total.plus(_count(sizes, needs, doomed))
    return total


def _batches(store: BlobStore) -> Iterator[dict[str, int]]:
    blobs = store.blobs()
    while batch := dict(islice(blobs, _AT_ONCE)):
        yield batch


def _count(sizes: dict[str, int], needs: Needs, doomed: set[str]) -> Collected:
    return Collected(
        deleted_blobs=len(doomed),
        deleted_bytes=sum(sizes[digest] for digest in doomed),
        published_blobs=len(needs.published),
        claimed_blobs=len(needs.claimed - needs.published),
    )
