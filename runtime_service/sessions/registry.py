"""All sessions of a service: found in memory or in the database, created, listed, deleted, and let go when idle."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from weakref import WeakValueDictionary

import structlog

from common.db.database import utc_now
from common.db.paging import Page
from common.errors import Reason, ResourceExhausted, SinkServeError, Unavailable
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.durability import Durability
from runtime_service.domain.session import NewSession, Session, begin
from runtime_service.domain.turn import Turn
from runtime_service.engines.registry import EngineRegistry, LoadedEngine, not_loaded
from runtime_service.scheduling.slots import Residence
from runtime_service.sessions.live_session import LiveSession
from runtime_service.sessions.ownership import Ownership, deleted, draining, taken_over
from runtime_service.sessions.shared import Shared
from runtime_service.sessions.turn_input import prompts_of
from runtime_service.storage.claims import Claimed, Key
from runtime_service.storage.repository import session_exists, session_not_found

CLAIM_LEASES = 2
"""How many leases to wait for another replica: longer than it takes to find out that it is dead."""
CLAIM_POLL_S, LONGEST_CLAIM_POLL_S = 0.05, 0.5
"""Each try takes the database's one lock: who waits for long tries less and less often."""

log = structlog.get_logger()


class SessionRegistry:
    """Opened ones are in memory, at most `max_sessions`; the longest idle of them make room for others."""

    def __init__(self, engines: EngineRegistry, shared: Shared) -> None:
        self.shared = shared
        self.draining = False
        self._engines = engines
        self._live: dict[Key, LiveSession] = {}  # the longest unopened first
        self._entering = 0
        self._ownership = Ownership(shared.claims, shared.writer)
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    @property
    def live(self) -> list[LiveSession]:
        """Sessions in memory."""
        return list(self._live.values())

    async def create(self, principal: str, asked: NewSession) -> tuple[LiveSession, bool]:
        """A new session, or the one that the same request created before; tells whether it existed."""
        asked.check()
        key = (principal, asked.session_id or secrets.token_hex(16))
        async with self._locked(key):
            existing = await self._find(key) if asked.session_id else None
            if existing is None:
                return await self._create(key, asked), False
            if existing.digest != asked.digest():
                raise session_exists(asked.session_id)
            return await self._open(key), True

    async def open(self, principal: str, session_id: str) -> LiveSession:
        """A session that exists; raises NotFound (SESSION_NOT_FOUND), and why its engine or cache cannot be had."""
        async with self._locked((principal, session_id)):
            return await self._open((principal, session_id))

    async def get(self, principal: str, session_id: str) -> tuple[Session, Residence]:
        """What is known of a session; raises NotFound."""
        live = self._live.get((principal, session_id))
        if live is not None:
            return live.session, live.residence
        session = await self._find((principal, session_id))
        if session is None:
            raise session_not_found(session_id)
        return session, Residence.STORED

    async def page(self, principal: str, page: Page) -> tuple[list[tuple[Session, Residence]], str]:
        """A page of sessions, the last active first."""
        found, token = await asyncio.to_thread(self.shared.repository.list_sessions, principal, page)
        return [self._present(session) for session in found], token

    async def turns(self, principal: str, session_id: str, page: Page) -> tuple[list[Turn], str]:
        """A page of a session's turns, the oldest first."""
        session, _ = await self.get(principal, session_id)
        live = self._live.get((principal, session_id))
        history = self.shared.repository if live is None else live.turns.history
        return await asyncio.to_thread(history.list_turns, session, page)

    async def cancel(self, principal: str, session_id: str, turn_id: str, *, discard: bool) -> None:
        """Cancel a turn, or ask the server that has its session; one that has ended stays as it is. Raises NotFound."""
        live = self._live.get((principal, session_id))
        if live is not None:
            await live.cancel(turn_id, discard=discard)
            return
        session, _ = await self.get(principal, session_id)
        await self.shared.writer.do(self.shared.claims.ask_cancel, session, turn_id, discard=discard)

    async def delete(self, principal: str, session_id: str) -> None:
        """Delete a session whatever it does; its stream ends ABORTED (SESSION_DELETED). Raises NotFound."""
        key = (principal, session_id)
        if (live := self._live.get(key)) is not None and not live.session.is_kept:
            async with self._locked(key):
                await self._close(key, deleted(session_id))
            return
        async with self.held(key, deleted(session_id)) as session:
            await self._forget(session)

    @asynccontextmanager
    async def held(self, key: Key, error: SinkServeError) -> AsyncIterator[Session]:
        """A session that nobody else has meanwhile, nor any stream: who followed it ends with `error`.

        Raises NotFound, and Unavailable (SESSION_BUSY).
        """
        async with self._locked(key):
            await self._close(key, error)
            session = (await self._claim(key)).session
            try:
                yield session
            finally:
                await self._ownership.release(session)

    async def copy_cache(self, source: Session, target: Session) -> None:
        """Give `target`, which begins as `source` was, what it can go on from; else its cache is computed again."""
        live = self._live.get(_key(source))
        is_its = live is not None and live.session.epoch == target.epoch  # else another server may know better
        state = await live.turns.export() if live is not None and is_its else None
        if state is not None and state.position <= target.position:
            self.shared.caches.files.put(target.key, target.epoch, target.engine_digest, state)
        elif source.options.durability is Durability.TOKENS_AND_KV:
            await self.shared.caches.do(self.shared.caches.snapshots.copy, source, target)

    async def hand_over(self, key: Key) -> None:
        """Let another replica have a session; its stream here ends ABORTED (SESSION_TAKEN_OVER)."""
        async with self._locked(key):
            if (live := self._live.pop(key, None)) is not None:
                await live.close(taken_over(key), keep=live.keeps_snapshots)
            if (session := await self._find(key)) is not None:
                await self._ownership.release(session)
            log.info("session.handed_over", session=f"sessions/{key[1]}")

    async def reap(self) -> None:
        """Delete sessions whose time has passed."""
        for session in await asyncio.to_thread(self.shared.claims.expired):
            async with self._locked(_key(session)):
                await self._delete_expired(session)

    async def evacuate(self, engine: LoadedEngine) -> None:
        """Take every session of an engine out of memory; streams on them end UNAVAILABLE."""
        error = Unavailable(Reason.ENGINE_NOT_LOADED, f"{engine.published.reference} was unloaded", retry_after_s=1.0)
        for key, live in list(self._live.items()):
            if live.engine is engine:
                self._live.pop(key, None)  # deleted meanwhile, perhaps
                await live.close(error, keep=True)

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, let running turns finish within `grace_s`, then end every stream."""
        self.draining = True
        for live in self.live:
            live.go_away(grace_s)
        tasks = [live.turns.task for live in self.live if live.turns.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        closing = [live.close(draining(), keep=live.keeps_snapshots) for live in self.live]
        self._live.clear()
        await asyncio.gather(*closing)

    async def _create(self, key: Key, asked: NewSession) -> LiveSession:
        self._check_open()
        published = await self._engines.named(asked.engine, "open.new_session.engine")
        engine = await self._engines.serving(published)
        opening = await asyncio.to_thread(engine.text.opening, asked.system_prompt)
        session = begin(asked, key, published, engine.manifest.geometry, opening, self.shared.settings.durability)
        async with self._room():
            row = session if session.is_kept else replace(session, opening=())
            kept = await self.shared.writer.do(self.shared.repository.create, row, self.shared.claims.replica)
            kept = replace(kept, opening=session.opening)
            return self._enter(kept, engine, 1)

    async def _open(self, key: Key) -> LiveSession:
        self._check_open()
        if (live := await self._in_memory(key)) is not None:
            return live
        session = await self._find(key)
        if session is None:
            raise session_not_found(key[1])
        engine = await self._engines.serving(await self._engines.resolve(session.engine, "open.session"))
        async with self._room():
            claimed = await self._claim(key)
            try:
                kept = await self._check_restorable(claimed.session, engine)
                return await self._wake(claimed, engine, cache_is_kept=kept)
            except BaseException:
                await self._ownership.release(claimed.session)
                raise

    async def _in_memory(self, key: Key) -> LiveSession | None:
        """A session in memory; one that another server took while this one was thought dead leaves it now."""
        live = self._live.get(key)
        if live is not None and not await self._ownership.lasts(live.session):
            await self._close(key, taken_over(key))
        if (live := self._live.pop(key, None)) is not None:  # it may have left meanwhile
            self._live[key] = live
        return live

    async def _check_restorable(self, session: Session, engine: LoadedEngine) -> bool:
        """Whether the cache is kept; raises FailedPrecondition (REPLAY_TOO_LONG) if it cannot be had at all."""
        if await asyncio.to_thread(self.shared.caches.claimed, session):
            return True
        context = TokenHistory.stored(session.window, session.position)
        if (error := engine.limits.replay_refused(context)) is not None:
            raise error
        return False

    async def _wake(self, claimed: Claimed, engine: LoadedEngine, *, cache_is_kept: bool) -> LiveSession:
        """A session in memory, and what it had begun."""
        prompts = await asyncio.to_thread(prompts_of, claimed.unended, claimed.session, engine.manifest, engine.text)
        live = self._enter(claimed.session, engine, claimed.next_number)
        live.turns.cache_is_kept = cache_is_kept
        live.restart(claimed.unended, prompts)
        return live

    async def _claim(self, key: Key) -> Claimed:
        """Have a session; raises what `Ownership.claim` does."""
        claimed = await self._ownership.claim(key, self._check_open)
        if not claimed.session.is_kept:  # its server is gone
            await self._forget(claimed.session)
            raise session_not_found(key[1])
        return claimed

    def _enter(self, session: Session, engine: LoadedEngine, next_number: int) -> LiveSession:
        self._check_open()  # what comes while the others leave would be left behind
        if engine.closed:
            raise not_loaded(engine.published.reference)
        live = LiveSession(session, engine, self.shared, next_number, self._break_down)
        self._live[session.principal, session.session_id] = live
        return live

    def _break_down(self, live: LiveSession, error: SinkServeError) -> None:
        """A session that could not be kept leaves memory; the database says what is true."""
        if self._live.get(_key(live.session)) is live:
            del self._live[_key(live.session)]
        self.shared.background.start(live.close(error), f"close {live.session.name}")

    async def _close(self, key: Key, error: SinkServeError) -> None:
        """Take a session out of memory, if it is there."""
        if (live := self._live.pop(key, None)) is not None:
            await live.close(error)

    async def _forget(self, session: Session) -> None:
        """Delete what is kept of a session, if nobody else has it now."""
        snapshots = await asyncio.to_thread(self.shared.caches.snapshots.keys, session)
        if await self.shared.writer.do(self.shared.repository.delete, session):
            await self.shared.caches.do(self.shared.caches.forget, session, snapshots)
            log.info("session.deleted", session=session.name)

    async def _delete_expired(self, session: Session) -> None:
        """Delete it if nobody has opened it since it was found."""
        live = self._live.get(_key(session))
        if live is None:
            await self._forget(session)
        elif not live.busy and live.session.expires_at is not None and live.session.expires_at <= utc_now():
            await self._close(_key(session), deleted(session.session_id))
            await self._forget(live.session)

    @asynccontextmanager
    async def _room(self) -> AsyncIterator[None]:
        """Room in memory for one more session; raises ResourceExhausted (CAPACITY_EXHAUSTED)."""
        most = self.shared.settings.max_sessions
        if len(self._live) + self._entering >= most:
            await self._let_one_go(most)
        self._entering += 1
        try:
            yield
        finally:
            self._entering -= 1

    async def _let_one_go(self, most: int) -> None:
        for key, live in self._live.items():
            if not live.busy and live.session.is_kept:
                del self._live[key]
                await live.close(keep=True)
                return
        what = f"{most} sessions are in use, as many as this server holds (max_sessions)"
        raise ResourceExhausted(Reason.CAPACITY_EXHAUSTED, what, retry_after_s=1.0, max_sessions=most)

    def _check_open(self) -> None:
        if self.draining:
            raise draining()

    async def _find(self, key: Key) -> Session | None:
        return await self.shared.writer.do(self.shared.repository.find, *key)

    def _present(self, session: Session) -> tuple[Session, Residence]:
        live = self._live.get(_key(session))
        return (session, Residence.STORED) if live is None else (live.session, live.residence)

    @asynccontextmanager
    async def _locked(self, key: Key) -> AsyncIterator[None]:
        """One at a time for each session."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            yield


def _key(session: Session) -> Key:
    return session.principal, session.session_id
