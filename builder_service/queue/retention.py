"""Builds that ended long ago are deleted with their events; the engines that they made stay."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Select, and_, delete, select

from builder_service.queue.build import State
from builder_service.queue.builder_registry import first_alive
from builder_service.queue.tables import builds, events
from common.db.database import Database, utc_now

AT_ONCE = 100
"""Builds that one transaction deletes: others write between two of them."""


class BuildRetention:
    """Deletes the builds that ended more than `days` ago; 0: none ever. Calls block.

    One builder at a time does it: of those that are alive, the first by name.
    """

    def __init__(self, database: Database, builder: str, days: float, is_alive: Callable[[str], bool]) -> None:
        self._database = database
        self._builder = builder
        self._days = days
        self._is_alive = is_alive

    def delete_some(self) -> int:
        """Delete at most AT_ONCE builds, the oldest first; returns how many. 0: none is left, or another does it."""
        if not self._days or self._next_id() is None:
            return 0
        with self._database.write() as connection:
            if first_alive(connection, self._is_alive) != self._builder:
                return 0
            old = list(connection.scalars(self._old(AT_ONCE)))
            connection.execute(delete(events).where(events.c.build_id.in_(old)))
            return connection.execute(delete(builds).where(builds.c.build_id.in_(old))).rowcount

    def _next_id(self) -> str | None:
        """One that is old enough: looked for first, since only one writing transaction runs at a time."""
        with self._database.read() as connection:
            return connection.scalars(self._old(1)).first()

    def _old(self, most: int) -> Select[str]:
        before = utc_now() - timedelta(days=self._days)
        ended = builds.c.state.in_([state.value for state in State if state.ended])
        old = and_(ended, builds.c.create_time < before, builds.c.end_time < before)  # the first bound has an index
        return select(builds.c.build_id).where(old).order_by(builds.c.create_time).limit(most)
