"""Where a cache is that is in no slot and not in host memory: on the local disk, in a snapshot, or nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import structlog

from common.engine.engine import SlotState
from common.errors import SinkServeError
from runtime_service.domain.durability import Durability
from runtime_service.domain.session import Session
from runtime_service.scheduling.slots import Tenant
from runtime_service.storage.cache_files import CacheFiles
from runtime_service.storage.snapshots import Snapshots

MOST_S = 20.0
"""How long to wait for the store of snapshots: less than others wait for a session that is handed over."""
_THREADS = 8
_SLOW = f"the store takes longer than {MOST_S:g} s"
P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True)
class CacheTiers:
    """Kept caches of all sessions. A snapshot is only kept of a session that asks for it."""

    files: CacheFiles
    snapshots: Snapshots
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_THREADS, "caches"))
    """Their own, so that a store that hangs does not stop the heartbeats of this server."""
    refused: Callable[[SinkServeError], None] = lambda _error: None
    """Told why a snapshot was not kept."""

    async def do(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what blocks."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, lambda: act(*args, **kwargs))

    def spill(self, engine_digest: str, tenant: Tenant, state: SlotState) -> bool:
        """Keep a cache that leaves host memory, in any thread and without waiting; False: there is no room for it.

        A session of which nothing is kept has no key, and no room.
        """
        return tenant.key > 0 and self.files.put(tenant.key, tenant.epoch, engine_digest, state)

    def has_file(self, session: Session) -> bool:
        """Whether the cache of a session is on the disk."""
        return self.files.has(session.key)

    def is_kept(self, session: Session) -> bool:
        """Whether the cache of a session that was claimed now is kept. Blocks."""
        return self.files.claimed(session.key, session.epoch, session.position) or self.snapshots.has(session)

    def load(self, session: Session) -> SlotState | None:
        """The cache of a session, if it is kept and can be used; from the disk it is taken away. Blocks."""
        if not session.is_kept:
            return None
        state = self.files.take(session.key, session.engine_digest) or self.snapshots.load(session)
        return state if state is not None and state.position <= session.position else None

    async def fetch(self, session: Session) -> SlotState | None:
        """What `load` returns, if it does within MOST_S."""
        try:
            return await asyncio.wait_for(self.do(self.load, session), MOST_S)
        except TimeoutError:
            log.warning("snapshot.unusable", session=session.name, cause=_SLOW)
            return None

    async def keep(self, session: Session, state: SlotState | None) -> None:
        """Keep the cache of a session that is unloaded."""
        if state is None or not session.is_kept:
            return
        if session.options.durability is Durability.TOKENS_AND_KV:
            await self.store_snapshot(session, state)
        self.files.put(session.key, session.epoch, session.engine_digest, state)

    async def store_snapshot(self, session: Session, state: SlotState) -> bool:
        """Store a snapshot within MOST_S; False: a session goes on without one."""
        try:
            await asyncio.wait_for(self.do(self.snapshots.keep, session, state), MOST_S)
        except TimeoutError:
            log.warning("snapshot.not_kept", session=session.name, cause=_SLOW)
        except SinkServeError as error:
            self.refused(error)
            log.warning("snapshot.not_kept", session=session.name, cause=error.message)
        else:
            return True
        return False

    def drop(self, session: Session, snapshots: list[str]) -> None:
        """Remove what was kept of a session that was deleted. Blocks."""
        self.files.drop(session.key)
        self.snapshots.delete(snapshots)
