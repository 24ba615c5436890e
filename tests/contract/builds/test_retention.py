"""Builds that ended long ago go, with their events; all others stay."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from builder_service.queue import retention as build_retention
from builder_service.queue import tables
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from builder_service.queue.retention import BuildRetention
from common.db.database import Database, utc_now
from common.db.paging import Page
from tests.contract.builds.samples import FAILURE, SPEC, take


def age(database: Database, build_id: str, days: float, *, ended: float | None = None) -> None:
    """Make a build so many days old."""
    then = utc_now() - timedelta(days=days)
    values = {"create_time": then} | ({} if ended is None else {"end_time": utc_now() - timedelta(days=ended)})
    with database.write() as connection:
        connection.execute(update(tables.builds).where(tables.builds.c.build_id == build_id).values(**values))


def kept(builds: BuildRepository) -> set[str]:
    return {build.build_id for build in builds.list("local", Page(100, None, ""))[0]}


def failed(builds: BuildRepository, queue: BuildQueue) -> str:
    builds.submit("local", SPEC)
    build = take(queue)
    queue.fail(build, FAILURE)
    return build.build_id


def test_what_ended_long_ago_goes_and_nothing_else(
    database: Database, builds: BuildRepository, queue: BuildQueue, retention: BuildRetention
) -> None:
    queue.renew_leases()
    old, late, young = (failed(builds, queue) for _ in range(3))
    waits = builds.submit("local", SPEC).build_id
    age(database, old, 31, ended=31)
    age(database, late, 60, ended=29)
    age(database, young, 1, ended=1)
    age(database, waits, 60)
    assert retention.delete_some() == 1
    assert kept(builds) == {late, young, waits}
    with database.read() as connection:
        left = connection.scalars(select(tables.events.c.build_id).distinct()).all()
    assert set(left) == {late, young, waits}
    assert retention.delete_some() == 0


def test_many_go_in_small_transactions(
    database: Database,
    builds: BuildRepository,
    queue: BuildQueue,
    retention: BuildRetention,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build_retention, "AT_ONCE", 2)
    queue.renew_leases()
    for _ in range(3):
        age(database, failed(builds, queue), 40, ended=40)
    assert [retention.delete_some() for _ in range(3)] == [2, 1, 0]


def test_one_builder_at_a_time_does_it_and_none_where_builds_are_kept_for_ever(
    database: Database, builds: BuildRepository, queue: BuildQueue, other: BuildQueue, alive: set[str]
) -> None:
    queue.renew_leases()
    other.renew_leases()
    age(database, failed(builds, queue), 40, ended=40)
    there = BuildRetention(database, "there", 30.0, alive.__contains__)
    assert BuildRetention(database, "here", 0, alive.__contains__).delete_some() == 0
    assert there.delete_some() == 0
    alive.remove("here")
    assert there.delete_some() == 1


def test_a_spec_is_stored_once_however_many_events_its_build_has(
    database: Database, builds: BuildRepository, queue: BuildQueue
) -> None:
    long = SPEC.model_copy(update={"chat_template": "{{ x }}" * 5000})
    build_id = builds.submit("local", long).build_id
    queue.fail(take(queue), FAILURE)
    with database.read() as connection:
        assert connection.scalar(select(func.max(func.length(tables.events.c.event)))) < 2000
    _, stored = builds.watch("local", build_id, 0)
    assert [getattr(event.event, "build").spec for event in stored] == [long] * 3  # noqa: B009 - all are changes
