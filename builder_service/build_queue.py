"""Builds as their workers see them, in SQL: taken, reported on, ended.

Every change by a worker is refused if the build has ended or been taken again meanwhile. Calls block. `changed`
hears the id of a build after each commit, in the thread that made the change.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, and_, insert, select

from builder_service.build_events import Logged, Progressed
from builder_service.build_rows import append_event, change_build, find_build, set_columns
from builder_service.build_tables import builds, running_keys
from builder_service.builds import Build, Stage, State
from builder_service.failure import Failure
from common.catalog import Catalog
from common.database import Database, utc_now
from common.errors import Aborted, Reason
from common.manifest import Manifest
from common.processes import is_alive
from common.published_engine import PublishedEngine


class BuildQueue:
    """The builds that wait, and those that `worker` runs.

    A worker takes what its own process accepted, and what processes accepted that are no longer alive: another
    process on the same database may have other source roots.
    """

    def __init__(
        self,
        database: Database,
        worker: str,
        changed: Callable[[str], None],
        is_alive: Callable[[str], bool] = is_alive,
    ) -> None:
        self._database = database
        self._worker = worker
        self._changed = changed
        self._is_alive = is_alive

    def take(self) -> Build | None:
        """Start on the build that has waited longest and may run now; None: there is none."""
        with self._database.write() as connection:
            build_id = _next(connection, self._others_are_alive(connection))
            if build_id is None:
                return None
            build = change_build(connection, build_id, lambda found: found.take(utc_now()))
            set_columns(connection, build_id, worker=self._worker, waits_for_key=None)
        self._changed(build_id)
        return build

    def advance(self, build: Build, stage: Stage, done: float) -> None:
        """`done` of a stage is done, 0 to 1."""
        with self._database.write() as connection:
            after = self._change(connection, build, lambda found: found.advance(stage, done))
            append_event(connection, build.build_id, Progressed(stage, done, after.progress))
        self._changed(build.build_id)

    def log(self, build: Build, text: str) -> None:
        """The build wrote a line."""
        with self._database.write() as connection:
            self._change(connection, build, lambda found: found)
            append_event(connection, build.build_id, Logged(text))
        self._changed(build.build_id)

    def claim_key(self, build: Build, build_key: str) -> str | None:
        """Become the one running build of a key, until it ends; if another is, nothing changes: returns its id."""
        found = select(running_keys.c.build_id).where(running_keys.c.build_key == build_key)
        with self._database.write() as connection:
            self._change(connection, build, lambda found: found)
            if (owner := connection.scalar(found)) not in (None, build.build_id):
                return str(owner)
            if owner is None:
                connection.execute(insert(running_keys).values(build_key=build_key, build_id=build.build_id))
        return None

    def wait_for_key(self, build: Build, build_key: str) -> None:
        """Put the build back into the queue until no other of its key runs; the attempt does not count."""
        with self._database.write() as connection:
            self._change(connection, build, lambda found: found.requeue(counted=False))
            set_columns(connection, build.build_id, worker=None, waits_for_key=build_key)
        self._changed(build.build_id)

    def succeed(self, build: Build, catalog: Catalog, draft: Manifest) -> PublishedEngine:
        """Publish the engine and end the build, in one transaction; `build.name` holds the claims."""

        def end(connection: Connection, engine: PublishedEngine) -> None:
            self._change(connection, build, lambda found: found.succeed(engine.reference, utc_now()))

        engine = catalog.publish(draft, build.name, end)
        self._changed(build.build_id)
        return engine

    def fail(self, build: Build, failure: Failure) -> None:
        """End the build with a cause."""
        with self._database.write() as connection:
            self._change(connection, build, lambda found: found.fail(failure, utc_now()))
        self._changed(build.build_id)

    def give_up(self, build: Build) -> None:
        """Put the build back into the queue, as its worker stops; the attempt does not count."""
        with self._database.write() as connection:
            self._change(connection, build, lambda found: found.requeue(counted=False))
            set_columns(connection, build.build_id, worker=None)
        self._changed(build.build_id)

    def abandoned(self) -> list[Build]:
        """Take running builds from workers that died: queued again, or failed after the last attempt."""
        running = select(builds.c.build_id, builds.c.worker).where(builds.c.state == State.RUNNING.value)
        with self._database.write() as connection:
            dead = [row.build_id for row in connection.execute(running) if not self._is_alive(row.worker)]
            taken = [change_build(connection, each, lambda found: found.abandon(utc_now())) for each in dead]
        for build in taken:
            self._changed(build.build_id)
        return taken

    def running_ids(self) -> set[str]:
        """Ids of all running builds."""
        with self._database.read() as connection:
            return set(connection.scalars(select(builds.c.build_id).where(builds.c.state == State.RUNNING.value)))

    def is_running(self, build: Build) -> bool:
        """Whether this attempt still goes on, as far as anybody knows."""
        with self._database.read() as connection:
            found = find_build(connection, build.build_id)
        return found.state is State.RUNNING and found.attempt == build.attempt

    def _others_are_alive(self, connection: Connection) -> set[str]:
        """Processes that have builds in the queue and will take them themselves."""
        waiting = select(builds.c.builder).where(builds.c.state == State.QUEUED.value).distinct()
        return {name for name in connection.scalars(waiting) if name != self._worker and self._is_alive(name)}

    def _change(self, connection: Connection, build: Build, change: Callable[[Build], Build]) -> Build:
        def fenced(found: Build) -> Build:
            if found.state is State.RUNNING and found.attempt == build.attempt:
                return change(found)
            message = f"{build.name} is {found.state}, attempt {found.attempt}; this was attempt {build.attempt}"
            raise Aborted(Reason.BUILD_ENDED, message, build=build.name)

        return change_build(connection, build.build_id, fenced)


def _next(connection: Connection, others: set[str]) -> str | None:
    taken = select(running_keys.c.build_key)
    may_run = builds.c.waits_for_key.is_(None) | builds.c.waits_for_key.not_in(taken)
    query = (
        select(builds.c.build_id)
        .where(and_(builds.c.state == State.QUEUED.value, may_run, builds.c.builder.not_in(others)))
        .order_by(builds.c.create_time, builds.c.build_id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    build_id: str | None = connection.scalar(query)
    return build_id
