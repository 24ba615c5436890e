"""How sessions come into memory and leave it: created, claimed from the database, unloaded."""

from __future__ import annotations

import asyncio

from common.auth.principal import EngineScope
from common.auth.quotas import Quotas
from common.errors import SinkServeError
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.session import NewSession, Session, begin
from runtime_service.domain.window_view import WholeTurns
from runtime_service.engines.loaded_engine import LoadedEngine, unloaded
from runtime_service.engines.registry import EngineRegistry
from runtime_service.sessions.live_session import LiveSession
from runtime_service.sessions.ownership import Ownership, taken_over
from runtime_service.sessions.store import SessionStore
from runtime_service.sessions.table import SessionTable
from runtime_service.storage.claims import Claimed, Key
from runtime_service.storage.repository import session_not_found
from runtime_service.turns.input import restore_turns
from runtime_service.turns.shared import Shared


class SessionLoader:
    """The caller holds the session's lock (`SessionTable.locked`)."""

    def __init__(self, engines: EngineRegistry, shared: Shared, store: SessionStore, table: SessionTable) -> None:
        self._engines = engines
        self._shared = shared
        self._store = store
        self._table = table
        self._ownership = Ownership(shared.claims, shared.writer)

    async def create(self, key: Key, asked: NewSession, scope: EngineScope, quotas: Quotas) -> LiveSession:
        """A new session; raises why its engine cannot be had, and what is wrong with its options.

        Nobody else's session makes room for one that is beyond a quota.
        """
        self._table.check_open()
        await self._store.check_room(key[0], quotas)
        published = await self._engines.named(asked.engine, "open.new_session.engine", scope)
        engine = await self._engines.serving(published)
        variables = engine.text.settle(asked.options.template_variables)
        text = engine.text.choosing(variables).with_tools(asked.options.tools)
        opening = await asyncio.to_thread(text.opening, asked.system_prompt)
        durability = self._shared.settings.durability
        session = begin(asked, key, published, engine.manifest.geometry, opening, variables, durability)
        async with self._table.room(key[0], quotas):
            return self._enter(await self._store.create(session, quotas), engine, 1)

    async def open(self, key: Key, quotas: Quotas) -> LiveSession:
        """A session that exists; raises NotFound (SESSION_NOT_FOUND), and why its engine or cache cannot be had."""
        self._table.check_open()
        if (live := await self._in_memory(key)) is not None:
            return live
        session = await self._store.find(key)
        if session is None:
            raise session_not_found(key[1])
        engine = await self._engines.serving(await self._engines.resolve(session.engine, "open.session"))
        async with self._table.room(key[0], quotas):
            claimed = await self.claim(key)
            try:
                return await self._restore(claimed, engine)
            except BaseException:
                await self._store.release(claimed.session)
                raise

    async def claim(self, key: Key) -> Claimed:
        """Own a session; raises what `Ownership.claim` does."""
        claimed = await self._ownership.claim(key, self._table.check_open)
        if not claimed.session.is_kept:  # its server is gone
            await self._store.delete(claimed.session)
            raise session_not_found(key[1])
        return claimed

    async def unload(self, key: Key, error: SinkServeError) -> None:
        """Take a session out of memory, if it is there."""
        if (live := self._table.pop(key)) is not None:
            await live.unload(error)

    async def _in_memory(self, key: Key) -> LiveSession | None:
        """A session in memory; one that another server took while this one was thought dead leaves it now."""
        live = self._table.find(key)
        if live is not None and not await self._ownership.is_current(live.session):
            await self.unload(key, taken_over(key))
        if (live := self._table.pop(key)) is not None:  # it may have left meanwhile
            self._table.add(live)
        return live

    async def _restore(self, claimed: Claimed, engine: LoadedEngine) -> LiveSession:
        """A session in memory, and its turns that did not end; raises FailedPrecondition (REPLAY_TOO_LONG)."""
        session = claimed.session
        cache_is_kept = await self._store.has_cache(session)
        history = TokenHistory.stored(session.window, session.position)
        if not cache_is_kept and (error := engine.limits.replay_refused(history)) is not None:
            raise error
        turns = await asyncio.to_thread(restore_turns, claimed.unended, session, engine)
        live = self._enter(session, engine, claimed.next_number)
        live.state.cache_is_kept = cache_is_kept
        live.state.whole_turns = WholeTurns(session.window.sinks, claimed.whole_turns)
        live.run_turns(turns)
        return live

    def _enter(self, session: Session, engine: LoadedEngine, next_number: int) -> LiveSession:
        self._table.check_open()  # a session that is added while all are unloaded would be forgotten
        if engine.closed:
            raise unloaded(engine.published.reference)
        live = LiveSession(session, engine, self._shared, next_number, self._on_broken)
        self._table.add(live)
        return live

    def _on_broken(self, live: LiveSession, error: SinkServeError) -> None:
        """A session that could not be written leaves memory; the database says what is true."""
        self._table.remove(live)
        self._shared.background.start(live.unload(error), f"unload {live.session.name}")
