"""Sessions as they are kept, for the event loop: their rows, and their caches beside the memory of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import ParamSpec, TypeVar

import structlog

from common.auth.quotas import Quotas
from common.db.paging import Page
from common.engine.engine import SlotState
from runtime_service.domain.durability import Durability
from runtime_service.domain.session import Session
from runtime_service.domain.session_filter import SessionFilter
from runtime_service.domain.session_update import SessionUpdate
from runtime_service.storage.claims import Key
from runtime_service.turns.ephemeral import TurnHistory
from runtime_service.turns.shared import Shared

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


class SessionStore:
    """What the database, the disk and the store of snapshots have of every session."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def write(self, act: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Call `act` in the thread that writes to the database."""
        return await self._shared.writer.do(act, *args, **named)

    async def find(self, key: Key) -> Session | None:
        """A session, if there is one."""
        return await self.write(self._shared.repository.find, *key)

    async def check_room(self, principal: str, quotas: Quotas) -> None:
        """Raise ResourceExhausted (QUOTA_EXCEEDED) if a principal may have no more sessions."""
        if quotas.sessions is not None:
            await asyncio.to_thread(self._shared.quotas.check_sessions, principal, quotas)

    async def create(self, session: Session, quotas: Quotas) -> Session:
        """Write a new session, which this replica owns; raises what `SessionRepository.create` does."""
        row = session if session.is_kept else replace(session, opening=())
        written = await self.write(self._shared.repository.create, row, self._shared.claims.replica, quotas)
        return replace(written, opening=session.opening)

    async def owners(self, session_id: str) -> list[str]:
        """Principals that have a session of this id."""
        return await asyncio.to_thread(self._shared.repository.owners, session_id)

    async def list_sessions(self, principal: str | None, page: Page, only: SessionFilter) -> tuple[list[Session], str]:
        """A page of sessions, the last active first, and the token of the next."""
        return await asyncio.to_thread(self._shared.repository.list_sessions, principal, page, only)

    async def update(self, key: Key, change: SessionUpdate) -> Session:
        """Change a session, whoever owns it. Raises NotFound."""
        return await self.write(self._shared.updates.keep, key, change)

    async def pin(self, key: Key, turn_id: str, *, pinned: bool) -> Session:
        """Pin a turn of a session, whoever owns it, or let it go."""
        return await self.write(self._shared.updates.pin, key, turn_id, pinned=pinned)

    async def take_update(self, key: Key) -> Session | None:
        """A session as another replica changed it, once."""
        return await self.write(self._shared.updates.take, key)

    @property
    def history(self) -> TurnHistory:
        """What keeps the turns of sessions that nobody has in memory."""
        return self._shared.repository

    async def expired(self) -> list[Session]:
        """Sessions whose time has passed, and which no other replica owns."""
        return await asyncio.to_thread(self._shared.claims.expired)

    async def request_cancel(self, session: Session, turn_id: str, *, discard: bool) -> None:
        """Ask the owner of a session to cancel a turn."""
        await self.write(self._shared.claims.request_cancel, session, turn_id, discard=discard)

    async def release(self, session: Session) -> None:
        """Let other replicas own a session."""
        await self.write(self._shared.claims.release, session)

    async def delete(self, session: Session) -> None:
        """Delete what is kept of a session, if nobody else owns it now."""
        caches = self._shared.caches
        snapshots = await asyncio.to_thread(caches.snapshots.keys, session)
        if await self.write(self._shared.repository.delete, session):
            await self.drop_cache(session, snapshots)
            log.info("session.deleted", session=session.name)

    async def has_cache(self, claimed: Session) -> bool:
        """Whether the cache of a session that was claimed now is kept."""
        return await asyncio.to_thread(self._shared.caches.is_kept, claimed)

    async def drop_cache(self, session: Session, snapshots: list[str]) -> None:
        """Remove a session's cache from the disk, and the objects of `snapshots`."""
        await self._shared.caches.do(self._shared.caches.drop, session, snapshots)

    async def copy_cache(self, source: Session, target: Session, state: SlotState | None) -> None:
        """Keep for `target`, which begins as `source` was, `state` if it fits, else the newest snapshot that does."""
        caches = self._shared.caches
        if state is not None and state.position <= target.position:
            caches.files.put(target.key, target.epoch, target.engine_digest, state)
        elif source.options.durability is Durability.TOKENS_AND_KV:
            await caches.do(caches.snapshots.copy, source, target)
