"""All sessions of a service: found in memory or in the database, created, listed, deleted, and let go when idle."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import structlog

from common.database import utc_now
from common.errors import Aborted, Reason, ResourceExhausted, SinkServeError, Unavailable
from common.pages import Page
from runtime_service.context import Context
from runtime_service.engines import Engines, LoadedEngine, not_loaded
from runtime_service.live_session import LiveSession
from runtime_service.prepare import prompts_of
from runtime_service.scheduler import replay_refused
from runtime_service.session import NewSession, Session, settle
from runtime_service.session_repository import session_exists, session_not_found
from runtime_service.slots import Residence
from runtime_service.turn import Turn
from runtime_service.turns import Shared

Key = tuple[str, str]  # principal, session id

log = structlog.get_logger()


class Sessions:
    """Opened ones are in memory, at most `max_sessions`; the longest idle of them make room for others."""

    def __init__(self, engines: Engines, shared: Shared) -> None:
        self.shared = shared
        self.draining = False
        self._engines = engines
        self._live: dict[Key, LiveSession] = {}  # the longest unopened first
        self._entering = 0
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
        return await asyncio.to_thread(self.shared.repository.list_turns, session, page)

    async def delete(self, principal: str, session_id: str) -> None:
        """Delete a session whatever it does; its stream ends ABORTED (SESSION_DELETED). Raises NotFound."""
        async with self._locked((principal, session_id)):
            session = await self._find((principal, session_id))
            if session is None:
                raise session_not_found(session_id)
            await self._delete(session)

    async def reap(self) -> None:
        """Delete, now and for ever, sessions whose time has passed."""
        while True:
            try:
                for session in await asyncio.to_thread(self.shared.repository.expired, utc_now()):
                    async with self._locked(_key(session)):
                        await self._delete_expired(session)
            except Exception:
                log.exception("sessions.not_reaped")
            await asyncio.sleep(self.shared.settings.reap_s)

    async def evacuate(self, engine: LoadedEngine) -> None:
        """Take every session of an engine out of memory; streams on them end UNAVAILABLE."""
        error = Unavailable(Reason.ENGINE_NOT_LOADED, f"{engine.published.reference} was unloaded", retry_after_s=1.0)
        for key, live in list(self._live.items()):
            if live.engine is engine:
                self._live.pop(key, None)  # deleted meanwhile, perhaps
                await live.close(error)

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, let running turns finish within `grace_s`, then end every stream."""
        self.draining = True
        for live in self.live:
            live.go_away(grace_s)
        tasks = [live.turns.task for live in self.live if live.turns.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for live in self.live:
            await live.close(draining())
        self._live.clear()

    async def _create(self, key: Key, asked: NewSession) -> LiveSession:
        self._check_open()
        published = await self._engines.resolve(asked.engine, "open.new_session.engine")
        engine = await self._engines.serving(published)
        opening = await asyncio.to_thread(engine.text.opening, asked.system_prompt)
        options, pinned = settle(asked, engine.manifest.geometry, len(opening))
        now = utc_now()
        session = Session(
            principal=key[0],
            session_id=key[1],
            engine_name=published.name,
            engine_version=published.version,
            engine_digest=published.digest,
            options=options,
            labels=dict(asked.labels),
            digest=asked.digest(),
            opening=opening,
            pinned=pinned,
            position=len(opening),
            created_at=now,
            last_active_at=now,
        )
        async with self._room():
            kept = await self.shared.writer.do(self.shared.repository.create, session)
            return self._enter(kept, engine, 1)

    async def _open(self, key: Key) -> LiveSession:
        self._check_open()
        if (live := self._live.pop(key, None)) is not None:
            self._live[key] = live
            return live
        session = await self._find(key)
        if session is None:
            raise session_not_found(key[1])
        engine = await self._engines.serving(await self._engines.resolve(session.engine, "open.session"))
        context = Context.stored(session.window, session.position)
        if (error := replay_refused(context, engine.limits)) is not None:
            raise error
        async with self._room():
            claimed, unended, number = await self.shared.writer.do(self.shared.repository.claim, *key)
            prompts = await asyncio.to_thread(prompts_of, unended, claimed, engine.manifest, engine.text)
            live = self._enter(claimed, engine, number)
            live.restart(unended, prompts)
            return live

    def _enter(self, session: Session, engine: LoadedEngine, next_number: int) -> LiveSession:
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

    async def _delete(self, session: Session) -> None:
        live = self._live.pop(_key(session), None)
        if live is not None:
            what = f"{session.name} was deleted"
            await live.close(Aborted(Reason.SESSION_DELETED, what, session=session.name))
        await self.shared.writer.do(self.shared.repository.delete, session)
        log.info("session.deleted", session=session.name)

    async def _delete_expired(self, session: Session) -> None:
        live = self._live.get(_key(session))
        current = live.session if live is not None else await self._find(_key(session))
        busy = live is not None and live.busy
        if current is not None and not busy and current.expires_at is not None and current.expires_at <= utc_now():
            await self._delete(current)

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
            if not live.busy:
                del self._live[key]
                await live.close()
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


def draining() -> Unavailable:
    """The server is stopping."""
    return Unavailable(Reason.DRAINING, "the server is stopping; connect again", retry_after_s=1.0)


def _key(session: Session) -> Key:
    return session.principal, session.session_id
