"""Leases on builds: who takes which, and what becomes of builds whose workers are gone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from builder_service.queue import tables
from builder_service.queue.build import MOST_ATTEMPTS, State
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from common.db.database import Database, database_time
from common.errors import Aborted, Reason
from tests.contract.builds.samples import SPEC, expire, leased, take


def test_the_build_that_waits_longest_is_taken(builds: BuildRepository, queue: BuildQueue) -> None:
    made = [builds.submit("local", SPEC).build_id for _ in range(3)]
    assert [take(queue).build_id for _ in made] == made
    assert queue.lease_next() is None


def test_a_build_is_taken_once(builds: BuildRepository, queue: BuildQueue) -> None:
    made = {builds.submit("local", SPEC).build_id for _ in range(10)}
    with ThreadPoolExecutor(8) as threads:
        taken = [lease.build.build_id for lease in threads.map(lambda _: queue.lease_next(), range(20)) if lease]
    assert (len(taken), set(taken)) == (10, made)


def test_a_worker_of_an_earlier_attempt_is_fenced(
    builds: BuildRepository, queue: BuildQueue, other: BuildQueue, alive: set[str]
) -> None:
    builds.submit("local", SPEC)
    first = take(queue)
    alive.remove("here")
    other.requeue_lost()
    second = take(other)
    assert second.attempt == 2
    with pytest.raises(Aborted):
        queue.log(first, "I am still here")
    other.log(second, "so am I")


def test_builds_of_dead_workers_are_taken_up_again(
    builds: BuildRepository, queue: BuildQueue, other: BuildQueue, alive: set[str]
) -> None:
    made = [builds.submit("local", SPEC).build_id for _ in range(2)]
    take(queue)
    assert other.requeue_lost() == []
    alive.remove("here")
    assert [build.build_id for build in other.requeue_lost()] == made[:1]
    assert other.running_attempts() == set()
    assert [take(other).build_id for _ in made] == made


def test_a_lease_that_is_not_renewed_is_lost(
    database: Database, builds: BuildRepository, queue: BuildQueue, other: BuildQueue
) -> None:
    """Of a worker that lives somewhere else, or stands still."""
    builds.submit("local", SPEC)
    lease = leased(queue)
    assert other.requeue_lost() == []
    expire(database)
    queue.renew_leases({lease.run})
    assert other.requeue_lost() == []
    expire(database)
    assert [build.attempt for build in other.requeue_lost()] == [1]
    assert queue.current_build(lease) is None
    again = leased(other)
    assert (again.build.attempt, again.run) == (2, f"{again.build.build_id}-2")
    queue.renew_leases({lease.run})  # it wakes up
    assert queue.current_build(lease) is None
    assert other.current_build(again) == again.build


def test_a_build_that_its_worker_does_not_run_any_more_is_taken_up_again(
    database: Database, builds: BuildRepository, queue: BuildQueue, other: BuildQueue
) -> None:
    """As after an outage of the database in which a worker could not say how the build ended."""
    builds.submit("local", SPEC)
    lease = leased(queue)
    assert queue.requeue_lost({lease.run}) == []
    assert [build.attempt for build in queue.requeue_lost()] == [1]
    assert leased(queue).build.attempt == 2
    expire(database)
    queue.renew_leases()
    assert [build.attempt for build in other.requeue_lost()] == [2], "only what it runs is renewed"


def test_a_build_that_loses_worker_after_worker_fails(
    database: Database, builds: BuildRepository, queue: BuildQueue
) -> None:
    build_id = builds.submit("local", SPEC).build_id
    for _ in range(MOST_ATTEMPTS):
        take(queue)
        expire(database)
        queue.requeue_lost()
    assert queue.lease_next() is None
    failed = builds.get("local", build_id)
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert (failed.failure.reason, failed.attempt) == (Reason.WORKER_LOST, MOST_ATTEMPTS)


def test_builders_that_are_not_heard_of_are_forgotten(database: Database, queue: BuildQueue, other: BuildQueue) -> None:
    queue.renew_leases()
    other.renew_leases()
    with database.write() as connection:
        long_ago = database_time(connection) - timedelta(hours=1)
        mine = tables.builders.c.builder == "here"
        connection.execute(update(tables.builders).where(mine).values(lease_expires=long_ago))
    other.requeue_lost()
    with database.read() as connection:
        assert connection.scalars(select(tables.builders.c.builder)).all() == ["there"]
    other.unregister()
    with database.read() as connection:
        assert connection.scalars(select(tables.builders.c.builder)).all() == []
