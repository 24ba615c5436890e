"""Snapshots of caches in the object store: a session's owner goes on from the newest instead of computing it again.

Objects have keys that are never used again, `sessions/ID/EPOCH/UUID`, and count once their row is there, which only
the session's owner can write. Calls block.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from sqlalchemy import ColumnElement, and_, delete, insert, select

from common.auth.quotas import QuotasOf, unbounded
from common.db.database import Database, utc_now
from common.engine.engine import SlotState
from common.errors import SinkServeError
from common.private import make_private_folder
from common.store.errors import explained
from common.store.object_store import local_root, open_object_store, store_name
from common.timeouts import STORE_TIMEOUT_S
from runtime_service.domain.session import Session
from runtime_service.storage.quotas import superseded_snapshots
from runtime_service.storage.repository import change_owned
from runtime_service.storage.snapshot_format import from_bytes, to_bytes
from runtime_service.storage.tables import snapshots

KEPT = 4
"""Snapshots of one session: the newest to go on from, those before it to go back to."""
ORPHAN_AGE = timedelta(hours=1)
"""An object without a row is younger than this, or garbage."""
_FOLDER = "sessions"

log = structlog.get_logger()


class Snapshots:
    """Those of all sessions, in the store at a URL."""

    def __init__(
        self,
        database: Database,
        store_url: str,
        patience_s: float = STORE_TIMEOUT_S,
        quotas_of: QuotasOf = unbounded,
    ) -> None:
        self._quotas_of = quotas_of
        self._database = database
        self._store: ObjectStore = open_object_store(store_url, patience_s)
        self._name = store_name(store_url)
        if (root := local_root(store_url)) is not None:  # engines may be everybody's, conversations are not
            make_private_folder(root / _FOLDER)

    def keep(self, session: Session, state: SlotState) -> None:
        """Store what a session's cache holds; the oldest of its snapshots go.

        Raises Aborted (SESSION_TAKEN_OVER) if another has the session, ResourceExhausted (QUOTA_EXCEEDED) if its
        principal may not have that much, and what the store does.
        """
        key = f"{_FOLDER}/{session.session_id}/{session.epoch}/{uuid.uuid4().hex}"
        data = to_bytes(session.engine_digest, state)
        row = {"object_key": key, "session_key": session.key, "position": state.position, "size_bytes": len(data)}
        quotas = self._quotas_of(session.principal)
        bounded = quotas.snapshot_bytes is not None
        if bounded:  # before it is sent in vain
            with self._database.read() as connection:
                superseded_snapshots(connection, session, len(data), quotas)
        with explained(self._name):
            obstore.put(self._store, key, data)
        try:
            with self._database.write() if bounded else self._database.write_rows() as connection:
                change_owned(connection, session, epoch=session.epoch)
                superseded = superseded_snapshots(connection, session, len(data), quotas)
                if superseded:
                    connection.execute(delete(snapshots).where(snapshots.c.object_key.in_(superseded)))
                connection.execute(insert(snapshots).values(**row, created_at=utc_now()))
        except BaseException:
            self.delete([key])
            raise
        self.delete(superseded)
        self._prune(session)

    def has(self, session: Session) -> bool:
        """Whether there is one to go on from."""
        return bool(self._keys(session))

    def load(self, session: Session) -> SlotState | None:
        """The newest one that can be used."""
        for key in self._keys(session):
            try:
                with explained(self._name):
                    data = obstore.get(self._store, key).bytes().to_bytes()
                return from_bytes(session.engine_digest, data)
            except (SinkServeError, FileNotFoundError, ValueError) as error:
                log.warning("snapshot.unusable", session=session.name, object=key, cause=str(error))
        return None

    def keys(self, session: Session) -> list[str]:
        """Objects of a session, to be deleted with it."""
        return self._keys(session)

    def delete(self, keys: list[str]) -> None:
        """Remove objects; what cannot be removed now is found by `sweep`."""
        with suppress(BaseError, FileNotFoundError):
            obstore.delete(self._store, keys)

    def copy(self, source: Session, target: Session) -> None:
        """Give `target`, which begins as `source` was, the newest snapshot of that that it can go on from."""
        state = self.load(replace(source, position=target.position))
        if state is not None:
            self.keep(target, state)

    def sweep(self) -> int:
        """Delete objects that have no row and are not new; returns how many."""
        found = 0
        for batch in obstore.list(self._store, prefix=_FOLDER):
            old = {item["path"] for item in batch if utc_now() - item["last_modified"] > ORPHAN_AGE}
            with self._database.read() as connection:
                known = set(connection.scalars(select(snapshots.c.object_key).where(snapshots.c.object_key.in_(old))))
            self.delete(sorted(old - known))
            found += len(old - known)
        return found

    def _keys(self, session: Session) -> list[str]:
        """Those up to its position, the newest first."""
        query = select(snapshots.c.object_key).where(_of(session) & (snapshots.c.position <= session.position))
        with self._database.read() as connection:
            order = (snapshots.c.position.desc(), snapshots.c.created_at.desc())
            return list(connection.scalars(query.order_by(*order)))

    def _prune(self, session: Session) -> None:
        old = self._keys(session)[KEPT:]
        with self._database.write_rows() as connection:
            connection.execute(delete(snapshots).where(and_(_of(session), snapshots.c.object_key.in_(old))))
        self.delete(old)


def _of(session: Session) -> ColumnElement[bool]:
    return snapshots.c.session_key == session.key
