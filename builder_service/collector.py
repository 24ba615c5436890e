"""Metrics of a builder: builds that end here, and the queue as the database has it at each scrape."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import Connection, func, select

from builder_service.queue.build import Build, State
from builder_service.queue.tables import builders, builds
from common.db.database import Database, database_time, utc_now
from common.rpc.calls.call_log import CallLog
from common.rpc.metrics_server import Pulled, new_registry

BUILD_S = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14400.0)


class BuildMetrics:
    """Counts builds that this process ended. May be called from any thread."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self.calls = CallLog("builder", self.registry)
        what = "Builds that ended here: worked on, cancelled or given up by this builder; no reason for SUCCEEDED."
        self._ended = Counter("sinkserve_builder_builds_ended", what, ("state", "reason"), registry=self.registry)
        self._ended.labels(State.SUCCEEDED.value, "")
        self._seconds = Histogram(
            "sinkserve_builder_build_seconds",
            "From the start of a build's first attempt to its end.",
            ("state",),
            buckets=BUILD_S,
            registry=self.registry,
        )

        what = "Builds that ended long ago and were deleted by this builder."
        self._deleted = Counter("sinkserve_builder_builds_deleted", what, registry=self.registry)

    def builds_deleted(self, count: int) -> None:
        """Count builds whose deletion is committed."""
        self._deleted.inc(count)

    def build_ended(self, build: Build) -> None:
        """Count a build whose end is committed."""
        reason = build.failure.reason.value if build.failure else ""
        self._ended.labels(build.state.value, reason).inc()
        if build.start_time is not None and build.end_time is not None:
            self._seconds.labels(build.state.value).observe((build.end_time - build.start_time).total_seconds())


class QueueCollector(Pulled):
    """Reads the queue at each scrape. All builders of a database share it, so all report the same."""

    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    def families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        """Every metric, without values."""
        return (
            GaugeMetricFamily("sinkserve_builder_builds", "Builds in the database.", labels=("state",)),
            GaugeMetricFamily(
                "sinkserve_builder_oldest_queued_seconds", "How long the oldest queued build has waited.", labels=()
            ),
            GaugeMetricFamily("sinkserve_builder_builders", "Builders of the database that are alive.", labels=()),
        )

    def read(self) -> tuple[Metric, ...]:
        """Every metric, with its values."""
        by_state, oldest, alive = families = self.families()
        with self._database.read() as connection:
            counts, waited, builders_alive = _states(connection), self._waited(connection), _alive(connection)
        for state in State:
            by_state.add_metric((state.value,), counts.get(state.value, 0))
        oldest.add_metric((), waited)
        alive.add_metric((), builders_alive)
        return families

    def _waited(self, connection: Connection) -> float:
        first = select(func.min(builds.c.create_time)).where(builds.c.state == State.QUEUED.value)
        since: datetime | None = connection.scalar(first)
        return 0.0 if since is None else max(0.0, (self._now() - since).total_seconds())


def _states(connection: Connection) -> dict[str, int]:
    counts = select(builds.c.state, func.count()).group_by(builds.c.state)
    return dict(connection.execute(counts).all())


def _alive(connection: Connection) -> int:
    now = database_time(connection)
    alive = select(func.count()).select_from(builders).where(builders.c.lease_expires > now)
    return connection.execute(alive).scalar_one()
