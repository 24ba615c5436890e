"""All sessions of a service: found in memory or in the database, created, listed, deleted, and unloaded when idle."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog

from common.auth.principal import EVERY_ENGINE, EngineScope, Principal
from common.auth.quotas import UNBOUNDED, Quotas
from common.catalog.rows import not_found
from common.db.database import utc_now
from common.db.paging import Page
from common.errors import InvalidArgument, Reason, SinkServeError
from runtime_service.domain.session import NewSession, Session
from runtime_service.domain.session_filter import SessionFilter
from runtime_service.domain.session_update import SessionUpdate
from runtime_service.domain.turn import Turn
from runtime_service.engines.loaded_engine import LoadedEngine, unloaded
from runtime_service.engines.registry import EngineRegistry
from runtime_service.scheduling.slots import Residence
from runtime_service.sessions.live_session import LiveSession
from runtime_service.sessions.loader import SessionLoader
from runtime_service.sessions.ownership import deleted, draining, taken_over
from runtime_service.sessions.store import SessionStore
from runtime_service.sessions.table import SessionTable, key_of
from runtime_service.settings import RuntimeSettings
from runtime_service.storage.claims import Key
from runtime_service.storage.repository import session_exists, session_not_found
from runtime_service.turns.shared import Shared

T = TypeVar("T")

log = structlog.get_logger()


class SessionRegistry:
    """Opened ones are in memory, at most `max_sessions`; the longest idle of them make room for others."""

    def __init__(self, engines: EngineRegistry, shared: Shared) -> None:
        self.shared = shared
        self.store = SessionStore(shared)
        self._table = SessionTable(shared.settings.max_sessions)
        self._engines = engines
        self._loader = SessionLoader(engines, shared, self.store, self._table)

    @property
    def settings(self) -> RuntimeSettings:
        """Of this service."""
        return self.shared.settings

    @property
    def draining(self) -> bool:
        """Whether the service is stopping."""
        return self._table.draining

    @property
    def live(self) -> list[LiveSession]:
        """Sessions in memory."""
        return self._table.live

    async def complete(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Do `work` on sessions to its end, although the call that waits for it is lost."""
        return await self.shared.background.complete(work, name)

    async def create(
        self, principal: str, asked: NewSession, scope: EngineScope = EVERY_ENGINE, quotas: Quotas = UNBOUNDED
    ) -> tuple[LiveSession, bool]:
        """A new session, or the one that the same request created before; tells whether it existed.

        An engine that `scope` does not cover is not found, here and below.
        """
        asked.check()
        key = (principal, asked.session_id or secrets.token_hex(16))
        async with self._table.locked(key):
            existing = await self.store.find(key) if asked.session_id else None
            if existing is None:
                return await self._loader.create(key, asked, scope, quotas), False
            if existing.digest != asked.digest():
                raise session_exists(asked.session_id)
            return _checked(await self._loader.open(key, quotas), scope), True

    async def open(
        self, principal: str, session_id: str, scope: EngineScope = EVERY_ENGINE, quotas: Quotas = UNBOUNDED
    ) -> LiveSession:
        """A session that exists; raises NotFound (SESSION_NOT_FOUND), and why its engine or cache cannot be had."""
        async with self._table.locked((principal, session_id)):
            return _checked(await self._loader.open((principal, session_id), quotas), scope)

    async def owner_of(self, session_id: str, principal: Principal) -> str:
        """Whose session somebody means by an id: their own, else, if an admin asks, whose there is.

        Raises InvalidArgument where several have one.
        """
        if principal.owner is not None:
            return principal.name
        owners = await self.store.owners(session_id)
        if principal.name in owners or not owners:
            return principal.name
        if len(owners) > 1:
            what = f"{', '.join(owners[:5])} have a sessions/{session_id} each; which one cannot be said"
            raise InvalidArgument(Reason.INVALID_FIELD, what, session=f"sessions/{session_id}")
        return owners[0]

    async def get(self, principal: str, session_id: str) -> tuple[Session, Residence]:
        """What is known of a session; raises NotFound."""
        live = self._table.find((principal, session_id))
        if live is not None:
            return live.session, live.residence
        session = await self.store.find((principal, session_id))
        if session is None:
            raise session_not_found(session_id)
        return session, Residence.STORED

    async def update(self, principal: str, session_id: str, change: SessionUpdate) -> tuple[Session, Residence]:
        """Change a session; whoever has it in memory, here or elsewhere, goes by it. Raises NotFound."""
        change.check()
        async with self._table.locked((principal, session_id)):
            kept = await self.store.update((principal, session_id), change)
            self._adopt(kept)
            return self._present(kept)

    async def pin(self, principal: str, session_id: str, turn_id: str, *, pinned: bool) -> tuple[Session, Residence]:
        """Pin a turn, or let it go; whoever has the session goes by it. Raises what `SessionUpdates.pin` does."""
        async with self._table.locked((principal, session_id)):
            kept = await self.store.pin((principal, session_id), turn_id, pinned=pinned)
            self._adopt(kept)
            return self._present(kept)

    async def refresh(self, key: Key) -> None:
        """Go by what another server changed of a session."""
        async with self._table.locked(key):
            if (kept := await self.store.take_update(key)) is not None:
                self._adopt(kept)

    async def filter_of(
        self, labels: Mapping[str, str], engine: str, scope: EngineScope = EVERY_ENGINE
    ) -> SessionFilter:
        """Sessions to list; `engine` is NAME for every version, or a reference. Raises InvalidArgument, NotFound."""
        return SessionFilter(tuple(sorted(labels.items())), await self._engines.listed(engine, "engine", scope))

    async def page(
        self, principal: str | None, page: Page, only: SessionFilter
    ) -> tuple[list[tuple[Session, Residence]], str]:
        """A page of sessions, the last active first; None: everybody's."""
        found, token = await self.store.list_sessions(principal, page, only)
        return [self._present(session) for session in found], token

    async def turns(
        self, principal: str, session_id: str, page: Page, turn_id: str = "", *, newest_first: bool = False
    ) -> tuple[list[Turn], str]:
        """A page of a session's turns, the oldest or the newest first; of a `turn_id` that one alone."""
        session, _ = await self.get(principal, session_id)
        live = self._table.find((principal, session_id))
        history = self.store.history if live is None else live.history
        if turn_id:
            found = await asyncio.to_thread(history.find_turn, session.key, turn_id)
            return [] if found is None else [found], ""
        return await asyncio.to_thread(history.list_turns, session, page, newest_first=newest_first)

    async def cancel(self, principal: str, session_id: str, turn_id: str, *, discard: bool) -> None:
        """Cancel a turn, or ask the session's owner to; one that has ended stays as it is. Raises NotFound."""
        live = self._table.find((principal, session_id))
        if live is not None:
            await live.cancel_turn(turn_id, discard=discard)
            return
        session, _ = await self.get(principal, session_id)
        await self.store.request_cancel(session, turn_id, discard=discard)

    async def delete(self, principal: str, session_id: str) -> None:
        """Delete a session whatever it does; its stream ends ABORTED (SESSION_DELETED). Raises NotFound."""
        key = (principal, session_id)
        if (live := self._table.find(key)) is not None and not live.session.is_kept:
            async with self._table.locked(key):
                await self._loader.unload(key, deleted(session_id))
            return
        async with self.held(key, deleted(session_id)) as session:
            await self.store.delete(session)

    @asynccontextmanager
    async def held(self, key: Key, error: SinkServeError) -> AsyncIterator[Session]:
        """A session that this server owns and nobody uses meanwhile: its stream ends with `error`.

        Raises NotFound, and Unavailable (SESSION_BUSY).
        """
        async with self._table.locked(key):
            await self._loader.unload(key, error)
            session = (await self._loader.claim(key)).session
            try:
                yield session
            finally:
                await self.store.release(session)

    async def copy_cache(self, source: Session, target: Session) -> None:
        """Give `target`, which begins as `source` was, what it can go on from; else its cache is computed again."""
        live = self._table.find(key_of(source))
        is_its = live is not None and live.session.epoch == target.epoch  # else another server may know better
        state = await live.export_cache() if live is not None and is_its else None
        await self.store.copy_cache(source, target, state)

    async def hand_over(self, key: Key) -> None:
        """Let another replica have a session; its stream here ends ABORTED (SESSION_TAKEN_OVER)."""
        async with self._table.locked(key):
            if (live := self._table.pop(key)) is not None:
                await live.unload_for_others(taken_over(key))
            if (session := await self.store.find(key)) is not None:
                await self.store.release(session)
            log.info("session.handed_over", session=f"sessions/{key[1]}")

    async def reap(self) -> None:
        """Delete sessions whose time has passed."""
        for session in await self.store.expired():
            async with self._table.locked(key_of(session)):
                await self._delete_expired(session)

    async def evacuate(self, engine: LoadedEngine) -> None:
        """Take every session of an engine out of memory; streams on them end UNAVAILABLE."""
        error = unloaded(engine.published.reference)
        for live in self.live:
            if live.engine is engine:
                self._table.remove(live)  # deleted meanwhile, perhaps
                await live.unload(error, keep_cache=True)

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, let running turns finish within `grace_s`, then end every stream."""
        self._table.draining = True
        for live in self.live:
            live.announce_drain(grace_s)
        await asyncio.gather(*(live.finish_turns(grace_s) for live in self.live))
        leaving = self.live
        for live in leaving:
            self._table.remove(live)
        await asyncio.gather(*(live.unload_for_others(draining()) for live in leaving))

    async def _delete_expired(self, session: Session) -> None:
        """Delete it if nobody has opened it since it was found."""
        live = self._table.find(key_of(session))
        if live is None:
            await self.store.delete(session)
        elif not live.busy and live.session.expires_at is not None and live.session.expires_at <= utc_now():
            await self._loader.unload(key_of(session), deleted(session.session_id))
            await self.store.delete(live.session)

    def _adopt(self, kept: Session) -> None:
        if (live := self._table.find(key_of(kept))) is not None:
            live.adopt(kept)

    def _present(self, session: Session) -> tuple[Session, Residence]:
        live = self._table.find(key_of(session))
        return (session, Residence.STORED) if live is None else (live.session, live.residence)


def _checked(live: LiveSession, scope: EngineScope) -> LiveSession:
    """A session, if its principal may still use its engine."""
    engine = live.engine.published
    if not scope.covers(engine.name, engine.owner):
        raise not_found(engine.reference, "it is another principal's")
    return live
