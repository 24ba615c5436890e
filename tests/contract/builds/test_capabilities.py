"""Builds are taken by who can build them."""

from __future__ import annotations

from builder_service.queue.capability import Capability
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from common.db.database import Database
from tests.contract.builds.samples import SPEC, take


def test_a_worker_takes_only_what_it_can_build(
    database: Database, builds: BuildRepository, other: BuildQueue, alive: set[str]
) -> None:
    nothing = BuildQueue(database, "here", Capability(), lambda _: None, alive.__contains__)
    build = builds.submit("local", SPEC)  # accepted here
    other.renew_leases()
    assert nothing.lease_next() is None, "another can"
    assert take(other).build_id == build.build_id


def test_what_nobody_can_build_is_taken_by_who_accepted_it_and_fails_there(
    database: Database, builds: BuildRepository, alive: set[str]
) -> None:
    here, there = (
        BuildQueue(database, name, Capability(), lambda _: None, alive.__contains__) for name in ("here", "there")
    )
    build = builds.submit("local", SPEC)
    there.renew_leases()
    assert there.lease_next() is None
    assert take(here).build_id == build.build_id
