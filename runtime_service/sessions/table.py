"""The sessions in memory, by key: how many may be, and one act at a time for each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from common.auth.quotas import UNBOUNDED, Quotas, quota_exceeded
from common.errors import Reason, ResourceExhausted
from runtime_service.domain.session import Session
from runtime_service.sessions.live_session import LiveSession
from runtime_service.sessions.ownership import draining
from runtime_service.storage.claims import Key

_RETRY_S = 1.0


class SessionTable:
    """At most `most` sessions; the longest unopened that is not busy makes room for another.

    Where none can, a principal with less than its share (`most` by the number of principals) gets room from the one
    with the most: a session of that leaves, one without a stream and without turns if there is one.
    """

    def __init__(self, most: int) -> None:
        self.draining = False
        self._most = most
        self._live: dict[Key, LiveSession] = {}  # the longest unopened first
        self._entering: Counter[str] = Counter()  # by principal
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    @property
    def live(self) -> list[LiveSession]:
        """Sessions in memory."""
        return list(self._live.values())

    def check_open(self) -> None:
        """Raise Unavailable (DRAINING) while all are unloaded: one more would be forgotten."""
        if self.draining:
            raise draining()

    def find(self, key: Key) -> LiveSession | None:
        """A session, if it is in memory."""
        return self._live.get(key)

    def add(self, live: LiveSession) -> None:
        """Put a session in, as the last opened."""
        self._live[key_of(live.session)] = live

    def pop(self, key: Key) -> LiveSession | None:
        """Take a session out, if it is in."""
        return self._live.pop(key, None)

    def remove(self, live: LiveSession) -> None:
        """Take this session out, unless another of its key is in."""
        if self._live.get(key_of(live.session)) is live:
            del self._live[key_of(live.session)]

    @asynccontextmanager
    async def locked(self, key: Key) -> AsyncIterator[None]:
        """One at a time for each session, in memory or not."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            yield

    @asynccontextmanager
    async def room(self, principal: str, quotas: Quotas = UNBOUNDED) -> AsyncIterator[None]:
        """Room for one more session of `principal`; raises ResourceExhausted (QUOTA_EXCEEDED, CAPACITY_EXHAUSTED)."""
        await self._keep_to_quota(principal, quotas)
        if len(self._live) + self._entering.total() >= self._most:
            await self._unload_one(principal)
        self._entering[principal] += 1
        try:
            yield
        finally:
            self._entering[principal] -= 1
            if not self._entering[principal]:
                del self._entering[principal]

    async def _keep_to_quota(self, principal: str, quotas: Quotas) -> None:
        """Nobody else's sessions leave for those of one who has all that it may."""
        most = quotas.sessions_in_memory
        while most is not None and (mine := self._count(principal)) >= most:
            if (live := self._resting(principal)) is None:
                raise quota_exceeded("sessions_in_memory", most, mine, _RETRY_S)
            await self._park(live)

    def _count(self, principal: str) -> int:
        return sum(owner == principal for owner, _ in self._live) + self._entering[principal]

    def _resting(self, principal: str | None = None) -> LiveSession | None:
        """The longest unopened that is not busy, of a principal or of all."""
        resting = (
            live
            for (owner, _), live in self._live.items()
            if principal in (None, owner) and not live.busy and live.session.is_kept
        )
        return next(resting, None)

    async def _park(self, live: LiveSession) -> None:
        self.remove(live)
        await live.unload(keep_cache=True)

    async def _unload_one(self, principal: str) -> None:
        if (live := self._resting()) is not None:
            await self._park(live)
        elif (live := self._beyond_its_share(principal)) is not None:
            self.remove(live)
            await live.unload(_displaced(live.session), keep_cache=True)
        else:
            what = f"{self._most} sessions are in use, as many as this server holds (max_sessions)"
            raise ResourceExhausted(Reason.CAPACITY_EXHAUSTED, what, retry_after_s=_RETRY_S, max_sessions=self._most)

    def _beyond_its_share(self, principal: str) -> LiveSession | None:
        """The session that makes room for one of `principal`, if that has less than its share."""
        counts = Counter(owner for owner, _ in self._live)
        share = self._most // len(counts | {principal: 1})
        if counts[principal] >= share:
            return None
        largest = max(counts, key=lambda owner: counts[owner])
        its = [live for (owner, _), live in self._live.items() if owner == largest]
        return min(its, key=lambda live: (not live.idle, live.busy), default=None)


def _displaced(session: Session) -> ResourceExhausted:
    """Its principal has more than its share of the server."""
    what = f"{session.name} left the server, of which others have less than their share; open it again"
    return ResourceExhausted(Reason.CAPACITY_EXHAUSTED, what, retry_after_s=_RETRY_S, session=session.name)


def key_of(session: Session) -> Key:
    """Principal and id."""
    return session.principal, session.session_id
