"""Two runtimes of one database in this process, and what happens to both, for the model of sessions."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import obstore
from sqlalchemy import select, update

from common.db.database import Database, connect, utc_now
from common.errors import Reason
from common.store.object_store import open_object_store
from runtime_service.api.requests import Open
from runtime_service.api.stream import ConversationStream
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Turn
from runtime_service.scheduling.scheduler import Scheduler
from runtime_service.scheduling.slots import Tenant
from runtime_service.scheduling.turn_scheduler import TurnScheduler
from runtime_service.sessions.live_session import LiveSession
from runtime_service.storage.rows import session_from_row, turn_from_row, unpack
from runtime_service.storage.tables import sessions, turns
from tests.service.session_model.line import Line
from tests.service.session_model.replica import GEOMETRY, PRINCIPAL, SETTINGS, Replica, slowly


@dataclass
class World:
    """All of it. `inspector` reads the database as nobody in it does."""

    home: Path
    here: Replica
    there: Replica
    inspector: Database
    lines: list[Line] = field(default_factory=list)

    @classmethod
    async def start(cls, template: Path, home: Path) -> World:
        shutil.copytree(template, home)
        pair = [Replica(home, dict(SETTINGS), geometry=GEOMETRY, before_step=slowly) for _ in range(2)]
        for replica in pair:
            await replica.start()
        return cls(home, pair[0], pair[1], connect(pair[0].shared.database))

    async def stop(self) -> None:
        for line in self.lines:
            await line.hang_up()
        for replica in self.replicas:
            await replica.stop()
        self.inspector.close()
        shutil.rmtree(self.home)

    @property
    def replicas(self) -> tuple[Replica, Replica]:
        return self.here, self.there

    @property
    def open_lines(self) -> list[Line]:
        return [line for line in self.lines if not line.over]

    async def dial(self, replica: Replica, session_id: str, opening: Open) -> Line | Reason:
        """A stream that is open, or why it is not."""
        line = Line(replica, session_id, ConversationStream(replica.handle.sessions, PRINCIPAL))
        line.hears_all = opening.after_sequence is not None
        if (reason := await line.ask(opening)) is not None:
            return reason
        self.add(line)
        return line

    def add(self, line: Line) -> None:
        """A stream that was just opened."""
        line.live = self.live(line.replica, line.session_id)
        self.lines.append(line)
        line.listen()

    def kept(self, session_id: str) -> tuple[Session, list[tuple[Turn, list[int]]]] | None:
        """A session and its turns, with the tokens that each added, as the database has them at one moment."""
        with self.inspector.read() as connection:
            query = select(sessions).where(sessions.c.session_id == session_id)
            if (row := connection.execute(query).mappings().first()) is None:
                return None
            mine = select(turns).where(turns.c.session_key == row["key"]).order_by(turns.c.number)
            found = connection.execute(mine).mappings().all()
        return session_from_row(row), [(turn_from_row(each), unpack(each["tokens"] or b"")) for each in found]

    def live(self, replica: Replica, session_id: str) -> LiveSession | None:
        found = (live for live in replica.handle.sessions.live if live.session.session_id == session_id)
        return next(found, None)

    def is_stale(self, replica: Replica, session_id: str) -> bool:
        """Whether a replica believes that it has a session that it has not."""
        live, kept = self.live(replica, session_id), self.kept(session_id)
        return live is not None and (kept is None or kept[0].epoch != live.session.epoch)

    def is_cut_off(self, line: Line) -> bool:
        """Whether a stream is on what its server believes to have, and has not."""
        kept = self.kept(line.session_id)
        return line.live is None or kept is None or kept[0].epoch != line.live.session.epoch

    async def pass_time(self, session_id: str) -> bool:
        """Let the time of a session be past, if it runs; returns whether it did."""
        past = utc_now() - timedelta(seconds=1)
        for each in self.replicas:
            await each.handle.shared.background.wait()
            live = self.live(each, session_id)
            if live is not None and live.session.expires_at is not None:
                live.state.session = replace(live.session, expires_at=past)
        with self.inspector.write() as connection:
            runs = (sessions.c.session_id == session_id) & sessions.c.expires_at.is_not(None)
            return bool(connection.execute(update(sessions).where(runs).values(expires_at=past)).rowcount)

    async def lose_cache(self, session_id: str) -> None:
        """Drop a session's cache wherever it is, unless a turn uses it; its snapshots are damaged."""
        kept = self.kept(session_id)
        for replica in self.replicas:
            if kept is not None:
                replica.handle.shared.caches.files.drop(kept[0].key)
            if (live := self.live(replica, session_id)) is not None:
                await live.engine.thread.post_and_wait(partial(_lose, live.state.tenant))
        store = open_object_store(self.here.shared.store)
        for batch in obstore.list(store, prefix=f"sessions/{session_id}/"):
            for item in batch:
                obstore.put(store, item["path"], b"not what it was")


def _lose(tenant: Tenant, scheduler: TurnScheduler) -> None:
    assert isinstance(scheduler, Scheduler)
    if tenant.run is None:
        scheduler.slots.lose(tenant)
