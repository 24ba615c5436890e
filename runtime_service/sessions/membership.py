"""This runtime among the others of its database: it says that it is alive, and hands over what they ask for."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import structlog

from common.errors import NotFound, SinkServeError
from runtime_service.sessions.registry import SessionRegistry
from runtime_service.storage.claims import Key
from runtime_service.storage.replicas import RENEWALS
from runtime_service.tasks.periodic import Periodic
from runtime_service.turns.shared import Shared

HAND_OVER_POLL_S = 0.2
T = TypeVar("T")

log = structlog.get_logger()


class Membership:
    """`start` before sessions are opened; `stop` when none is in memory any more."""

    def __init__(self, sessions: SessionRegistry, shared: Shared) -> None:
        self._sessions = sessions
        self._claims = shared.claims
        self._updates = shared.updates
        self._background = shared.background
        self._periodic = Periodic()
        self._thread = ThreadPoolExecutor(1, "membership")  # what it says must not wait behind anything else
        self._leaving: set[Key] = set()
        self._renewed = -math.inf

    async def start(self) -> None:
        """Join the others."""
        await self._renew()
        await self._do(self._claims.set_missing_expiries)
        self._periodic.start("replica heartbeat", self._claims.lease_s / RENEWALS, self._renew)
        self._periodic.start("replica hand-over", HAND_OVER_POLL_S, self._hand_over)
        self._periodic.start("replica cancels", HAND_OVER_POLL_S, self._cancel)
        self._periodic.start("replica updates", HAND_OVER_POLL_S, self._refresh)
        self._periodic.start("replica look-around", self._claims.lease_s, self._recover_lost)

    @property
    def holds_lease(self) -> bool:
        """Whether its sessions are still its own, as far as it knows: else others may claim them."""
        return time.monotonic() - self._renewed < self._claims.lease_s

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What it does all the time."""
        return self._periodic.tasks

    async def stop(self) -> None:
        """Leave them."""
        await self._periodic.stop()
        with suppress(SinkServeError):  # the database is lost; the lease passes
            await self._do(self._claims.release_all)
        self._thread.shutdown(wait=False)

    async def _renew(self) -> None:
        asked = time.monotonic()
        await self._do(self._claims.renew)
        self._renewed = asked

    async def _recover_lost(self) -> None:
        await self._do(self._claims.set_missing_expiries)

    async def _hand_over(self) -> None:
        """Begin with all that are asked for: one that takes long does not hold up the others."""
        for key in await self._do(self._claims.requested):
            if key not in self._leaving:
                self._leaving.add(key)
                self._background.start(self._hand_over_one(key), f"hand over {key[1]}")

    async def _hand_over_one(self, key: Key) -> None:
        try:
            await self._sessions.hand_over(key)
        except SinkServeError as error:  # it is tried again for as long as another replica asks
            log.warning("session.not_handed_over", session=f"sessions/{key[1]}", cause=error.message)
        finally:
            self._leaving.discard(key)

    async def _do(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    async def _cancel(self) -> None:
        for (principal, session_id), turn_id, discard in await self._do(self._claims.take_cancel_requests):
            with suppress(NotFound):
                await self._sessions.cancel(principal, session_id, turn_id, discard=discard)

    async def _refresh(self) -> None:
        """Begin with all that were changed: a session that is being opened holds up its own change alone."""
        for key in await self._do(self._updates.pending):
            self._background.start(self._sessions.refresh(key), f"refresh {key[1]}")
