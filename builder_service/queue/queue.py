"""The queue of builds in SQL, for workers: lease a build, report on it, end it.

Any number of builders work on one queue. A change by a worker is refused if the build has ended or was leased again
meanwhile: the attempt number is the fence. Calls block. After each commit `changed` is called with the build's id, and
`ended` with the build if it ended, in the thread that made the change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, insert, select

from builder_service.queue import builder_registry as builders
from builder_service.queue.build import Build, StageProgress, State
from builder_service.queue.capability import Capability
from builder_service.queue.events import Logged, Progressed
from builder_service.queue.failure import Failure
from builder_service.queue.quotas import RunningBuilds, check_published
from builder_service.queue.rows import append_event, change_build, set_columns, to_build
from builder_service.queue.tables import builds, running_keys
from common.auth.quotas import QuotasOf, unbounded
from common.catalog.catalog import Catalog
from common.db.database import Database, database_time, stream, utc_now
from common.db.processes import is_alive
from common.errors import Aborted, Reason
from common.spec.manifest import Manifest
from common.spec.published_engine import PublishedEngine

LONGEST_LOG = 1 << 16


@dataclass(frozen=True)
class Lease:
    """A build that this worker runs. `run` is the attempt's name, also of its folder and its claims."""

    build: Build
    run: str


class BuildQueue:
    """The queued builds, and those that `worker` runs.

    A worker leases builds that it can build. It also leases builds that its own process accepted and that no live
    builder can build: they then fail with a cause.
    """

    def __init__(
        self,
        database: Database,
        worker: str,
        capability: Capability,
        changed: Callable[[str], None],
        is_alive: Callable[[str], bool] = is_alive,
        *,
        ended: Callable[[Build], None] = lambda _build: None,
        quotas_of: QuotasOf = unbounded,
    ) -> None:
        self._quotas_of = quotas_of
        self._database = database
        self._worker = worker
        self._capability = capability
        self._changed = changed
        self._is_alive = is_alive
        self._ended = ended

    # Leases

    def renew_leases(self, runs: Collection[str] = ()) -> None:
        """Renew the leases of this worker and of its attempts `runs`. Call it more often than a lease is long."""
        with self._database.write() as connection:
            builders.renew_leases(connection, self._worker, self._capability, runs)

    def unregister(self) -> None:
        """Remove this worker from the registry: it takes no more builds."""
        with self._database.write() as connection:
            builders.unregister(connection, self._worker)

    def lease_next(self) -> Lease | None:
        """Lease the build that has waited longest and may run now; None: there is none for this worker."""
        if not self._any_waiting():
            return None
        with self._database.write() as connection:
            found = self._next(connection)
            if found is None:
                return None
            build = change_build(connection, found.build_id, lambda found: found.take(utc_now()))
            run = f"{build.build_id}-{build.attempt}"
            until = database_time(connection) + builders.LEASE
            set_columns(
                connection, build.build_id, worker=self._worker, lease_expires=until, run=run, waits_for_key=None
            )
        self._changed(build.build_id)
        return Lease(build, run)

    def requeue_lost(self, runs: Collection[str] = ()) -> list[Build]:
        """Requeue the builds whose workers were lost, or fail them after the last attempt; returns them.

        `runs` are this worker's own attempts: a build of this worker that is not among them is lost too.
        """
        with self._database.write() as connection:
            builders.remove_expired(connection)
            lost = builders.lost_builds(connection, self._worker, runs, self._is_alive)
            taken = [change_build(connection, each, lambda found: found.abandon(utc_now())) for each in lost]
        for build in taken:
            self._changed(build.build_id)
            if build.state.ended:
                self._ended(build)
        return taken

    def running_attempts(self) -> set[str]:
        """Names of all running attempts, of all workers."""
        with self._database.read() as connection:
            return set(connection.scalars(select(builds.c.run).where(builds.c.state == State.RUNNING.value)))

    def current_build(self, lease: Lease) -> Build | None:
        """The build that this attempt works for; None: it has ended, or another worker leased it.

        If the first build was cancelled, it is the next one that waits for the same key.
        """
        mine = and_(builds.c.run == lease.run, builds.c.state == State.RUNNING.value, builds.c.worker == self._worker)
        with self._database.read() as connection:
            row = connection.execute(select(builds).where(mine)).mappings().one_or_none()
        return None if row is None else to_build(row)

    # Reports of a worker

    def advance(self, build: Build, report: StageProgress) -> None:
        """Store progress of a stage."""
        with self._database.write() as connection:
            after = self._change(connection, build, lambda found: found.advance(report))
            append_event(connection, build.build_id, Progressed.of(report, after.progress))
        self._changed(build.build_id)

    def log(self, build: Build, text: str) -> None:
        """Store a line of the build's log, or its first LONGEST_LOG characters."""
        with self._database.write() as connection:
            self._change(connection, build, lambda found: found)
            append_event(connection, build.build_id, Logged(text[:LONGEST_LOG]))
        self._changed(build.build_id)

    def claim_key(self, build: Build, build_key: str) -> str | None:
        """Claim the key for this build until it ends.

        If another build has the key, change nothing and return that build's id.
        """
        found = select(running_keys.c.build_id).where(running_keys.c.build_key == build_key)
        with self._database.write() as connection:
            self._change(connection, build, lambda found: found)
            if (owner := connection.scalar(found)) not in (None, build.build_id):
                return str(owner)
            if owner is None:
                connection.execute(insert(running_keys).values(build_key=build_key, build_id=build.build_id))
        return None

    def wait_for_key(self, build: Build, build_key: str) -> None:
        """Requeue the build until no other build of its key runs; the attempt does not count."""
        with self._database.write() as connection:
            self._change(connection, build, lambda found: found.requeue(counted=False))
            set_columns(connection, build.build_id, waits_for_key=build_key)
        self._changed(build.build_id)

    def succeed(self, build: Build, catalog: Catalog, draft: Manifest, holder: str) -> PublishedEngine:
        """Publish the engine and end the build, in one transaction; `holder` claims its blobs.

        Where the same engine exists under its name, that is it, unless the build wants a version of its own. Raises
        ResourceExhausted (QUOTA_EXCEEDED) for one that is more than its owner may have.
        """
        ends: list[Build] = []

        def end(connection: Connection, engine: PublishedEngine) -> None:
            check_published(connection, engine, self._quotas_of(engine.owner))
            ends[:] = [self._change(connection, build, lambda found: found.succeed(engine.reference, utc_now()))]

        engine = catalog.publish(draft, holder, end, new_version=build.new_version, owner=build.principal)
        self._changed(build.build_id)
        self._ended(ends[0])
        return engine

    def fail(self, build: Build, failure: Failure) -> None:
        """End the build with a cause."""
        with self._database.write() as connection:
            end = self._change(connection, build, lambda found: found.fail(failure, utc_now()))
        self._changed(build.build_id)
        self._ended(end)

    def requeue(self, build: Build) -> None:
        """Requeue the build because its worker stops; the attempt does not count."""
        with self._database.write() as connection:
            self._change(connection, build, lambda found: found.requeue(counted=False))
        self._changed(build.build_id)

    def _any_waiting(self) -> bool:
        """Whether any build is queued: checked first, since only one writing transaction runs at a time."""
        query = select(builds.c.build_id).where(builds.c.state == State.QUEUED.value).limit(1)
        with self._database.read() as connection:
            return connection.scalar(query) is not None

    def _next(self, connection: Connection) -> Build | None:
        others: list[Capability] | None = None
        bound = RunningBuilds(connection, self._quotas_of)
        with stream(connection, _waiting()) as waiting:
            for row in waiting:
                build = to_build(row)
                if bound.has_enough(build.principal):
                    continue
                if self._capability.can_build(build.spec):
                    return build
                if row["builder"] != self._worker:
                    continue
                if others is None:
                    others = builders.other_capabilities(connection, self._worker, self._is_alive)
                if not any(other.can_build(build.spec) for other in others):
                    return build
        return None

    def _change(self, connection: Connection, build: Build, change: Callable[[Build], Build]) -> Build:
        def fenced(found: Build) -> Build:
            if found.state is State.RUNNING and found.attempt == build.attempt:
                return change(found)
            message = f"{build.name} is {found.state}, attempt {found.attempt}; this was attempt {build.attempt}"
            raise Aborted(Reason.BUILD_ENDED, message, build=build.name)

        return change_build(connection, build.build_id, fenced)


def _waiting() -> Select[Any]:
    """Queued builds whose key nobody builds, the oldest first."""
    may_run = builds.c.waits_for_key.is_(None) | builds.c.waits_for_key.not_in(select(running_keys.c.build_key))
    return (
        select(builds)
        .where(and_(builds.c.state == State.QUEUED.value, may_run))
        .order_by(builds.c.create_time, builds.c.build_id)
        .with_for_update(skip_locked=True)
    )
