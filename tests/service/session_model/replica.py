"""A runtime over the fake engine, small in everything, that can die and be paused."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import update

from common.db.database import connect, database_time
from common.window import Geometry
from runtime_service.sessions.branches import Branches
from runtime_service.storage.tables import replicas
from tests.service.runtime.runtime import Bench

PRINCIPAL = "local"
MAX_SESSIONS = 3
PATIENCE_S = 30.0
SETTINGS: dict[str, Any] = {
    "max_sessions": MAX_SESSIONS,
    "parked_bytes": 300,  # two caches
    "parked_file_bytes": 600,
    "snapshot_turns": 2,
    "kept_events": 16,
    "unread_events": 4,
    "slow_reader_s": 3600.0,
    "drain_grace_s": 0.02,
    "reap_s": 3600.0,
    "lease_s": 3600.0,
}
GEOMETRY = Geometry(sinks=2, window=16, chunk=4, slots=2)


def publish(home: Path) -> None:
    """An engine in a new database in `home`."""
    Bench(home, {}, geometry=GEOMETRY).publish()


@dataclass
class Replica(Bench):
    """A runtime that can die, and be paused for longer than its lease."""

    paused: bool = False

    @property
    def branches(self) -> Branches:
        return Branches(self.handle.sessions, self.handle.engines, self.handle.database)

    async def crash(self) -> None:
        """Die where it is: nothing more is written, nobody is told."""
        handle = self.handle
        await self.pause()
        handle.shared.writer.close()  # what is asked for from here on fails
        tasks = [live.turns.task for live in handle.sessions.live if live.turns.task is not None]
        for task in (*tasks, *handle.periodic.tasks):
            task.cancel()
        await asyncio.gather(*tasks, *handle.periodic.tasks, return_exceptions=True)
        await handle.server.stop(0)
        for engine in handle.engines.loaded:
            await engine.thread.stop_engine()
        await handle.shared.background.wait()
        handle.shared.caches.files.close()
        handle.metrics.stop()
        handle.database.close()
        assert self.channel is not None
        await self.channel.close()
        self.runtime = self.channel = None
        self.paused = False

    async def pause(self) -> None:
        """Stop saying that it is alive, for longer than its lease: others take it for dead. Its streams go on."""
        for task in self.handle.membership.tasks:
            task.cancel()
        await asyncio.gather(*self.handle.membership.tasks, return_exceptions=True)
        database = connect(self.shared.database)
        with database.write() as connection:
            its = replicas.c.replica == self.handle.shared.claims.replica
            past = database_time(connection) - timedelta(seconds=1)
            connection.execute(update(replicas).where(its).values(lease_expires=past))
        database.close()
        self.paused = True

    async def wake(self) -> None:
        await self.handle.membership.start()
        self.paused = False

    async def restart(self, **settings: Any) -> None:
        """Stop in good order, and start."""
        self.paused = False
        await super().restart(**settings)

    async def at_rest(self) -> None:
        """Return when no turn runs or waits, and all is written."""
        while any(live.turns.pending for live in self.handle.sessions.live):  # noqa: ASYNC110 - of many
            await asyncio.sleep(0.002)
        await self.handle.shared.background.wait()


def slowly(_feeds: object) -> None:
    """A step as long as one of a small model, so that others come between."""
    time.sleep(0.001)
